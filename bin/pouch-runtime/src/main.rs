//! `pouch-runtime`: an OCI runtime. Everything is in the library; this is its front door.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    pouch_runtime::cli::run(std::env::args_os())
}

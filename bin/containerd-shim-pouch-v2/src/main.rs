//! `io.containerd.pouch.v2`: the shim that pouchd and containerd start for a container.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    pouch_shim_core::main(std::env::args_os().skip(1))
}

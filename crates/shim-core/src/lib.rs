//! The shim: owns containers while the daemon comes and goes.
//!
//! Floors: the task service ([`service`]) translates the wire; [`shim`] holds containers and
//! decides; [`runtime`] makes and removes containers with an OCI runtime. Beside them stand the io
//! thread ([`io`]), which alone touches the bytes of stdio, and the supervisor ([`supervise`]),
//! which turns the end of a process into an exit file, an event and an answer.
//!
//! Two threads: control (tokio, current thread), which never waits for a disk, a terminal or a
//! client, and io, which may. Short-lived threads run what blocks in the kernel.

#![deny(unsafe_code)]

mod args;
mod blocking;
mod bootstrap;
mod bundle;
mod child;
mod console;
mod container;
mod error;
mod events;
mod exit;
mod idmap;
mod io;
mod keeper;
mod mounts;
mod options;
mod process;
mod recovery;
mod runtime;
mod serve;
mod service;
mod shim;
mod stats;
mod stdio;
mod supervise;
mod sys;
mod trace;

use std::ffi::OsString;
use std::process::ExitCode;

use pouch_protocol::introspection::{FEATURES, RuntimeInfo};
use pouch_protocol::{Any, Message as _, MessageField};

use crate::args::{Action, Flags};
pub use crate::error::TaskError;
pub use crate::exit::{Exit, ExitFile};

/// The name that daemons know this shim by.
pub const RUNTIME_NAME: &str = "io.containerd.pouch.v2";

/// Runs the shim with `arguments`, those after the program's name.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (action, flags) = match args::parse(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("{RUNTIME_NAME}: {error}");
            return ExitCode::from(2);
        }
    };
    match run(action, &flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{RUNTIME_NAME}: {}", pouch_types::error::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action, flags: &Flags) -> Result<(), TaskError> {
    let level = if flags.debug { tracing::Level::DEBUG } else { tracing::Level::INFO };
    match action {
        Action::Start => bootstrap::start(flags),
        Action::Delete => recovery::delete(flags),
        Action::Serve => {
            trace::install(level);
            serve::serve(flags)
        }
        Action::Stdio => {
            trace::install(level);
            keeper::keep(flags)
        }
        Action::Version => {
            println!("{RUNTIME_NAME} {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Action::Info => {
            let told = info().write_to_writer(&mut std::io::stdout());
            told.map_err(|e| TaskError::Invalid { what: "output", detail: e.to_string() })
        }
    }
}

/// Without the word about mapped mounts, containerd 2 refuses specifications that have some. Ours
/// alone have them: who builds them gives none to a runtime that cannot map.
fn info() -> RuntimeInfo {
    let features = br#"{"linux":{"mountExtensions":{"idmap":{"enabled":true}}}}"#;
    RuntimeInfo {
        name: RUNTIME_NAME.to_owned(),
        features: MessageField::some(Any {
            type_url: FEATURES.to_owned(),
            value: features.to_vec(),
            ..Any::default()
        }),
        ..RuntimeInfo::default()
    }
}

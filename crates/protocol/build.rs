//! Generates messages, clients and server traits from `proto/`, without `protoc`.
//!
//! The lite runtime leaves out reflection: nothing here asks for it, and each shim would pay for
//! its descriptors in memory.

use std::fmt::Write as _;
use std::path::PathBuf;

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

/// Files of messages.
const MESSAGES: [&str; 10] = [
    "bootstrap",
    "introspection",
    "types",
    "task_types",
    "task",
    "events",
    "options",
    "runc_options",
    "cgroup1",
    "cgroup2",
];

/// Files with a service, each of which yields a second module.
const SERVICES: [&str; 3] = ["task_v2", "task_v3", "events_service"];

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=proto");
    let out = std::env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .ok_or_else(|| std::io::Error::other("OUT_DIR is not set: not run by cargo"))?;
    Codegen::new()
        .out_dir(&out)
        .include("proto")
        .inputs(MESSAGES.iter().chain(&SERVICES).map(|name| format!("proto/{name}.proto")))
        .rust_protobuf()
        .rust_protobuf_customize(ProtobufCustomize::default().lite_runtime(true))
        .customize(Customize { async_all: true, ..Default::default() })
        .run()?;

    // The generators' own mod.rs begins with an inner attribute, which `include!` cannot take.
    let mut modules = String::new();
    for name in MESSAGES.iter().chain(&SERVICES) {
        let _ = writeln!(modules, "pub mod {name};");
    }
    for name in SERVICES {
        let _ = writeln!(modules, "pub mod {name}_ttrpc;");
    }
    std::fs::write(out.join("modules.rs"), modules)
}

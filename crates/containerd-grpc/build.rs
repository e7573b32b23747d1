//! Generates messages and clients from `proto/`, without `protoc`. What the shim's contract has too
//! is taken from there.

/// Files with a service.
const SERVICES: [&str; 10] = [
    "containers",
    "content",
    "diff",
    "events",
    "images",
    "introspection",
    "leases",
    "snapshots",
    "tasks",
    "version",
];

/// Behind our own files: some have the same name.
const SHARED: &str = "../protocol/proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed={SHARED}");
    let files = SERVICES.map(|name| format!("proto/{name}.proto"));
    let descriptors = protox::compile(files, ["proto", SHARED])?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}

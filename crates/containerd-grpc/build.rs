//! Generates messages and clients from `proto/`, without `protoc`.

/// Files with a service.
const SERVICES: [&str; 4] = ["containers", "tasks", "events", "version"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = SERVICES.map(|name| format!("proto/{name}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}

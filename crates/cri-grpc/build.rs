//! Generates messages, servers and clients from `proto/`, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/cri.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        // Replies are moved through channels; one large field would make each of them large.
        .boxed(".runtime.v1.ContainerEventResponse.pod_sandbox_status")
        .compile_fds(descriptors)?;
    Ok(())
}

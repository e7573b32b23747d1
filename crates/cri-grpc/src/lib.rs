//! The Kubernetes Container Runtime Interface v1 on the wire: our transcription of the contract
//! (`proto/cri.proto`, from k8s.io/cri-api v0.37.2) and the code generated from it.
//!
//! Apart from the crate `protocol`, which is the shim's: that one is built on another code
//! generator, and what a shim links has to stay small.

// Not `forbid`: the generated file carries an `allow`, though no unsafe code.
#![deny(unsafe_code)]

#[allow(
    clippy::all,
    clippy::pedantic,
    deprecated,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    reason = "generated from proto/"
)]
mod generated {
    tonic::include_proto!("runtime.v1");
}

pub use generated::*;

/// Largest message either side takes, bytes: kubelet's own limit.
pub const MAX_MESSAGE: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    /// Field numbers are the contract: bytes as another encoder writes them.
    #[test]
    fn decodes_the_bytes_of_another_encoder() {
        let wire = b"\x0a\x09\x0a\x01p\x12\x01u\x1a\x01n\x12\x01h\x42\x04\x0a\x02/k";
        let config = PodSandboxConfig::decode(&wire[..]).unwrap();
        let metadata = config.metadata.unwrap();
        assert_eq!((&*metadata.name, &*metadata.uid, &*metadata.namespace), ("p", "u", "n"));
        assert_eq!((&*config.hostname, &*config.linux.unwrap().cgroup_parent), ("h", "/k"));
    }
}

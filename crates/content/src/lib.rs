//! Content store of a local directory: blobs by digest, verified, resumable

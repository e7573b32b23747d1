//! Root file systems of containers: overlay over one directory per layer

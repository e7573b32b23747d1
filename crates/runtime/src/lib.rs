//! The library of pouch-runtime: the OCI runtime CLI on libcontainer

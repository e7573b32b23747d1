//! Wire contracts: containerd shim task v2 and v3 and the ttrpc events service

//! Network namespaces: made, pinned, entered

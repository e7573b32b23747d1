//! The shim: services, runtime handlers, stdio and logs of containers

//! Builds the OCI runtime specification of a container: hardening, seccomp, users, devices

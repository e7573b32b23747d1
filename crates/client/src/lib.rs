//! Typed client of the Docker Engine API: unix, TCP with TLS, ssh, hijacked streams

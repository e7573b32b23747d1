//! Starts daemons, registries and images for tests, and takes the census of the host

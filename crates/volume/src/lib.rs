//! Volumes: the local driver

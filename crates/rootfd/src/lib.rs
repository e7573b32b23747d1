//! Paths of containers, images and volumes, touched by file descriptor only

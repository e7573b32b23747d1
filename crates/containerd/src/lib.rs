//! Client, Container, Task, Process: the one interface over the embedded backend and containerd

//! Containers.

mod config;
mod host_config;
mod inspect;
mod mount;
mod requests;
mod stats;

pub use crate::wire::Empty;
pub use config::{ContainerConfig, HealthConfig};
pub use host_config::{
    DeviceMapping, DeviceRequest, HostConfig, LogConfig, PortBinding, PortMap, Resources,
    RestartPolicy, ThrottleDevice, Ulimit, WeightDevice,
};
pub use inspect::{
    ContainerInspect, ContainerSummary, FilesystemChange, Health, HealthResult, MountPoint,
    NetworkSettings, NetworkSettingsSummary, Port, State, SummaryHostConfig, Top,
};
pub use mount::{BindOptions, ImageOptions, Mount, TmpfsOptions, VolumeDriver, VolumeOptions};
pub use requests::{
    ContainerCreate, ContainerCreated, ContainerPrune, ContainerUpdate, ContainerUpdated,
    ContainerWait, WaitError,
};
pub use stats::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NetworkStats, PidsStats, Stats,
    StorageStats, Throttling,
};

//! Containers below systemd: a transient scope, made over D-Bus, on a host with version 2 only.
//!
//! libcgroups speaks to systemd; what it made is then read back from `/proc/<pid>/cgroup`, so the
//! rest of the runtime sees a directory like any other.

use std::fs;
use std::path::{Path, PathBuf};

use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
use libcontainer::oci_spec::runtime::LinuxResources;

use super::mounts::{Hierarchy, Version};
use super::{Directory, Placement};
use crate::error::{IoContext, RuntimeError};

pub(super) fn create(
    path: Option<&Path>,
    id: &str,
    pid: i32,
    resources: Option<&LinuxResources>,
    hierarchies: &[Hierarchy],
) -> Result<Placement, RuntimeError> {
    let [Hierarchy { version: Version::Two, mount, .. }] = hierarchies else {
        return Err(RuntimeError::Unsupported(String::from(
            "--systemd-cgroup on a host with cgroup version 1",
        )));
    };
    let name = path.map_or_else(|| format!(":pouch:{id}"), |path| path.display().to_string());
    if name.split(':').count() != 3 {
        return Err(RuntimeError::Invalid(format!(
            "cgroupsPath {name:?} is not of the form slice:prefix:name"
        )));
    }
    let failed = |source| RuntimeError::library("cannot make the systemd scope", source);
    let manager = create_cgroup_manager(CgroupConfig {
        cgroup_path: PathBuf::from(name),
        systemd_cgroup: true,
        container_name: id.to_owned(),
    })
    .map_err(|source| failed(Box::<dyn std::error::Error + Send + Sync>::from(source)))?;
    // The process id type is that of a crate that is not among our dependencies; the library's
    // container type hands one out.
    let mut container = libcontainer::container::Container::default();
    if let Some(pid) = container.set_pid(pid).pid() {
        manager.add_task(pid).map_err(|source| failed(source.into()))?;
    }
    let placement = placement_of(pid, mount)?;
    let empty = LinuxResources::default();
    let options = ControllerOpt {
        resources: resources.unwrap_or(&empty),
        freezer_state: None,
        oom_score_adj: None,
        disable_oom_killer: false,
    };
    // The scope's properties keep systemd from undoing the limits; ours add what it has no
    // property for.
    manager.apply(&options).map_err(|source| failed(source.into()))?;
    placement.apply(options.resources)?;
    Ok(placement)
}

fn placement_of(pid: i32, mount: &Path) -> Result<Placement, RuntimeError> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = fs::read_to_string(&path).context("read", &path)?;
    let own = fs::read_to_string("/proc/self/cgroup").context("read", &path)?;
    let of =
        |text: &str| text.lines().find_map(|line| line.strip_prefix("0::/")).map(|p| mount.join(p));
    match of(&text) {
        // Our own cgroup is never the container's: it would be killed with it.
        Some(directory) if Some(&directory) != of(&own).as_ref() && directory != mount => {
            Ok(Placement {
                directories: vec![Directory { controllers: Vec::new(), path: directory }],
                unified: true,
            })
        }
        _ => Err(RuntimeError::Invalid(String::from("systemd left the container in our cgroup"))),
    }
}

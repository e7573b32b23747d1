//! A container and a machine for the tests of this crate.

use pouch_types::ContainerId;
use pouch_types::spec::ContainerSpec;

use crate::capability::CapabilitySet;
use crate::context::{BuildContext, Defaults, ResolvedMount, ResolvedNamespaces};
use crate::device::fake::FakeDevices;
use crate::error::SpecError;
use crate::host::{Arch, CgroupView, HostFeatures, KernelVersion};
use crate::numbers::NumberList;
use crate::user::ResolvedUser;
use crate::{Built, build};

pub(crate) struct Fixture {
    pub(crate) id: ContainerId,
    pub(crate) spec: ContainerSpec,
    pub(crate) user: ResolvedUser,
    pub(crate) mounts: Vec<ResolvedMount>,
    pub(crate) namespaces: ResolvedNamespaces,
    pub(crate) defaults: Defaults,
    pub(crate) host: HostFeatures,
    pub(crate) cdi: Option<pouch_cdi::Edits>,
}

impl Fixture {
    /// `docker run busybox sh` on a machine of today with cgroup v2.
    pub(crate) fn new() -> Self {
        let mut spec = ContainerSpec::default();
        spec.process.cmd = Some(vec!["sh".to_owned()]);
        Self {
            cdi: None,
            id: "0123456789abcdef".repeat(4).parse().unwrap(),
            spec,
            user: ResolvedUser {
                uid: 0,
                gid: 0,
                additional_gids: vec![0, 10],
                home: "/root".to_owned(),
            },
            mounts: Vec::new(),
            namespaces: ResolvedNamespaces::default(),
            defaults: Defaults::default(),
            host: HostFeatures {
                arch: Arch::X86_64,
                kernel: KernelVersion { major: 6, minor: 18 },
                cgroup: CgroupView::V2,
                apparmor: false,
                selinux: false,
                seccomp: true,
                capabilities: CapabilitySet::ALL,
                cpus: NumberList::parse("0-3").unwrap(),
                mems: NumberList::parse("0").unwrap(),
                hard_limits: std::collections::BTreeMap::new(),
                min_oom_score_adj: -1000,
                thermal_throttle: vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".to_owned()],
                network_sysctls: crate::sysctl::NETWORK_DEFAULTS
                    .iter()
                    .map(|(name, _)| (*name).to_owned())
                    .collect(),
            },
        }
    }

    pub(crate) fn build(&self) -> Result<Built, SpecError> {
        build(&BuildContext {
            id: &self.id,
            spec: &self.spec,
            rootfs: "rootfs",
            user: &self.user,
            hostname: "0123456789ab",
            environment: &[],
            mounts: &self.mounts,
            namespaces: &self.namespaces,
            init_path: Some("/usr/libexec/pouch/init"),
            selinux: None,
            defaults: &self.defaults,
            host: &self.host,
            devices: &FakeDevices,
            cdi: self.cdi.as_ref(),
        })
    }
}

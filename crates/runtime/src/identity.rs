//! Who a process of the container is: groups, user, capabilities, no-new-privileges, seccomp.
//!
//! The order is the whole point. Without no-new-privileges the kernel wants CAP_SYS_ADMIN for a
//! seccomp filter, and after the filter every call must be one that the profile permits. So all
//! is dropped in [`Identity::assume`] except, where needed, that one capability; and
//! [`Identity::seal`] loads the filter and drops it, directly before the execution.
//!
//! Invariant: the inheritable set never holds more than the ambient set that the specification
//! asks for, which is none unless it is written there (CVE-2022-24769).

use oci_spec::runtime::{Capabilities, Process};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_thread_groups};

use crate::error::{RuntimeError, SystemContext};
use crate::seccomp::Filter;

/// CAP_SYS_ADMIN.
const SYS_ADMIN: u64 = 1 << 21;

/// The capabilities of Linux in the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The names that this build knows, with the prefix `CAP_`.
pub(crate) fn capability_names() -> Vec<String> {
    NAMES.iter().map(|name| format!("CAP_{name}")).collect()
}

fn mask(set: Option<&Capabilities>) -> Result<u64, RuntimeError> {
    set.into_iter().flatten().try_fold(0, |mask, capability| {
        let name = capability.to_string();
        let name = name.strip_prefix("CAP_").unwrap_or(&name);
        let number = NAMES
            .iter()
            .position(|known| *known == name)
            .ok_or_else(|| RuntimeError::Invalid(format!("unknown capability {name:?}")))?;
        Ok(mask | 1_u64 << number)
    })
}

/// What a process becomes before it executes its program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    gid: u32,
    groups: Vec<u32>,
    bounding: u64,
    permitted: u64,
    effective: u64,
    ambient: u64,
    no_new_privileges: bool,
}

impl Identity {
    pub(crate) fn of(process: &Process) -> Result<Self, RuntimeError> {
        let user = process.user();
        let (uid, gid) = (user.uid(), user.gid());
        let groups = user.additional_gids().clone().unwrap_or_default();
        // 2^32 - 1 means "unchanged" to the kernel, which would leave the process root.
        if uid == u32::MAX || gid == u32::MAX || groups.contains(&u32::MAX) {
            return Err(RuntimeError::Invalid(String::from("user or group id out of range")));
        }
        let mut identity = Self {
            uid,
            gid,
            groups,
            bounding: 0,
            permitted: 0,
            effective: 0,
            ambient: 0,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
        };
        if let Some(sets) = process.capabilities() {
            identity.bounding = mask(sets.bounding().as_ref())?;
            identity.permitted = mask(sets.permitted().as_ref())? & identity.bounding;
            identity.effective = mask(sets.effective().as_ref())? & identity.permitted;
            identity.ambient = mask(sets.ambient().as_ref())? & identity.permitted;
        }
        Ok(identity)
    }

    /// The capability that is kept until the filter is loaded.
    fn kept(&self, filter: Option<&Filter>) -> u64 {
        if filter.is_some() && !self.no_new_privileges { SYS_ADMIN } else { 0 }
    }

    /// Changes groups and user and drops every capability but those of the specification and
    /// what [`seal`](Self::seal) needs.
    pub(crate) fn assume(&self, filter: Option<&Filter>) -> Result<(), RuntimeError> {
        self.set_groups()?;
        let kept = self.kept(filter);
        self.drop_bounding()?;
        prctl(libc::PR_SET_KEEPCAPS, 1, 0).call("prctl(PR_SET_KEEPCAPS)")?;
        self.set_ids()?;
        prctl(libc::PR_SET_KEEPCAPS, 0, 0).call("prctl(PR_SET_KEEPCAPS)")?;
        if self.no_new_privileges {
            prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).call("prctl(PR_SET_NO_NEW_PRIVS)")?;
        }
        self.set_sets(kept)?;
        for number in 0..NAMES.len() {
            if self.ambient & 1 << number != 0 {
                let raise = libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong;
                prctl(libc::PR_CAP_AMBIENT, raise, number as libc::c_ulong)
                    .call("prctl(PR_CAP_AMBIENT)")?;
            }
        }
        Ok(())
    }

    /// Loads the filter and gives up what only the loading needed. Nothing but the execution may
    /// follow.
    pub(crate) fn seal(&self, filter: Option<&Filter>) -> Result<(), RuntimeError> {
        let Some(program) = filter else { return Ok(()) };
        program.apply()?;
        if self.kept(filter) & !self.permitted != 0 || self.kept(filter) & !self.effective != 0 {
            self.set_sets(0)?;
        }
        Ok(())
    }

    /// Always set, even to nothing: the runtime's own supplementary groups are the host's.
    fn set_groups(&self) -> Result<(), RuntimeError> {
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        match set_thread_groups(&groups) {
            // In a user namespace that denies setgroups there is nothing to set and nothing to
            // drop that the namespace maps.
            Err(Errno::PERM) if groups.is_empty() => Ok(()),
            other => other.call("setgroups"),
        }
    }

    fn set_ids(&self) -> Result<(), RuntimeError> {
        let gid = Gid::from_raw(self.gid);
        rustix::thread::set_thread_res_gid(gid, gid, gid).call("setresgid")?;
        let uid = Uid::from_raw(self.uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid).call("setresuid")
    }

    fn drop_bounding(&self) -> Result<(), RuntimeError> {
        for number in 0..u64::BITS {
            if self.bounding & 1 << number != 0 {
                continue;
            }
            match prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0) {
                // Above the last capability of this kernel.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
                other => other.call("prctl(PR_CAPBSET_DROP)")?,
            }
        }
        Ok(())
    }

    fn set_sets(&self, kept: u64) -> Result<(), RuntimeError> {
        let sets = CapabilitySets {
            effective: CapabilitySet::from_bits_retain(self.effective | kept),
            permitted: CapabilitySet::from_bits_retain(self.permitted | kept),
            inheritable: CapabilitySet::from_bits_retain(self.ambient),
        };
        set_capabilities(None, sets).call("capset")
    }
}

fn prctl(option: libc::c_int, first: libc::c_ulong, second: libc::c_ulong) -> std::io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: none of the options used here takes a pointer.
    match unsafe { libc::prctl(option, first, second, zero, zero) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn identity(process: serde_json::Value) -> Result<Identity, RuntimeError> {
        let mut whole = json!({ "cwd": "/", "args": ["x"], "user": { "uid": 0, "gid": 0 } });
        whole.as_object_mut().unwrap().extend(process.as_object().unwrap().clone());
        Identity::of(&serde_json::from_value(whole).unwrap())
    }

    #[test]
    fn the_id_that_means_unchanged_is_refused() {
        assert!(identity(json!({ "user": { "uid": 4_294_967_295_u32, "gid": 0 } })).is_err());
        assert!(identity(json!({ "user": { "uid": 1, "gid": 4_294_967_295_u32 } })).is_err());
    }

    #[test]
    fn no_set_exceeds_the_one_above_it() {
        let id = identity(json!({ "capabilities": {
            "bounding": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN", "CAP_KILL"],
            "effective": ["CAP_CHOWN", "CAP_KILL"], "ambient": ["CAP_KILL"],
        }}))
        .unwrap();
        assert_eq!((id.permitted, id.effective, id.ambient), (1, 1, 0));
    }

    #[test]
    fn without_capabilities_nothing_is_left() {
        let id = identity(json!({ "capabilities": null })).unwrap();
        assert_eq!((id.bounding, id.permitted, id.ambient), (0, 0, 0));
    }

    #[test]
    fn every_capability_of_the_specification_has_a_number() {
        let all = capability_names();
        let id = identity(json!({ "capabilities": { "bounding": all } })).unwrap();
        assert_eq!(id.bounding, (1 << 41) - 1);
    }
}

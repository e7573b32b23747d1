//! The options of Docker's `local` driver: `type`, `device` and `o`, as mount(8) takes them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rustix::mount::{MountFlags, MountPropagationFlags};

use crate::error::{Result, VolumeError};

/// What is to be mounted on a volume's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountPlan {
    pub(crate) device: String,
    /// Empty for a bind mount.
    pub(crate) fs_type: String,
    pub(crate) flags: MountFlags,
    pub(crate) kind: Kind,
    pub(crate) propagation: Option<MountPropagationFlags>,
    /// What is left of `o` for the file system.
    pub(crate) data: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    FileSystem,
    Bind,
    RecursiveBind,
}

/// Checks the options; `None` is a plain directory.
pub(crate) fn plan(options: &BTreeMap<String, String>) -> Result<Option<MountPlan>> {
    for name in options.keys() {
        match name.as_str() {
            "type" | "device" | "o" => {}
            "size" => {
                return Err(VolumeError::BadOption {
                    name: name.clone(),
                    reason: "quotas are not supported by this storage",
                });
            }
            _ => return Err(VolumeError::UnknownOption(name.clone())),
        }
    }
    if options.is_empty() {
        return Ok(None);
    }
    let need = |name: &'static str| {
        options.get(name).filter(|v| !v.is_empty()).ok_or(VolumeError::MissingOption(name))
    };
    let (device, fs_type) = (need("device")?.clone(), need("type")?.clone());
    for (name, value) in options {
        if value.contains('\0') || value.len() > 4000 {
            return Err(VolumeError::BadOption {
                name: name.clone(),
                reason: "longer than a mount takes, or with a NUL byte",
            });
        }
    }
    let mut plan = MountPlan {
        device,
        fs_type,
        flags: MountFlags::empty(),
        kind: Kind::FileSystem,
        propagation: None,
        data: String::new(),
    };
    let mut data = Vec::new();
    let words = options.get("o").map_or("", String::as_str);
    for word in words.split(',').filter(|word| !word.is_empty()) {
        if !plan.take_flag(word) {
            data.push(word);
        }
    }
    plan.data = data.join(",");
    if plan.kind == Kind::FileSystem && matches!(plan.fs_type.as_str(), "bind" | "none") {
        // `type=bind` is how many people spell it; mount(8) takes it as well.
        if plan.fs_type == "none" {
            return Err(VolumeError::BadOption {
                name: "type".into(),
                reason: "\"none\" needs o=bind",
            });
        }
        plan.kind = Kind::Bind;
    }
    if plan.kind != Kind::FileSystem {
        plan.check_bind()?;
    }
    plan.check_address()?;
    Ok(Some(plan))
}

impl MountPlan {
    fn check_bind(&mut self) -> Result<()> {
        if !self.device.starts_with('/') {
            return Err(VolumeError::BadOption {
                name: "device".into(),
                reason: "a bind mount needs an absolute path",
            });
        }
        if !self.data.is_empty() {
            return Err(VolumeError::BadOption {
                name: "o".into(),
                reason: "has a word that a bind mount does not take",
            });
        }
        self.fs_type.clear();
        Ok(())
    }

    /// The kernel takes addresses of file servers, never names.
    fn check_address(&self) -> Result<()> {
        if !matches!(self.fs_type.as_str(), "nfs" | "nfs4" | "cifs" | "smb3") {
            return Ok(());
        }
        let address = self
            .data
            .split(',')
            .find_map(|word| word.strip_prefix("addr=").or_else(|| word.strip_prefix("ip=")));
        match address {
            Some(address) if address.parse::<IpAddr>().is_err() => Err(VolumeError::BadOption {
                name: "o".into(),
                reason: "addr must be an IP address",
            }),
            None if self.fs_type.starts_with("nfs") => Err(VolumeError::BadOption {
                name: "o".into(),
                reason: "NFS needs addr=<IP address>",
            }),
            _ => Ok(()),
        }
    }

    /// Takes a word that mount(2) has a flag for; false leaves it to the file system.
    fn take_flag(&mut self, word: &str) -> bool {
        use MountPropagationFlags as Propagation;
        let recursive = Propagation::REC;
        match word {
            "defaults" => {}
            "ro" => self.flags |= MountFlags::RDONLY,
            "rw" => self.flags -= MountFlags::RDONLY,
            "nosuid" => self.flags |= MountFlags::NOSUID,
            "suid" => self.flags -= MountFlags::NOSUID,
            "nodev" => self.flags |= MountFlags::NODEV,
            "dev" => self.flags -= MountFlags::NODEV,
            "noexec" => self.flags |= MountFlags::NOEXEC,
            "exec" => self.flags -= MountFlags::NOEXEC,
            "sync" => self.flags |= MountFlags::SYNCHRONOUS,
            "async" => self.flags -= MountFlags::SYNCHRONOUS,
            "dirsync" => self.flags |= MountFlags::DIRSYNC,
            "noatime" => self.flags |= MountFlags::NOATIME,
            "atime" => self.flags -= MountFlags::NOATIME,
            "nodiratime" => self.flags |= MountFlags::NODIRATIME,
            "diratime" => self.flags -= MountFlags::NODIRATIME,
            "relatime" => self.flags |= MountFlags::RELATIME,
            "norelatime" => self.flags -= MountFlags::RELATIME,
            "strictatime" => self.flags |= MountFlags::STRICTATIME,
            "lazytime" => self.flags |= MountFlags::LAZYTIME,
            "bind" => self.kind = Kind::Bind,
            "rbind" => self.kind = Kind::RecursiveBind,
            "private" => self.propagation = Some(Propagation::PRIVATE),
            "rprivate" => self.propagation = Some(Propagation::PRIVATE | recursive),
            "shared" => self.propagation = Some(Propagation::SHARED),
            "rshared" => self.propagation = Some(Propagation::SHARED | recursive),
            "slave" => self.propagation = Some(Propagation::DOWNSTREAM),
            "rslave" => self.propagation = Some(Propagation::DOWNSTREAM | recursive),
            "unbindable" => self.propagation = Some(Propagation::UNBINDABLE),
            "runbindable" => self.propagation = Some(Propagation::UNBINDABLE | recursive),
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn no_options_is_a_directory() {
        assert_eq!(plan(&options(&[])).unwrap(), None);
    }

    #[test]
    fn words_become_flags_or_data() {
        let given = options(&[
            ("type", "tmpfs"),
            ("device", "tmpfs"),
            ("o", "ro,nosuid,size=100m,uid=1000,rw"),
        ]);
        let plan = plan(&given).unwrap().unwrap();
        assert_eq!(plan.flags, MountFlags::NOSUID);
        assert_eq!((plan.data.as_str(), plan.kind), ("size=100m,uid=1000", Kind::FileSystem));
    }

    #[test]
    fn binds_in_each_spelling() {
        for (fs_type, o, kind) in [
            ("none", "bind", Kind::Bind),
            ("none", "rbind,ro", Kind::RecursiveBind),
            ("bind", "", Kind::Bind),
        ] {
            let plan = plan(&options(&[("type", fs_type), ("device", "/srv"), ("o", o)]))
                .unwrap()
                .unwrap();
            assert_eq!((plan.kind, plan.fs_type.as_str()), (kind, ""), "{fs_type} {o}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        let refused = |pairs: &[(&str, &str)]| plan(&options(pairs)).unwrap_err().to_string();
        assert!(refused(&[("mountpoint", "/x")]).contains("mountpoint"));
        assert!(refused(&[("size", "10g")]).contains("size"));
        assert!(refused(&[("type", "tmpfs")]).contains("device"));
        assert!(refused(&[("o", "bind")]).contains("device"));
        assert!(
            refused(&[("type", "none"), ("device", "relative"), ("o", "bind")]).contains("device")
        );
        assert!(
            refused(&[("type", "none"), ("device", "/x"), ("o", "bind,uid=5")]).contains("\"o\"")
        );
        assert!(refused(&[("type", "none"), ("device", "/x")]).contains("type"));
        assert!(
            refused(&[("type", "nfs"), ("device", ":/x"), ("o", "addr=nas.local")])
                .contains("addr")
        );
        assert!(refused(&[("type", "nfs"), ("device", ":/x")]).contains("addr"));
        assert!(
            plan(&options(&[("type", "nfs"), ("device", ":/x"), ("o", "addr=::1,rw")])).is_ok()
        );
    }
}

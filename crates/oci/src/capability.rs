//! Capabilities: names, sets, and what Docker's add and drop lists make of the default.

use std::fmt;
use std::str::FromStr;

use pouch_types::spec::SecuritySpec;

use crate::error::SpecError;
use crate::spec::Capabilities;

/// All capabilities by number, capabilities(7); the index is the kernel's.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// One capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Capability(u8);

impl Capability {
    /// May raise limits and lower `oom_score_adj`.
    pub const SYS_RESOURCE: Self = Self(24);

    /// `CAP_` and upper case.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.get(usize::from(self.0)).copied().unwrap_or_default()
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Not the name of a capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown capability: {0:?}")]
pub struct UnknownCapability(String);

impl FromStr for Capability {
    type Err = UnknownCapability;

    /// Any case, with or without `CAP_`.
    fn from_str(text: &str) -> Result<Self, UnknownCapability> {
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        (0_u8..)
            .zip(NAMES)
            .find(|(_, name)| name.strip_prefix("CAP_") == Some(bare))
            .map(|(number, _)| Self(number))
            .ok_or_else(|| UnknownCapability(text.chars().take(64).collect()))
    }
}

/// A set, as the kernel keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// Nothing.
    pub const EMPTY: Self = Self(0);
    /// Everything that has a name here.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);
    /// The fourteen that Docker gives to every container: CHOWN, DAC_OVERRIDE, FOWNER, FSETID,
    /// KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE,
    /// SETFCAP.
    pub const DEFAULT: Self = Self(
        1 << 0
            | 1 << 1
            | 1 << 3
            | 1 << 4
            | 1 << 5
            | 1 << 6
            | 1 << 7
            | 1 << 8
            | 1 << 10
            | 1 << 13
            | 1 << 18
            | 1 << 27
            | 1 << 29
            | 1 << 31,
    );

    /// From the kernel's bits; those without a name are left out.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::ALL.0)
    }

    /// With one more.
    #[must_use]
    pub const fn with(self, capability: Capability) -> Self {
        Self(self.0 | 1 << capability.0)
    }

    /// Without one.
    #[must_use]
    pub const fn without(self, capability: Capability) -> Self {
        Self(self.0 & !(1 << capability.0))
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether it is in it.
    #[must_use]
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & 1 << capability.0 != 0
    }

    /// Whether all of `other` is in it.
    #[must_use]
    pub const fn contains_all(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// In the kernel's order.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        (0..64).map(Capability).filter(move |capability| self.contains(*capability))
    }

    /// The names, in the kernel's order.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        self.iter().map(|capability| capability.name().to_owned()).collect()
    }
}

/// What a container may have: Docker's order of precedence. `--cap-add ALL` without the dropped
/// ones, `--cap-drop ALL` with the added ones alone, otherwise the default less dropped plus added.
///
/// # Errors
/// An unknown name, or one added by name that this kernel or this daemon does not have.
pub(crate) fn granted(
    security: &SecuritySpec,
    available: CapabilitySet,
) -> Result<CapabilitySet, SpecError> {
    if security.privileged {
        return Ok(available);
    }
    let added = parse("HostConfig.CapAdd", &security.cap_add, available)?;
    let dropped = parse("HostConfig.CapDrop", &security.cap_drop, CapabilitySet::ALL)?;
    let set = match (added, dropped) {
        (Named { all: true, .. }, Named { set: dropped, .. }) => minus(available, dropped),
        (Named { set: added, .. }, Named { all: true, .. }) => added,
        (Named { set: added, .. }, Named { set: dropped, .. }) => {
            CapabilitySet(minus(CapabilitySet::DEFAULT, dropped).0 | added.0)
        }
    };
    Ok(set.intersection(available))
}

const fn minus(set: CapabilitySet, without: CapabilitySet) -> CapabilitySet {
    CapabilitySet(set.0 & !without.0)
}

#[derive(Clone, Copy)]
struct Named {
    all: bool,
    set: CapabilitySet,
}

fn parse(
    field: &'static str,
    names: &[String],
    available: CapabilitySet,
) -> Result<Named, SpecError> {
    let mut named = Named { all: false, set: CapabilitySet::EMPTY };
    for name in names {
        if name.eq_ignore_ascii_case("all") {
            named.all = true;
            continue;
        }
        let capability: Capability = name
            .parse()
            .map_err(|error: UnknownCapability| SpecError::invalid(field, error.to_string()))?;
        if !available.contains(capability) {
            return Err(SpecError::invalid(
                field,
                format!(
                    "capability not supported by your kernel or not available in the current environment: \"{capability}\""
                ),
            ));
        }
        named.set = named.set.with(capability);
    }
    Ok(named)
}

/// The five sets. A process that is not root gets the bounding set, so that file capabilities and
/// setuid programs work as far as `noNewPrivileges` lets them; the kernel itself clears its
/// effective and permitted sets when the runtime changes the user.
pub(crate) fn sets(granted: CapabilitySet) -> Capabilities {
    let names = granted.names();
    Capabilities {
        bounding: names.clone(),
        effective: names.clone(),
        permitted: names,
        inheritable: Vec::new(),
        ambient: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(add: &[&str], drop: &[&str]) -> Result<CapabilitySet, SpecError> {
        let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        let security =
            SecuritySpec { cap_add: own(add), cap_drop: own(drop), ..SecuritySpec::default() };
        granted(&security, CapabilitySet::ALL)
    }

    fn cap(name: &str) -> Capability {
        name.parse().unwrap()
    }

    #[test]
    fn names() {
        assert_eq!(cap("net_raw"), cap("CAP_NET_RAW"));
        assert_eq!(cap("CAP_CHECKPOINT_RESTORE").0, 40);
        assert_eq!(cap("sys_resource"), Capability::SYS_RESOURCE);
        assert!("CAP_CAP_CHOWN".parse::<Capability>().is_err());
        assert!("".parse::<Capability>().is_err());
        assert_eq!(CapabilitySet::DEFAULT.names().len(), 14);
        assert!(!CapabilitySet::DEFAULT.contains(cap("SYS_ADMIN")));
    }

    #[test]
    fn precedence() {
        assert_eq!(with(&[], &[]).unwrap(), CapabilitySet::DEFAULT);
        assert_eq!(with(&["ALL"], &[]).unwrap(), CapabilitySet::ALL);
        assert_eq!(with(&["all"], &["CHOWN"]).unwrap(), CapabilitySet::ALL.without(cap("CHOWN")));
        assert_eq!(with(&["KILL"], &["ALL"]).unwrap().names(), ["CAP_KILL"]);
        assert_eq!(with(&[], &["ALL"]).unwrap(), CapabilitySet::EMPTY);
        assert_eq!(with(&["ALL"], &["ALL"]).unwrap(), CapabilitySet::ALL);
        assert_eq!(
            with(&["SYS_TIME"], &["CAP_NET_RAW"]).unwrap(),
            CapabilitySet::DEFAULT.without(cap("NET_RAW")).with(cap("SYS_TIME"))
        );
        assert!(matches!(with(&["NONSENSE"], &[]), Err(SpecError::Invalid { .. })));
    }

    #[test]
    fn the_bounding_set_is_the_ceiling() {
        let few = CapabilitySet::EMPTY.with(cap("CHOWN")).with(cap("BPF"));
        let security = SecuritySpec { privileged: true, ..SecuritySpec::default() };
        assert_eq!(granted(&security, few).unwrap(), few);
        assert_eq!(granted(&SecuritySpec::default(), few).unwrap().names(), ["CAP_CHOWN"]);
        let security =
            SecuritySpec { cap_add: vec!["SYS_ADMIN".into()], ..SecuritySpec::default() };
        let error = granted(&security, few).unwrap_err().to_string();
        assert!(error.contains("HostConfig.CapAdd") && error.contains("CAP_SYS_ADMIN"), "{error}");
    }

    #[test]
    fn unknown_bits_are_left_out() {
        assert_eq!(CapabilitySet::from_bits(u64::MAX), CapabilitySet::ALL);
    }
}

//! Versions of the specification: those that networks are configured in, and the choice among them.

use std::fmt;

/// A version whose results and operations this crate knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpecVersion {
    /// The first with lists and `interfaces` in results.
    V0_3_0,
    /// As 0.3.0, with a correction of the text.
    V0_3_1,
    /// Adds CHECK and `prevResult` for DEL.
    V0_4_0,
    /// Drops `version` from the addresses of results.
    V1_0_0,
    /// Adds STATUS and GC.
    V1_1_0,
}

impl SpecVersion {
    /// Oldest first.
    pub(crate) const ALL: [Self; 5] =
        [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// Reads what configurations have; `None` for versions that this crate does not speak.
    pub(crate) fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.text() == text)
    }

    /// As written in configurations.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    pub(crate) const fn has_check(self) -> bool {
        matches!(self, Self::V0_4_0 | Self::V1_0_0 | Self::V1_1_0)
    }

    pub(crate) const fn has_status_and_gc(self) -> bool {
        matches!(self, Self::V1_1_0)
    }

    /// Whether addresses in results say `"version": "4"`.
    pub(crate) const fn has_address_family(self) -> bool {
        matches!(self, Self::V0_3_0 | Self::V0_3_1 | Self::V0_4_0)
    }

    /// The highest of `cniVersion` and `cniVersions` that we speak.
    pub(crate) fn choose<'a>(offered: impl Iterator<Item = &'a str>) -> Option<Self> {
        offered.filter_map(Self::of).max()
    }
}

impl fmt::Display for SpecVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_known_version_is_chosen() {
        let choose = |offered: &[&str]| SpecVersion::choose(offered.iter().copied());
        assert_eq!(choose(&["0.3.1"]), Some(SpecVersion::V0_3_1));
        assert_eq!(choose(&["0.4.0", "2.0.0", "1.1.0", "1.0.0"]), Some(SpecVersion::V1_1_0));
        assert_eq!(choose(&["0.1.0", "0.2.0", "", "1.2.0"]), None);
    }
}

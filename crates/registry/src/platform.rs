//! Platforms, and which entry of an index runs here (OCI image-spec, image-index.md).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::RegistryError;

/// Operating system, architecture and variant in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Platform {
    /// GOOS.
    #[serde(default)]
    pub os: String,
    /// GOARCH.
    #[serde(default)]
    pub architecture: String,
    /// `v2` of amd64, `v7` of arm and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// What a pull asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Wanted {
    /// The best that this machine runs.
    #[default]
    Host,
    /// This one, as `--platform` says.
    Exactly(Platform),
}

impl Platform {
    /// This machine, with the x86-64 level of its CPU.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", amd64_level().map(|level| format!("v{level}"))),
            "aarch64" => ("arm64", Some("v8".to_owned())),
            "x86" => ("386", None),
            other => (other, None),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant }
    }

    /// One spelling of each: x86_64 is amd64, arm64 without variant is v8 and amd64 v1.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let os = self.os.to_ascii_lowercase();
        let arch = self.architecture.to_ascii_lowercase();
        let variant = self.variant.as_deref().unwrap_or_default().to_ascii_lowercase();
        let (architecture, variant) = match (arch.as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v),
            ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
            ("aarch64" | "arm64", v) => ("arm64", v),
            ("i386" | "i686" | "x86" | "386", _) => ("386", ""),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            (a, v) => (a, v),
        };
        let variant = (!variant.is_empty()).then(|| variant.to_owned());
        Self { os, architecture: architecture.to_owned(), variant }
    }

    /// Whether an image of platform `actual` is what was asked for. Without a variant, any will
    /// do.
    #[must_use]
    pub fn accepts(&self, actual: &Self) -> bool {
        let (wanted, actual) = (self.normalized(), actual.normalized());
        wanted.os == actual.os
            && wanted.architecture == actual.architecture
            && (self.variant.is_none() || wanted.variant == actual.variant)
    }
}

impl Wanted {
    /// The platform to name in messages.
    #[must_use]
    pub fn platform(&self) -> Platform {
        match self {
            Self::Host => Platform { variant: None, ..Platform::host() },
            Self::Exactly(platform) => platform.clone(),
        }
    }

    /// How well an entry fits; higher is better, `None` does not run.
    pub(crate) fn rank(&self, entry: &Platform) -> Option<u32> {
        let entry = entry.normalized();
        match self {
            Self::Exactly(wanted) => {
                let wanted_variant = wanted.normalized().variant;
                if !wanted.accepts(&entry) && !compatible(wanted, &entry) {
                    return None;
                }
                // The very variant first, then the one closest below it.
                Some(if entry.variant == wanted_variant { 100 } else { level(&entry) })
            }
            Self::Host => rank_for(&Platform::host(), &entry),
        }
    }
}

fn rank_for(host: &Platform, entry: &Platform) -> Option<u32> {
    if entry.os != host.os {
        return None;
    }
    match (host.architecture.as_str(), entry.architecture.as_str()) {
        ("amd64", "amd64") => {
            let (can, need) = (level(host), level(entry));
            (need <= can).then_some(10 + need)
        }
        // Every amd64 kernel of a distribution runs these; only if there is nothing better.
        ("amd64", "386") => Some(1),
        ("arm64", "arm64") => (level(entry) <= level(host)).then_some(20 + level(entry)),
        (host, entry) if host == entry => Some(10),
        _ => None,
    }
}

/// The number of a variant, with the value that its absence means.
fn level(platform: &Platform) -> u32 {
    let number = platform.variant.as_deref().and_then(|v| v.strip_prefix('v')?.parse().ok());
    number.unwrap_or(if platform.architecture == "arm64" { 8 } else { 1 })
}

/// Whether an entry of a lower variant runs where `wanted` was asked for.
fn compatible(wanted: &Platform, entry: &Platform) -> bool {
    let wanted = wanted.normalized();
    wanted.os == entry.os
        && wanted.architecture == entry.architecture
        && matches!(entry.architecture.as_str(), "amd64" | "arm" | "arm64")
        && level(entry) <= level(&wanted)
}

/// The x86-64 psABI level of this CPU.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> Option<u32> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt");
    let v3 = has!("avx") && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("fma");
    let v3 = v3 && has!("f16c") && has!("lzcnt") && has!("movbe");
    let v4 = has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq");
    let v4 = v4 && has!("avx512vl");
    Some(match (v2, v3, v4) {
        (true, true, true) => 4,
        (true, true, false) => 3,
        (true, false, _) => 2,
        (false, ..) => 1,
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> Option<u32> {
    None
}

impl FromStr for Platform {
    type Err = RegistryError;

    /// `os`, `arch`, `os/arch` or `os/arch/variant`.
    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let invalid = || RegistryError::Platform(text.chars().take(80).collect());
        let good = |part: &&str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(good) {
            return Err(invalid());
        }
        let platform = |os: &str, architecture: &str, variant: Option<&str>| Self {
            os: os.to_ascii_lowercase(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        };
        let host = Self { variant: None, ..Self::host() };
        let found = match parts[..] {
            [one] => match one.to_ascii_lowercase().as_str() {
                "linux" | "windows" | "darwin" | "freebsd" => {
                    platform(one, &host.architecture, None)
                }
                _ => platform(&host.os, one, None),
            },
            [os, arch] => platform(os, arch, None),
            [os, arch, variant] => platform(os, arch, Some(variant)),
            _ => return Err(invalid()),
        };
        let normalized = found.normalized();
        // A variant that nobody asked for is not implied: `linux/arm` takes any.
        let variant = found.variant.is_some().then_some(normalized.variant).flatten();
        Ok(Self { variant, ..normalized })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn parses_and_normalises() {
        assert_eq!(p("linux/x86_64").to_string(), "linux/amd64");
        assert_eq!(p("linux/aarch64/v8").to_string(), "linux/arm64");
        assert_eq!(p("linux/arm/v6").to_string(), "linux/arm/v6");
        assert_eq!(p("arm64").to_string(), "linux/arm64");
        assert_eq!(p("linux").os, "linux");
        for bad in ["", "/", "linux/", "a/b/c/d", "linux/../x", "a b"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_best_variant_that_runs_wins() {
        let host = |variant: Option<&str>| Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: variant.map(str::to_owned),
        };
        let rank = |h: &Platform, e: &str| rank_for(h, &e.parse::<Platform>().unwrap());
        let v3 = host(Some("v3"));
        assert!(rank(&v3, "linux/amd64/v3") > rank(&v3, "linux/amd64/v2"));
        assert!(rank(&v3, "linux/amd64/v2") > rank(&v3, "linux/amd64"));
        assert!(rank(&v3, "linux/amd64") > rank(&v3, "linux/386"));
        assert_eq!(rank(&v3, "linux/amd64/v4"), None);
        assert_eq!(rank(&v3, "linux/arm64"), None);
        assert_eq!(rank(&v3, "windows/amd64"), None);
    }

    #[test]
    fn an_explicit_platform_is_honoured() {
        let want = |text: &str| Wanted::Exactly(p(text));
        assert_eq!(want("linux/arm64").rank(&p("linux/amd64")), None);
        assert!(want("linux/arm64").rank(&p("linux/arm64/v8")).is_some());
        let arm = want("linux/arm/v7");
        assert!(arm.rank(&p("linux/arm/v7")) > arm.rank(&p("linux/arm/v6")));
        assert!(arm.rank(&p("linux/arm/v6")) > arm.rank(&p("linux/arm/v5")));
        assert_eq!(want("linux/arm/v6").rank(&p("linux/arm/v7")), None);
        assert_eq!(want("linux/amd64").rank(&p("linux/386")), None);
    }
}

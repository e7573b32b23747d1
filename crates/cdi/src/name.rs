//! Names of devices: `vendor.com/class=name`.

use std::fmt;
use std::str::FromStr;

/// Bytes of a vendor, a DNS subdomain.
const MAX_VENDOR: usize = 253;
/// Bytes of a class, and of a device's name.
const MAX_PART: usize = 63;
/// Bytes of a device's name. The specification has no bound; ids of partitions of a GPU are long.
const MAX_DEVICE: usize = 253;

/// Why a name is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Not of the form.
    #[error("{0:?} is not vendor/class=name")]
    Unqualified(String),
    /// No vendor and class.
    #[error("kind {0:?} is not vendor/class")]
    Kind(String),
    /// One part has characters or a length that it may not have.
    #[error("invalid {what} {value:?}")]
    Part {
        /// `vendor`, `class` or `device name`.
        what: &'static str,
        /// Its beginning.
        value: String,
    },
}

/// Who made a device, and what class it is of: `vendor.com/class`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    vendor: String,
    class: String,
}

impl FromStr for Kind {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (vendor, class) =
            text.split_once('/').ok_or_else(|| NameError::Kind(beginning(text)))?;
        let letter = |b: u8| b.is_ascii_alphabetic();
        let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        check("vendor", vendor, MAX_VENDOR, letter, inner)?;
        check("class", class, MAX_PART, letter, inner)?;
        Ok(Self { vendor: vendor.to_owned(), class: class.to_owned() })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.vendor, self.class)
    }
}

/// A fully qualified name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName {
    kind: Kind,
    device: String,
}

impl DeviceName {
    /// The name of a file's device.
    ///
    /// # Errors
    /// When `device` has characters that no name has, or is too long.
    pub fn new(kind: Kind, device: &str) -> Result<Self, NameError> {
        let first = |b: u8| b.is_ascii_alphanumeric();
        let inner = |b: u8| first(b) || matches!(b, b'-' | b'_' | b'.' | b':');
        check("device name", device, MAX_DEVICE, first, inner)?;
        Ok(Self { kind, device: device.to_owned() })
    }
}

impl FromStr for DeviceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (kind, device) =
            text.split_once('=').ok_or_else(|| NameError::Unqualified(beginning(text)))?;
        Self::new(kind.parse()?, device)
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

fn check(
    what: &'static str,
    value: &str,
    max: usize,
    first: impl Fn(u8) -> bool,
    inner: impl Fn(u8) -> bool,
) -> Result<(), NameError> {
    let bytes = value.as_bytes();
    let good = bytes.len() <= max
        && bytes.first().is_some_and(|b| first(*b))
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| inner(*b));
    if good { Ok(()) } else { Err(NameError::Part { what, value: beginning(value) }) }
}

/// Of text from outside, as much as a message needs.
pub(crate) fn beginning(text: &str) -> String {
    text.chars().take(256).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_none() {
        for bad in [
            "",
            "a",
            "=",
            "a/b",
            "a/b=",
            "/b=c",
            "a/=c",
            "a=c",
            "/dev/null",
            "/dev/null=c",
            "1a/b=c",
            "a/1b=c",
            "a./b=c",
            "a/b-=c",
            "a/b/c=d",
            "a/b=c d",
            "a/b=_c",
            "a/b=c:",
            "a/b=c=d",
            "a/b=\u{e9}",
            "a\n/b=c",
            &format!("a/b={}", "x".repeat(254)),
            &format!("a/{}=c", "x".repeat(64)),
        ] {
            assert!(bad.parse::<DeviceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_as_vendors_give_them() {
        for good in [
            "nvidia.com/gpu=0",
            "nvidia.com/gpu=all",
            "nvidia.com/gpu=GPU-4cf8db2d-06c0-7d70-1a51-e59b25b2c16c",
            "nvidia.com/gpu=0:1",
            "k8s.device-plugin.nvidia.com/gpu=GPU_1",
            "vendor.com/net.ex-port=eth0.1",
            "a/b=c",
        ] {
            assert_eq!(good.parse::<DeviceName>().unwrap().to_string(), good);
        }
    }
}

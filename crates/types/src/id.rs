//! Identifiers.
//!
//! Containers, images and networks are named by 64 hex digits (32 bytes): containers and networks
//! by random ones, images by the SHA-256 of their configuration.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Classified, ErrorKind};

/// A string that should have been an id and is not.
#[derive(Debug, thiserror::Error)]
#[error("invalid id {text:?}: want 64 lower-case hex digits")]
pub struct InvalidId {
    text: String,
}

impl Classified for InvalidId {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// 64 lower-case hex digits from 32 random bytes of the kernel.
///
/// # Errors
/// When the kernel has no random bytes to give, which after boot does not happen.
pub fn random_hex() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// A new random id.
            ///
            /// # Errors
            /// See [`random_hex`].
            pub fn random() -> Result<Self, getrandom::Error> {
                Ok(Self(random_hex()?.into()))
            }

            /// All 64 digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 digits, as people read them.
            #[must_use]
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if is_id(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidId { text: text.chars().take(80).collect() })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

hex_id!(
    /// A container.
    ContainerId
);
hex_id!(
    /// A process that was added to a container by exec.
    ExecId
);
hex_id!(
    /// A network.
    NetworkId
);

/// An image: the digest of its configuration, shown as `sha256:<hex>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub Digest);

impl ImageId {
    /// The first 12 hex digits.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0.hex()[..12]
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_parse_and_differ() {
        let (a, b) = (ContainerId::random().unwrap(), ContainerId::random().unwrap());
        assert_ne!(a, b);
        assert_eq!(a, a.as_str().parse().unwrap());
        assert_eq!(a.short().len(), 12);
    }

    #[test]
    fn rejects_what_is_not_an_id() {
        for bad in ["", "abc", &"A".repeat(64), &"g".repeat(64), "../../../etc/passwd"] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }
}

//! Names that people give to objects. All share Docker's rule
//! `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, which also keeps them from ever being a path.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Classified, ErrorKind};

/// A name that breaks the rule.
#[derive(Debug, thiserror::Error)]
#[error(
    "invalid {what} name {text:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, 2 to 255 characters"
)]
pub struct InvalidName {
    what: &'static str,
    text: String,
}

impl Classified for InvalidName {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    (2..=255).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

macro_rules! object_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The name as given, without a leading slash.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if is_name(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidName { what: $what, text: text.chars().take(80).collect() })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

object_name!(
    /// The name of a container, without Docker's leading slash.
    ContainerName,
    "container"
);
object_name!(
    /// The name of a volume.
    VolumeName,
    "volume"
);
object_name!(
    /// The name of a network.
    NetworkName,
    "network"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_never_paths() {
        for bad in ["", ".", "..", "../x", "a/b", "a", "a\0b", "-ab", "_ab", "é1", &"a".repeat(256)]
        {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad:?}");
        }
        for good in ["ab", "a.b", "0_x", "web-1"] {
            assert!(good.parse::<ContainerName>().is_ok(), "{good}");
        }
    }
}

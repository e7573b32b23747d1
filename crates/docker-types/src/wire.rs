//! How a struct of the API is declared, and the tolerant reading that all of them share.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize};

/// Declares structs that are written as they stand and read by the rules of [`Lenient`].
///
/// The first token is serde's `rename_all`. What stands behind `+` is flattened into the object;
/// it is apart because serde swallows errors of an optional flattened field.
macro_rules! wire {
    ($case:tt; $(
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$field_meta:meta])* pub $field:ident : $type:ty ),* $(,)?
        } $( + { $( $(#[$flat_meta:meta])* pub $flat:ident : $flat_type:ty ),* $(,)? } )?
    )*) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(rename_all = $case, default)]
        pub struct $name {
            $(
                #[serde(deserialize_with = "crate::wire::lenient")]
                $(#[$field_meta])*
                pub $field: $type,
            )*
            $( $(
                #[serde(flatten)]
                $(#[$flat_meta])*
                pub $flat: $flat_type,
            )* )?
        }

        impl $crate::wire::Lenient for $name {
            fn read<'de, D: ::serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Ok(<Option<Self> as ::serde::Deserialize>::deserialize(from)?.unwrap_or_default())
            }
        }
    )* };
}

/// Reading as Go's JSON decoder does: `null` is the zero value. Numbers also come as strings.
pub trait Lenient: Sized {
    /// Reads one value.
    ///
    /// # Errors
    /// When the value has another JSON type, or a number does not fit.
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error>;
}

/// The `deserialize_with` of each field.
pub(crate) fn lenient<'de, D: Deserializer<'de>, T: Lenient>(from: D) -> Result<T, D::Error> {
    T::read(from)
}

/// Go's `omitempty`.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

macro_rules! null_is_default {
    ($($type:ty),*) => { $(
        impl Lenient for $type {
            fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Ok(Option::<Self>::deserialize(from)?.unwrap_or_default())
            }
        }
    )* };
}

null_is_default!(bool, String, serde_json::Value);

struct NumberVisitor<T>(PhantomData<T>);

macro_rules! number {
    ($($type:ty),*) => { $(
        impl Lenient for $type {
            fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_any(NumberVisitor::<$type>(PhantomData))
            }
        }

        impl<'de> Visitor<'de> for NumberVisitor<$type> {
            type Value = $type;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!("a number that fits ", stringify!($type)))
            }

            fn visit_unit<E>(self) -> Result<$type, E> {
                Ok(0)
            }

            fn visit_none<E>(self) -> Result<$type, E> {
                Ok(0)
            }

            fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<$type, D::Error> {
                from.deserialize_any(self)
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<$type, E> {
                value.try_into().map_err(|_| E::custom(format!("{value} is out of range")))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<$type, E> {
                value.try_into().map_err(|_| E::custom(format!("{value} is out of range")))
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<$type, E> {
                // JavaScript clients print large integers as `1e9`; beyond 2^53 they are not exact.
                if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 {
                    #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
                    let whole = value as i64;
                    return self.visit_i64(whole);
                }
                Err(E::custom(format!("{value} is not a whole number")))
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<$type, E> {
                if value.is_empty() {
                    return Ok(0);
                }
                value.parse().map_err(|_| E::custom(format!("{value:?} is not a number")))
            }
        }
    )* };
}

number!(i32, i64, u16, u32, u64);

impl Lenient for f64 {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Option::<Self>::deserialize(from)?.unwrap_or_default())
    }
}

/// An element of a list or a map.
struct Item<T>(T);

impl<'de, T: Lenient> Deserialize<'de> for Item<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::read(from).map(Item)
    }
}

impl<T: Lenient> Lenient for Option<T> {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Option::<Item<T>>::deserialize(from)?.map(|item| item.0))
    }
}

impl<T: Lenient> Lenient for Box<T> {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::read(from).map(Box::new)
    }
}

impl<T: Lenient> Lenient for Vec<T> {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let items = Option::<Vec<Item<T>>>::deserialize(from)?.unwrap_or_default();
        Ok(items.into_iter().map(|item| item.0).collect())
    }
}

impl<T: Lenient> Lenient for BTreeMap<String, T> {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let items = Option::<BTreeMap<String, Item<T>>>::deserialize(from)?.unwrap_or_default();
        Ok(items.into_iter().map(|(key, item)| (key, item.0)).collect())
    }
}

impl<T: Lenient + Default, const N: usize> Lenient for [T; N] {
    /// As Go reads into an array: missing elements are zero, surplus ones are dropped.
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut items = Vec::<T>::read(from)?.into_iter();
        Ok(std::array::from_fn(|_| items.next().unwrap_or_default()))
    }
}

/// The value of a set that Go spells `map[string]struct{}`: always `{}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Empty {}

impl Lenient for Empty {
    /// Whatever stands there, only the key counts.
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(from)?;
        Ok(Self {})
    }
}

impl<'de> Deserialize<'de> for Empty {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::read(from)
    }
}

/// A list of words that clients may also give as one string (`"Cmd": "true"`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct StrSlice(pub Vec<String>);

impl Lenient for StrSlice {
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            One(String),
            Many(Vec<String>),
        }
        match Option::<Either>::deserialize(from) {
            Ok(Some(Either::One(word))) => Ok(Self(vec![word])),
            Ok(Some(Either::Many(words))) => Ok(Self(words)),
            Ok(None) => Ok(Self::default()),
            Err(_) => Err(D::Error::custom("expected a string or a list of strings")),
        }
    }
}

impl<'de> Deserialize<'de> for StrSlice {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::read(from)
    }
}

impl From<Vec<String>> for StrSlice {
    fn from(words: Vec<String>) -> Self {
        Self(words)
    }
}

impl From<StrSlice> for Vec<String> {
    fn from(words: StrSlice) -> Self {
        words.0
    }
}

/// A body that is not JSON of the shape that is wanted.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// A field that has another shape.
    #[error("{field}: {source}")]
    Field {
        /// Its path, such as `HostConfig.Memory`.
        field: String,
        /// What is wrong with it, and where.
        source: serde_json::Error,
    },
    /// No JSON at all, or something behind it.
    #[error(transparent)]
    Syntax(#[from] serde_json::Error),
}

/// Reads a body; `null` and nothing at all are the zero value, as for Go.
///
/// # Errors
/// When the text is not JSON of that shape.
pub fn from_slice<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, BodyError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value: Option<T> = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = error.path().to_string();
        let source = error.into_inner();
        if field == "." || source.is_syntax() || source.is_eof() {
            return BodyError::Syntax(source);
        }
        BodyError::Field { field, source }
    })?;
    reader.end()?;
    Ok(value.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![expect(unreachable_pub, reason = "the macro declares what it makes public")]

    use super::*;

    wire! { "PascalCase";
        pub struct Sample {
            pub number: i64,
            pub small: u16,
            pub words: Option<StrSlice>,
            pub list: Vec<String>,
            pub map: BTreeMap<String, Option<Vec<String>>>,
            pub set: BTreeMap<String, Empty>,
            pub pair: [u32; 2],
            #[serde(skip_serializing_if = "is_default")]
            pub flag: Option<bool>,
        } + {
            pub rest: Rest,
        }

        pub struct Rest {
            pub memory: i64,
        }
    }

    fn read(text: &str) -> Sample {
        from_slice(text.as_bytes()).unwrap()
    }

    #[test]
    fn null_is_the_zero_value_everywhere() {
        let all = r#"{"Number":null,"Small":null,"Words":null,"List":null,"Map":null,"Set":null,
            "Pair":null,"Flag":null,"Memory":null,"Unknown":{"a":[1]}}"#;
        assert_eq!(read(all), Sample::default());
        assert_eq!(read("null"), Sample::default());
        assert_eq!(read(" \r\n"), Sample::default());
        let inner =
            read(r#"{"Map":{"80/tcp":null},"Set":{"a":null,"b":{"x":1}},"List":["a",null]}"#);
        assert_eq!(inner.map["80/tcp"], None);
        assert_eq!(inner.set.len(), 2);
        assert_eq!(inner.list, ["a", ""]);
    }

    #[test]
    fn numbers_come_as_strings_and_floats() {
        let sample = read(r#"{"Number":"-5","Small":"8","Memory":"512","Pair":["1",2,3]}"#);
        assert_eq!((sample.number, sample.small, sample.rest.memory), (-5, 8, 512));
        assert_eq!(sample.pair, [1, 2]);
        assert_eq!(read(r#"{"Number":1e9,"Memory":""}"#).number, 1_000_000_000);
        for bad in [
            r#"{"Number":1.5}"#,
            r#"{"Number":1e300}"#,
            r#"{"Number":"x"}"#,
            r#"{"Small":65536}"#,
            r#"{"Small":-1}"#,
            r#"{"Memory":"x"}"#,
            r#"{"Memory":true}"#,
            r#"{"Words":5}"#,
            r#"{"List":"x"}"#,
            "[]",
            "{",
        ] {
            assert!(from_slice::<Sample>(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_come_as_one_string() {
        assert_eq!(read(r#"{"Words":"true"}"#).words, Some(StrSlice(vec!["true".into()])));
        assert_eq!(read(r#"{"Words":[]}"#).words, Some(StrSlice(vec![])));
    }

    #[test]
    fn writes_null_lists_and_leaves_out_only_what_is_marked() {
        let text = serde_json::to_string(&Sample::default()).unwrap();
        assert_eq!(
            text,
            r#"{"Number":0,"Small":0,"Words":null,"List":[],"Map":{},"Set":{},"Pair":[0,0],"Memory":0}"#
        );
    }
}

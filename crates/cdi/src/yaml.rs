//! YAML as a tree, with bounds, and serde's view of it.
//!
//! The parser gives events and recurses nowhere; the tree is built here, so that depth, number of
//! nodes and what aliases multiply stay bounded. An unquoted `0` is a number or a text as the field
//! wants it, for vendors write `name: 0`.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde::Deserialize;
use serde::de::value::{Error, MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, IntoDeserializer, Visitor};

use crate::error::FileError;

/// Levels of lists and maps.
const MAX_DEPTH: usize = 32;
/// Values, with those that aliases repeat.
const MAX_NODES: usize = 200_000;

/// One value.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Null,
    /// Without quotes: what it is depends on who asks.
    Plain(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    fn size(&self) -> usize {
        1 + match self {
            Self::Null | Self::Plain(_) | Self::Text(_) => 0,
            Self::List(list) => list.iter().map(Self::size).sum(),
            Self::Map(map) => map.iter().map(|(_, node)| node.size()).sum(),
        }
    }
}

/// A list or map that is not complete.
enum Open {
    List(Vec<Node>),
    /// With the key whose value comes next.
    Map(Vec<(String, Node)>, Option<String>),
}

/// Reads the only document of `text`.
pub(crate) fn parse<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, FileError> {
    let root = tree(text)?;
    T::deserialize(root).map_err(|error| FileError::Yaml(error.to_string()))
}

fn wrong(what: impl Into<String>) -> FileError {
    FileError::Yaml(what.into())
}

fn tree(text: &str) -> Result<Node, FileError> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, _) = event.map_err(|error| wrong(error.to_string()))?;
        builder.take(event)?;
    }
    builder.root.ok_or_else(|| wrong("an empty document"))
}

#[derive(Default)]
struct Builder {
    open: Vec<(Open, usize)>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>) -> Result<(), FileError> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) if self.root.is_some() => Err(wrong("more than one document")),
            Event::DocumentStart(_) => Ok(()),
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).ok_or_else(|| wrong("an alias of itself"))?;
                let (node, size) = (node.clone(), node.size());
                self.count(size)?;
                self.place(node, 0)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1)?;
                let text = text.into_owned();
                let node = match (style, is_text(tag.as_deref())?) {
                    (ScalarStyle::Plain, false) => match text.as_str() {
                        "" | "~" | "null" | "Null" | "NULL" => Node::Null,
                        _ => Node::Plain(text),
                    },
                    _ => Node::Text(text),
                };
                self.place(node, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                is_text(tag.as_deref())?;
                self.begin(Open::List(Vec::new()), anchor)
            }
            Event::MappingStart(anchor, tag) => {
                is_text(tag.as_deref())?;
                self.begin(Open::Map(Vec::new(), None), anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some((open, anchor)) = self.open.pop() else {
                    return Err(wrong("an end without a beginning"));
                };
                let node = match open {
                    Open::List(list) => Node::List(list),
                    Open::Map(map, _) => Node::Map(map),
                };
                self.place(node, anchor)
            }
        }
    }

    fn begin(&mut self, open: Open, anchor: usize) -> Result<(), FileError> {
        self.count(1)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(wrong(format!("more than {MAX_DEPTH} levels")));
        }
        self.open.push((open, anchor));
        Ok(())
    }

    fn count(&mut self, more: usize) -> Result<(), FileError> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAX_NODES {
            return Err(wrong(format!("more than {MAX_NODES} values")));
        }
        Ok(())
    }

    /// Puts a complete value where it belongs. `anchor` is 0 for one without.
    fn place(&mut self, node: Node, anchor: usize) -> Result<(), FileError> {
        if anchor != 0 {
            // What is kept for aliases is held a second time.
            self.count(node.size())?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|(open, _)| open) {
            None => self.root = Some(node),
            Some(Open::List(list)) => list.push(node),
            Some(Open::Map(map, key)) => match key.take() {
                Some(key) => map.push((key, node)),
                None => match node {
                    Node::Plain(text) | Node::Text(text) => *key = Some(text),
                    Node::Null | Node::List(_) | Node::Map(_) => {
                        return Err(wrong("a key that is no text"));
                    }
                },
            },
        }
        Ok(())
    }
}

/// Whether a tag makes a plain scalar a text; no other tag is known.
fn is_text(tag: Option<&Tag>) -> Result<bool, FileError> {
    match tag {
        None => Ok(false),
        Some(tag) if tag.handle == "tag:yaml.org,2002:" && tag.suffix == "str" => Ok(true),
        Some(tag) => Err(wrong(format!("unknown tag {:?}", tag.suffix))),
    }
}

/// Whole numbers in the spellings of YAML 1.1 and 1.2: a mode is mostly octal.
fn number(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, radix) = if let Some(hex) = digits.strip_prefix("0x") {
        (hex, 16)
    } else if let Some(octal) = digits.strip_prefix("0o") {
        (octal, 8)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (digits, 8)
    } else {
        (digits, 10)
    };
    // A second sign would be taken by the conversion.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let value = i64::from_str_radix(digits, radix).ok()?;
    Some(if negative { -value } else { value })
}

impl<'de> IntoDeserializer<'de, Error> for Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Null => visitor.visit_unit(),
            Self::Plain(text) => match (text.as_str(), number(&text)) {
                ("true" | "True" | "TRUE", _) => visitor.visit_bool(true),
                ("false" | "False" | "FALSE", _) => visitor.visit_bool(false),
                (_, Some(number)) => visitor.visit_i64(number),
                (_, None) => visitor.visit_string(text),
            },
            Self::Text(text) => visitor.visit_string(text),
            Self::List(list) => {
                let mut list = SeqDeserializer::new(list.into_iter());
                let value = visitor.visit_seq(&mut list)?;
                list.end()?;
                Ok(value)
            }
            Self::Map(map) => {
                let mut map = MapDeserializer::new(map.into_iter());
                let value = visitor.visit_map(&mut map)?;
                map.end()?;
                Ok(value)
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Null => visitor.visit_none(),
            other => visitor.visit_some(other),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Plain(text) => visitor.visit_string(text),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn message<T: for<'de> Deserialize<'de> + std::fmt::Debug>(text: &str) -> String {
        parse::<T>(text).unwrap_err().to_string()
    }

    #[test]
    fn a_field_says_what_a_bare_scalar_is() {
        let names: Vec<String> = parse("[0, 0666, true, 1.0, \"2\", a b, !!str 3]").unwrap();
        assert_eq!(names, ["0", "0666", "true", "1.0", "2", "a b", "3"]);
        let modes: Vec<u32> = parse("[438, 0666, 0o666, 0x1b6]").unwrap();
        assert_eq!(modes, [438; 4]);
        assert_eq!(
            parse::<Vec<Option<i64>>>("- -1\n- ~\n- +1\n-").unwrap(),
            [Some(-1), None, Some(1), None]
        );
        for bad in ["[\"1\"]", "[--1]", "[0x]", "[0x+1]", "[09]", "[1e3]", "[4294967296]", "[-1]"] {
            assert!(parse::<Vec<u32>>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn aliases_are_repeated_within_bounds() {
        let twice: Vec<Vec<String>> = parse("- &a [x, y]\n- *a\n").unwrap();
        assert_eq!(twice[0], twice[1]);
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let list = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        assert!(message::<BTreeMap<String, serde_json::Value>>(&bomb).contains("200000 values"));
        assert!(message::<Vec<String>>("&a [*a]").contains("alias"));
    }

    #[test]
    fn what_is_not_taken() {
        assert!(
            message::<Vec<u32>>(&format!("{}1{}", "[".repeat(40), "]".repeat(40)))
                .contains("32 levels")
        );
        assert!(message::<Vec<u32>>("--- [1]\n--- [2]\n").contains("document"));
        assert!(message::<Vec<u32>>("").contains("empty"));
        assert!(message::<Vec<String>>("[!secret x]").contains("tag"));
        assert!(message::<BTreeMap<String, u32>>("[a]: 1").contains("key"));
        assert!(parse::<Vec<u32>>("[1").is_err());
    }
}

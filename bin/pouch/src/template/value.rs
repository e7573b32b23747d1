//! The data of a template: JSON with the order of its members kept.
//!
//! Order matters: Go prints structs in declaration order, which is the order on the wire, and
//! maps sorted by key. JSON does not tell the two apart, but printing, ranging and missing members
//! differ, so the members that the API declares as maps are known by name.

use std::fmt;
use std::rc::Rc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Members of the API that are maps in Go; every other object is a struct.
const MAPS: &[&str] = &[
    "Annotations",
    "Containers",
    "Data",
    "DriverOpts",
    "ExposedPorts",
    "GenericResources",
    "IndexConfigs",
    "Labels",
    "LogOpts",
    "Metadata",
    "Networks",
    "Options",
    "PortBindings",
    "Ports",
    "Runtimes",
    "Config",
    "Status",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "Volumes",
    "Attributes",
    "Details",
    "AuxiliaryAddresses",
    "Internals",
];

/// Those of [`MAPS`] that name a struct elsewhere: a struct when one of these members is there.
const STRUCT_MEMBERS: &[&str] = &["Hostname", "Image", "Cmd", "Type", "IPv4Address", "Driver"];

/// Members that are pointers in Go, so that their `null` is nil; other nulls are lists.
const POINTERS: &[&str] = &[
    "BindOptions",
    "ClusterVolume",
    "Config",
    "DriverConfig",
    "ExitCode",
    "Health",
    "Healthcheck",
    "IPAMConfig",
    "Init",
    "MemorySwappiness",
    "OomKillDisable",
    "PidsLimit",
    "StopTimeout",
    "TmpfsOptions",
    "UsageData",
    "VolumeOptions",
];

/// Members that the API leaves out when they are empty, and which then are nil rather than an
/// error: people write `{{if .State.Health}}`.
const OMITTED: &[&str] = &[
    "Annotations",
    "ArgsEscaped",
    "BindOptions",
    "CapAdd",
    "CapDrop",
    "ClusterVolume",
    "ConsoleSize",
    "CreatedAt",
    "Descriptor",
    "DriverConfig",
    "Entrypoint",
    "ExposedPorts",
    "Health",
    "Healthcheck",
    "ImageManifestDescriptor",
    "Init",
    "MacAddress",
    "Manifests",
    "MaskedPaths",
    "Metadata",
    "Mounts",
    "Name",
    "NetworkDisabled",
    "OnBuild",
    "Options",
    "Peers",
    "PortBindings",
    "Propagation",
    "ReadonlyPaths",
    "RootFS",
    "SecurityOpt",
    "Services",
    "Shell",
    "SizeRootFs",
    "SizeRw",
    "Status",
    "StopSignal",
    "StopTimeout",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "TmpfsOptions",
    "UsageData",
    "VolumeOptions",
    "Volumes",
    "Warnings",
];

/// One value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// A map's member that is not there; prints as `<no value>`.
    Missing,
    Null,
    /// A map or list that the daemon sends as `null`: prints as an empty one.
    NilMap,
    NilList,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Rc<str>),
    List(Rc<[Value]>),
    Object(Rc<Object>),
    Row(Rc<Row>),
}

/// Whether an object is a struct or a map in Go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Struct,
    Map,
}

/// A JSON object in wire order.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) shape: Shape,
    pub(crate) members: Vec<(Rc<str>, Value)>,
}

/// A line of a list command: computed columns, sorted by name, and the method `.Label "key"`.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) columns: Vec<(&'static str, Value)>,
    pub(crate) labels: Labels,
}

/// What `.Label "key"` answers.
#[derive(Debug, Clone)]
pub(crate) enum Labels {
    /// The kind of object has none: there is no such method.
    None,
    /// The label's value, or an empty text.
    Of(Vec<(String, String)>),
    /// A column title made from the key.
    Header,
}

impl Value {
    pub(crate) fn str(text: impl Into<Rc<str>>) -> Self {
        Self::Str(text.into())
    }

    pub(crate) fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Self::List(items.into_iter().collect())
    }

    /// Parses JSON.
    pub(crate) fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Any serialisable value, by way of its JSON.
    pub(crate) fn from_serialize<T: serde::Serialize>(
        value: &T,
    ) -> Result<Self, serde_json::Error> {
        Self::from_json(&serde_json::to_vec(value)?)
    }

    /// Go's idea of truth: not the zero value; a struct is always true.
    pub(crate) fn is_true(&self) -> bool {
        match self {
            Self::Missing | Self::Null | Self::NilMap | Self::NilList => false,
            Self::Bool(b) => *b,
            Self::Int(n) => *n != 0,
            Self::Float(x) => *x != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Object(object) => object.shape == Shape::Struct || !object.members.is_empty(),
            Self::Row(_) => true,
        }
    }

    /// The word for this value's type in messages.
    pub(crate) const fn type_name(&self) -> &'static str {
        match self {
            Self::Missing | Self::Null => "nil",
            Self::NilMap => "object",
            Self::NilList => "list",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::Str(_) => "string",
            Self::List(_) => "list",
            Self::Object(_) => "object",
            Self::Row(_) => "row",
        }
    }

    /// The member that `.name` names; `Err` says why there is none.
    pub(crate) fn field(&self, name: &str) -> Result<Self, String> {
        match self {
            Self::Object(object) => object.get(name).cloned().map_or_else(
                || {
                    if object.shape == Shape::Map {
                        Ok(Self::Missing)
                    } else if OMITTED.contains(&name) {
                        Ok(Self::Null)
                    } else {
                        Err(format!(
                            "there is no field {name:?} here{}",
                            did_you_mean(name, object)
                        ))
                    }
                },
                Ok,
            ),
            Self::Row(row) => row
                .columns
                .iter()
                .find(|(column, _)| *column == name)
                .map(|(_, value)| value.clone())
                .ok_or_else(|| {
                    let known: Vec<&str> = row.columns.iter().map(|(column, _)| *column).collect();
                    format!("there is no field {name:?}; there are {}", known.join(", "))
                }),
            Self::NilMap => Ok(Self::Missing),
            Self::Null | Self::Missing => Err(format!("cannot take field {name:?} of nil")),
            other => Err(format!("cannot take field {name:?} of a {}", other.type_name())),
        }
    }

    /// JSON as Go's encoder writes it, without escaping `<`, `>` and `&` outside of rows.
    pub(crate) fn to_json(&self) -> String {
        let mut out = String::new();
        self.write_json(&mut out, Escape::Plain);
        out
    }

    fn write_json(&self, out: &mut String, escape: Escape) {
        match self {
            Self::Missing | Self::Null | Self::NilMap | Self::NilList => out.push_str("null"),
            Self::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Self::Int(n) => out.push_str(&n.to_string()),
            Self::Float(x) => out.push_str(&super::printf::shortest(*x)),
            Self::Str(text) => write_json_string(out, text, escape),
            Self::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    item.write_json(out, escape);
                }
                out.push(']');
            }
            Self::Object(object) => {
                let members = object.members.iter().map(|(name, value)| (&**name, value));
                write_json_members(out, members, escape);
            }
            // A row is a Marshaler in docker's CLI, and those escape for HTML.
            Self::Row(row) => {
                let members = row.columns.iter().map(|(name, value)| (*name, value));
                write_json_members(out, members, Escape::Html);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    Plain,
    Html,
}

fn write_json_members<'a>(
    out: &mut String,
    members: impl Iterator<Item = (&'a str, &'a Value)>,
    escape: Escape,
) {
    out.push('{');
    for (i, (name, value)) in members.enumerate() {
        if i > 0 {
            out.push(',');
        }
        write_json_string(out, name, escape);
        out.push(':');
        value.write_json(out, escape);
    }
    out.push('}');
}

fn write_json_string(out: &mut String, text: &str, escape: Escape) {
    use fmt::Write as _;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' if escape == Escape::Plain => out.push(c),
            '\u{2028}' | '\u{2029}' | '<' | '>' | '&' | '\0'..='\u{1f}' => {
                // Writing into a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

fn did_you_mean(name: &str, object: &Object) -> String {
    object
        .members
        .iter()
        .find(|(member, _)| {
            let (a, b) = (member.to_lowercase(), name.to_lowercase());
            a.starts_with(&b) || b.starts_with(&a)
        })
        .map(|(member, _)| format!(" (did you mean .{member}?)"))
        .unwrap_or_default()
}

impl Object {
    /// The member of this name; for structs in any case, since Go's field names and the JSON names
    /// differ in case (`.ID` and `Id`).
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        let exact = self.members.iter().find(|(member, _)| &**member == name);
        let found = match (exact, self.shape) {
            (None, Shape::Struct) => {
                self.members.iter().find(|(member, _)| member.eq_ignore_ascii_case(name))
            }
            (exact, _) => exact,
        };
        found.map(|(_, value)| value)
    }

    /// Members in the order in which Go ranges over them.
    pub(crate) fn ordered(&self) -> Vec<&(Rc<str>, Value)> {
        let mut members: Vec<_> = self.members.iter().collect();
        if self.shape == Shape::Map {
            members.sort_by(|a, b| a.0.cmp(&b.0));
        }
        members
    }
}

impl fmt::Display for Value {
    /// As Go's `fmt.Print` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("<no value>"),
            Self::Null => f.write_str("<nil>"),
            Self::NilMap => f.write_str("map[]"),
            Self::NilList => f.write_str("[]"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Int(n) => write!(f, "{n}"),
            Self::Float(x) => f.write_str(&super::printf::shortest(*x)),
            Self::Str(text) => f.write_str(text),
            Self::List(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        f.write_str(" ")?;
                    }
                    write!(f, "{item}")?;
                }
                f.write_str("]")
            }
            Self::Object(object) => {
                let map = object.shape == Shape::Map;
                f.write_str(if map { "map[" } else { "{" })?;
                for (i, (name, value)) in object.ordered().into_iter().enumerate() {
                    if i > 0 {
                        f.write_str(" ")?;
                    }
                    if map {
                        write!(f, "{name}:")?;
                    }
                    write!(f, "{value}")?;
                }
                f.write_str(if map { "]" } else { "}" })
            }
            Self::Row(row) => {
                f.write_str("{")?;
                for (i, (_, value)) in row.columns.iter().enumerate() {
                    if i > 0 {
                        f.write_str(" ")?;
                    }
                    write!(f, "{value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Builder)
    }
}

struct Builder;

impl<'de> Visitor<'de> for Builder {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        // Beyond i64 only hugely improbable counters; their magnitude survives in a float.
        #[expect(clippy::cast_precision_loss, reason = "see above")]
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::str(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::list(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members: Vec<(Rc<str>, Value)> = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            let value = match value {
                Value::Object(object) if is_map(&name, &object) => {
                    let members = object.members.clone();
                    Value::Object(Rc::new(Object { shape: Shape::Map, members }))
                }
                Value::Null if MAPS.contains(&name.as_str()) => Value::NilMap,
                Value::Null if !POINTERS.contains(&name.as_str()) => Value::NilList,
                value => value,
            };
            members.push((name.into(), value));
        }
        Ok(Value::Object(Rc::new(Object { shape: Shape::Struct, members })))
    }
}

fn is_map(name: &str, object: &Object) -> bool {
    MAPS.contains(&name)
        && !object.members.iter().any(|(member, _)| STRUCT_MEMBERS.contains(&&**member))
}

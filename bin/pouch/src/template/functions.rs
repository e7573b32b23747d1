//! The functions that a template can call.

use std::cmp::Ordering;

use super::printf;
use super::value::Value;
use super::{Mode, TemplateError};

/// One call with its values.
pub(super) struct Call<'a> {
    pub(super) name: &'a str,
    pub(super) mode: Mode,
    pub(super) arguments: &'a [Value],
}

const NAMES: &[&str] = &[
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not",
    "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate", "upper",
];

pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

type Outcome = Result<Value, String>;

pub(super) fn call(call: Call<'_>) -> Result<Value, TemplateError> {
    run(&call).map_err(|why| TemplateError::new(format!("{}: {why}", call.name)))
}

fn run(call: &Call<'_>) -> Outcome {
    let args = call.arguments;
    let header = call.mode == Mode::Header;
    match (call.name, args) {
        ("not", [value]) => Ok(Value::Bool(!value.is_true())),
        ("eq", [first, rest @ ..]) if !rest.is_empty() => {
            for other in rest {
                if equal(first, other)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        ("ne", [a, b]) => Ok(Value::Bool(!equal(a, b)?)),
        ("lt", [a, b]) => Ok(Value::Bool(order(a, b)? == Ordering::Less)),
        ("le", [a, b]) => Ok(Value::Bool(order(a, b)? != Ordering::Greater)),
        ("gt", [a, b]) => Ok(Value::Bool(order(a, b)? == Ordering::Greater)),
        ("ge", [a, b]) => Ok(Value::Bool(order(a, b)? != Ordering::Less)),
        ("index", [value, keys @ ..]) => {
            keys.iter().try_fold(value.clone(), |value, key| index(&value, key))
        }
        ("slice", [value, bounds @ ..]) => slice(value, bounds),
        ("len", [value]) => length(value),
        ("print", args) => Ok(Value::str(printf::print(args))),
        ("println", args) => Ok(Value::str(printf::println(args))),
        ("printf", [format, args @ ..]) => Ok(Value::str(printf::printf(text(format)?, args))),
        ("json" | "title" | "lower" | "upper", [value]) if header => Ok(value.clone()),
        ("truncate", [value, _]) if header => Ok(value.clone()),
        ("json", [value]) => Ok(Value::str(value.to_json())),
        ("upper", [value]) => Ok(Value::str(text(value)?.to_uppercase())),
        ("lower", [value]) => Ok(Value::str(text(value)?.to_lowercase())),
        ("title", [value]) => Ok(Value::str(title(text(value)?))),
        ("join", [list, separator]) => join(list, text(separator)?),
        ("split", [value, separator]) => split(text(value)?, text(separator)?),
        ("pad", [value, before, after]) => pad(text(value)?, int(before)?, int(after)?),
        ("truncate", [value, length]) => {
            let (value, length) = (text(value)?, int(length)?);
            let mut end =
                usize::try_from(length).map_err(|_| "the length is negative")?.min(value.len());
            // Go cuts bytes; half a character helps nobody.
            while !value.is_char_boundary(end) {
                end -= 1;
            }
            Ok(Value::str(&value[..end]))
        }
        (_, args) => Err(format!("cannot be called with {} argument(s)", args.len())),
    }
}

fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Str(text) => Ok(text),
        other => Err(format!("want a string, not a {}", other.type_name())),
    }
}

fn int(value: &Value) -> Result<i64, String> {
    match value {
        Value::Int(n) => Ok(*n),
        other => Err(format!("want a number, not a {}", other.type_name())),
    }
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (a, b) if is_nil(a) || is_nil(b) => Ok(is_nil(a) && is_nil(b)),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        _ => Ok(order(a, b)? == Ordering::Equal),
    }
}

const fn is_nil(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Missing | Value::NilMap | Value::NilList)
}

fn order(a: &Value, b: &Value) -> Result<Ordering, String> {
    #[expect(clippy::cast_precision_loss, reason = "as Go converts for a mixed comparison")]
    let float = |n: i64| n as f64;
    let of_floats = |a: f64, b: f64| a.partial_cmp(&b).ok_or_else(|| "not comparable".to_owned());
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Str(a), Value::Str(b)) => Ok(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => of_floats(*a, *b),
        (Value::Int(a), Value::Float(b)) => of_floats(float(*a), *b),
        (Value::Float(a), Value::Int(b)) => of_floats(*a, float(*b)),
        (a, b) => Err(format!("cannot compare a {} with a {}", a.type_name(), b.type_name())),
    }
}

fn index(value: &Value, key: &Value) -> Outcome {
    match (value, key) {
        (Value::List(items), Value::Int(n)) => {
            usize::try_from(*n).ok().and_then(|n| items.get(n)).cloned().ok_or_else(|| {
                format!("index {n} is out of range, there are {} elements", items.len())
            })
        }
        (Value::Str(text), Value::Int(n)) => usize::try_from(*n)
            .ok()
            .and_then(|n| text.as_bytes().get(n))
            .map(|byte| Value::Int(i64::from(*byte)))
            .ok_or_else(|| format!("index {n} is out of range")),
        (Value::Object(object), Value::Str(key)) => Ok(match object.get(key) {
            Some(value) => value.clone(),
            // The zero value of the map's elements.
            None if object.members.iter().all(|(_, v)| matches!(v, Value::Str(_))) => {
                Value::str("")
            }
            None => Value::Null,
        }),
        (Value::NilMap, Value::Str(_)) => Ok(Value::str("")),
        (Value::Null | Value::Missing, _) => Err("cannot index nil".to_owned()),
        (value, key) => {
            Err(format!("cannot index a {} with a {}", value.type_name(), key.type_name()))
        }
    }
}

fn slice(value: &Value, bounds: &[Value]) -> Outcome {
    let length = match value {
        Value::List(items) => items.len(),
        Value::Str(text) => text.len(),
        other => return Err(format!("cannot slice a {}", other.type_name())),
    };
    let bound = |at: usize, default: usize| match bounds.get(at) {
        None => Ok(default),
        Some(value) => usize::try_from(int(value)?)
            .ok()
            .filter(|n| *n <= length)
            .ok_or_else(|| format!("bound {value} is out of range")),
    };
    let (from, to) = (bound(0, 0)?, bound(1, length)?);
    if bounds.len() > 2 || from > to {
        return Err("want slice VALUE FROM TO with FROM <= TO".to_owned());
    }
    match value {
        Value::List(items) => Ok(Value::list(items[from..to].iter().cloned())),
        Value::Str(text) => text
            .get(from..to)
            .map(Value::str)
            .ok_or_else(|| "the bounds cut a character".to_owned()),
        _ => Err("not a list".to_owned()),
    }
}

fn length(value: &Value) -> Outcome {
    let n = match value {
        Value::Str(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Object(object) => object.members.len(),
        value if is_nil(value) => 0,
        other => return Err(format!("a {} has no length", other.type_name())),
    };
    Ok(Value::Int(i64::try_from(n).unwrap_or(i64::MAX)))
}

fn join(list: &Value, separator: &str) -> Outcome {
    match list {
        Value::List(items) => {
            let words: Vec<&str> = items.iter().map(text).collect::<Result<_, _>>()?;
            Ok(Value::str(words.join(separator)))
        }
        value if is_nil(value) => Ok(Value::str("")),
        other => Err(format!("want a list of strings, not a {}", other.type_name())),
    }
}

fn split(value: &str, separator: &str) -> Outcome {
    if separator.is_empty() {
        return Ok(Value::list(value.chars().map(|c| Value::str(c.to_string()))));
    }
    Ok(Value::list(value.split(separator).map(Value::str)))
}

/// Spaces around a text that is not empty.
fn pad(value: &str, before: i64, after: i64) -> Outcome {
    const WIDEST: i64 = 4096;
    if value.is_empty() {
        return Ok(Value::str(""));
    }
    let count = |n: i64| {
        usize::try_from(n)
            .ok()
            .filter(|_| n <= WIDEST)
            .ok_or_else(|| format!("{n} is not 0 to {WIDEST}"))
    };
    Ok(Value::str(format!("{}{value}{}", " ".repeat(count(before)?), " ".repeat(count(after)?))))
}

/// The first letter of each word in upper case.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut previous = ' ';
    for c in text.chars() {
        if previous == '_' || previous == '\'' || previous.is_alphanumeric() {
            out.push(c);
        } else {
            out.extend(c.to_uppercase());
        }
        previous = c;
    }
    out
}

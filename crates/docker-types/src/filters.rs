//! The `filters` query parameter, in the encoding of today's clients
//! (`{"label":{"a=b":true}}`) and in that of API 1.21 and of docker-py (`{"label":["a=b"]}`).

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// Most keys and values together that are accepted; far above what any client sends.
const COUNT_MAX: usize = 4096;

/// Filters by key. Values of one key are alternatives, keys must all match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

/// Filters that cannot be used. `Display` is the text that clients show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterError {
    /// Not JSON of one of the two shapes.
    Malformed,
    /// A key that this call does not know.
    Unknown(String),
    /// A value that its key does not take.
    Value {
        /// The key.
        key: String,
        /// The values given.
        values: Vec<String>,
    },
}

impl std::fmt::Display for FilterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed => f.write_str("invalid filter"),
            Self::Unknown(key) => write!(f, "invalid filter '{key}'"),
            Self::Value { key, values } => write!(f, "invalid filter '{key}={values:?}'"),
        }
    }
}

impl std::error::Error for FilterError {}

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    Map(BTreeMap<String, bool>),
    List(Vec<String>),
}

impl Filters {
    /// Reads the value of the query parameter; an empty one filters nothing.
    ///
    /// # Errors
    /// When the text has neither shape or holds more than 4096 entries.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let raw: Option<BTreeMap<String, Option<Values>>> =
            serde_json::from_str(text).map_err(|_| FilterError::Malformed)?;
        let mut filters = BTreeMap::new();
        let mut count = 0;
        for (key, values) in raw.unwrap_or_default() {
            let values: BTreeSet<String> = match values {
                // The flag is ignored, as dockerd does: a key is what selects.
                Some(Values::Map(map)) => map.into_keys().collect(),
                Some(Values::List(list)) => list.into_iter().collect(),
                None => BTreeSet::new(),
            };
            count += 1 + values.len();
            if count > COUNT_MAX {
                return Err(FilterError::Malformed);
            }
            filters.insert(key, values);
        }
        Ok(Self(filters))
    }

    /// Adds one value.
    pub fn add(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.entry(key.into()).or_default().insert(value.into());
    }

    /// The canonical encoding.
    #[must_use]
    pub fn encode(&self) -> String {
        let map: BTreeMap<&str, BTreeMap<&str, bool>> = self
            .0
            .iter()
            .map(|(key, values)| {
                (key.as_str(), values.iter().map(|v| (v.as_str(), true)).collect())
            })
            .collect();
        // Maps of strings to bools always serialise.
        serde_json::to_string(&map).unwrap_or_default()
    }

    /// Nothing is filtered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Refuses keys other than `known`.
    ///
    /// # Errors
    /// Names the first unknown key.
    pub fn only(&self, known: &[&str]) -> Result<(), FilterError> {
        match self.0.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(FilterError::Unknown(key.clone())),
            None => Ok(()),
        }
    }

    /// The values of a key; none when it was not given.
    pub fn get(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// Whether the key was given.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|values| !values.is_empty())
    }

    /// A truth value: `1`, `t`, `true` (any case) and their opposites.
    ///
    /// # Errors
    /// When there are several values or another word.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, FilterError> {
        let Some(values) = self.0.get(key).filter(|values| !values.is_empty()) else {
            return Ok(None);
        };
        let mut words = values.iter().map(|word| match word.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" => Some(true),
            "0" | "f" | "false" => Some(false),
            _ => None,
        });
        match (words.next().flatten(), words.next()) {
            (Some(flag), None) => Ok(Some(flag)),
            _ => Err(FilterError::Value {
                key: key.to_owned(),
                values: values.iter().cloned().collect(),
            }),
        }
    }

    /// Whether `value` is among the values of the key, or the key was not given.
    #[must_use]
    pub fn exact(&self, key: &str, value: &str) -> bool {
        !self.has(key) || self.0.get(key).is_some_and(|values| values.contains(value))
    }

    /// Whether a label set has every `label=name[=value]` asked for.
    #[must_use]
    pub fn labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.get(key).all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|have| have == value),
            None => labels.contains_key(wanted),
        })
    }

    /// Whether a label set has any of the labels, for `label!=`.
    #[must_use]
    pub fn any_label(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.get(key).any(|wanted| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|have| have == value),
            None => labels.contains_key(wanted),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_are_one() {
        let map = Filters::parse(r#"{"label":{"a=b":true,"c":false},"status":{"exited":true}}"#);
        let list = Filters::parse(r#"{"label":["a=b","c"],"status":["exited"]}"#);
        let mixed = Filters::parse(r#"{"label":["c","a=b"],"status":{"exited":true}}"#);
        assert_eq!(map, list);
        assert_eq!(map, mixed);
        let filters = map.unwrap();
        assert_eq!(Filters::parse(&filters.encode()).unwrap(), filters);
        assert_eq!(filters.get("label").collect::<Vec<_>>(), ["a=b", "c"]);
    }

    #[test]
    fn refuses() {
        for bad in
            ["x", "[]", "{", r#"{"a":5}"#, r#"{"a":"b"}"#, r#"{"a":[1]}"#, r#"{"a":{"b":1}}"#]
        {
            assert_eq!(Filters::parse(bad), Err(FilterError::Malformed), "{bad}");
        }
        let filters = Filters::parse(r#"{"nope":["1"]}"#).unwrap();
        assert_eq!(filters.only(&["label"]).unwrap_err().to_string(), "invalid filter 'nope'");
        let many: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
        let text = serde_json::json!({ "label": many }).to_string();
        assert_eq!(Filters::parse(&text), Err(FilterError::Malformed));
    }

    #[test]
    fn nothing_filters_nothing() {
        for text in ["", " ", "{}", "null", r#"{"label":null}"#, r#"{"label":[]}"#] {
            let filters = Filters::parse(text).unwrap();
            assert!(!filters.has("label"), "{text}");
            assert!(filters.labels("label", &BTreeMap::new()));
            assert_eq!(filters.flag("label"), Ok(None));
        }
    }

    #[test]
    fn truth_values() {
        for (text, flag) in [("1", true), ("True", true), ("false", false), ("F", false)] {
            let mut filters = Filters::default();
            filters.add("dangling", text);
            assert_eq!(filters.flag("dangling"), Ok(Some(flag)));
        }
        let two = Filters::parse(r#"{"dangling":["true","false"]}"#).unwrap();
        assert!(two.flag("dangling").is_err());
        let other = Filters::parse(r#"{"dangling":["maybe"]}"#).unwrap();
        assert!(other.flag("dangling").is_err());
    }

    #[test]
    fn label_matching() {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let all = |text: &str| Filters::parse(text).unwrap().labels("label", &labels);
        assert!(all(r#"{"label":["a"]}"#) && all(r#"{"label":["a=b"]}"#));
        assert!(!all(r#"{"label":["a=c"]}"#) && !all(r#"{"label":["a","x"]}"#));
        assert!(!all(r#"{"label":["a="]}"#));
        let any = Filters::parse(r#"{"label!":["x","a"]}"#).unwrap();
        assert!(any.any_label("label!", &labels));
    }
}

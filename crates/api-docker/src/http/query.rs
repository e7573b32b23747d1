//! Query parameters by the rules of Go's `net/url` and dockerd's form helpers.

use axum::extract::FromRequestParts;
use http::request::Parts;
use pouch_docker_types::Filters;

use super::error::{ApiError, ApiResult, bad_filter};

/// Parameters beyond this many are refused.
const PARAMETERS_MAX: usize = 1024;

/// The decoded parameters of a request, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> ApiResult<Self> {
        let mut pairs = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            if pairs.len() == PARAMETERS_MAX {
                return Err(ApiError::invalid("too many query parameters"));
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(Self(pairs))
    }

    /// The first value; an empty one counts as not given.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        (!value.is_empty()).then_some(value.as_str())
    }

    /// Whether the parameter stands there, with or without a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// Every value of a repeated parameter.
    pub(crate) fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// dockerd's truth: everything but nothing, `0`, `no`, `false` and `none`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flag_or(name, Default::default())
    }

    /// As [`Query::flag`], with another default when the parameter is not there.
    pub(crate) fn flag_or(&self, name: &str, default: bool) -> bool {
        let Some((_, value)) = self.0.iter().find(|(key, _)| key == name) else { return default };
        let word = value.trim().to_ascii_lowercase();
        !matches!(word.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// A number.
    ///
    /// # Errors
    /// When the parameter is there and is no number of that type.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> ApiResult<Option<T>> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    ApiError::invalid(format!("invalid value for parameter {name}: {text:?}"))
                })
            })
            .transpose()
    }

    /// A parameter that must be there.
    ///
    /// # Errors
    /// 400 when it is not.
    pub(crate) fn required(&self, name: &str) -> ApiResult<&str> {
        self.get(name)
            .ok_or_else(|| ApiError::invalid(format!("bad parameter: {name} is required")))
    }

    /// The `filters` parameter, restricted to known keys.
    ///
    /// # Errors
    /// 400 naming the key.
    pub(crate) fn filters(&self, known: &[&str]) -> ApiResult<Filters> {
        let filters =
            Filters::parse(self.get("filters").unwrap_or_default()).map_err(bad_filter)?;
        filters.only(known).map_err(bad_filter)?;
        Ok(filters)
    }
}

/// Undoes form encoding.
fn decode(text: &str) -> ApiResult<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit =
                    || rest.next().and_then(|b| char::from(b).to_digit(16)).ok_or_else(escape);
                let value = digit()? * 16 + digit()?;
                u8::try_from(value).map_err(|_| escape())?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| ApiError::invalid("query is not UTF-8"))
}

fn escape() -> ApiError {
    ApiError::invalid("invalid URL escape in query")
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes() {
        let query = Query::parse("a=1&b=x+y%2Fz&c&t=1&t=2&&d=%7B%22%7D").unwrap();
        assert_eq!(query.get("a"), Some("1"));
        assert_eq!(query.get("b"), Some("x y/z"));
        assert_eq!(query.get("c"), None);
        assert!(query.has("c") && !query.has("x"));
        assert_eq!(query.all("t").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(query.get("d"), Some("{\"}"));
        for bad in ["a=%", "a=%2", "a=%zz", "a=%ff", "%=1"] {
            assert!(Query::parse(bad).is_err(), "{bad}");
        }
        assert!(Query::parse(&"a=1&".repeat(2000)).is_err());
    }

    #[test]
    fn truth_is_dockerds() {
        for (text, truth) in [
            ("x=1", true),
            ("x=true", true),
            ("x=True", true),
            ("x=yes", true),
            ("x=0", false),
            ("x=False", false),
            ("x=none", false),
            ("x=", false),
            ("x", false),
            ("", false),
        ] {
            assert_eq!(Query::parse(text).unwrap().flag("x"), truth, "{text}");
        }
        assert!(Query::parse("").unwrap().flag_or("x", true));
        assert!(!Query::parse("x=0").unwrap().flag_or("x", true));
    }

    #[test]
    fn numbers_and_filters() {
        let query = Query::parse("h=24&w=x&filters=%7B%22label%22%3A%5B%22a%22%5D%7D").unwrap();
        assert_eq!(query.number::<u16>("h").unwrap(), Some(24));
        assert_eq!(query.number::<u16>("none").unwrap(), None);
        assert!(query.number::<u16>("w").is_err());
        assert!(query.filters(&["label"]).unwrap().has("label"));
        assert_eq!(query.filters(&["name"]).unwrap_err().message(), "invalid filter 'label'");
    }
}

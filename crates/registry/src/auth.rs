//! Credentials and the challenges that ask for them (RFC 7235; distribution's token
//! authentication).
//!
//! Credentials go to two places only: to the registry itself, and to the token service that this
//! registry names, over TLS. Plain HTTP is good enough for a token service only where it is for
//! the registry (SEC-30).

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use crate::error::RegistryError;

/// Bytes of an `X-Registry-Auth` header that are looked at.
const HEADER_BYTES: usize = 64 << 10;

/// Who asks. Debug shows no secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody in particular.
    #[default]
    Anonymous,
    /// User name and password, or a personal token as password.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// A refresh token, exchanged at the token service.
    IdentityToken(String),
    /// A bearer token for the registry itself.
    RegistryToken(String),
}

/// An `X-Registry-Auth` header that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("invalid X-Registry-Auth header: {0}")]
pub struct InvalidAuth(&'static str);

impl pouch_types::Classified for InvalidAuth {
    fn kind(&self) -> pouch_types::ErrorKind {
        pouch_types::ErrorKind::Invalid
    }
}

/// The fields that Docker's header and CRI's `AuthConfig` share. Empty means absent.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct AuthFields {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Base64 of `username:password`.
    pub auth: String,
    /// See [`Credentials::IdentityToken`].
    #[serde(rename = "identitytoken")]
    pub identity_token: String,
    /// See [`Credentials::RegistryToken`].
    #[serde(rename = "registrytoken")]
    pub registry_token: String,
}

impl fmt::Debug for AuthFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthFields").field("username", &self.username).finish_non_exhaustive()
    }
}

fn engine(alphabet: &alphabet::Alphabet) -> GeneralPurpose {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config)
}

impl Credentials {
    /// From Docker's `X-Registry-Auth`: base64 (either alphabet, padded or not) of JSON.
    ///
    /// # Errors
    /// When it is neither empty nor that.
    pub fn from_header(text: &str) -> Result<Self, InvalidAuth> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::Anonymous);
        }
        if text.len() > HEADER_BYTES {
            return Err(InvalidAuth("it is too long"));
        }
        let json = engine(&alphabet::URL_SAFE)
            .decode(text)
            .or_else(|_| engine(&alphabet::STANDARD).decode(text))
            .map_err(|_| InvalidAuth("it is not base64"))?;
        let fields: AuthFields =
            serde_json::from_slice(&json).map_err(|_| InvalidAuth("it is not JSON of an auth"))?;
        Self::from_fields(fields)
    }

    /// From single fields; tokens come before passwords, as in Docker.
    ///
    /// # Errors
    /// When `auth` is not base64 of `username:password`.
    pub fn from_fields(fields: AuthFields) -> Result<Self, InvalidAuth> {
        if !fields.registry_token.is_empty() {
            return Ok(Self::RegistryToken(fields.registry_token));
        }
        if !fields.identity_token.is_empty() {
            return Ok(Self::IdentityToken(fields.identity_token));
        }
        if !fields.username.is_empty() {
            return Ok(Self::Basic { username: fields.username, password: fields.password });
        }
        if fields.auth.is_empty() {
            return Ok(Self::Anonymous);
        }
        let pair = engine(&alphabet::STANDARD)
            .decode(fields.auth.trim())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or(InvalidAuth("auth is not base64"))?;
        let (username, password) =
            pair.split_once(':').ok_or(InvalidAuth("auth is not username:password"))?;
        // config.json files of old pad with NUL.
        let password = password.trim_end_matches('\0');
        Ok(Self::Basic { username: username.to_owned(), password: password.to_owned() })
    }

    pub(crate) fn basic(&self) -> Option<HeaderValue> {
        let Self::Basic { username, password } = self else { return None };
        let pair = engine(&alphabet::STANDARD).encode(format!("{username}:{password}"));
        secret(&format!("Basic {pair}"))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Basic { username, .. } => write!(f, "Basic({username:?}, …)"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(…)"),
            Self::RegistryToken(_) => f.write_str("RegistryToken(…)"),
        }
    }
}

/// A header value that logs never show; `None` when it has bytes that no header can carry.
pub(crate) fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What a registry wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    /// The scope that it names is not looked at: what we want to do is ours to say.
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

impl Challenge {
    /// The strongest challenge among the `WWW-Authenticate` headers.
    pub(crate) fn from_headers<'a>(headers: impl Iterator<Item = &'a HeaderValue>) -> Option<Self> {
        let mut found = None;
        for header in headers.filter_map(|h| h.to_str().ok()).take(8) {
            match parse_challenge(header) {
                Some(bearer @ Self::Bearer { .. }) => return Some(bearer),
                Some(Self::Basic) => found = Some(Self::Basic),
                None => {}
            }
        }
        found
    }
}

fn parse_challenge(header: &str) -> Option<Challenge> {
    let header = header.trim();
    let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service) = (None, None);
    let mut rest = rest.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, next) = parameter(after)?;
        match name.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            _ => {}
        }
        rest = next.trim_start().trim_start_matches(',').trim_start();
    }
    Some(Challenge::Bearer { realm: realm?, service })
}

/// A token or quoted string, and what follows.
fn parameter(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// The URL of a token service, if it may see credentials for a registry at `registry`.
pub(crate) fn token_service(realm: &str, registry: &Url) -> Result<Url, RegistryError> {
    let host = registry.host_str().unwrap_or_default().to_owned();
    let refuse = |why: String| RegistryError::Unsafe { host: host.clone(), why };
    let url = Url::parse(realm)
        .map_err(|_| refuse(format!("names a token service {realm:?} that is no URL")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("names a token service with credentials in its URL".to_owned()));
    }
    match url.scheme() {
        "https" => Ok(url),
        // A registry spoken to in the clear may keep its token service beside it, on the same
        // host; anywhere else the secret would cross a network that nobody agreed to.
        "http" if registry.scheme() == "http" && url.host_str() == registry.host_str() => Ok(url),
        _ => Err(refuse(format!(
            "names a token service {}://{} that must not see credentials: want https",
            url.scheme(),
            url.host_str().unwrap_or_default()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_spelling_of_the_header() {
        let json = br#"{"username":"u","password":"p?>~","serveraddress":"x"}"#;
        let basic = Credentials::Basic { username: "u".into(), password: "p?>~".into() };
        for text in [
            base64::engine::general_purpose::URL_SAFE.encode(json),
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json),
            base64::engine::general_purpose::STANDARD.encode(json),
        ] {
            assert_eq!(Credentials::from_header(&text).unwrap(), basic);
        }
        assert_eq!(Credentials::from_header("").unwrap(), Credentials::Anonymous);
        assert_eq!(Credentials::from_header("e30=").unwrap(), Credentials::Anonymous);
        assert!(Credentials::from_header("*").is_err());
        let auth = AuthFields { auth: "dTpwOnE=".into(), ..AuthFields::default() };
        let expected = Credentials::Basic { username: "u".into(), password: "p:q".into() };
        assert_eq!(Credentials::from_fields(auth).unwrap(), expected);
        assert!(!format!("{basic:?}").contains("p?>~"));
    }

    #[test]
    fn reads_challenges() {
        let header = r#"Bearer realm="https://a.io/token?x=1,2",service="r \"x\"", scope="repository:a/b:pull""#;
        assert_eq!(
            parse_challenge(header),
            Some(Challenge::Bearer {
                realm: "https://a.io/token?x=1,2".into(),
                service: Some("r \"x\"".into()),
            })
        );
        assert_eq!(parse_challenge("basic realm=x"), Some(Challenge::Basic));
        assert_eq!(parse_challenge("Bearer service=x"), None);
        assert_eq!(parse_challenge("Bearer realm=\"x"), None);
        assert_eq!(parse_challenge("Negotiate"), None);
    }

    /// SEC-30.
    #[test]
    fn secrets_go_to_no_realm_in_the_clear() {
        let url = |text: &str| Url::parse(text).unwrap();
        let https = url("https://r.io/v2/");
        let http = url("http://127.0.0.1:5000/v2/");
        assert!(token_service("https://auth.r.io/token", &https).is_ok());
        assert!(token_service("http://auth.r.io/token", &https).is_err());
        assert!(token_service("http://r.io/token", &https).is_err());
        assert!(token_service("http://127.0.0.1:5001/token", &http).is_ok());
        assert!(token_service("http://evil.io/token", &http).is_err());
        assert!(token_service("file:///etc/passwd", &http).is_err());
        assert!(token_service("https://u:p@r.io/", &https).is_err());
        assert!(token_service("/token", &https).is_err());
    }
}

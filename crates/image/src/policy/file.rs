//! The policy file (containers-policy.json(5)), read so strictly that nothing in it can be
//! misunderstood: a key that is not known or that stands twice refuses the whole file with its
//! place.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::identity::{Identity, Named};
use super::key::{KEY_BYTES, PublicKey};
use super::scope::{Transport, is_prefix};
use super::signature::Signed;
use super::{Requirement, Rule, Rules};

/// Bytes of a policy file.
const FILE_BYTES: u64 = 1 << 20;

/// Why a policy file was refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file itself.
    #[error("cannot read the image policy {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not JSON of the right form.
    #[error("image policy {path}, line {line}, column {column}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// A value that makes no sense.
    #[error("image policy {path}: {place}: {why}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Keys that lead there: `transports.docker["quay.io"][0].keyPath`.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// A key that cannot be read.
    #[error("image policy {path}: {place}: cannot read {key}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Keys that lead there.
        place: String,
        /// The file with the key.
        key: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    default: Vec<RawRequirement>,
    #[serde(default)]
    transports: Unique<Unique<Vec<RawRequirement>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRequirement {
    r#type: String,
    key_path: Option<PathBuf>,
    key_paths: Option<Vec<PathBuf>>,
    key_data: Option<String>,
    key_datas: Option<Vec<String>>,
    signed_identity: Option<RawIdentity>,
    /// Of checks that are not made here, or refused by name.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawIdentity {
    r#type: String,
    docker_reference: Option<String>,
    docker_repository: Option<String>,
    prefix: Option<String>,
    signed_prefix: Option<String>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// A JSON object in which no key stands twice.
struct Unique<T>(BTreeMap<String, T>);

impl<T> Default for Unique<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unique<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Keys<T> {
            type Value = Unique<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique<T>, A::Error> {
                let mut unique = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    if unique.contains_key(&key) {
                        return Err(A::Error::custom(format_args!("duplicate key {key:?}")));
                    }
                    unique.insert(key, map.next_value()?);
                }
                Ok(Unique(unique))
            }
        }
        deserializer.deserialize_map(Keys(std::marker::PhantomData))
    }
}

/// Reads a policy and all keys that it names. Blocks on files.
pub(super) fn read(path: &Path) -> Result<Rules, PolicyError> {
    let text = read_capped(path, FILE_BYTES)
        .map_err(|source| PolicyError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Reads a small file to its end; one that is too large is an error, not cut.
fn read_capped(path: &Path, cap: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(cap + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > cap {
        let why = format!("it is larger than {cap} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Rules, PolicyError> {
    let raw: RawPolicy = serde_json::from_slice(text).map_err(|error| {
        let message = error.to_string();
        // The parser repeats the place at the end; it is said first here.
        let message = message.rsplit_once(" at line ").map_or(&*message, |(m, _)| m).to_owned();
        PolicyError::Parse {
            path: path.to_owned(),
            line: error.line(),
            column: error.column(),
            message,
        }
    })?;
    let default = rule(&Place::new(path, "default"), raw.default)?;
    let mut transports = BTreeMap::new();
    for (name, scopes) in raw.transports.0 {
        let place = Place::new(path, &format!("transports.{name}"));
        let transport =
            Transport::parse(&name).ok_or_else(|| place.wrong("there is no such transport"))?;
        let mut rules = BTreeMap::new();
        for (scope, requirements) in scopes.0 {
            let place = place.at(&format!("[{scope:?}]"));
            transport.check_scope(&scope).map_err(|why| place.wrong(why))?;
            rules.insert(scope, rule(&place, requirements)?);
        }
        transports.insert(transport, rules);
    }
    Ok(Rules { path: path.to_owned(), default, transports })
}

/// Where in which file something stands.
struct Place<'a> {
    path: &'a Path,
    place: String,
}

impl<'a> Place<'a> {
    fn new(path: &'a Path, place: &str) -> Self {
        Self { path, place: place.to_owned() }
    }

    fn at(&self, below: &str) -> Self {
        Self { path: self.path, place: format!("{}{below}", self.place) }
    }

    fn wrong(&self, why: impl Into<String>) -> PolicyError {
        PolicyError::Value {
            path: self.path.to_owned(),
            place: self.place.clone(),
            why: why.into(),
        }
    }
}

fn rule(place: &Place<'_>, raw: Vec<RawRequirement>) -> Result<Arc<Rule>, PolicyError> {
    if raw.is_empty() {
        return Err(place.wrong("has no requirement; accepting all must be said"));
    }
    let requirements = raw
        .into_iter()
        .enumerate()
        .map(|(index, raw)| requirement(&place.at(&format!("[{index}]")), raw))
        .collect::<Result<_, _>>()?;
    Ok(Arc::new(Rule { policy: place.path.to_owned(), place: place.place.clone(), requirements }))
}

/// Keys of sigstore's checks that are not made here.
const UNSUPPORTED: [&str; 6] = [
    "fulcio",
    "pki",
    "rekorPublicKeyPath",
    "rekorPublicKeyPaths",
    "rekorPublicKeyData",
    "rekorPublicKeyDatas",
];

fn requirement(place: &Place<'_>, raw: RawRequirement) -> Result<Requirement, PolicyError> {
    match raw.r#type.as_str() {
        "insecureAcceptAnything" | "reject" | "sigstoreSigned" => {}
        known @ ("signedBy" | "signedBaseLayer") => return Ok(unsupported(place, known)),
        other => return Err(place.at(".type").wrong(format!("{other:?} is unknown"))),
    }
    let is_signed = raw.r#type == "sigstoreSigned";
    let known = |key: &str| is_signed && UNSUPPORTED.contains(&key);
    if let Some(key) = raw.others.keys().find(|key| !known(key)) {
        return Err(place.at(&format!(".{key}")).wrong("is an unknown key"));
    }
    if let Some(key) = raw.others.keys().next() {
        return Ok(unsupported(place, key));
    }
    if is_signed {
        let keys = keys(place, &raw)?;
        let identity = match raw.signed_identity {
            Some(raw) => identity(&place.at(".signedIdentity"), raw)?,
            None => Identity::RepoDigestOrExact,
        };
        return Ok(Requirement::Signed(Signed { keys, identity }));
    }
    let has_keys = raw.key_path.is_some()
        || raw.key_paths.is_some()
        || raw.key_data.is_some()
        || raw.key_datas.is_some();
    if has_keys || raw.signed_identity.is_some() {
        return Err(place.wrong(format!("type {:?} takes no other keys", raw.r#type)));
    }
    Ok(if raw.r#type == "reject" { Requirement::Reject } else { Requirement::Accept })
}

/// Images of this scope are refused when they come; who reads the log knows it before.
fn unsupported(place: &Place<'_>, what: &str) -> Requirement {
    let (policy, place) = (place.path.display(), &place.place);
    tracing::warn!(%policy, place, "images there are refused: {what:?} cannot be checked here");
    Requirement::Unsupported(format!("{what:?}"))
}

fn keys(place: &Place<'_>, raw: &RawRequirement) -> Result<Vec<PublicKey>, PolicyError> {
    let of_files = |place: Place<'_>, paths: &[PathBuf]| {
        paths.iter().map(|path| key_file(&place, path)).collect::<Result<Vec<_>, _>>()
    };
    let of_data = |place: Place<'_>, data: &[String]| {
        data.iter().map(|data| key_data(&place, data)).collect::<Result<Vec<_>, _>>()
    };
    let keys = match (&raw.key_path, &raw.key_paths, &raw.key_data, &raw.key_datas) {
        (Some(path), None, None, None) => {
            of_files(place.at(".keyPath"), std::slice::from_ref(path))?
        }
        (None, Some(paths), None, None) => of_files(place.at(".keyPaths"), paths)?,
        (None, None, Some(data), None) => {
            of_data(place.at(".keyData"), std::slice::from_ref(data))?
        }
        (None, None, None, Some(datas)) => of_data(place.at(".keyDatas"), datas)?,
        _ => {
            return Err(place.wrong("wants exactly one of keyPath, keyPaths, keyData, keyDatas"));
        }
    };
    if keys.is_empty() {
        return Err(place.wrong("names no key"));
    }
    Ok(keys)
}

fn key_file(place: &Place<'_>, path: &Path) -> Result<PublicKey, PolicyError> {
    // What the daemon's working directory is, nobody can know.
    if !path.is_absolute() {
        return Err(place.wrong(format!("{} is not an absolute path", path.display())));
    }
    let pem = read_capped(path, KEY_BYTES).map_err(|source| PolicyError::Key {
        path: place.path.to_owned(),
        place: place.place.clone(),
        key: path.to_owned(),
        source,
    })?;
    PublicKey::from_pem(&pem).map_err(|error| place.wrong(format!("{} {error}", path.display())))
}

fn key_data(place: &Place<'_>, data: &str) -> Result<PublicKey, PolicyError> {
    let pem = STANDARD.decode(data).map_err(|_| place.wrong("is not in base64"))?;
    PublicKey::from_pem(&pem).map_err(|error| place.wrong(error.to_string()))
}

fn identity(place: &Place<'_>, raw: RawIdentity) -> Result<Identity, PolicyError> {
    if let Some(key) = raw.others.keys().next() {
        return Err(place.at(&format!(".{key}")).wrong("is an unknown key"));
    }
    let named = |key: &str, text: &str| {
        Named::parse(text)
            .ok_or_else(|| place.at(key).wrong(format!("{text:?} is not an image's name")))
    };
    let prefix = |key: &str, text: String| {
        if is_prefix(&text) {
            return Ok(text);
        }
        let why = format!("{text:?} is no host, namespace or repository in full");
        Err(place.at(key).wrong(why))
    };
    let kind = raw.r#type.as_str();
    let fields = (raw.docker_reference, raw.docker_repository, raw.prefix, raw.signed_prefix);
    match (kind, fields) {
        ("matchExact", (None, None, None, None)) => Ok(Identity::Exact),
        ("matchRepoDigestOrExact", (None, None, None, None)) => Ok(Identity::RepoDigestOrExact),
        ("matchRepository", (None, None, None, None)) => Ok(Identity::Repository),
        ("exactReference", (Some(text), None, None, None)) => {
            let named = named(".dockerReference", &text)?;
            if named.is_bare() {
                return Err(place.at(".dockerReference").wrong("has neither tag nor digest"));
            }
            Ok(Identity::ExactReference(named))
        }
        ("exactRepository", (None, Some(text), None, None)) => {
            let named = named(".dockerRepository", &text)?;
            if !named.is_bare() {
                return Err(place.at(".dockerRepository").wrong("has a tag or digest"));
            }
            Ok(Identity::ExactRepository(named.repository()))
        }
        ("remapIdentity", (None, None, Some(old), Some(new))) => Ok(Identity::Remap {
            prefix: prefix(".prefix", old)?,
            signed: prefix(".signedPrefix", new)?,
        }),
        (
            "matchExact"
            | "matchRepoDigestOrExact"
            | "matchRepository"
            | "exactReference"
            | "exactRepository"
            | "remapIdentity",
            _,
        ) => Err(place.wrong(format!("does not have the keys of type {kind:?}"))),
        _ => Err(place.at(".type").wrong(format!("{kind:?} is unknown"))),
    }
}

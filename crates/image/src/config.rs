//! The configuration of an image: OCI image-spec `config.md` with the fields that Docker adds.
//!
//! It comes from outside. [`ImageConfig::parse`] is the only way in and refuses what could hurt
//! later; what it accepts is still only data: paths in it are resolved below a root by others, and
//! labels reach a runtime only through [`ContainerConfig::control_labels`].

use std::collections::{BTreeMap, BTreeSet};

use pouch_registry::Platform;
use pouch_types::{Classified, Digest, ErrorKind};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::ImageError;
use crate::limits;

/// Label prefixes that steer an engine or a runtime. An image must not reach them.
const RESERVED: [&str; 8] = [
    "dev.pouch.",
    "pouch.",
    "io.pouch.",
    "containerd.io/",
    "io.containerd.",
    "io.kubernetes.cri.",
    "org.systemd.property.",
    "run.oci.",
];

/// Whether a label of that name may only come from a user, never from an image.
#[must_use]
pub fn is_reserved_label(name: &str) -> bool {
    RESERVED.iter().any(|prefix| name.starts_with(prefix))
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Over [`limits::CONFIG_BYTES`].
    #[error("image configuration is larger than {} bytes", limits::CONFIG_BYTES)]
    TooLarge,
    /// Not JSON of the right form.
    #[error("image configuration does not parse")]
    Json(#[source] serde_json::Error),
    /// Over [`limits::LAYERS`].
    #[error("image has {0} layers, at most {max} are supported", max = limits::LAYERS)]
    TooManyLayers(usize),
    /// Over [`limits::HISTORY`].
    #[error("image has {0} history entries, at most {max} are supported", max = limits::HISTORY)]
    TooMuchHistory(usize),
    /// `rootfs.type` is not `layers`.
    #[error("image root file system of type {0:?}: only \"layers\" is supported")]
    RootFs(String),
    /// A string that no kernel interface could take.
    #[error("image configuration has a NUL byte in {0}")]
    Nul(&'static str),
    /// No operating system or architecture: it is an artifact, not an image to run.
    #[error("image configuration names no {0}; is it a container image?")]
    Missing(&'static str),
}

impl Classified for ConfigError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::RootFs(_) => ErrorKind::Unsupported,
            _ => ErrorKind::Invalid,
        }
    }
}

/// Go writes `null` for an empty slice or map.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// A list, or one bare string as early Docker wrote it.
fn words<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::<Words>::deserialize(d)?.map(|words| match words {
        Words::One(word) => vec![word],
        Words::Many(words) => words,
    }))
}

/// A set that JSON spells as an object of empty objects.
mod keys {
    use super::{BTreeMap, BTreeSet, Deserialize, Deserializer};
    use serde::Serializer;
    use serde::de::IgnoredAny;

    #[derive(serde::Serialize)]
    struct Empty {}

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<BTreeSet<String>, D::Error> {
        let map = Option::<BTreeMap<String, IgnoredAny>>::deserialize(d)?.unwrap_or_default();
        Ok(map.into_keys().collect())
    }

    pub(super) fn serialize<S: Serializer>(
        set: &BTreeSet<String>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_map(set.iter().map(|key| (key, Empty {})))
    }
}

/// What a container made from the image gets unless its creator says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// `user[:group]`, names or numbers.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `port/protocol`.
    #[serde(with = "keys", skip_serializing_if = "BTreeSet::is_empty")]
    pub exposed_ports: BTreeSet<String>,
    /// `NAME=value`.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// Comes before the command.
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Command or arguments.
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Paths that get an anonymous volume.
    #[serde(with = "keys", skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<String>,
    /// Empty means `/`.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// As they are in the image, reserved ones included.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Signal name or number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Seconds (Docker).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// How to see whether it works (Docker).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// The command is one Windows command line (Docker).
    #[serde(deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// Instructions for a build on top of the image (Docker).
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// Shell of shell-form instructions (Docker).
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
}

impl ContainerConfig {
    /// The labels that may be used as input to anything but a display.
    pub fn control_labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels
            .iter()
            .filter(|(name, _)| !is_reserved_label(name))
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Names of labels that [`ContainerConfig::control_labels`] leaves out, for a warning.
    pub fn reserved_labels(&self) -> impl Iterator<Item = &str> {
        self.labels.keys().map(String::as_str).filter(|name| is_reserved_label(name))
    }

    /// Fills what is not set from `base`, by Docker's rules: sets and labels are joined, variables
    /// and labels of `base` yield to those of the same name, a command stays with its entrypoint.
    pub fn inherit(&mut self, base: Self) {
        fn or<T: Default + PartialEq>(own: &mut T, base: T) {
            if *own == T::default() {
                *own = base;
            }
        }
        self.exposed_ports.extend(base.exposed_ports);
        self.volumes.extend(base.volumes);
        let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
        let own: BTreeSet<String> = self.env.iter().map(|v| name(v)).collect();
        self.env.extend(base.env.into_iter().filter(|v| !own.contains(&name(v))));
        for (key, value) in base.labels {
            self.labels.entry(key).or_insert(value);
        }
        if self.entrypoint.as_ref().is_none_or(Vec::is_empty) {
            if self.cmd.as_ref().is_none_or(Vec::is_empty) {
                self.cmd = base.cmd;
            }
            if self.entrypoint.is_none() {
                self.entrypoint = base.entrypoint;
            }
        }
        or(&mut self.user, base.user);
        or(&mut self.working_dir, base.working_dir);
        or(&mut self.stop_signal, base.stop_signal);
        or(&mut self.stop_timeout, base.stop_timeout);
        or(&mut self.healthcheck, base.healthcheck);
        or(&mut self.on_build, base.on_build);
        or(&mut self.shell, base.shell);
    }

    fn nul(&self) -> Option<&'static str> {
        let any = |words: &[String]| words.iter().any(|w| w.contains('\0'));
        let option = |words: &Option<Vec<String>>| words.as_deref().is_some_and(any);
        [
            ("User", self.user.contains('\0')),
            ("Env", any(&self.env)),
            ("Entrypoint", option(&self.entrypoint)),
            ("Cmd", option(&self.cmd)),
            ("Volumes", self.volumes.iter().any(|v| v.contains('\0'))),
            ("WorkingDir", self.working_dir.contains('\0')),
            ("Labels", self.labels.iter().any(|(k, v)| k.contains('\0') || v.contains('\0'))),
            ("Healthcheck", self.healthcheck.as_ref().is_some_and(|h| any(&h.test))),
        ]
        .into_iter()
        .find_map(|(field, bad)| bad.then_some(field))
    }
}

/// Docker's `HEALTHCHECK`. Times in nanoseconds; 0 takes the engine's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthConfig {
    /// `[]` inherits, `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", line]`.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// For one check.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Failures in this time after the start do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two checks during the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// The layers of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// Digests of the uncompressed layers, bottom first.
    #[serde(deserialize_with = "nullable")]
    pub diff_ids: Vec<Digest>,
}

/// One step of an image's making.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Who.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Free text.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The step made no layer.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// A whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// RFC 3339; some builders leave it out or fix it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// GOARCH of the programs in it.
    #[serde(deserialize_with = "nullable")]
    pub architecture: String,
    /// Variant of the architecture (`v8`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// GOOS.
    #[serde(deserialize_with = "nullable")]
    pub os: String,
    /// Version of the operating system (Windows).
    #[serde(rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Free text (Docker).
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Version of the Docker that built it (Docker).
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
    /// Defaults of containers.
    #[serde(deserialize_with = "nullable")]
    pub config: ContainerConfig,
    /// The layers.
    pub rootfs: RootFs,
    /// How it came about, bottom first.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
}

impl ImageConfig {
    /// Checks that an image, which is known as `reference`, is for a machine. Many configurations
    /// leave the variant out; they fit any.
    ///
    /// # Errors
    /// [`ImageError::Platform`].
    pub fn check_platform(&self, reference: &str, wanted: &Platform) -> Result<(), ImageError> {
        let actual = Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        };
        let variant = wanted.variant.clone().filter(|_| actual.variant.is_some());
        if (Platform { variant, ..wanted.clone() }).accepts(&actual) {
            return Ok(());
        }
        Err(ImageError::Platform {
            reference: reference.to_owned(),
            wanted: wanted.to_string(),
            actual: actual.to_string(),
        })
    }

    /// Parses and checks the bytes of a configuration.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.len() as u64 > limits::CONFIG_BYTES {
            return Err(ConfigError::TooLarge);
        }
        let config: Self = serde_json::from_slice(bytes).map_err(ConfigError::Json)?;
        if config.os.is_empty() {
            return Err(ConfigError::Missing("operating system"));
        }
        if config.architecture.is_empty() {
            return Err(ConfigError::Missing("architecture"));
        }
        if config.rootfs.kind != "layers" {
            return Err(ConfigError::RootFs(config.rootfs.kind.chars().take(80).collect()));
        }
        let layers = config.rootfs.diff_ids.len();
        if layers > limits::LAYERS {
            return Err(ConfigError::TooManyLayers(layers));
        }
        if config.history.len() > limits::HISTORY {
            return Err(ConfigError::TooMuchHistory(config.history.len()));
        }
        if let Some(field) = config.config.nul() {
            return Err(ConfigError::Nul(field));
        }
        Ok(config)
    }

    /// When the image says that it was made.
    #[must_use]
    pub fn created_at(&self) -> Option<jiff::Timestamp> {
        self.created.as_deref().and_then(|text| text.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_inherited() {
        let words = |text: &str| Some(text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let base = ContainerConfig {
            user: "base".into(),
            env: vec!["A=1".into(), "B=1".into()],
            entrypoint: words("/entry"),
            cmd: words("base command"),
            volumes: BTreeSet::from(["/base".to_owned()]),
            labels: BTreeMap::from([("k".into(), "base".into()), ("l".into(), "base".into())]),
            ..ContainerConfig::default()
        };
        let mut own = ContainerConfig {
            env: vec!["B=2".into()],
            cmd: words("own"),
            volumes: BTreeSet::from(["/own".to_owned()]),
            labels: BTreeMap::from([("k".into(), "own".into())]),
            ..ContainerConfig::default()
        };
        own.inherit(base.clone());
        assert_eq!(own.env, ["B=2", "A=1"]);
        assert_eq!((own.entrypoint.clone(), own.cmd.clone()), (words("/entry"), words("own")));
        assert_eq!((own.labels["k"].as_str(), own.labels["l"].as_str()), ("own", "base"));
        assert_eq!((own.volumes.len(), own.user.as_str()), (2, "base"));
        let mut own = ContainerConfig { entrypoint: words("/own"), ..ContainerConfig::default() };
        own.inherit(base);
        assert_eq!(own.cmd, None, "the old command was meant for the old entrypoint");
    }

    const DOCKER: &str = r#"{
        "architecture": "amd64", "os": "linux", "docker_version": "20.10.24",
        "created": "2024-01-02T03:04:05.678901234Z",
        "container_config": {"Hostname": "x", "Cmd": ["/bin/sh", "-c", "(nop)"]},
        "config": {
            "Hostname": "", "Domainname": "", "User": "nobody", "AttachStdin": false, "Tty": false,
            "ExposedPorts": {"80/tcp": {}}, "Env": ["PATH=/bin"], "Cmd": null, "Image": "",
            "Volumes": null, "WorkingDir": "/srv", "Entrypoint": ["/bin/x"], "OnBuild": null,
            "Labels": {"a": "b", "dev.pouch.log": "/etc/shadow", "io.kubernetes.cri.x": "1",
                       "org.systemd.property.ExecStart": "x", "containerd.io/a": "", "run.oci.b": ""},
            "ArgsEscaped": true, "StopSignal": "SIGQUIT", "StopTimeout": 7,
            "Shell": ["/bin/bash", "-c"],
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1000000000, "Retries": 3}
        },
        "rootfs": {"type": "layers", "diff_ids": [
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},
        "history": [{"created": "2024-01-02T03:04:05Z", "created_by": "ADD", "empty_layer": true}]
    }"#;

    #[test]
    fn takes_all_that_docker_writes() {
        let image = ImageConfig::parse(DOCKER.as_bytes()).unwrap();
        let config = &image.config;
        assert_eq!(config.cmd, None);
        assert_eq!(config.stop_timeout, Some(7));
        assert!(config.args_escaped && image.history[0].empty_layer);
        assert_eq!(config.healthcheck.as_ref().unwrap().interval, 1_000_000_000);
        assert_eq!(image.created_at().unwrap().as_second(), 1_704_164_645);
        let again = serde_json::to_vec(&image).unwrap();
        assert_eq!(ImageConfig::parse(&again).unwrap(), image);
    }

    #[test]
    fn labels_that_steer_a_runtime_are_no_control_input() {
        let image = ImageConfig::parse(DOCKER.as_bytes()).unwrap();
        assert_eq!(image.config.control_labels().collect::<Vec<_>>(), [("a", "b")]);
        assert_eq!(image.config.reserved_labels().count(), 5);
        assert_eq!(image.config.labels.len(), 6, "inspect still shows them");
    }

    #[test]
    fn refuses() {
        let with =
            |rootfs: &str| format!(r#"{{"os":"linux","architecture":"amd64","rootfs":{rootfs}}}"#);
        let many = vec![Digest::of(b"").to_string(); limits::LAYERS + 1];
        let many = serde_json::to_string(&many).unwrap();
        assert!(matches!(
            ImageConfig::parse(
                with(&format!(r#"{{"type":"layers","diff_ids":{many}}}"#)).as_bytes()
            ),
            Err(ConfigError::TooManyLayers(501))
        ));
        for bad in [
            with(r#"{"type":"layers","diff_ids":["sha256:../.."]}"#),
            with(r#"{"type":"squash","diff_ids":[]}"#),
            r#"{"rootfs":{"type":"layers"}}"#.to_owned(),
            r#"{"os":"linux","os":"linux","architecture":"a","rootfs":{"type":"layers"}}"#.to_owned(),
            r#"{"os":"linux","architecture":"a","config":{"Env":["a\u0000b"]},"rootfs":{"type":"layers"}}"#.to_owned(),
            "[]".to_owned(),
            "[".repeat(100_000),
        ] {
            assert!(ImageConfig::parse(bad.as_bytes()).is_err(), "{}", &bad[..bad.len().min(90)]);
        }
        let huge = vec![b' '; 8 * 1024 * 1024 + 1];
        assert!(matches!(ImageConfig::parse(&huge), Err(ConfigError::TooLarge)));
    }
}

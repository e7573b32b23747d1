//! Plugins: found, asked by the protocol of the specification (section 2), understood.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{NetworkList, PluginConf};
use crate::error::{CniError, PluginFailure, Stage};
use crate::exec::{self, End, MAX_ANSWER};
use crate::result::{AddResult, Unreadable};
use crate::version::SpecVersion;

/// Plugins run `iptables`, `nft` and `ip` from these.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Of an answer that is not understood, this much is told.
const QUOTED: usize = 200;

/// How long plugins may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Each plugin of an ADD.
    pub add: Duration,
    /// Each plugin of a DEL or GC.
    pub del: Duration,
    /// Each plugin of a CHECK.
    pub check: Duration,
    /// Each plugin of a STATUS, and its VERSION.
    pub status: Duration,
}

impl Default for Deadlines {
    /// Shorter together than the two minutes that the kubelet waits for a sandbox.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { add: seconds(60), del: seconds(60), check: seconds(30), status: seconds(10) }
    }
}

impl Deadlines {
    const fn of(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Add => self.add,
            Stage::Del | Stage::Gc => self.del,
            Stage::Check => self.check,
            Stage::Status | Stage::Version => self.status,
        }
    }
}

/// What a run is about, beside the configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) netns: String,
    pub(crate) ifname: String,
    pub(crate) args: Vec<(String, String)>,
    pub(crate) capability_args: Map<String, Value>,
}

/// One file's answer to VERSION, for as long as the file is the same.
type Versions = HashMap<PathBuf, (Identity, Arc<Vec<String>>)>;
type Identity = (u64, u64, i64, i64);

/// The directories with plugins.
#[derive(Debug)]
pub(crate) struct Plugins {
    dirs: Vec<PathBuf>,
    deadlines: Deadlines,
    versions: Mutex<Versions>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionAnswer {
    supported_versions: Vec<String>,
}

#[derive(Deserialize)]
struct Told {
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl Plugins {
    pub(crate) fn new(dirs: Vec<PathBuf>, deadlines: Deadlines) -> Self {
        Self { dirs, deadlines, versions: Mutex::default() }
    }

    /// The program of that type: the first executable file.
    pub(crate) fn find(&self, kind: &str) -> Result<PathBuf, PluginFailure> {
        // A type with a slash would be a path.
        if kind.is_empty() || kind.contains(['/', '\0']) || matches!(kind, "." | "..") {
            return Err(PluginFailure::Name);
        }
        let runnable = |path: &PathBuf| {
            fs::metadata(path)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        let mut places = self.dirs.iter().map(|dir| dir.join(kind));
        places.find(runnable).ok_or_else(|| PluginFailure::Missing { dirs: self.dirs.clone() })
    }

    /// Runs ADD of one plugin.
    pub(crate) async fn add(
        &self,
        list: &NetworkList,
        plugin: &PluginConf,
        call: &Call,
        previous: Option<&AddResult>,
    ) -> Result<AddResult, CniError> {
        let previous = written(list, previous)?;
        let input = configuration(list, plugin, call, previous, None);
        let failed = |failure| failure_of(list, &plugin.kind, Stage::Add, failure);
        let answer = self.run(&plugin.kind, Stage::Add, call, &input).await.map_err(failed)?;
        let parsed = serde_json::from_slice::<Value>(&answer);
        let parsed =
            parsed.map_err(|source| PluginFailure::Answer { text: begin(&answer), source });
        let raw = parsed.map_err(failed)?;
        AddResult::read(&raw).map_err(|unreadable| {
            failed(match unreadable {
                Unreadable::Json(source) => PluginFailure::Answer { text: begin(&answer), source },
                Unreadable::Version(version) => PluginFailure::Version { version },
            })
        })
    }

    /// Runs an operation of one plugin that has no result.
    pub(crate) async fn order(
        &self,
        list: &NetworkList,
        plugin: &PluginConf,
        stage: Stage,
        call: &Call,
        previous: Option<&AddResult>,
        valid: Option<&Value>,
    ) -> Result<(), CniError> {
        let previous = written(list, previous)?;
        let input = configuration(list, plugin, call, previous, valid);
        let done = self.run(&plugin.kind, stage, call, &input).await;
        done.map(drop).map_err(|failure| failure_of(list, &plugin.kind, stage, failure))
    }

    /// Whether the plugin is there and understands the list's version.
    pub(crate) async fn usable(
        &self,
        list: &NetworkList,
        plugin: &PluginConf,
    ) -> Result<(), CniError> {
        let failed = |failure| failure_of(list, &plugin.kind, Stage::Version, failure);
        let supported = self.supported(&plugin.kind).await.map_err(failed)?;
        let wanted = list.version.text();
        if supported.iter().any(|version| version == wanted) {
            return Ok(());
        }
        Err(failed(PluginFailure::Unsupported {
            wanted: wanted.to_owned(),
            supported: supported.to_vec(),
        }))
    }

    async fn supported(&self, kind: &str) -> Result<Arc<Vec<String>>, PluginFailure> {
        let program = self.find(kind)?;
        let meta = fs::metadata(&program).map_err(PluginFailure::Run)?;
        let identity = (meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec());
        {
            let versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((then, known)) = versions.get(&program)
                && *then == identity
            {
                return Ok(Arc::clone(known));
            }
        }
        let input = json!({"cniVersion": SpecVersion::V1_1_0.text()}).to_string();
        // Plugins in shell look for these although VERSION has none of them.
        let call = Call {
            id: "dummy".into(),
            netns: "dummy".into(),
            ifname: "dummy".into(),
            ..Call::default()
        };
        let answer = self.run(kind, Stage::Version, &call, input.as_bytes()).await?;
        let parsed: VersionAnswer = serde_json::from_slice(&answer)
            .map_err(|source| PluginFailure::Answer { text: begin(&answer), source })?;
        let known = Arc::new(parsed.supported_versions);
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.insert(program, (identity, Arc::clone(&known)));
        Ok(known)
    }

    async fn run(
        &self,
        kind: &str,
        stage: Stage,
        call: &Call,
        input: &[u8],
    ) -> Result<Vec<u8>, PluginFailure> {
        let program = self.find(kind)?;
        let deadline = self.deadlines.of(stage);
        let environment = self.environment(stage, call);
        let output =
            exec::run(&program, &environment, input, deadline).await.map_err(PluginFailure::Run)?;
        let stderr = output.complaint;
        let status = match output.end {
            End::Killed => return Err(PluginFailure::Deadline { after: deadline, stderr }),
            End::TooLong => return Err(PluginFailure::TooLong { limit: MAX_ANSWER }),
            End::Exited(status) => status,
        };
        if status.success() {
            if !stderr.is_empty() {
                tracing::debug!(plugin = kind, %stage, stderr, "a plugin said something");
            }
            return Ok(output.answer);
        }
        match serde_json::from_slice::<Told>(&output.answer) {
            Ok(Told { code, msg: message, details }) => {
                Err(PluginFailure::Told { code, message, details, stderr })
            }
            Err(_) => {
                // Some complain in words on standard output.
                let said = if stderr.is_empty() { begin(&output.answer) } else { stderr };
                Err(PluginFailure::Ended { status: status.to_string(), stderr: said })
            }
        }
    }

    fn environment(&self, stage: Stage, call: &Call) -> BTreeMap<&'static str, String> {
        let dirs: Vec<_> = self.dirs.iter().map(|dir| dir.display().to_string()).collect();
        let args: Vec<_> = call.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        BTreeMap::from([
            ("CNI_COMMAND", stage.command().to_owned()),
            ("CNI_CONTAINERID", call.id.clone()),
            ("CNI_NETNS", call.netns.clone()),
            ("CNI_IFNAME", call.ifname.clone()),
            ("CNI_ARGS", args.join(";")),
            ("CNI_PATH", dirs.join(":")),
            ("PATH", PATH.to_owned()),
        ])
    }
}

fn begin(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).trim().chars().take(QUOTED).collect()
}

fn failure_of(list: &NetworkList, plugin: &str, stage: Stage, failure: PluginFailure) -> CniError {
    CniError::Plugin {
        network: list.name.clone(),
        plugin: plugin.to_owned(),
        stage,
        failure: Box::new(failure),
    }
}

/// A previous result in the version that the list's plugins speak.
fn written(list: &NetworkList, previous: Option<&AddResult>) -> Result<Option<Value>, CniError> {
    let write = |result: &AddResult| result.write(list.version);
    previous
        .map(write)
        .transpose()
        .map_err(|source| CniError::Malformed { path: PathBuf::from("prevResult"), source })
}

/// What the plugin reads: its configuration with what the runtime adds (specification, section 3).
fn configuration(
    list: &NetworkList,
    plugin: &PluginConf,
    call: &Call,
    previous: Option<Value>,
    valid: Option<&Value>,
) -> Vec<u8> {
    let mut whole = plugin.raw.clone();
    whole.insert("name".into(), list.name.clone().into());
    whole.insert("cniVersion".into(), list.version.text().into());
    if let Some(previous) = previous {
        whole.insert("prevResult".into(), previous);
    }
    let known = |capability: &&String| call.capability_args.contains_key(*capability);
    let runtime: Map<String, Value> = plugin
        .capabilities
        .iter()
        .filter(known)
        .map(|c| (c.clone(), call.capability_args.get(c).cloned().unwrap_or_default()))
        .collect();
    if !runtime.is_empty() {
        whole.insert("runtimeConfig".into(), runtime.into());
    }
    if let Some(valid) = valid {
        // The second is what the text of 1.1.0 calls it, the first what plugins read.
        whole.insert("cni.dev/valid-attachments".into(), valid.clone());
        whole.insert("cni.dev/attachments".into(), valid.clone());
    }
    Value::Object(whole).to_string().into_bytes()
}

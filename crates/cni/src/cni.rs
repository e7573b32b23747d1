//! The operations: status, add, check, del, gc.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pouch_netns::{Netns, NetnsError};
use pouch_network::nft;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::attachment::{Added, Attachment, ValidAttachment};
use crate::cache::{Cache, Cached};
use crate::config::{Configurations, NetworkList, Use};
use crate::error::{CniError, PluginFailure, Stage};
use crate::locks::{Held, Locks};
use crate::native::{self, Native};
use crate::plugin::{Call, Deadlines, Plugins};
use crate::record::{How, Key, Record, Records};
use crate::result::AddResult;
use crate::version::SpecVersion;

/// Whether the usual networks are made in-process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NativeUse {
    /// Where the configuration is wholly understood and the program `nft` is installed.
    Yes,
    /// Never: every list is executed.
    No,
}

/// Where things are, and how long they may take.
#[derive(Debug, Clone)]
pub struct CniConfig {
    /// Configurations of networks.
    pub conf_dir: PathBuf,
    /// Plugins, searched in order.
    pub bin_dirs: Vec<PathBuf>,
    /// libcni's cache.
    pub cache_dir: PathBuf,
    /// Records of our own attachments. Two daemons must not share it.
    pub state_dir: PathBuf,
    /// Whether the usual networks are made in-process.
    pub native: NativeUse,
    /// Of plugins; the one of DEL also for host-local's lock.
    pub deadlines: Deadlines,
}

impl CniConfig {
    /// The customary directories.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            cache_dir: "/var/lib/cni".into(),
            state_dir,
            native: NativeUse::Yes,
            deadlines: Deadlines::default(),
        }
    }
}

/// The default network, which is usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its name.
    pub network: String,
    /// The version that its plugins are spoken to in.
    pub version: SpecVersion,
    /// How pods are attached, unless they ask for something special.
    pub way: Way,
}

/// How attachments are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In-process.
    Native,
    /// By the plugins.
    Executed,
}

/// The networks of pods. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cni {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    configurations: Configurations,
    plugins: Plugins,
    cache: Cache,
    records: Arc<Records>,
    native_use: NativeUse,
    native: Arc<Native>,
    locks: Arc<Locks>,
}

/// What is known of an attachment that CHECK or DEL is about.
#[derive(Debug)]
struct Target {
    key: Key,
    record: Option<Record>,
    cached: Option<Cached>,
}

impl Cni {
    /// Reads the records, and mends in the background what they tell of: rules that were flushed,
    /// pairs that were to be removed. Neither directory of the configuration need exist.
    ///
    /// # Errors
    /// [`CniError::File`] when the records cannot be read.
    pub async fn open(config: CniConfig) -> Result<Self, CniError> {
        let state_dir = config.state_dir.clone();
        let records = spawn_blocking(move || Records::open(&state_dir))
            .await
            .map_err(|_| panicked("all"))??;
        let records = Arc::new(records);
        let inner = Inner {
            configurations: Configurations::new(config.conf_dir),
            plugins: Plugins::new(config.bin_dirs, config.deadlines),
            cache: Cache::new(&config.cache_dir),
            native: Arc::new(Native::new(Arc::clone(&records), config.deadlines.del)),
            records,
            native_use: config.native,
            locks: Arc::default(),
        };
        inner.native.resume();
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether a pod that is started now would get a network: there is a default network, its
    /// plugins are there and understand its version, and from version 1.1.0 on each of them says
    /// that it is ready. A network that is made in-process needs no plugin.
    ///
    /// # Errors
    /// [`CniError`], which says what is missing.
    pub async fn status(&self) -> Result<Status, CniError> {
        let list = self.inner.list(None).await?;
        let (network, version) = (list.name.clone(), list.version);
        if self.inner.native_use() == NativeUse::Yes && native::is_native(&list) {
            return Ok(Status { network, version, way: Way::Native });
        }
        for plugin in &list.plugins {
            self.inner.plugins.usable(&list, plugin).await?;
            self.inner.ipam_is_there(&list, plugin)?;
        }
        if version.has_status_and_gc() {
            for plugin in &list.plugins {
                let call = Call::default();
                let plugins = &self.inner.plugins;
                plugins.order(&list, plugin, Stage::Status, &call, None, None).await?;
            }
        }
        Ok(Status { network, version, way: Way::Executed })
    }

    /// Attaches the pod, and brings up `lo` in its namespace. Goes on when the future is dropped.
    ///
    /// # Errors
    /// [`CniError`]; nothing is left then. [`CniError::Attached`] when it is attached already.
    pub async fn add(&self, attachment: &Attachment) -> Result<Added, CniError> {
        let (inner, attachment, held) = self.turn(attachment).await?;
        to_the_end(async move {
            let _held = held;
            inner.add(&attachment).await
        })
        .await
    }

    /// Whether the attachment is as ADD made it.
    ///
    /// # Errors
    /// [`CniError::Differs`] or the plugin's, when it is not; [`CniError::NoCheck`] for networks
    /// before 0.4.0.
    pub async fn check(&self, attachment: &Attachment) -> Result<(), CniError> {
        let (inner, attachment, held) = self.turn(attachment).await?;
        to_the_end(async move {
            let _held = held;
            inner.check(&attachment).await
        })
        .await
    }

    /// Detaches the pod. Nothing that is not there is an error. Goes on when the future is dropped.
    ///
    /// # Errors
    /// [`CniError`] when something may be left; it can be tried again.
    pub async fn del(&self, attachment: &Attachment) -> Result<(), CniError> {
        let (inner, attachment, held) = self.turn(attachment).await?;
        to_the_end(async move {
            let _held = held;
            inner.del(&attachment).await
        })
        .await
    }

    /// Waits until nobody else works on the attachment. Who leaves here has changed nothing.
    async fn turn(
        &self,
        attachment: &Attachment,
    ) -> Result<(Arc<Inner>, Attachment, Held), CniError> {
        attachment.validate()?;
        let held = self.inner.locks.hold(&attachment.id, &attachment.ifname).await;
        Ok((Arc::clone(&self.inner), attachment.clone(), held))
    }

    /// Detaches what this daemon attached and is not among `valid`, and lets networks of version
    /// 1.1.0 collect what belongs to nobody. Other runtimes' attachments, known by the cache they
    /// share with us, count as valid. Whoever attaches meanwhile must be among `valid`.
    ///
    /// # Errors
    /// The first failure; the rest was tried all the same.
    pub async fn gc(&self, valid: &[ValidAttachment]) -> Result<(), CniError> {
        let (inner, valid) = (Arc::clone(&self.inner), valid.to_vec());
        to_the_end(async move { inner.gc(&valid).await }).await
    }

    /// Removes what a DEL has only cut off yet. A native DEL takes the host's and the pod's end of the
    /// pair from the bridge's traffic at once and removes them about a second later, since that
    /// waits for the kernel, and mostly the pod's namespace, removed meanwhile, takes them along.
    ///
    /// # Errors
    /// [`CniError::Link`]; the next [`Cni::open`] tries again.
    pub async fn settle(&self) -> Result<(), CniError> {
        self.inner.native.settle().await
    }

    /// Removes the packet rules of native networks if no attachment of this daemon needs them.
    ///
    /// # Errors
    /// [`CniError::Link`].
    pub async fn close_unused(&self) -> Result<(), CniError> {
        self.inner.native.close_unused().await
    }
}

/// Runs a change in a task of its own, so that it ends well although the caller leaves.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, CniError>> + Send + 'static,
) -> Result<T, CniError> {
    tokio::spawn(work).await.unwrap_or_else(|_| Err(panicked("all")))
}

fn panicked(network: &str) -> CniError {
    CniError::Panicked { network: network.to_owned() }
}

impl Inner {
    /// The network of that name, or the default one.
    async fn list(self: &Arc<Self>, name: Option<&str>) -> Result<Arc<NetworkList>, CniError> {
        let (inner, name) = (Arc::clone(self), name.map(str::to_owned));
        let look = move || match name {
            Some(name) => inner.configurations.named(&name),
            None => inner.configurations.default_network(),
        };
        spawn_blocking(look).await.map_err(|_| panicked("all"))?
    }

    /// Without nft the rules of native networks cannot be made; the plugins may use iptables.
    fn native_use(&self) -> NativeUse {
        if nft::is_installed() { self.native_use } else { NativeUse::No }
    }

    fn ipam_is_there(
        &self,
        list: &NetworkList,
        plugin: &crate::config::PluginConf,
    ) -> Result<(), CniError> {
        let kind = plugin.raw.get("ipam").and_then(|ipam| ipam.get("type"));
        let Some(kind) = kind.and_then(Value::as_str).filter(|kind| !kind.is_empty()) else {
            return Ok(());
        };
        self.plugins.find(kind).map(drop).map_err(|failure| CniError::Plugin {
            network: list.name.clone(),
            plugin: kind.to_owned(),
            stage: Stage::Status,
            failure: Box::new(failure),
        })
    }

    async fn add(self: &Arc<Self>, attachment: &Attachment) -> Result<Added, CniError> {
        let list = self.list(attachment.network.as_deref()).await?;
        let key = Key {
            id: attachment.id.clone(),
            ifname: attachment.ifname.clone(),
            network: list.name.clone(),
        };
        let cached = self.cache.get(&key.network, &key.id, &key.ifname);
        if cached.is_some() {
            let Key { id, ifname, network } = key;
            return Err(CniError::Attached { network, id, ifname });
        }
        if let Some(record) = self.records.get(&key).filter(|record| !record.is_leaving()) {
            // An ADD that did not come to its end.
            tracing::info!(id = key.id, network = key.network, "what a crash left is undone first");
            let target = Target { key: key.clone(), record: Some(record), cached: None };
            self.del_one(&target, attachment).await?;
        }
        let call = Call {
            id: key.id.clone(),
            netns: attachment.netns.display().to_string(),
            ifname: key.ifname.clone(),
            args: attachment.args.clone(),
            capability_args: attachment.capability_args(),
        };
        self.native.vacate(&key, &call.netns).await?;
        let plan = match self.native_use() {
            NativeUse::Yes => native::plan(&list, &call),
            NativeUse::No => None,
        };
        let result = match plan {
            Some(plan) => self.native.add(plan).await?,
            None => self.execute(&list, &key, &call).await?,
        };
        let written = result
            .write(list.version)
            .map_err(|source| CniError::Malformed { path: PathBuf::from("result"), source });
        let kept = written.and_then(|raw| {
            self.cache.put(&Cached::new(&list.name, &call, &list.bytes, raw.clone()))?;
            Ok(raw)
        });
        match kept {
            Ok(raw) => Ok(Added::new(&list.name, result, raw)),
            Err(error) => {
                let record = self.records.get(&key);
                let target = Target { key, record, cached: None };
                if let Err(error) = self.del_one(&target, attachment).await {
                    tracing::warn!(%error, "an attachment that failed could not be undone");
                }
                Err(error)
            }
        }
    }

    /// ADD by the plugins in order; undone in the reverse when one fails.
    async fn execute(
        &self,
        list: &Arc<NetworkList>,
        key: &Key,
        call: &Call,
    ) -> Result<AddResult, CniError> {
        let netns = Netns::open(Path::new(&call.netns)).map_err(CniError::netns(&list.name))?;
        netns
            .run_async(pouch_netns::raise_loopback)
            .await
            .map_err(CniError::netns(&list.name))?
            .map_err(CniError::link(&list.name, "bring up", "lo"))?;
        self.records.put(Record {
            key: key.clone(),
            netns: call.netns.clone(),
            config: String::from_utf8_lossy(&list.bytes).into_owned(),
            args: call.args.clone(),
            capability_args: call.capability_args.clone(),
            how: How::Executed,
        })?;
        let mut result = None;
        for (index, plugin) in list.plugins.iter().enumerate() {
            match self.plugins.add(list, plugin, call, result.as_ref()).await {
                Ok(next) => result = Some(next),
                Err(error) => {
                    self.undo(list, index, key, call, result.as_ref()).await;
                    return Err(error);
                }
            }
        }
        // A list is never empty.
        Ok(result.unwrap_or_default())
    }

    /// DEL of the plugins from that one back to the first; the record goes if all succeed.
    async fn undo(
        &self,
        list: &NetworkList,
        last: usize,
        key: &Key,
        call: &Call,
        result: Option<&AddResult>,
    ) {
        let result = result.filter(|_| list.version.has_check());
        let mut clean = true;
        for plugin in list.plugins.iter().take(last + 1).rev() {
            if let Err(error) =
                self.plugins.order(list, plugin, Stage::Del, call, result, None).await
            {
                let missing = is_missing_plugin(&error);
                clean &= missing;
                if !missing {
                    tracing::warn!(error = pouch_types::error::chain(&error), "undoing an ADD");
                }
            }
        }
        if clean && let Err(error) = self.records.remove(key) {
            tracing::warn!(%error, "a record stays");
        }
    }

    /// What records and cache know of this id and interface; when they know nothing, the network
    /// that the caller names, or the default one.
    async fn targets(self: &Arc<Self>, attachment: &Attachment) -> Result<Vec<Target>, CniError> {
        let inner = Arc::clone(self);
        let wanted = attachment.clone();
        let known = spawn_blocking(move || inner.known(&wanted)).await;
        let known = known.map_err(|_| panicked("all"))?;
        if !known.is_empty() {
            return Ok(known);
        }
        let network = match &attachment.network {
            Some(network) => network.clone(),
            None => match self.list(None).await {
                Ok(list) => list.name.clone(),
                Err(CniError::NoNetwork { .. }) => return Ok(Vec::new()),
                Err(error) => return Err(error),
            },
        };
        let (id, ifname) = (attachment.id.clone(), attachment.ifname.clone());
        Ok(vec![Target { key: Key { id, ifname, network }, record: None, cached: None }])
    }

    fn known(&self, attachment: &Attachment) -> Vec<Target> {
        let Attachment { id, ifname, network, .. } = attachment;
        let wanted = |key: &Key| {
            key.id == *id
                && key.ifname == *ifname
                && network.as_ref().is_none_or(|name| *name == key.network)
        };
        let mut known: Vec<Target> = self
            .records
            .all()
            .into_iter()
            .filter(|record| wanted(&record.key))
            .map(|record| {
                let cached = self.cache.get(&record.key.network, id, ifname);
                // One that we detached may be attached anew by another runtime.
                let anew = record.is_leaving() && cached.is_some();
                Target { key: record.key.clone(), cached, record: (!anew).then_some(record) }
            })
            .collect();
        if !known.is_empty() {
            return known;
        }
        match network {
            // The name of the file is known then, and no other need be read.
            Some(network) => {
                let key = Key { id: id.clone(), ifname: ifname.clone(), network: network.clone() };
                let cached = self.cache.get(network, id, ifname);
                known.extend(cached.map(|cached| Target {
                    key,
                    record: None,
                    cached: Some(cached),
                }));
            }
            None => known.extend(self.cache.of(id, ifname).into_iter().map(|cached| Target {
                key: Key {
                    id: id.clone(),
                    ifname: ifname.clone(),
                    network: cached.network_name.clone(),
                },
                record: None,
                cached: Some(cached),
            })),
        }
        known
    }

    async fn del(self: &Arc<Self>, attachment: &Attachment) -> Result<(), CniError> {
        let mut first = Ok(());
        for target in self.targets(attachment).await? {
            let done = self.del_one(&target, attachment).await;
            first = first.and(done);
        }
        first
    }

    /// The list that the attachment was made with, or that has its network's name now.
    async fn list_of(self: &Arc<Self>, target: &Target) -> Result<Arc<NetworkList>, CniError> {
        let recorded = target.record.as_ref().map(|record| record.config.clone().into_bytes());
        let kept = recorded.or_else(|| target.cached.as_ref().and_then(Cached::config));
        if let Some(bytes) = kept {
            match NetworkList::parse(&bytes, Path::new("kept configuration")) {
                Ok(list) => return Ok(Arc::new(list)),
                Err(error) => {
                    let error = pouch_types::error::chain(&error);
                    tracing::warn!(network = target.key.network, error, "is taken from its file");
                }
            }
        }
        self.list(Some(&target.key.network)).await
    }

    /// What the plugins are told of an attachment that exists: as it was made.
    fn call_of(target: &Target, attachment: &Attachment) -> Call {
        let given = attachment.netns.display().to_string();
        let mut call = match (&target.record, &target.cached) {
            (Some(record), _) => record.call(),
            (None, Some(cached)) => Call {
                id: target.key.id.clone(),
                netns: cached.netns.clone(),
                ifname: target.key.ifname.clone(),
                args: cached.cni_args.clone().unwrap_or_else(|| attachment.args.clone()),
                capability_args: cached.capability_args.clone().unwrap_or_default(),
            },
            (None, None) => Call {
                id: target.key.id.clone(),
                netns: String::new(),
                ifname: target.key.ifname.clone(),
                args: attachment.args.clone(),
                capability_args: attachment.capability_args(),
            },
        };
        if !given.is_empty() {
            call.netns = given;
        }
        call
    }

    async fn del_one(
        self: &Arc<Self>,
        target: &Target,
        attachment: &Attachment,
    ) -> Result<(), CniError> {
        let key = &target.key;
        if target.record.as_ref().is_some_and(Record::is_leaving) {
            // We detached it a moment ago.
            return Ok(());
        }
        let mut call = Self::call_of(target, attachment);
        if let Some(record) = &target.record
            && let How::Native(made) = &record.how
        {
            self.native.del(record).await?;
            let cached = target.cached.as_ref();
            let Some(cached) = cached.filter(|cached| !cached.mentions(&made.near)) else {
                return self.cache.remove(&key.network, &key.id, &key.ifname);
            };
            // Another runtime detached it and attached it anew.
            let (key, cached) = (key.clone(), Some(cached.clone()));
            let theirs = Target { key, record: None, cached };
            return Box::pin(self.del_one(&theirs, attachment)).await;
        }
        let list = match self.list_of(target).await {
            Ok(list) => list,
            // A network that is gone, and nothing of it here: nothing to detach.
            Err(CniError::NoNetwork { .. } | CniError::NoSuchNetwork { unreadable: None, .. })
                if target.record.is_none() && target.cached.is_none() =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        match Netns::open(Path::new(&call.netns)) {
            Ok(_) => {}
            // The specification's way to say that it is gone.
            Err(NetnsError::NotFound { .. } | NetnsError::NotANamespace { .. }) => {
                call.netns.clear();
            }
            Err(_) if call.netns.is_empty() => {}
            Err(error) => return Err(CniError::netns(&list.name)(error)),
        }
        if target.record.is_none()
            && self.native_use() == NativeUse::Yes
            && let Some(plan) = native::plan(&list, &call)
            && list.plugins.iter().any(|plugin| self.plugins.find(&plugin.kind).is_err())
        {
            self.native.del_unknown(plan).await?;
            return self.cache.remove(&key.network, &key.id, &key.ifname);
        }
        let previous = target.cached.as_ref().filter(|_| list.version.has_check());
        // What cannot be read does not keep anybody attached.
        let previous = previous.and_then(|cached| AddResult::read(&cached.result).ok());
        let mut first = Ok(());
        for plugin in list.plugins.iter().rev() {
            let done =
                self.plugins.order(&list, plugin, Stage::Del, &call, previous.as_ref(), None).await;
            first = first.and(done);
        }
        first?;
        self.cache.remove(&key.network, &key.id, &key.ifname)?;
        if target.record.is_some() { self.records.remove(key) } else { Ok(()) }
    }

    async fn check(self: &Arc<Self>, attachment: &Attachment) -> Result<(), CniError> {
        for target in self.targets(attachment).await? {
            self.check_one(&target, attachment).await?;
        }
        Ok(())
    }

    async fn check_one(
        self: &Arc<Self>,
        target: &Target,
        attachment: &Attachment,
    ) -> Result<(), CniError> {
        let list = self.list_of(target).await?;
        let network = list.name.clone();
        if !list.version.has_check() {
            return Err(CniError::NoCheck { network, version: list.version.to_string() });
        }
        if list.check == Use::Disabled {
            return Ok(());
        }
        let differs =
            |what: &str| CniError::Differs { network: network.clone(), what: what.to_owned() };
        let cached = target.cached.as_ref().ok_or_else(|| differs("no result of its ADD is kept"));
        let result = AddResult::read(&cached?.result)
            .map_err(|_| differs("the kept result of its ADD does not parse"))?;
        let call = Self::call_of(target, attachment);
        if let Some(Record { how: How::Native(made), .. }) = &target.record
            && let Some(plan) = native::plan(&list, &call)
        {
            return self.native.check(plan, made.clone(), result).await;
        }
        for plugin in &list.plugins {
            self.plugins.order(&list, plugin, Stage::Check, &call, Some(&result), None).await?;
        }
        Ok(())
    }

    async fn gc(self: &Arc<Self>, valid: &[ValidAttachment]) -> Result<(), CniError> {
        let valid: HashSet<&ValidAttachment> = valid.iter().collect();
        let mut first = Ok(());
        for record in self.records.all().into_iter().filter(|record| !record.is_leaving()) {
            let Key { id, ifname, network } = record.key;
            if valid.contains(&ValidAttachment { id: id.clone(), ifname: ifname.clone() }) {
                continue;
            }
            tracing::info!(id, ifname, network, "an attachment that nobody wants");
            let stale = Attachment { id, ifname, network: Some(network), ..Attachment::default() };
            let _held = self.locks.hold(&stale.id, &stale.ifname).await;
            first = first.and(self.del(&stale).await);
        }
        let inner = Arc::clone(self);
        let all = spawn_blocking(move || inner.configurations.all().map(|(all, _)| all)).await;
        for list in all.map_err(|_| panicked("all"))??.iter() {
            if list.version.has_status_and_gc() && list.gc == Use::Allowed {
                first = first.and(self.collect(list, &valid).await);
            }
        }
        first
    }

    /// GC of one list.
    async fn collect(
        self: &Arc<Self>,
        list: &Arc<NetworkList>,
        valid: &HashSet<&ValidAttachment>,
    ) -> Result<(), CniError> {
        let inner = Arc::clone(self);
        let cached = spawn_blocking(move || inner.cache.all()).await;
        let cached = cached.map_err(|_| panicked(&list.name))?;
        let others = cached.into_iter().filter(|cached| cached.network_name == list.name);
        let others = others.map(|cached| (cached.container_id, cached.if_name));
        let begun = self
            .records
            .all()
            .into_iter()
            .filter(|r| r.key.network == list.name && !r.is_leaving());
        let begun = begun.map(|record| (record.key.id, record.key.ifname));
        let given = valid.iter().map(|one| (one.id.clone(), one.ifname.clone()));
        let living: HashSet<_> = given.chain(others).chain(begun).collect();
        if self.native_use() == NativeUse::Yes && native::is_native(list) {
            return self.native.collect(list, living).await;
        }
        let mut attachments: Vec<_> = living.into_iter().collect();
        attachments.sort();
        let attachments: Value = attachments
            .into_iter()
            .map(|(id, ifname)| json!({"containerID": id, "ifname": ifname}))
            .collect();
        let mut first = Ok(());
        for plugin in &list.plugins {
            let call = Call::default();
            let plugins = &self.plugins;
            let done =
                plugins.order(list, plugin, Stage::Gc, &call, None, Some(&attachments)).await;
            first = first.and(done);
        }
        first
    }
}

/// Whether the plugin is not there, so that there is nothing that it made.
fn is_missing_plugin(error: &CniError) -> bool {
    let CniError::Plugin { failure, .. } = error else { return false };
    matches!(**failure, PluginFailure::Missing { .. } | PluginFailure::Name)
}

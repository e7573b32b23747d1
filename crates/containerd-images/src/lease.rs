//! Leases: what is being made is kept from the collector until it is named.
//!
//! All work under way shares one lease, which containerd forgets a day after its making whatever
//! happens; work that begins when it is no longer fresh gets a new one. It is deleted with the last
//! work that used it, unless some of that was broken off: then what was made waits for the next
//! attempt until the lease expires.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use pouch_containerd_grpc::Pool;
use pouch_containerd_grpc::leases::{
    AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, Resource,
};
use pouch_image::{Ending, Hold};
use pouch_types::{Classified as _, ErrorKind};
use tokio::sync::{Mutex as AsyncMutex, RwLock};

use crate::call::{COLLECT, Call, QUICK, Result};

/// Label that ends a lease.
const EXPIRE: &str = "containerd.io/gc.expire";
/// Label of our leases.
const OWNER: &str = "dev.pouch.owner";
/// From a lease's making to its end.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long new work joins a lease. No work takes the rest of its life.
const FRESH: Duration = Duration::from_secs(3600);

/// The leases of one store.
#[derive(Debug)]
pub(crate) struct Leases {
    pool: Pool,
    owner: String,
    current: Mutex<Weak<Lease>>,
    /// Held while one is made.
    making: AsyncMutex<()>,
    /// Held for reading while one is deleted.
    deleting: Arc<RwLock<()>>,
}

#[derive(Debug)]
struct Lease {
    id: String,
    since: Instant,
    pool: Pool,
    kept: AtomicBool,
    deleting: Arc<RwLock<()>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.kept.load(Ordering::Relaxed) {
            return;
        }
        // Without a runtime the process ends, and the lease with its time.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let deleting = Arc::clone(&self.deleting).try_read_owned();
        let (pool, id) = (self.pool.clone(), std::mem::take(&mut self.id));
        runtime.spawn(async move {
            if let Err(error) = delete(&pool, id, Collector::Later).await {
                tracing::debug!(%error, "a lease is left to expire");
            }
            drop(deleting);
        });
    }
}

/// When the collector runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Collector {
    Later,
    Now,
}

async fn delete(pool: &Pool, id: String, collector: Collector) -> Result<()> {
    let call = Call { stage: "delete a lease", limit: COLLECT, lease: None };
    let request = call.request(DeleteRequest { id, sync: collector == Collector::Now });
    match call.answer(pool.leases().delete(request)).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Leases {
    pub(crate) fn new(pool: Pool, owner: String) -> Self {
        Self {
            pool,
            owner,
            current: Mutex::default(),
            making: AsyncMutex::default(),
            deleting: Arc::default(),
        }
    }

    fn lease(&self) -> Option<Arc<Lease>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    /// The lease of the work under way.
    pub(crate) fn current(&self) -> Option<String> {
        self.lease().map(|lease| lease.id.clone())
    }

    /// Begins work.
    pub(crate) async fn hold(&self) -> Result<Hold> {
        let _making = self.making.lock().await;
        let lease = match self.lease().filter(|lease| lease.since.elapsed() < FRESH) {
            Some(lease) => lease,
            None => {
                let lease = Arc::new(self.create().await?);
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) =
                    Arc::downgrade(&lease);
                lease
            }
        };
        Ok(Hold::new(move |ending| {
            if ending == Ending::BrokenOff {
                lease.kept.store(true, Ordering::Relaxed);
            }
            drop(lease);
        }))
    }

    async fn create(&self) -> Result<Lease> {
        let random = pouch_types::id::random_hex()
            .map_err(|e| pouch_containerd::Error::Codec(format!("no random bytes: {e}")))?;
        let id = format!("pouch-{}", &random[..16]);
        let life = jiff::SignedDuration::try_from(LIFE).unwrap_or(jiff::SignedDuration::MAX);
        let end = jiff::Timestamp::now().checked_add(life).unwrap_or(jiff::Timestamp::MAX);
        let labels = [(EXPIRE, end.to_string()), (OWNER, self.owner.clone())];
        let labels = labels.map(|(key, value)| (key.to_owned(), value)).into();
        let call = Call { stage: "make a lease", limit: QUICK, lease: None };
        let request = call.request(CreateRequest { id: id.clone(), labels });
        call.answer(self.pool.leases().create(request)).await?;
        Ok(Lease {
            id,
            since: Instant::now(),
            pool: self.pool.clone(),
            kept: AtomicBool::new(false),
            deleting: Arc::clone(&self.deleting),
        })
    }

    /// Gives what was found to be there to the lease of the work under way, if there is any.
    pub(crate) async fn add(&self, id: String, kind: String) -> Result<()> {
        let Some(lease) = self.current() else { return Ok(()) };
        let call = Call { stage: "add to a lease", limit: QUICK, lease: None };
        let resource = Some(Resource { id, r#type: kind });
        let request = call.request(AddResourceRequest { id: lease, resource });
        call.answer(self.pool.leases().add_resource(request)).await
    }

    /// Waits until the leases of work that has ended are gone.
    pub(crate) async fn settled(&self) {
        drop(self.deleting.write().await);
    }

    /// Ends what waits for another attempt, and collects.
    pub(crate) async fn end_all(&self) -> Result<()> {
        self.settled().await;
        let quoted = self.owner.replace('\\', "\\\\").replace('"', "\\\"");
        let call = Call { stage: "list leases", limit: QUICK, lease: None };
        let filters = vec![format!("labels.\"{OWNER}\"==\"{quoted}\"")];
        let request = call.request(ListRequest { filters });
        let listed = call.answer(self.pool.leases().list(request)).await?;
        let current = self.current();
        for lease in listed.leases {
            if Some(&lease.id) != current.as_ref() {
                delete(&self.pool, lease.id, Collector::Later).await?;
            }
        }
        self.collect().await
    }

    /// Runs the collector.
    pub(crate) async fn collect(&self) -> Result<()> {
        let lease = self.create().await?;
        // This one is not left to its drop.
        lease.kept.store(true, Ordering::Relaxed);
        delete(&self.pool, lease.id.clone(), Collector::Now).await
    }
}

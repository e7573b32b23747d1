//! What is remembered between calls: rates from two looks at a counter, and the size of what a
//! container wrote from a walk that runs beside the calls, never in one.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pouch_engine::{ContainerView, Engine, Written};
use pouch_types::ContainerId;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::timestamp;

/// Between two looks at one counter for a rate: what comes sooner gets the rate of before.
const RATE_STEP: Duration = Duration::from_millis(500);
/// How old the size of a writable layer may be before it is measured again.
const WRITTEN_AGE: Duration = Duration::from_secs(10);
/// A layer is walked for one part in so many of the time at most, however large it is.
const WALK_SHARE: u32 = 20;
/// Walks at a time.
static WALKS: Semaphore = Semaphore::const_new(2);
/// How long a call waits for layers of which nothing is known yet, all together.
const FIRST_WALKS: Duration = Duration::from_millis(250);
/// Between two looks for containers that are gone.
const FORGET_STEP: Duration = Duration::from_secs(30);

/// A counter as it was seen.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    total: u64,
    /// Nanoseconds of CPU time per second; `None` while there was one look only.
    rate: Option<u64>,
}

/// What a container has written, as it was last measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) written: Written,
    /// When, nanoseconds since 1970.
    pub(crate) at: i64,
}

/// What is known of a writable layer.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    layer: Option<Layer>,
    /// When it is to be measured again; `None` before the first walk has ended.
    due: Option<Instant>,
    walking: bool,
    /// It was measured after its container had ended and is what it will be.
    last: bool,
}

impl Measured {
    /// Whether it is time to walk.
    fn wants(&self, running: bool, now: Instant) -> bool {
        let due = self.due.is_none_or(|due| now >= due);
        !self.walking && due && (running || !self.last)
    }
}

/// Memory of earlier looks.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    cpu: Mutex<HashMap<ContainerId, Seen>>,
    disk: Mutex<HashMap<ContainerId, Measured>>,
    forgotten: Mutex<Option<Instant>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sampler {
    /// CPU time per second since the last look, of a counter that showed `total` at `at`.
    pub(super) fn rate(&self, id: &ContainerId, total: u64, at: Instant) -> Option<u64> {
        let mut seen = lock(&self.cpu);
        let entry = seen.entry(id.clone()).or_insert(Seen { at, total, rate: None });
        let passed = at.saturating_duration_since(entry.at);
        if passed >= RATE_STEP {
            let used = u128::from(total.saturating_sub(entry.total));
            let rate = used * 1_000_000_000 / passed.as_nanos().max(1);
            *entry = Seen { at, total, rate: Some(u64::try_from(rate).unwrap_or(u64::MAX)) };
        }
        entry.rate
    }

    /// Measures beside the call what was measured long ago. Gives the walk when it is the first.
    fn measure(self: &Arc<Self>, engine: &Engine, view: &ContainerView) -> Option<JoinHandle<()>> {
        let running = view.state.is_running();
        let mut disk = lock(&self.disk);
        let entry = disk.entry(view.id.clone()).or_default();
        if !entry.wants(running, Instant::now()) {
            return None;
        }
        entry.walking = true;
        let first = entry.due.is_none();
        drop(disk);
        let (sampler, engine, id) = (Arc::clone(self), engine.clone(), view.id.clone());
        let walk = tokio::spawn(async move {
            // The semaphore is never closed.
            let _place = WALKS.acquire().await;
            let began = Instant::now();
            let measured = engine.written(id.as_str()).await;
            let now = Instant::now();
            let pause = WRITTEN_AGE.max(now.saturating_duration_since(began) * WALK_SHARE);
            let mut disk = lock(&sampler.disk);
            let Some(entry) = disk.get_mut(&id) else { return };
            entry.walking = false;
            entry.due = Some(now + pause);
            if let Ok(written) = measured {
                entry.layer = Some(Layer { written, at: timestamp() });
                entry.last = !running;
            }
        });
        first.then_some(walk)
    }

    fn layer(&self, id: &ContainerId) -> Option<Layer> {
        lock(&self.disk).get(id).and_then(|entry| entry.layer)
    }

    /// What containers have written, in their order. Those of which nothing is known yet are
    /// waited for a moment; `None` when it is not known after that.
    pub(crate) async fn layers(
        self: &Arc<Self>,
        engine: &Engine,
        views: &[Arc<ContainerView>],
    ) -> Vec<Option<Layer>> {
        self.forget(engine);
        let walks: Vec<_> = views.iter().filter_map(|view| self.measure(engine, view)).collect();
        if !walks.is_empty() {
            // Cancel-safe: a walk ends without its waiter, too.
            let all = futures::future::join_all(walks);
            let _ = tokio::time::timeout(FIRST_WALKS, all).await;
        }
        views.iter().map(|view| self.layer(&view.id)).collect()
    }

    /// What all containers of pods have written, as far as it is known.
    pub(crate) fn written(self: &Arc<Self>, engine: &Engine) -> Total {
        self.forget(engine);
        let mut total = Total::default();
        for view in engine.pod_containers() {
            let _ = self.measure(engine, &view);
            if let Some(layer) = self.layer(&view.id) {
                total.bytes = total.bytes.saturating_add(layer.written.size);
                total.inodes = total.inodes.saturating_add(layer.written.inodes);
            }
        }
        total
    }

    /// Forgets pods and containers that are gone, now and then.
    fn forget(&self, engine: &Engine) {
        let now = Instant::now();
        let mut last = lock(&self.forgotten);
        if last.is_some_and(|last| now.saturating_duration_since(last) < FORGET_STEP) {
            return;
        }
        *last = Some(now);
        drop(last);
        let containers = engine.pod_containers().into_iter().map(|view| view.id.clone());
        let pods = engine.pods().into_iter().map(|view| view.id.clone());
        self.keep(&containers.chain(pods).collect());
    }

    fn keep(&self, living: &HashSet<ContainerId>) {
        lock(&self.disk).retain(|id, _| living.contains(id));
        lock(&self.cpu).retain(|id, _| living.contains(id));
    }
}

/// Disk use of several containers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Total {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(letter: &str) -> ContainerId {
        letter.repeat(64).parse().unwrap()
    }

    #[test]
    fn a_rate_is_of_the_time_between_two_looks() {
        let sampler = Sampler::default();
        let id = id("a");
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(sampler.rate(&id, 1_000_000_000, at(0)), None, "there is no before");
        assert_eq!(sampler.rate(&id, 1_100_000_000, at(100)), None, "too soon");
        assert_eq!(sampler.rate(&id, 3_000_000_000, at(1000)), Some(2_000_000_000));
        assert_eq!(sampler.rate(&id, 9_000_000_000, at(1100)), Some(2_000_000_000), "too soon");
        assert_eq!(sampler.rate(&id, 9_000_000_000, at(900)), Some(2_000_000_000), "overtaken");
        assert_eq!(sampler.rate(&id, 0, at(3000)), Some(0), "a counter that began anew");
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let sampler = Sampler::default();
        let start = Instant::now();
        for name in ["a", "b"] {
            sampler.rate(&id(name), 1, start);
            lock(&sampler.disk).insert(id(name), Measured::default());
        }
        sampler.keep(&HashSet::from([id("b")]));
        assert_eq!(lock(&sampler.cpu).keys().collect::<Vec<_>>(), [&id("b")]);
        assert_eq!(lock(&sampler.disk).keys().collect::<Vec<_>>(), [&id("b")]);
    }

    #[test]
    fn a_layer_is_walked_when_due_and_once_after_its_container_ended() {
        let now = Instant::now();
        let later = now + WRITTEN_AGE;
        let fresh = Measured::default();
        assert!(fresh.wants(true, now) && fresh.wants(false, now));
        let measured = Measured { due: Some(later), ..fresh };
        assert!(!measured.wants(true, now) && measured.wants(true, later));
        assert!(measured.wants(false, later), "it was running when it was measured");
        let ended = Measured { last: true, ..measured };
        assert!(!ended.wants(false, later) && ended.wants(true, later));
        assert!(!Measured { walking: true, ..measured }.wants(true, later), "one walk at a time");
    }
}

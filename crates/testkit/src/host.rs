//! Sets a daemon up for one test, and checks afterwards that nothing is left of it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::daemon::Daemon;
use crate::programs::ready;

/// What the daemon of a test is to be like.
#[derive(Debug, Default)]
pub struct Host {
    pub(crate) flags: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) bare: bool,
    pub(crate) on_containerd: bool,
    pub(crate) own_images: bool,
    pub(crate) pods: bool,
}

impl Host {
    /// A daemon with the defaults and the image `busybox`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds flags of `pouchd`.
    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// Adds a variable to the environment of the first `pouchd`; later ones go without.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Puts the daemon on a containerd of its own, which has to be there
    /// ([`crate::Containerd::binary`]).
    #[must_use]
    pub fn on_containerd(mut self) -> Self {
        self.on_containerd = true;
        self
    }

    /// Keeps images itself whenever it serves that containerd, so that it can serve either backend.
    #[must_use]
    pub fn with_own_images(mut self) -> Self {
        self.own_images = true;
        self
    }

    /// Serves the CRI too, with a bridge for pods ([`Daemon::kubelet`]).
    #[must_use]
    pub fn with_pods(mut self) -> Self {
        self.pods = true;
        self
    }

    /// Leaves out the image.
    #[must_use]
    pub fn without_image(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Runs a test: starts the daemon, calls `test`, removes what the test left, and asserts by
    /// census that nothing remains. Does nothing but print the reason where it cannot.
    ///
    /// # Panics
    ///
    /// When the test does, when something leaked, or when the daemon does not end as it should.
    pub fn run(self, test: impl FnOnce(&mut Daemon)) {
        if !ready() {
            return;
        }
        let bare = self.bare;
        let mut daemon = Daemon::start(self);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let before = daemon.settled();
            let starts = daemon.starts;
            test(&mut daemon);
            daemon.clear();
            if daemon.starts != starts && !bare {
                daemon.warm_up();
            }
            daemon.assert_nothing_since(&before);
            daemon.stop();
            daemon.forget_pod_network();
            daemon.assert_gone();
            daemon.assert_no_shims();
        }));
        if result.is_err() {
            daemon.dump();
        }
        daemon.demolish();
        if let Err(panic) = result {
            resume_unwind(panic);
        }
    }
}

//! What all containers share: bridge and rules, made at first use, put right after a restart,
//! taken down when nobody needs them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

use tokio::sync::RwLockReadGuard;

use super::attachment::forwards;
use super::{Inner, Users, blocking};
use crate::driver::{NetworkDriver, Presence};
use crate::endpoint::{LiveContainer, Reconciled};
use crate::error::NetworkError;
use crate::forwarding::{self, Transit};
use crate::lease;
use crate::ruleset::{Base, ForeignTransit};

impl Inner {
    /// Bridge, sysctls and rules, made unless they stand.
    pub(super) async fn plant(&self) -> Result<RwLockReadGuard<'_, ()>, NetworkError> {
        let plant = self.plant.read().await;
        if self.stands() {
            return Ok(plant);
        }
        drop(plant);
        let plant = self.plant.write().await;
        if !self.stands() {
            let driver = self.bridge.clone();
            let _rules = self.rules.lock().await;
            // The rules before the bridge: never a moment with an address and no guard.
            self.install().await?;
            blocking(move || driver.prepare()).await?;
            self.stands.store(true, Ordering::Release);
        }
        Ok(plant.downgrade())
    }

    /// Installs the rules for what the records say. The caller holds `rules`.
    pub(super) async fn install(&self) -> Result<(), NetworkError> {
        let rows = self.store.read(|db| lease::endpoints(db, None)).await?;
        let published: Vec<_> =
            rows.iter().flat_map(|row| forwards(&row.leased.endpoint)).collect();
        let (mode, state_dir) = (self.config.forwarding, self.config.state_dir.clone());
        let transit = match forwarding::plan(mode, &state_dir)? {
            Transit::Allowed => ForeignTransit::Pass,
            Transit::Blocked => ForeignTransit::Drop,
        };
        let base = Base {
            bridge: self.bridge.name.clone(),
            subnet: self.bridge.subnet,
            icc: self.config.icc,
            masquerade: self.config.masquerade,
            transit,
        };
        self.ruleset.install(&base, &published).await?;
        forwarding::enable(mode)
    }

    pub(super) async fn reconcile(
        &self,
        live: Vec<LiveContainer>,
    ) -> Result<Reconciled, NetworkError> {
        let live: HashMap<_, _> = live.into_iter().map(|c| (c.id, c.netns)).collect();
        drop(self.trailing.write().await);
        let rows = self.store.read(|db| lease::endpoints(db, None)).await?;
        let (kept, dead): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| live.contains_key(&row.container));
        let mut done = Reconciled::default();
        let keep: HashSet<_> =
            kept.iter().map(|row| row.leased.endpoint.endpoint_id.clone()).collect();
        let bridge = self.bridge.clone();
        done.stray_links = blocking(move || bridge.sweep(&keep)).await?;
        for row in dead {
            let id = row.leased.endpoint.endpoint_id;
            // Their links went with the sweep, their rules go with the installation below.
            self.store.write(move |tx| lease::delete(tx, &id)).await?;
            done.released.push(row.container);
        }
        let bridge = self.bridge.clone();
        let stands = blocking(move || bridge.presence()).await? == Presence::Present;
        let needed = kept.iter().any(|row| row.leased.endpoint.ipv4.is_some());
        if stands || needed {
            drop(self.plant().await?);
        }
        for mut row in kept {
            let ports = &row.leased.endpoint.ports;
            let unbound = self.ports().restore(&row.container, &row.name, ports);
            if !unbound.is_empty() {
                let container = row.container.as_str();
                tracing::warn!(container, ?unbound, "published ports could not be reserved again");
            }
            row.leased.netns = live.get(&row.container).cloned().flatten().or(row.leased.netns);
            let driver = self.driver_of(&row.leased.endpoint);
            let leased = row.leased;
            let mended = blocking(move || match driver.is_up(&leased.endpoint)? {
                Presence::Present => Ok(Presence::Present),
                Presence::Absent => driver.setup(&leased).map(|()| Presence::Absent),
            });
            match mended.await {
                Ok(Presence::Present) => done.kept.push(row.container),
                Ok(Presence::Absent) => done.repaired.push(row.container),
                Err(error) => done.failed.push((row.container, error)),
            }
        }
        Ok(done)
    }

    pub(super) async fn take_down(&self, users: Users) -> Result<(), NetworkError> {
        let rows = self.store.read(|db| lease::endpoints(db, None)).await?;
        if users == Users::Removed {
            for row in &rows {
                self.drop_endpoint(row).await?;
            }
        }
        drop(self.trailing.write().await);
        let _plant = self.plant.write().await;
        // Again, now that nobody can attach.
        let rows = self.store.read(|db| lease::endpoints(db, None)).await?;
        if rows.iter().any(|row| row.leased.endpoint.ipv4.is_some()) {
            return Ok(());
        }
        let _rules = self.rules.lock().await;
        self.stands.store(false, Ordering::Release);
        let (state_dir, bridge) = (self.config.state_dir.clone(), self.bridge.clone());
        // Forwarding off before the rules that fence it go.
        blocking(move || {
            forwarding::restore(&state_dir, &bridge.name)?;
            bridge.remove()
        })
        .await?;
        self.ruleset.remove().await?;
        Ok(())
    }
}

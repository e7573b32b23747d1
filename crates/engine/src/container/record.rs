//! What the store keeps of a container, and the copy beside it.
//!
//! The row is the truth. After each commit the same JSON is written to `record.json` in the
//! container's directory, without fsync: it serves to rebuild a damaged database, and it carries
//! what is not worth a durable write of its own (the pid and the start time of a run).

use std::path::Path;

use jiff::Timestamp;
use pouch_containerd::Kind;
use pouch_store::{Schema, StoreError};
use pouch_types::spec::ContainerSpec;
use pouch_types::{ContainerId, ContainerName, ImageId};
use rusqlite::Transaction;
use serde::{Deserialize, Serialize};

use super::state::State;
use crate::records;
use crate::view::MountPoint;

/// The containers' table.
pub(crate) const SCHEMA: Schema = Schema {
    owner: "engine",
    migrations: &[
        "CREATE TABLE containers (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            image TEXT NOT NULL,
            revision INTEGER NOT NULL,
            record TEXT NOT NULL
        ) STRICT",
        crate::pod::record::TABLE,
    ],
};

/// Its name.
pub(crate) const NAME: &str = "containers";

/// Everything about a container that must survive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Its id.
    pub(crate) id: ContainerId,
    /// Its name.
    pub(crate) name: ContainerName,
    /// When it was created.
    pub(crate) created: Timestamp,
    /// The image.
    pub(crate) image: ImageId,
    /// What it is to be.
    pub(crate) spec: ContainerSpec,
    /// Command line of pid 1.
    pub(crate) argv: Vec<String>,
    /// Mounts as resolved at create.
    pub(crate) mounts: Vec<MountPoint>,
    /// Where it is in its life.
    pub(crate) state: State,
    /// `/proc/sys/kernel/random/boot_id` under which `state` was true.
    pub(crate) boot_id: String,
    /// Counts changes; the higher of row and copy is newer.
    pub(crate) revision: u64,
    /// Which backend made the current or last run; `None` before the first, and in records of
    /// versions that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backend: Option<Kind>,
}

impl Record {
    /// Adds the row.
    ///
    /// # Errors
    /// A unique violation when the name is taken.
    pub(crate) fn insert(&self, tx: &Transaction<'_>) -> Result<(), StoreError> {
        tx.execute(
            "INSERT INTO containers (id, name, image, revision, record) VALUES (?1, ?2, ?3, ?4, ?5)",
            (
                self.id.as_str(),
                self.name.as_str(),
                self.image.to_string(),
                self.revision.cast_signed(),
                self.json()?,
            ),
        )?;
        Ok(())
    }

    /// Replaces the row, unless it is newer.
    ///
    /// # Errors
    /// A unique violation when the name is taken.
    pub(crate) fn update(&self, tx: &Transaction<'_>) -> Result<(), StoreError> {
        tx.execute(
            "UPDATE containers SET name = ?2, revision = ?3, record = ?4 \
             WHERE id = ?1 AND revision < ?3",
            (self.id.as_str(), self.name.as_str(), self.revision.cast_signed(), self.json()?),
        )?;
        Ok(())
    }

    /// Removes the row.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn delete(tx: &Transaction<'_>, id: &ContainerId) -> Result<(), StoreError> {
        tx.execute("DELETE FROM containers WHERE id = ?1", [id.as_str()])?;
        Ok(())
    }

    fn json(&self) -> Result<String, StoreError> {
        records::json(self, NAME)
    }
}

/// What the shim records of the end of a run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct ExitFile {
    /// The run.
    pub(crate) generation: u64,
    /// 128 + n after signal n.
    pub(crate) exit_status: i32,
    /// When.
    pub(crate) exited_at: Timestamp,
    /// The kernel killed a process of it for memory.
    #[serde(default)]
    pub(crate) oom_killed: bool,
}

impl ExitFile {
    /// The file's name in the container's directory.
    pub(crate) const NAME: &'static str = "exit.json";

    /// Reads what the shim recorded of run `generation`; `None` when there is nothing of that run.
    #[must_use]
    pub(crate) fn read(dir: &Path, generation: u64) -> Option<Self> {
        use std::io::Read as _;
        let mut text = Vec::new();
        std::fs::File::open(dir.join(Self::NAME)).ok()?.take(65536).read_to_end(&mut text).ok()?;
        let exit: Self = serde_json::from_slice(&text).ok()?;
        (exit.generation == generation).then_some(exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first schema wrote it, without what came later.
    const FORMER: &str = include_str!("fixtures/record-1.json");

    #[test]
    fn a_record_of_an_earlier_build_is_read_and_says_no_backend() {
        let record: Record = serde_json::from_str(FORMER).unwrap();
        assert_eq!((record.backend, record.state.generation), (None, 3));
        assert_eq!(record.spec.image_name, "busybox");
    }

    #[test]
    fn a_record_of_a_later_build_is_read_without_what_is_not_known() {
        let mut later: serde_json::Value = serde_json::from_str(FORMER).unwrap();
        later["from_the_future"] = serde_json::json!({"a": [1]});
        later["state"]["from_the_future"] = true.into();
        later["backend"] = "remote".into();
        let record: Record = serde_json::from_value(later).unwrap();
        assert_eq!(record.backend, Some(Kind::Remote));
    }

    #[test]
    fn exit_files_of_other_builds_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(dir.path().join(ExitFile::NAME), text).unwrap();
            ExitFile::read(dir.path(), 3).map(|exit| (exit.exit_status, exit.oom_killed))
        };
        let least = r#"{"generation":3,"exit_status":137,"exited_at":"2026-01-02T03:04:05Z"}"#;
        assert_eq!(read(least), Some((137, false)));
        let more = least.replace('}', r#","oom_killed":true,"pid":9,"from_the_future":{}}"#);
        assert_eq!(read(&more), Some((137, true)));
        assert_eq!(read(&least.replace(":3", ":2")), None, "an earlier run");
        assert_eq!(read(&least[..30]), None, "half a file is none");
    }
}

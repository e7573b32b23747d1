//! Layers: committed snapshots, named by their chain ids and made by containerd's differ.

use std::collections::HashMap;

use async_trait::async_trait;
use pouch_containerd::Error;
use pouch_containerd_grpc::diff::ApplyRequest;
use pouch_containerd_grpc::snapshots::{
    CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, UsageRequest,
    UsageResponse,
};
use pouch_containerd_grpc::types::{Descriptor, Mount};
use pouch_content::BlobInfo;
use pouch_image::{Kept, LayerBlob, LayerError, LayerStore, Packing, Unpacked, top_layer};
use pouch_types::{Classified as _, Digest, ErrorKind};
use tokio::task::JoinHandle;

use crate::call::{LAYER, Result, TREE};
use crate::{ContainerdStore, Shared};

/// Label by which containerd's clients know what a layer was made from.
const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// The name of the layer on top of a chain of diffIDs; empty for none.
pub(crate) fn name_of(chain: &[Digest]) -> String {
    pouch_image::chain_ids(chain.iter()).last().map(Digest::to_string).unwrap_or_default()
}

/// An error as the images take it.
pub(crate) fn for_images(error: &Error) -> LayerError {
    LayerError::new(error)
}

impl Shared {
    /// The kind of layers in a lease.
    pub(crate) fn leased(&self) -> String {
        format!("snapshots/{}", self.config.snapshotter)
    }

    /// Disk use of a snapshot.
    pub(crate) async fn usage_of(&self, snapshotter: &str, key: &str) -> Result<UsageResponse> {
        let call = self.call("measure a snapshot", TREE);
        let (snapshotter, key) = (snapshotter.to_owned(), key.to_owned());
        let request = call.request(UsageRequest { snapshotter, key });
        call.answer(self.pool.snapshots().usage(request)).await
    }

    pub(crate) async fn remove_snapshot(&self, snapshotter: &str, key: &str) -> Result<()> {
        let call = self.call("remove a snapshot", TREE);
        let (snapshotter, key) = (snapshotter.to_owned(), key.to_owned());
        let request = call.request(RemoveSnapshotRequest { snapshotter, key });
        match call.answer(self.pool.snapshots().remove(request)).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// The size of the layer on top of a chain, which stays as long as the work under way.
    async fn layer_size(&self, chain: &[Digest]) -> Result<Option<u64>> {
        let name = name_of(chain);
        match self.usage_of(&self.config.snapshotter, &name).await {
            Ok(usage) => {
                self.leases.add(name, self.leased()).await?;
                Ok(Some(u64::try_from(usage.size).unwrap_or(0)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn prepare_layer(&self, key: &str, below: &[Digest]) -> Result<Vec<Mount>> {
        let call = self.making("prepare a layer", TREE);
        let request = call.request(PrepareSnapshotRequest {
            snapshotter: self.config.snapshotter.clone(),
            key: key.to_owned(),
            parent: name_of(below),
            labels: HashMap::new(),
        });
        Ok(call.answer(self.pool.snapshots().prepare(request)).await?.mounts)
    }

    /// Unpacks a blob onto mounts; the diffID of what it held.
    async fn apply(&self, blob: BlobInfo, mounts: Vec<Mount>) -> Result<String> {
        let mut head = Vec::new();
        self.read_blob(&blob.digest, 8, |piece| {
            head.extend_from_slice(piece);
            Ok(())
        })
        .await?;
        let call = self.making("unpack a layer", LAYER);
        let diff = Descriptor {
            media_type: Packing::sniff(&head).media_type().to_owned(),
            digest: blob.digest.to_string(),
            size: i64::try_from(blob.size).unwrap_or(i64::MAX),
            annotations: HashMap::new(),
        };
        let message = ApplyRequest { diff: Some(diff), mounts, payloads: HashMap::new() };
        let answer = call.answer(self.pool.diff().apply(call.request(message))).await?;
        Ok(answer.applied.map(|applied| applied.digest).unwrap_or_default())
    }

    async fn commit_layer(&self, key: &str, chain: &[Digest], diff_id: &Digest) -> Result<()> {
        let call = self.making("commit a layer", TREE);
        let request = call.request(CommitSnapshotRequest {
            snapshotter: self.config.snapshotter.clone(),
            name: name_of(chain),
            key: key.to_owned(),
            labels: HashMap::from([(UNCOMPRESSED.to_owned(), diff_id.to_string())]),
        });
        match call.answer(self.pool.snapshots().commit(request)).await {
            // Somebody else was quicker; theirs is in our lease now.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.remove_snapshot(&self.config.snapshotter, key).await
            }
            other => other,
        }
    }
}

/// A snapshot that is being filled. It goes when it is dropped before it was committed.
struct Filling<'a> {
    store: &'a ContainerdStore,
    key: Option<String>,
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let shared = std::sync::Arc::clone(&self.store.shared);
        let _removal: JoinHandle<()> = self.store.shared.runtime.spawn(async move {
            if let Err(error) = shared.remove_snapshot(&shared.config.snapshotter, &key).await {
                tracing::debug!(%error, key, "half a layer is left to its lease");
            }
        });
    }
}

#[async_trait]
impl LayerStore for ContainerdStore {
    async fn get(&self, chain: &[Digest]) -> std::result::Result<Option<Unpacked>, LayerError> {
        let diff_id = *top_layer(chain)?;
        let size = self.shared.layer_size(chain).await.map_err(|e| for_images(&e))?;
        Ok(size.map(|size| Unpacked { diff_id, size }))
    }

    async fn apply(
        &self,
        blob: LayerBlob,
        chain: &[Digest],
    ) -> std::result::Result<Unpacked, LayerError> {
        let diff_id = *top_layer(chain)?;
        // Read by the differ, by its name.
        let blob = BlobInfo { digest: blob.digest, size: blob.size };
        let shared = &self.shared;
        let random = pouch_types::id::random_hex()
            .map_err(|e| LayerError::of(ErrorKind::Internal, format!("no random bytes: {e}")))?;
        // As containerd's own clients name them.
        let key = format!("extract-{} {}", &random[..16], name_of(chain));
        let below = &chain[..chain.len() - 1];
        let mounts = shared.prepare_layer(&key, below).await.map_err(|e| for_images(&e))?;
        let mut filling = Filling { store: self, key: Some(key.clone()) };
        let got = shared.apply(blob, mounts).await.map_err(|e| for_images(&e))?;
        if got != diff_id.to_string() {
            let text = format!("layer diff id mismatch: want {diff_id}, got {got}");
            return Err(LayerError::of(ErrorKind::Invalid, text));
        }
        shared.commit_layer(&key, chain, &diff_id).await.map_err(|e| for_images(&e))?;
        filling.key = None;
        let size = shared.layer_size(chain).await.map_err(|e| for_images(&e))?;
        let size = size.ok_or_else(|| {
            LayerError::of(ErrorKind::Internal, format!("layer {diff_id} vanished at once"))
        })?;
        Ok(Unpacked { diff_id, size })
    }

    /// Nothing: containerd deletes what no image and no container stands on.
    async fn remove(&self, _: &Digest) -> std::result::Result<(), LayerError> {
        Ok(())
    }

    /// None: there is nothing that only we would delete.
    async fn list(&self) -> std::result::Result<Vec<Kept>, LayerError> {
        Ok(Vec::new())
    }
}

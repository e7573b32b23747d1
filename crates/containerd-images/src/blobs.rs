//! Blobs in containerd's content store.
//!
//! What is on its way is written to a file of ours first, hashed and resumable as everywhere, and
//! sent when it is whole. A blob that is needed as a file comes as an unnamed one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pouch_containerd::Error;
use pouch_containerd_grpc::FieldMask;
use pouch_containerd_grpc::content::{
    AbortRequest, Info, InfoRequest, ReadContentRequest, UpdateRequest, WriteAction,
    WriteContentRequest,
};
use pouch_content::{BlobInfo, Blobs, ContentError};
use pouch_types::{Classified as _, Digest, ErrorKind};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;

use crate::call::{QUICK, Result};
use crate::{ContainerdStore, Shared};

/// Bytes of one message of a write.
const PIECE: usize = 1 << 20;
/// Messages on their way.
const AHEAD: usize = 4;
/// Between two messages of a read or a write; the last one of a write waits for the disk.
const IDLE: Duration = Duration::from_secs(120);
/// The kind of blobs in a lease.
const LEASED: &str = "content";

/// A failure with a blob.
fn failed(action: &'static str, digest: &Digest) -> impl Fn(Error) -> ContentError {
    let digest = *digest;
    move |error| match error.kind() {
        ErrorKind::NotFound => ContentError::NotFound(digest),
        kind => ContentError::Elsewhere { action, digest, kind, source: Box::new(error) },
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ContentError {
    let path = path.to_owned();
    move |source| ContentError::Io { action, path, source }
}

impl Shared {
    /// Bytes of a blob; one that is found stays as long as the work under way.
    pub(crate) async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        let call = self.call("look at a blob", QUICK);
        let request = call.request(InfoRequest { digest: digest.to_string() });
        match call.answer(self.pool.content().info(request)).await {
            Ok(answer) => {
                self.leases.add(digest.to_string(), LEASED.to_owned()).await?;
                let size = answer.info.map_or(0, |info| info.size);
                Ok(Some(u64::try_from(size).unwrap_or(0)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives the bytes of a blob to `take`, `most` of them at most when that is not 0.
    pub(crate) async fn read_blob(
        &self,
        digest: &Digest,
        most: u64,
        mut take: impl FnMut(&[u8]) -> std::io::Result<()> + Send,
    ) -> Result<u64> {
        let call = self.call("read a blob", IDLE);
        let size = i64::try_from(most).unwrap_or(i64::MAX);
        let message = ReadContentRequest { digest: digest.to_string(), offset: 0, size };
        let mut client = self.pool.content();
        let mut stream = call.answer(client.read(call.open_ended(message))).await?;
        let mut read = 0;
        while let Some(piece) = call.within(stream.message()).await? {
            read += piece.data.len() as u64;
            take(&piece.data).map_err(|source| Error::Io {
                doing: "write a copy of",
                path: digest.to_string().into(),
                source,
            })?;
        }
        Ok(read)
    }

    /// Makes `source` a blob with labels; one that is there gets the labels.
    pub(crate) async fn write_blob(
        &self,
        blob: BlobInfo,
        source: impl AsyncRead + Unpin + Send + 'static,
        labels: &HashMap<String, String>,
    ) -> Result<()> {
        let random = pouch_types::id::random_hex()
            .map_err(|e| Error::Codec(format!("no random bytes: {e}")))?;
        // Of its own, so that no other write of the same blob is in the way.
        let name = format!("pouch-{}-{}", &blob.digest.hex()[..12], &random[..16]);
        match self.write_as(&name, blob, source, labels).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.label_blob(&blob.digest, labels).await
            }
            Err(error) => {
                let call = self.call("abort a write", QUICK);
                let request = call.request(AbortRequest { r#ref: name });
                if let Err(error) = call.answer(self.pool.content().abort(request)).await {
                    tracing::debug!(%error, "a write is left to its lease");
                }
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    async fn write_as(
        &self,
        name: &str,
        blob: BlobInfo,
        source: impl AsyncRead + Unpin + Send + 'static,
        labels: &HashMap<String, String>,
    ) -> Result<()> {
        let call = self.making("write a blob", IDLE);
        let (sender, receiver) = mpsc::channel(AHEAD);
        let feed = feed(name.to_owned(), blob, source, labels.clone(), sender);
        let feed = tokio::spawn(feed);
        let requests = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|message| (message, receiver))
        });
        let mut client = self.pool.content();
        let written = async {
            let mut answers = call.answer(client.write(call.open_ended(requests))).await?;
            while let Some(answer) = call.within(answers.message()).await? {
                if answer.action() == WriteAction::Commit {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let written: Result<bool> = written.await;
        let fed = match written {
            Ok(true) => return Ok(()),
            Err(error) => {
                feed.abort();
                return Err(error);
            }
            Ok(false) => feed.await,
        };
        match fed {
            Ok(Err(source)) => {
                Err(Error::Io { doing: "read", path: blob.digest.to_string().into(), source })
            }
            _ => Err(Error::Codec(format!("containerd did not take blob {}", blob.digest))),
        }
    }

    /// Sets labels of a blob.
    pub(crate) async fn label_blob(
        &self,
        digest: &Digest,
        labels: &HashMap<String, String>,
    ) -> Result<()> {
        if labels.is_empty() {
            return Ok(());
        }
        let call = self.making("label a blob", QUICK);
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let info = Info { digest: digest.to_string(), labels: labels.clone(), ..Info::default() };
        let update_mask = Some(FieldMask { paths });
        let request = call.request(UpdateRequest { info: Some(info), update_mask });
        call.answer(self.pool.content().update(request)).await.map(drop)
    }

    /// Copies a blob into an unnamed file.
    pub(crate) async fn blob_file(&self, digest: &Digest) -> Result<(File, u64)> {
        let directory = &self.config.directory;
        let failed =
            |source| Error::Io { doing: "make a file in", path: directory.clone(), source };
        let mut file = tempfile::tempfile_in(directory).map_err(failed)?;
        let size = self.read_blob(digest, 0, |piece| file.write_all(piece)).await?;
        file.rewind().map_err(|source| Error::Io {
            doing: "rewind a file in",
            path: directory.clone(),
            source,
        })?;
        Ok((file, size))
    }
}

/// Sends a blob piece by piece; the last message commits it.
async fn feed(
    name: String,
    blob: BlobInfo,
    mut source: impl AsyncRead + Unpin,
    labels: HashMap<String, String>,
    sender: mpsc::Sender<WriteContentRequest>,
) -> std::io::Result<()> {
    let total = i64::try_from(blob.size).unwrap_or(i64::MAX);
    let mut offset = 0;
    let mut labels = Some(labels);
    loop {
        let mut piece = Vec::with_capacity(PIECE.min(usize::try_from(blob.size).unwrap_or(PIECE)));
        (&mut source).take(PIECE as u64).read_to_end(&mut piece).await?;
        let length = i64::try_from(piece.len()).unwrap_or(i64::MAX);
        let is_last = offset + length >= total || piece.is_empty();
        let message = WriteContentRequest {
            action: if is_last { WriteAction::Commit } else { WriteAction::Write }.into(),
            r#ref: name.clone(),
            total,
            expected: blob.digest.to_string(),
            offset,
            data: piece,
            labels: if is_last { labels.take().unwrap_or_default() } else { HashMap::new() },
        };
        // The other end has its reason, which it tells.
        if sender.send(message).await.is_err() || is_last {
            return Ok(());
        }
        offset += length;
    }
}

impl Blobs for ContainerdStore {
    fn size(&self, digest: &Digest) -> std::result::Result<Option<u64>, ContentError> {
        let shared = &self.shared;
        let size = shared.runtime.block_on(shared.blob_size(digest));
        size.map_err(failed("look at", digest))
    }

    fn head(&self, digest: &Digest, most: u64) -> std::result::Result<Vec<u8>, ContentError> {
        let shared = &self.shared;
        let mut bytes = Vec::new();
        let take = |piece: &[u8]| {
            let room = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(bytes.len());
            bytes.extend_from_slice(&piece[..piece.len().min(room)]);
            Ok(())
        };
        let read = shared.runtime.block_on(shared.read_blob(digest, most, take));
        read.map_err(failed("read", digest))?;
        Ok(bytes)
    }

    fn open(&self, digest: &Digest) -> std::result::Result<(File, u64), ContentError> {
        let shared = &self.shared;
        shared.runtime.block_on(shared.blob_file(digest)).map_err(failed("read", digest))
    }

    fn keep(&self, blob: BlobInfo, ingest: &Path) -> std::result::Result<(), ContentError> {
        let shared = &self.shared;
        let file = File::open(ingest).map_err(io("open ingest", ingest))?;
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(PIECE);
        let written = shared.runtime.block_on(shared.write_blob(blob, file, &HashMap::new()));
        written.map_err(failed("write", &blob.digest))
    }

    /// Nothing: containerd deletes what no image names, ours or another's.
    fn delete(&self, _: &Digest) -> std::result::Result<(), ContentError> {
        Ok(())
    }

    /// None: there is nothing that only we would delete.
    fn list(&self) -> std::result::Result<Vec<(BlobInfo, SystemTime)>, ContentError> {
        Ok(Vec::new())
    }
}

impl Shared {
    /// Makes a small blob of bytes in memory.
    pub(crate) async fn put_blob(
        &self,
        bytes: Bytes,
        labels: &HashMap<String, String>,
    ) -> Result<()> {
        let blob = BlobInfo { digest: Digest::of(&bytes), size: bytes.len() as u64 };
        self.write_blob(blob, std::io::Cursor::new(bytes), labels).await
    }
}

//! Blobs to a registry (distribution-spec, "Pushing blobs").
//!
//! A blob that the repository has is not sent; one that another repository of the same registry
//! has is mounted from there. A small one goes in one request, a big one in pieces, so that a
//! broken connection costs a piece: the registry is asked how far it got, and the rest follows.

use std::fmt::Debug;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use pouch_types::Digest;
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION,
    RANGE,
};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::time::MissedTickBehavior;

use crate::Repository;
use crate::document::Descriptor;
use crate::error::RegistryError;
use crate::push::{Target, check_stored};
use crate::transport::{
    PATIENCE, Payload, Request, as_private, host, is_passing, retry_after, same_origin,
};

/// Bytes that are read at once of what is uploaded.
const READ: usize = 128 << 10;
/// For a registry to store a blob that it has all bytes of: some copy or hash it then.
const COMMIT: Duration = Duration::from_secs(300);
/// Between two looks at the progress.
const TICK: Duration = Duration::from_millis(200);
/// Repositories of which a mount is tried.
const MOUNTS: usize = 4;
/// The smallest piece that a registry takes.
const MIN_CHUNK: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// The largest of these that is believed.
const MIN_CHUNK_MAX: u64 = 1 << 30;

/// What is uploaded. It is read from any offset, as often as needed.
#[async_trait]
pub trait UploadSource: Debug + Send + Sync {
    /// At most `max` bytes at `offset`; none only at the end.
    ///
    /// # Errors
    /// I/O.
    async fn read(&self, offset: u64, max: usize) -> io::Result<Bytes>;
}

#[async_trait]
impl UploadSource for Bytes {
    async fn read(&self, offset: u64, max: usize) -> io::Result<Bytes> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        Ok(self.slice(start..self.len().min(start.saturating_add(max))))
    }
}

/// A file that is uploaded.
#[derive(Debug, Clone)]
pub struct FileSource(Arc<std::fs::File>);

impl FileSource {
    /// The whole of a regular file.
    #[must_use]
    pub fn new(file: std::fs::File) -> Self {
        Self(Arc::new(file))
    }
}

#[async_trait]
impl UploadSource for FileSource {
    async fn read(&self, offset: u64, max: usize) -> io::Result<Bytes> {
        let file = Arc::clone(&self.0);
        let read = move || {
            let mut bytes = vec![0; max];
            let got = file.read_at(&mut bytes, offset)?;
            bytes.truncate(got);
            Ok(Bytes::from(bytes))
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }
}

/// How a blob came into the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Present,
    /// From this repository of the same registry; no byte was sent.
    Mounted(String),
    /// It was sent.
    Uploaded,
}

/// An upload that the registry knows.
#[derive(Debug, Clone)]
struct Upload {
    /// Where the next bytes go.
    location: Url,
    /// What the registry has.
    offset: u64,
    chunk: u64,
}

/// What became of sending bytes.
enum Sent {
    Answer(Response),
    /// It broke; how much is there must be asked.
    Broken(RegistryError, Option<Duration>),
}

/// A blob and where its bytes come from.
struct Job<'a> {
    descriptor: &'a Descriptor,
    source: Arc<dyn UploadSource>,
    sent: &'a (dyn Fn(u64) + Send + Sync),
}

impl Repository {
    /// Brings a blob into the repository, unless it is there. `mount_from` are paths of other
    /// repositories of the registry that may have it, the likeliest first. `sent` is told how
    /// many bytes the registry has been sent, a few times per second.
    ///
    /// # Errors
    /// [`RegistryError::PushDenied`], [`RegistryError::Read`] and [`RegistryError::Truncated`] of
    /// the source, and all others.
    pub async fn push_blob(
        &self,
        descriptor: &Descriptor,
        source: Arc<dyn UploadSource>,
        mount_from: &[String],
        sent: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Pushed, RegistryError> {
        if self.has_blob(&descriptor.digest).await? {
            return Ok(Pushed::Present);
        }
        let target = self.target().await?;
        let mut upload = None;
        for from in mount_from.iter().take(MOUNTS) {
            match self.mount(target, &descriptor.digest, from).await? {
                Mount::Done => return Ok(Pushed::Mounted(from.clone())),
                Mount::Upload(begun) => {
                    if let Some(unused) = upload.replace(begun) {
                        self.cancel(target, &unused).await;
                    }
                }
                Mount::No => {}
            }
        }
        let job = Job { descriptor, source, sent };
        self.upload(target, upload, &job).await?;
        sent(descriptor.size);
        Ok(Pushed::Uploaded)
    }

    async fn mount(
        &self,
        target: &Target,
        digest: &Digest,
        from: &str,
    ) -> Result<Mount, RegistryError> {
        let repository = self.reference().path();
        let mut request = target.request(Method::POST, repository, "blobs/uploads/")?;
        request
            .url
            .query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from);
        let authorizer = target.with_scope(repository, from);
        let response = self.ask(target, &authorizer, &request).await?;
        match response.status() {
            StatusCode::CREATED => check_stored("blob", &response, digest).map(|()| Mount::Done),
            StatusCode::ACCEPTED => self.begun(&request.url, &response).map(Mount::Upload),
            // Whoever may not read the other repository can still upload.
            _ => Ok(Mount::No),
        }
    }

    async fn begin(&self, target: &Target) -> Result<Upload, RegistryError> {
        let request = target.request(Method::POST, self.reference().path(), "blobs/uploads/")?;
        let response = self.ask(target, &target.authorizer, &request).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.refusal(&request.method, response).await);
        }
        self.begun(&request.url, &response)
    }

    /// Reads where an upload goes on.
    fn begun(&self, asked: &Url, response: &Response) -> Result<Upload, RegistryError> {
        let least = response.headers().get(MIN_CHUNK).and_then(number).unwrap_or(0);
        let chunk = self.session().transport().config.upload_chunk.max(1);
        let chunk = chunk.max(least.min(MIN_CHUNK_MAX));
        Ok(Upload { location: location(asked, response)?, offset: 0, chunk })
    }

    /// Best effort: registries clean up by themselves, later.
    async fn cancel(&self, target: &Target, upload: &Upload) {
        let request = Request::new(Method::DELETE, upload.location.clone());
        let _ = self.ask(target, &target.authorizer, &request).await;
    }

    async fn upload(
        &self,
        target: &Target,
        begun: Option<Upload>,
        job: &Job<'_>,
    ) -> Result<(), RegistryError> {
        let config = &self.session().transport().config;
        let mut upload = match begun {
            Some(upload) => upload,
            None => self.begin(target).await?,
        };
        // Some registries take a blob in one request only.
        let mut in_pieces = job.descriptor.size > upload.chunk;
        let mut failures = 0;
        loop {
            let reached = upload.offset;
            let step = if in_pieces && upload.offset < job.descriptor.size {
                self.send_piece(target, &mut upload, job).await?
            } else {
                self.send_last(target, &upload, job).await?
            };
            let (error, wait) = match step {
                Step::Done => return Ok(()),
                Step::On => {
                    failures = 0;
                    continue;
                }
                Step::NoPieces if in_pieces => {
                    in_pieces = false;
                    self.cancel(target, &upload).await;
                    upload = self.begin(target).await?;
                    continue;
                }
                Step::NoPieces => {
                    let why = "takes a blob neither whole nor in pieces".to_owned();
                    return Err(RegistryError::Protocol { host: host(&upload.location), why });
                }
                Step::Failed(error, wait) => (error, wait),
            };
            failures += 1;
            let wait = wait.unwrap_or_else(|| self.session().transport().back_off(failures));
            if failures >= config.attempts || wait > PATIENCE {
                return Err(error);
            }
            let shown = pouch_types::error::chain(&error);
            let digest = &job.descriptor.digest;
            tracing::debug!(%digest, offset = upload.offset, error = %shown, "upload broke off");
            tokio::time::sleep(wait).await;
            match self.status(target, &upload).await? {
                Some(known) if known.offset <= job.descriptor.size => {
                    // What is there need not be sent again, which takes pieces.
                    in_pieces |= known.offset > 0;
                    if known.offset > reached {
                        failures = 0;
                    }
                    upload = known;
                }
                _ if self.has_blob(&job.descriptor.digest).await? => return Ok(()),
                _ => upload = self.begin(target).await?,
            }
        }
    }

    /// Sends the next piece.
    async fn send_piece(
        &self,
        target: &Target,
        upload: &mut Upload,
        job: &Job<'_>,
    ) -> Result<Step, RegistryError> {
        let (from, size) = (upload.offset, job.descriptor.size);
        let to = from.saturating_add(upload.chunk).min(size);
        let mut request = Request::new(Method::PATCH, upload.location.clone());
        let range = format!("{from}-{}", to - 1);
        if let Ok(range) = HeaderValue::from_str(&range) {
            request.headers.insert(CONTENT_RANGE, range);
        }
        let response = match self.send(target, request, from..to, job).await? {
            Sent::Answer(response) => response,
            Sent::Broken(error, wait) => return Ok(Step::Failed(error, wait)),
        };
        match response.status().as_u16() {
            202 | 204 => {
                upload.location = location(&upload.location, &response)?;
                // Its word counts: a piece may have been stored in part.
                upload.offset = match reached(response.headers()) {
                    Some(stored) if stored <= to => stored,
                    _ => to,
                };
                Ok(if upload.offset > from {
                    Step::On
                } else {
                    let why = "stores nothing of what is uploaded".to_owned();
                    let error = RegistryError::Protocol { host: host(&upload.location), why };
                    Step::Failed(error, None)
                })
            }
            400 | 405 | 501 if from == 0 => Ok(Step::NoPieces),
            404 | 416 => Ok(Step::Failed(self.refusal(&Method::PATCH, response).await, None)),
            _ => Err(self.refusal(&Method::PATCH, response).await),
        }
    }

    /// Sends the rest, which may be nothing or everything, and closes the upload.
    async fn send_last(
        &self,
        target: &Target,
        upload: &Upload,
        job: &Job<'_>,
    ) -> Result<Step, RegistryError> {
        let digest = &job.descriptor.digest;
        let mut url = upload.location.clone();
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let request = Request::new(Method::PUT, url);
        let rest = upload.offset..job.descriptor.size;
        let response = match self.send(target, request, rest, job).await? {
            Sent::Answer(response) => response,
            Sent::Broken(error, wait) => return Ok(Step::Failed(error, wait)),
        };
        match response.status().as_u16() {
            200 | 201 | 204 => check_stored("blob", &response, digest).map(|()| Step::Done),
            404 | 416 => Ok(Step::Failed(self.refusal(&Method::PUT, response).await, None)),
            _ => Err(self.refusal(&Method::PUT, response).await),
        }
    }

    /// Asks how far an upload got; `None` when it cannot be gone on with.
    async fn status(
        &self,
        target: &Target,
        upload: &Upload,
    ) -> Result<Option<Upload>, RegistryError> {
        let request = Request::get(upload.location.clone());
        let response = self.ask(target, &target.authorizer, &request).await?;
        if !response.status().is_success() {
            return Ok(None);
        }
        let location = location(&upload.location, &response)?;
        Ok(reached(response.headers()).map(|offset| Upload {
            location,
            offset,
            chunk: upload.chunk,
        }))
    }

    /// Sends a range of the blob, as long as bytes leave us.
    async fn send(
        &self,
        target: &Target,
        mut request: Request,
        range: std::ops::Range<u64>,
        job: &Job<'_>,
    ) -> Result<Sent, RegistryError> {
        let transport = self.session().transport();
        let ours = same_origin(&request.url, &target.endpoint.base);
        let authorization = if ours { target.authorizer.current().await } else { None };
        let tls =
            if ours { target.endpoint.tls.clone() } else { transport.tls_of(&request.url).await? };
        let length = range.end - range.start;
        let octets = HeaderValue::from_static("application/octet-stream");
        request.headers.insert(CONTENT_TYPE, octets);
        let watch = Arc::new(Watch::default());
        if length > 0 {
            let (source, watch) = (Arc::clone(&job.source), Arc::clone(&watch));
            let make = move || body(Arc::clone(&source), range.clone(), Arc::clone(&watch));
            request.payload = Payload::Stream(Arc::new(make), length);
        } else {
            request.headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
            request.payload = Payload::Bytes(Bytes::new());
        }
        let request = request.authorized(authorization.clone());
        let base = job.descriptor.size.min(range_start(&request));
        let mut exchange = pin!(transport.begin(&tls, &request)?);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut since) = (0, Instant::now());
        let outcome = loop {
            tokio::select! {
                // Both are cancel-safe: the exchange is polled on in the next turn.
                outcome = &mut exchange => break outcome,
                _ = ticks.tick() => {}
            }
            let now = watch.read.load(Ordering::Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
                (job.sent)(base + now);
            }
            let idle = transport.config.idle_timeout + transport.config.connect_timeout;
            let after = if now >= length { COMMIT } else { idle };
            if since.elapsed() > after {
                break Err(RegistryError::Idle { host: host(&request.url), after });
            }
        };
        if let Some(source) = watch.failed() {
            let (digest, offset) = (Box::new(job.descriptor.digest), base + last);
            return Err(match source.kind() {
                io::ErrorKind::UnexpectedEof => RegistryError::Truncated { digest, size: offset },
                _ => RegistryError::Read { digest, offset, source },
            });
        }
        let response = match outcome {
            Ok(response) => response,
            Err(error) if error.is_transient() => return Ok(Sent::Broken(error, None)),
            Err(error) => return Err(error),
        };
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED && ours {
            // The token has aged during the upload.
            let fresh = target
                .authorizer
                .answer(transport, &target.endpoint, response.headers(), authorization.as_ref())
                .await?;
            let error = self.refusal(&request.method, response).await;
            return match fresh {
                Some(_) => Ok(Sent::Broken(error, Some(Duration::ZERO))),
                None => Err(error),
            };
        }
        if is_passing(status) {
            let wait = retry_after(&response);
            return Ok(Sent::Broken(self.refusal(&request.method, response).await, wait));
        }
        Ok(Sent::Answer(response))
    }
}

/// What one request of an upload amounts to.
enum Step {
    Done,
    On,
    /// The registry does not take pieces.
    NoPieces,
    Failed(RegistryError, Option<Duration>),
}

enum Mount {
    Done,
    Upload(Upload),
    No,
}

/// What the body of a request has come to.
#[derive(Debug, Default)]
struct Watch {
    /// Bytes that were read for it.
    read: AtomicU64,
    failure: Mutex<Option<io::Error>>,
}

impl Watch {
    fn failed(&self) -> Option<io::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn body(
    source: Arc<dyn UploadSource>,
    range: std::ops::Range<u64>,
    watch: Arc<Watch>,
) -> reqwest::Body {
    watch.read.store(0, Ordering::Relaxed);
    let stream = futures::stream::try_unfold(range.start, move |at| {
        let (source, watch, end) = (Arc::clone(&source), Arc::clone(&watch), range.end);
        async move {
            if at >= end {
                return Ok(None);
            }
            let most = usize::try_from(end - at).unwrap_or(READ).min(READ);
            let read = source.read(at, most).await;
            let read = read.and_then(|bytes| match bytes.len() {
                0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                _ => Ok(bytes),
            });
            match read {
                Ok(bytes) => {
                    let length = bytes.len() as u64;
                    watch.read.fetch_add(length, Ordering::Relaxed);
                    Ok(Some((bytes, at + length)))
                }
                Err(error) => {
                    let told = io::Error::from(error.kind());
                    let mut failure = watch.failure.lock().unwrap_or_else(PoisonError::into_inner);
                    *failure = Some(error);
                    Err(told)
                }
            }
        }
    });
    reqwest::Body::wrap_stream(stream)
}

/// Where an upload goes on. It may be elsewhere, where our credentials are not sent, but not in a
/// place that is less private.
fn location(asked: &Url, response: &Response) -> Result<Url, RegistryError> {
    let Some(value) = response.headers().get(LOCATION) else {
        return if response.status() == StatusCode::NO_CONTENT {
            Ok(asked.clone())
        } else {
            let why = "does not say where the upload goes".to_owned();
            Err(RegistryError::Protocol { host: host(asked), why })
        };
    };
    let refuse = |why: &str| RegistryError::Unsafe { host: host(asked), why: why.to_owned() };
    let url = value
        .to_str()
        .ok()
        .and_then(|text| asked.join(text).ok())
        .ok_or_else(|| refuse("sends an upload to what is no URL"))?;
    if !as_private(asked, &url) {
        return Err(refuse("sends an upload to a place that is not as private"));
    }
    Ok(url)
}

fn number(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.trim().parse().ok()
}

/// Bytes that the registry has, by `Range: 0-<last>`. `0-0` is what registries say of one byte and
/// of none: that answer is no help.
fn reached(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(RANGE)?.to_str().ok()?;
    let (first, last) = text.trim_start_matches("bytes=").split_once('-')?;
    let last: u64 = last.trim().parse().ok()?;
    (first.trim() == "0" && last > 0).then(|| last.saturating_add(1))
}

/// Offset of the first byte that a request sends.
fn range_start(request: &Request) -> u64 {
    let range = request.headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    range.and_then(|text| text.split_once('-')?.0.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_registry_has() {
        let range = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, HeaderValue::from_static(text));
            reached(&headers)
        };
        assert_eq!(range("0-9"), Some(10));
        assert_eq!(range("bytes=0-9"), Some(10));
        for bad in ["0-0", "5-9", "x", "0-", "0-18446744073709551616"] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn sources_are_read_from_anywhere() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"0123456789", 0).unwrap();
        let sources: [Arc<dyn UploadSource>; 2] =
            [Arc::new(Bytes::from_static(b"0123456789")), Arc::new(FileSource::new(file))];
        for source in sources {
            assert_eq!(source.read(4, 3).await.unwrap(), "456");
            assert_eq!(source.read(8, 99).await.unwrap(), "89");
            assert!(source.read(10, 1).await.unwrap().is_empty());
            assert!(source.read(u64::from(u32::MAX), 1).await.unwrap().is_empty());
        }
    }
}

//! Attach and exec: the connection leaves HTTP and carries the streams of a process.
//!
//! A client that asks with `Upgrade: tcp` gets `101 UPGRADED` and both directions. One that does
//! not (API clients before 1.20) gets the output alone, unchunked and ended by close, because the
//! HTTP layer cannot hand over a connection that was not asked to change protocol; such a client
//! that wants standard input is refused.
//!
//! Half-close: a client's end of input becomes end of file of the process, whose output goes on.
//! That is why end of input must not be taken for a departed client; [`Hangup`] tells the two
//! apart, so that a session whose client is gone does not wait for a silent process.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::Response;
use futures::future::BoxFuture;
use futures::stream;
use http::request::Parts;
use http::{HeaderValue, StatusCode, Version, header};
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::detach::{DetachFilter, DetachKeys, Typed};
use super::{Framing, frame};
use crate::http::{ApiError, ApiResult, ApiVersion};
use crate::server::Hangup;

/// Bytes moved at once in each direction.
const CHUNK: usize = 32 * 1024;
/// Time for the HTTP layer to hand the connection over once `101` is written.
const HANDOVER: Duration = Duration::from_secs(30);
/// Time for the end of a process to become known after the end of its output. A process that
/// closed its output and goes on must not keep its client.
const SETTLE: Duration = Duration::from_secs(2);
/// Time for a client to take a last message.
const FAREWELL: Duration = Duration::from_secs(10);

/// The streams of a process, framed already.
pub(crate) struct Streams {
    /// Everything for the client.
    pub output: Box<dyn AsyncRead + Send + Unpin>,
    /// Standard input of the process, when the client asked for it.
    pub input: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Awaited between the end of output and the end of the connection, for what the client will
    /// ask about then; at most [`SETTLE`].
    pub settled: Option<BoxFuture<'static, ()>>,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("input", &self.input.is_some()).finish_non_exhaustive()
    }
}

/// Where sessions live: they outlast their request and end with the server.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    pub tracker: TaskTracker,
    pub closing: CancellationToken,
}

/// How a session speaks.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub version: ApiVersion,
    pub framing: Framing,
    /// Looked for in the input of a terminal only, as dockerd does.
    pub detach: DetachKeys,
    /// The client wants to write to the process.
    pub wants_input: bool,
}

/// A request that may take its connection over.
#[derive(Debug)]
pub(crate) struct Hijack {
    upgrade: Option<OnUpgrade>,
    hangup: Hangup,
}

impl<S: Sync> FromRequestParts<S> for Hijack {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let asked = parts.headers.contains_key(header::UPGRADE);
        let upgrade = parts.extensions.remove::<OnUpgrade>().filter(|_| asked);
        let hangup = parts.extensions.get::<Hangup>().cloned().unwrap_or_default();
        Ok(Self { upgrade, hangup })
    }
}

impl Hijack {
    /// Whether a client that wants input asked in a way that can give it.
    ///
    /// # Errors
    /// 400 when it did not ask for an upgrade.
    pub(crate) fn admits(&self, wants_input: bool) -> ApiResult<()> {
        if wants_input && self.upgrade.is_none() {
            return Err(ApiError::invalid(
                "standard input needs an upgraded connection: \
                 send 'Connection: Upgrade' and 'Upgrade: tcp'",
            ));
        }
        Ok(())
    }

    /// Answers, and runs the session apart from the request. `open` is awaited after the answer
    /// has gone out; its failure is written into the stream, where clients look for it.
    ///
    /// # Errors
    /// 400 when the client wants input but did not ask for an upgrade.
    pub(crate) fn respond<F>(self, terms: Terms, sessions: Sessions, open: F) -> ApiResult<Response>
    where
        F: Future<Output = ApiResult<Streams>> + Send + 'static,
    {
        self.admits(terms.wants_input)?;
        let Some(upgrade) = self.upgrade else {
            return Ok(output_only(terms.framing, sessions.closing, open));
        };
        let media = super::media_type(terms.framing, terms.version);
        let hangup = self.hangup;
        sessions.tracker.spawn(async move {
            let upgraded = match tokio::time::timeout(HANDOVER, upgrade).await {
                Ok(Ok(upgraded)) => TokioIo::new(upgraded),
                Ok(Err(error)) => return tracing::debug!(%error, "client left before the upgrade"),
                Err(_) => return tracing::debug!("the connection was not handed over in time"),
            };
            let (read, write) = tokio::io::split(upgraded);
            tokio::select! {
                // Dropping a session closes both directions; the process goes on.
                end = session(read, write, terms, open) => tracing::debug!(?end, "session ended"),
                () = hangup.gone() => tracing::debug!("client of a session is gone"),
                () = sessions.closing.cancelled() => {}
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.extensions_mut().insert(ReasonPhrase::from_static(b"UPGRADED"));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        Ok(response)
    }
}

/// Why a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The process closed its output.
    Output,
    /// The client typed the detach keys.
    Detached,
    /// The client does not read any more.
    Client,
    /// There was no process to talk to.
    Failed,
}

async fn session<R, W, F>(read: R, mut write: W, terms: Terms, open: F) -> End
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    F: Future<Output = ApiResult<Streams>>,
{
    let Streams { output, input, settled } = match open.await {
        Ok(streams) => streams,
        Err(error) => {
            let text = failure(terms.framing, &error);
            let told = async {
                write.write_all(&text).await?;
                write.shutdown().await
            };
            // The client may be gone; there is nobody else to tell.
            let _ = tokio::time::timeout(FAREWELL, told).await;
            return End::Failed;
        }
    };
    let filter = (terms.framing == Framing::Raw).then(|| DetachFilter::new(terms.detach));
    let end = {
        let output = pump_output(output, &mut write);
        let input = pump_input(read, input, filter);
        tokio::pin!(output, input);
        tokio::select! {
            // Either branch may be dropped: a partly moved chunk has no reader any more.
            end = &mut output => end,
            detached = &mut input => match detached {
                InputEnd::Detached => End::Detached,
                InputEnd::Finished => output.await,
            }
        }
    };
    if let (End::Output, Some(settled)) = (&end, settled) {
        // Not known in time: then the client sees a process that still runs, which may be true.
        let _ = tokio::time::timeout(SETTLE, settled).await;
    }
    let _ = tokio::time::timeout(FAREWELL, write.shutdown()).await;
    end
}

async fn pump_output<W>(mut from: Box<dyn AsyncRead + Send + Unpin>, to: &mut W) -> End
where
    W: AsyncWrite + Unpin,
{
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk).await {
            Ok(0) => return End::Output,
            Ok(length) => {
                let sent = async {
                    to.write_all(&chunk[..length]).await?;
                    to.flush().await
                };
                if sent.await.is_err() {
                    return End::Client;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "reading the output of a process");
                return End::Output;
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum InputEnd {
    /// The client typed the detach keys.
    Detached,
    /// The client closed its side, or the process its input.
    Finished,
}

async fn pump_input<R>(
    mut from: R,
    to: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    mut filter: Option<DetachFilter>,
) -> InputEnd
where
    R: AsyncRead + Unpin,
{
    // Without standard input the client's bytes are still read: the keys may be among them.
    let mut to = to;
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = match from.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        let typed = match &mut filter {
            Some(filter) => filter.feed(&chunk[..length]),
            None => Typed::Pass(chunk[..length].to_vec()),
        };
        let (bytes, detached) = match typed {
            Typed::Pass(bytes) => (bytes, None),
            Typed::Detach(bytes) => (bytes, Some(InputEnd::Detached)),
        };
        send(&mut to, &bytes).await;
        if let Some(end) = detached {
            return end;
        }
    }
    if let Some(filter) = &mut filter {
        send(&mut to, &filter.finish()).await;
    }
    if let Some(mut to) = to {
        // A process that is gone needs no end of file.
        let _ = to.shutdown().await;
    }
    InputEnd::Finished
}

/// Writes to the process; one that closed its input gets no more, as with a broken pipe.
async fn send(to: &mut Option<Box<dyn AsyncWrite + Send + Unpin>>, bytes: &[u8]) {
    let Some(input) = to else { return };
    if bytes.is_empty() {
        return;
    }
    let sent = async {
        input.write_all(bytes).await?;
        input.flush().await
    };
    if let Err(error) = sent.await {
        tracing::debug!(%error, "the process takes no more input");
        *to = None;
    }
}

/// A failure as clients find it in a stream.
fn failure(framing: Framing, error: &ApiError) -> Vec<u8> {
    let text = format!("{}\r\n", error.message());
    match framing {
        Framing::Raw => text.into_bytes(),
        Framing::Multiplexed => {
            let mut out = Vec::new();
            frame::push(&mut out, 1, text.as_bytes());
            out
        }
    }
}

/// The reply to a client that did not ask for an upgrade. HTTP/1.0 is what makes the bytes come
/// unchunked, ended by close.
fn output_only<F>(framing: Framing, closing: CancellationToken, open: F) -> Response
where
    F: Future<Output = ApiResult<Streams>> + Send + 'static,
{
    enum Step<F> {
        Open(F),
        Read(Box<dyn AsyncRead + Send + Unpin>),
        Done,
    }
    let steps = stream::unfold(Step::Open(Box::pin(open)), move |step| async move {
        let mut output = match step {
            Step::Open(open) => match open.await {
                Ok(streams) => streams.output,
                Err(error) => return Some((failure(framing, &error), Step::Done)),
            },
            Step::Read(output) => output,
            Step::Done => return None,
        };
        let mut chunk = vec![0; CHUNK];
        match output.read(&mut chunk).await {
            Ok(length @ 1..) => {
                chunk.truncate(length);
                Some((chunk, Step::Read(output)))
            }
            Ok(0) | Err(_) => None,
        }
    });
    let pieces = futures::StreamExt::map(steps, Ok::<_, Infallible>);
    let pieces = futures::StreamExt::take_until(pieces, closing.cancelled_owned());
    let mut response = Response::new(Body::from_stream(pieces));
    *response.version_mut() = Version::HTTP_10;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(super::RAW));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    fn terms(framing: Framing) -> Terms {
        Terms {
            version: ApiVersion::MAX,
            framing,
            detach: DetachKeys::default(),
            wants_input: true,
        }
    }

    struct Rig {
        client: DuplexStream,
        output: DuplexStream,
        input: DuplexStream,
        session: tokio::task::JoinHandle<End>,
    }

    fn rig(framing: Framing) -> Rig {
        let (client, ours) = duplex(1024);
        let (output, from_process) = duplex(1024);
        let (input, to_process) = duplex(1024);
        let (read, write) = tokio::io::split(ours);
        let session = tokio::spawn(session(read, write, terms(framing), async {
            Ok(Streams {
                output: Box::new(from_process),
                input: Some(Box::new(to_process)),
                settled: None,
            })
        }));
        Rig { client, output, input, session }
    }

    #[tokio::test]
    async fn output_goes_on_after_the_end_of_input() {
        let mut rig = rig(Framing::Multiplexed);
        rig.client.write_all(b"in\x10\x11").await.unwrap();
        rig.client.shutdown().await.unwrap();
        let mut input = Vec::new();
        rig.input.read_to_end(&mut input).await.unwrap();
        assert_eq!(input, b"in\x10\x11", "keys mean nothing without a terminal");
        rig.output.write_all(b"late").await.unwrap();
        drop(rig.output);
        let mut seen = Vec::new();
        rig.client.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"late");
        assert_eq!(rig.session.await.unwrap(), End::Output);
    }

    #[tokio::test]
    async fn detach_keys_end_the_session_and_not_the_process() {
        let mut rig = rig(Framing::Raw);
        rig.client.write_all(b"ls\n\x10\x11").await.unwrap();
        assert_eq!(rig.session.await.unwrap(), End::Detached);
        let mut input = [0; 3];
        rig.input.read_exact(&mut input).await.unwrap();
        assert_eq!(&input, b"ls\n");
        let mut rest = Vec::new();
        rig.client.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    }

    #[tokio::test]
    async fn a_process_that_closes_its_input_can_still_talk() {
        let mut rig = rig(Framing::Raw);
        drop(rig.input);
        rig.client.write_all(b"x").await.unwrap();
        rig.client.write_all(b"y").await.unwrap();
        rig.output.write_all(b"out").await.unwrap();
        let mut seen = [0; 3];
        rig.client.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"out");
        drop(rig.output);
        assert_eq!(rig.session.await.unwrap(), End::Output);
    }

    #[tokio::test]
    async fn a_failed_start_is_told_in_the_stream() {
        let (mut client, ours) = duplex(1024);
        let (read, write) = tokio::io::split(ours);
        let open = async { Err(ApiError::invalid("no such program")) };
        let end = session(read, write, terms(Framing::Multiplexed), open).await;
        assert_eq!(end, End::Failed);
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"\x01\0\0\0\0\0\0\x11no such program\r\n");
    }

    #[tokio::test]
    async fn the_end_is_told_when_it_is_known() {
        let (mut client, ours) = duplex(1024);
        let (read, write) = tokio::io::split(ours);
        let (tell, told) = tokio::sync::oneshot::channel();
        let open = async {
            Ok(Streams {
                output: Box::new(&b"out"[..]),
                input: None,
                settled: Some(Box::pin(async { told.await.unwrap() })),
            })
        };
        let session = tokio::spawn(session(read, write, terms(Framing::Raw), open));
        let mut seen = [0; 3];
        client.read_exact(&mut seen).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), client.read_u8());
        assert!(early.await.is_err(), "the connection must stay until the end is known");
        tell.send(()).unwrap();
        assert!(client.read_u8().await.is_err());
        assert_eq!(session.await.unwrap(), End::Output);
    }

    #[tokio::test]
    async fn a_client_that_stops_reading_ends_it() {
        let mut rig = rig(Framing::Raw);
        drop(rig.client);
        // Fails or not, depending on who is first.
        let _ = rig.output.write_all(b"x").await;
        assert_eq!(rig.session.await.unwrap(), End::Client);
    }
}

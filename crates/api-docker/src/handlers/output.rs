//! What comes out of a container: attach, logs, stats.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderValue, header};
use jiff::Timestamp;
use pouch_docker_types::container::Stats;
use pouch_engine::{
    AttachOptions, Attached, Engine, EngineError, LogOptions, LogRecord, StatsSample,
};
use pouch_types::spec::Attach;
use pouch_types::{Classified, ErrorKind};

use crate::api::Shared;
use crate::http::{ApiError, ApiResult, ApiVersion, Query, ok};
use crate::stream::detach::DetachKeys;
use crate::stream::hijack::{Hijack, Streams, Terms};
use crate::stream::ndjson::{self, Ending};
use crate::stream::{Framing, frame, media_type};
use crate::translate::{stats, time};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/containers/{id}/attach", post(attach))
        .route("/containers/{id}/logs", get(logs))
        .route("/containers/{id}/stats", get(statistics))
        .route("/containers/{id}/resize", post(resize))
}

/// Between two samples of a stream.
const STATS_PERIOD: Duration = Duration::from_secs(1);

impl From<Attached> for Streams {
    fn from(attached: Attached) -> Self {
        Self { output: attached.output, input: attached.input, settled: None }
    }
}

async fn attach(
    State(api): State<Shared>,
    Path(id): Path<String>,
    version: ApiVersion,
    query: Query,
    hijack: Hijack,
) -> ApiResult<Response> {
    let detach = DetachKeys::parse(query.get("detachKeys").unwrap_or_default())?;
    let options = AttachOptions {
        streams: Attach {
            stdin: query.flag("stdin"),
            stdout: query.flag("stdout"),
            stderr: query.flag("stderr"),
        },
        stream: query.flag("stream"),
        logs: query.flag("logs"),
    };
    let wants_input = options.streams.stdin && options.stream;
    hijack.admits(wants_input)?;
    // Before the answer: what the container says after it must not be missed.
    let attached = api.engine.attach(&id, options).await?;
    let framing = Framing::of_tty(attached.tty);
    let terms = Terms { version, framing, detach, wants_input };
    hijack.respond(terms, api.sessions.clone(), async move { Ok(attached.into()) })
}

async fn resize(
    State(api): State<Shared>,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Response> {
    let (height, width) = terminal_size(&query)?;
    api.engine.resize(&id, width, height).await?;
    Ok(crate::http::empty(http::StatusCode::OK))
}

/// `h` and `w`, which both must be there.
pub(super) fn terminal_size(query: &Query) -> ApiResult<(u16, u16)> {
    let side = |name: &str, what: &str| {
        query.get(name).and_then(|text| text.parse::<u16>().ok()).ok_or_else(|| {
            let given = query.get(name).unwrap_or_default();
            ApiError::invalid(format!("invalid resize {what} {given:?}"))
        })
    };
    Ok((side("h", "height")?, side("w", "width")?))
}

/// How a record becomes bytes.
#[derive(Debug, Clone, Copy)]
struct Dress {
    framing: Framing,
    timestamps: bool,
    details: bool,
}

impl Dress {
    fn put_on(self, record: &LogRecord) -> Bytes {
        let mut text = Vec::with_capacity(record.bytes.len() + frame::HEADER);
        if self.timestamps {
            text.extend_from_slice(frame::timestamp(record.time).as_bytes());
            text.push(b' ');
        }
        if self.details {
            text.extend_from_slice(frame::details(&record.attributes).as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(&record.bytes);
        self.wrap(record.stream, text)
    }

    fn wrap(self, stream: u8, text: Vec<u8>) -> Bytes {
        match self.framing {
            Framing::Raw => Bytes::from(text),
            Framing::Multiplexed => {
                let mut framed = Vec::with_capacity(text.len() + frame::HEADER);
                frame::push(&mut framed, stream, &text);
                Bytes::from(framed)
            }
        }
    }

    /// A failure after the header is gone, where clients show it.
    fn failure(self, error: &EngineError) -> Bytes {
        self.wrap(2, format!("Error grabbing logs: {}\n", error.text()).into_bytes())
    }
}

async fn logs(
    State(api): State<Shared>,
    Path(id): Path<String>,
    version: ApiVersion,
    query: Query,
) -> ApiResult<Response> {
    let now = Timestamp::now();
    let border = |name: &str| {
        query
            .get(name)
            .filter(|text| *text != "0")
            .map(|text| time::read(name, text, now))
            .transpose()
    };
    let options = LogOptions {
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        follow: query.flag("follow"),
        since: border("since")?,
        until: border("until")?,
        // `all`, and whatever else is no number, means everything, as with dockerd.
        tail: query.get("tail").and_then(|text| text.parse().ok()),
    };
    let log = api.engine.logs(&id, options).await?;
    let dress = Dress {
        framing: Framing::of_tty(log.tty),
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
    };
    let pieces = stream::unfold(log.records, move |mut records| async move {
        let piece = match records.recv().await? {
            Ok(record) => dress.put_on(&record),
            Err(error) => dress.failure(&error),
        };
        Some((Ok::<_, Infallible>(piece), records))
    });
    let pieces = pieces.take_until(api.closing().cancelled_owned());
    let mut response = Response::new(Body::from_stream(pieces));
    let media = HeaderValue::from_static(media_type(dress.framing, version));
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    Ok(response)
}

async fn statistics(
    State(api): State<Shared>,
    Path(id): Path<String>,
    version: ApiVersion,
    query: Query,
) -> ApiResult<Response> {
    // By id from here on, so that a rename does not change what is measured.
    let id = api.engine.view(&id)?.id.to_string();
    let first = api.engine.stats(&id).await?;
    if query.flag_or("stream", true) {
        let lines = sampling(api.engine.clone(), id, first);
        return Ok(ndjson::respond(lines, Ending::Line, api.closing()));
    }
    let one_shot = query.flag("one-shot") && !version.below(41);
    if one_shot || first.read.is_none() {
        let view = api.engine.view(&id)?;
        return ok(&stats::write(&view, &first, None));
    }
    // A rate needs two samples.
    tokio::time::sleep(STATS_PERIOD).await;
    let second = api.engine.stats(&id).await?;
    let view = api.engine.view(&id)?;
    ok(&stats::write(&view, &second, Some(&first)))
}

/// Samples until the container is gone.
fn sampling(
    engine: Engine,
    id: String,
    first: StatsSample,
) -> impl stream::Stream<Item = Stats> + Send {
    let state = (engine, id, Some(first), None::<Arc<StatsSample>>);
    stream::unfold(state, |(engine, id, ready, before)| async move {
        let sample = match ready {
            Some(sample) => sample,
            None => loop {
                tokio::time::sleep(STATS_PERIOD).await;
                match engine.stats(&id).await {
                    Ok(sample) => break sample,
                    Err(error) if error.kind() == ErrorKind::NotFound => return None,
                    // A sample that could not be taken is left out; the next one may be.
                    Err(error) => tracing::debug!(error = error.text(), "no sample"),
                }
            },
        };
        let view = engine.view(&id).ok()?;
        let line = stats::write(&view, &sample, before.as_deref());
        Some((line, (engine, id, None, Some(Arc::new(sample)))))
    })
}

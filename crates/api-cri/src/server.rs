//! The accept loop: gRPC over HTTP/2 on unix sockets, both services on one.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pouch_cri_grpc::MAX_MESSAGE;
use pouch_cri_grpc::image_service_server::ImageServiceServer;
use pouch_cri_grpc::runtime_service_server::RuntimeServiceServer;
use pouch_engine::Engine;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower_service::Service;

use crate::api::{Api, Config, CriError};
use crate::record::Recorder;

/// Connections at a time: kubelet has two, each crictl one.
const CONNECTIONS: usize = 256;
/// Calls at a time on one connection.
const CALLS: u32 = 1024;
/// Bytes of one request's headers.
const HEADER_BYTES: u32 = 64 << 10;
/// Time for calls under way when the daemon ends.
const DRAIN: Duration = Duration::from_secs(2);
/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where connections come from.
pub trait Accept: Send {
    /// The next connection. Cancel-safe.
    fn accept(&mut self) -> impl Future<Output = io::Result<UnixStream>> + Send;
}

/// Serves the CRI until `closing` is cancelled.
///
/// # Errors
/// [`CriError`] when the streaming server cannot listen.
pub async fn serve(
    engine: Engine,
    config: Config,
    mut listener: impl Accept,
    closing: CancellationToken,
) -> Result<(), CriError> {
    let record = config.record.clone();
    let api = Api::open(engine, config, closing.clone()).await?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let tracker = TaskTracker::new();
    loop {
        // All branches are cancel-safe: a permit or a connection is either taken or left.
        let place = tokio::select! {
            () = closing.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = closing.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(stream) => {
                let (api, closing, record) = (api.clone(), closing.clone(), record.clone());
                tracker.spawn(async move {
                    connection(api, stream, closing, record).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    tracker.close();
    if tokio::time::timeout(DRAIN, tracker.wait()).await.is_err() {
        tracing::debug!(calls = tracker.len(), "cutting calls that did not end in time");
    }
    api.close().await;
    Ok(())
}

async fn connection(
    api: Api,
    stream: UnixStream,
    closing: CancellationToken,
    record: Option<Recorder>,
) {
    let runtime = RuntimeServiceServer::new(api.clone())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let image = ImageServiceServer::new(api)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut runtime, mut image) = (runtime.clone(), image.clone());
        let record = record.clone().map(|record| (record, request.uri().path().to_owned()));
        async move {
            let began = Instant::now();
            let answer = if request.uri().path().starts_with("/runtime.v1.ImageService/") {
                image.call(request).await
            } else {
                // An unknown service is told to be unimplemented by this one, too.
                runtime.call(request).await
            };
            let answer: Result<Response<Body>, Infallible> = answer;
            if let (Ok(answer), Some((record, path))) = (&answer, record) {
                record.record(&path, answer, began.elapsed());
            }
            answer
        }
    });
    let mut builder =
        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new()).http2_only();
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(CALLS)
        .max_header_list_size(HEADER_BYTES);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // Cancel-safe: the connection is polled on below.
    let result = tokio::select! {
        result = &mut connection => result,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a CRI connection ended");
    }
}

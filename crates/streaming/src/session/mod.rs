//! From an upgraded connection to the streams of its work, on each transport.

mod command;
mod forward;

use std::future::Future;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::request::{Command, Connect, Open, StreamSet, Work};
use crate::server::Shared;
use crate::spdy;
use crate::status::Wording;
use crate::upgrade::{Protocol, Version, command_channels};
use crate::websocket::{self, Codec, Direction};
use crate::wire::{End, FAREWELL, Watch, Wire};

/// Runs a session to its end.
pub(crate) async fn run(wire: Wire, protocol: Protocol, work: Work, shared: &Arc<Shared>) {
    // Boxed: the transports' futures differ much in size, and live as long as a session.
    match (protocol, work) {
        (Protocol::SpdyCommand(version), Work::Command { kind, streams, open }) => {
            Box::pin(spdy_command(wire, version, kind, streams, open, shared)).await;
        }
        (Protocol::ChannelCommand(codec, wording), Work::Command { kind, streams, open }) => {
            let what = Asked { kind, streams, wording };
            Box::pin(channel_command(wire, codec, what, open, shared)).await;
        }
        (Protocol::SpdyForward, Work::Forward { connect, .. }) => {
            let (watch, write) = (wire.watch(), wire.clone());
            Box::pin(spdy_forward(wire, write, watch, connect, shared)).await;
        }
        (Protocol::TunnelledForward, Work::Forward { connect, .. }) => {
            let watch = wire.watch();
            let (read, write) = websocket::tunnel(wire).await;
            Box::pin(spdy_forward(read, write, watch, connect, shared)).await;
        }
        (Protocol::ChannelForward(codec), Work::Forward { ports, connect }) => {
            Box::pin(channel_forward(wire, codec, &ports, connect, shared)).await;
        }
        // The protocol was chosen by the work.
        (
            Protocol::SpdyForward | Protocol::TunnelledForward | Protocol::ChannelForward(_),
            Work::Command { .. },
        )
        | (Protocol::SpdyCommand(_) | Protocol::ChannelCommand(..), Work::Forward { .. }) => {
            tracing::error!(?protocol, "a protocol of other work");
        }
    }
}

/// What a client of a command wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    kind: Command,
    streams: StreamSet,
    wording: Wording,
}

/// What a session hears of its server and its connection.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    shared: Arc<Shared>,
    /// The session has to take leave.
    stop: CancellationToken,
    /// The connection has to end, after what was sent.
    closing: CancellationToken,
}

impl Context {
    fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            stop: shared.closing.child_token(),
            closing: CancellationToken::new(),
        }
    }

    /// Why a session that is stopped has to end, for its client.
    fn reason(&self) -> String {
        match self.shared.closing.is_cancelled() {
            true => "the streaming server is closing".to_owned(),
            false => format!("nothing moved on the connection for {:?}", self.shared.limits.idle),
        }
    }

    /// Drives a connection and its session. When the session ends, what it sent is given out
    /// before the connection closes; when the connection does, the session is dropped. When
    /// nothing moves for too long, the session is stopped as by the server's end.
    async fn drive(
        &self,
        watch: &Watch,
        connection: impl Future<Output = End>,
        session: impl Future<Output = ()>,
    ) {
        let whole = async {
            tokio::pin!(connection);
            tokio::select! {
                end = &mut connection => end,
                () = session => {
                    self.closing.cancel();
                    connection.await
                }
            }
        };
        tokio::pin!(whole);
        let end = tokio::select! {
            end = &mut whole => end,
            () = watch.activity.idle(self.shared.limits.idle) => {
                tracing::info!(reason = self.reason(), "streaming session is stopped");
                self.stop.cancel();
                tokio::time::timeout(FAREWELL, whole).await.unwrap_or(End::Stopped)
            }
        };
        match &end {
            End::Client | End::Closed | End::Stopped => {
                tracing::debug!(%end, "streaming session ended");
            }
            End::Protocol(_) | End::Io(_) => {
                tracing::info!(error = %pouch_types::error::chain(&end), "streaming session ended");
            }
        }
    }
}

async fn spdy_command(
    wire: Wire,
    version: Version,
    kind: Command,
    streams: StreamSet,
    open: Open,
    shared: &Arc<Shared>,
) {
    let context = Context::new(shared);
    let (watch, write) = (wire.watch(), wire.clone());
    let closing = context.closing.clone();
    let (connection, incoming) = spdy::connect(wire, write, watch.clone(), &shared.limits, closing);
    let asked = Asked { kind, streams, wording: version.wording };
    let session = async {
        let resizes = version.resizes;
        if let Some(ends) = command::gather(incoming, asked, resizes, &context).await {
            command::run(ends, asked, open, &context).await;
        }
    };
    context.drive(&watch, connection.run(), session).await;
}

async fn channel_command(wire: Wire, codec: Codec, asked: Asked, open: Open, shared: &Arc<Shared>) {
    let (context, watch) = (Context::new(shared), wire.watch());
    let directions = command_channels(asked.streams);
    let closing = context.closing.clone();
    let (connection, channels) =
        websocket::connect(wire, codec, &directions, &shared.limits, closing).await;
    let session = async {
        if let Some(ends) = command::Ends::of_channels(channels).await {
            command::run(ends, asked, open, &context).await;
        }
    };
    context.drive(&watch, connection.run(), session).await;
}

async fn spdy_forward(
    read: impl AsyncRead + Unpin,
    write: impl AsyncWrite + Unpin,
    watch: Watch,
    connect: Connect,
    shared: &Arc<Shared>,
) {
    let context = Context::new(shared);
    let closing = context.closing.clone();
    let (connection, incoming) = spdy::connect(read, write, watch.clone(), &shared.limits, closing);
    let session = forward::pairs(incoming, connect, &context);
    context.drive(&watch, connection.run(), session).await;
}

async fn channel_forward(
    wire: Wire,
    codec: Codec,
    ports: &[u16],
    connect: Connect,
    shared: &Arc<Shared>,
) {
    let (context, watch) = (Context::new(shared), wire.watch());
    // A pair of channels for each port: data, error.
    let directions = [Direction::Both, Direction::Server].repeat(ports.len());
    let (connection, channels) =
        websocket::connect(wire, codec, &directions, &shared.limits, context.closing.clone()).await;
    let session = forward::fixed(channels, ports, connect, &context);
    context.drive(&watch, connection.run(), session).await;
}

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
use crate::wire::{End, Watch, Wire};

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

/// Drives a connection until it or its session ends. The session first: what it sent is given out
/// before the connection closes. The connection first: the session is dropped.
async fn drive(
    connection: impl Future<Output = End>,
    session: impl Future<Output = ()>,
    closing: &CancellationToken,
) {
    tokio::pin!(connection);
    let end = tokio::select! {
        end = &mut connection => end,
        () = session => {
            closing.cancel();
            connection.await
        }
    };
    match &end {
        End::Client | End::Closed => tracing::debug!(%end, "streaming session ended"),
        End::Idle(_) | End::Protocol(_) | End::Io(_) => {
            tracing::info!(error = %pouch_types::error::chain(&end), "streaming session ended");
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
    let closing = CancellationToken::new();
    let (watch, write) = (wire.watch(), wire.clone());
    let (connection, incoming) =
        match spdy::connect(wire, write, watch, &shared.limits, closing.clone()) {
            Ok(connected) => connected,
            Err(error) => return tracing::error!(%error, "compressor"),
        };
    let asked = Asked { kind, streams, wording: version.wording };
    let session = async {
        let resizes = version.resizes;
        if let Some(ends) = command::gather(incoming, asked, resizes, shared).await {
            command::run(ends, asked, open, shared).await;
        }
    };
    drive(connection.run(), session, &closing).await;
}

async fn channel_command(wire: Wire, codec: Codec, asked: Asked, open: Open, shared: &Arc<Shared>) {
    let closing = CancellationToken::new();
    let directions = command_channels(asked.streams);
    let (connection, channels) =
        websocket::connect(wire, codec, &directions, &shared.limits, closing.clone()).await;
    let session = async {
        if let Some(ends) = command::Ends::of_channels(channels).await {
            command::run(ends, asked, open, shared).await;
        }
    };
    drive(connection.run(), session, &closing).await;
}

async fn spdy_forward(
    read: impl AsyncRead + Unpin,
    write: impl AsyncWrite + Unpin,
    watch: Watch,
    connect: Connect,
    shared: &Arc<Shared>,
) {
    let closing = CancellationToken::new();
    match spdy::connect(read, write, watch, &shared.limits, closing.clone()) {
        Ok((connection, incoming)) => {
            let session = forward::pairs(incoming, connect, shared);
            drive(connection.run(), session, &closing).await;
        }
        Err(error) => tracing::error!(%error, "compressor"),
    }
}

async fn channel_forward(
    wire: Wire,
    codec: Codec,
    ports: &[u16],
    connect: Connect,
    shared: &Arc<Shared>,
) {
    let closing = CancellationToken::new();
    // A pair of channels for each port: data, error.
    let directions = [Direction::Both, Direction::Server].repeat(ports.len());
    let (connection, channels) =
        websocket::connect(wire, codec, &directions, &shared.limits, closing.clone()).await;
    let session = forward::fixed(channels, ports, connect, shared);
    drive(connection.run(), session, &closing).await;
}

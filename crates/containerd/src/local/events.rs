//! The ttrpc server at which shims report.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use pouch_protocol::{Empty, events, events_ttrpc, to_jiff, unpack};
use tokio::net::UnixListener;
use ttrpc::r#async::TtrpcContext;
use ttrpc::r#async::transport::{Listener, Socket};

use super::Shared;
use crate::{Error, Event, ExitStatus, Result};

#[derive(Debug)]
struct Sink {
    events: tokio::sync::mpsc::Sender<Event>,
}

/// Binds the socket afresh and serves it as long as the process lives.
pub(crate) async fn serve(shared: &Shared) -> Result<()> {
    let path = shared.events_socket();
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("remove", &path)(e));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(Error::io("bind", &path))?;
    let sockets = futures::stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| Socket::new(stream));
        Some((accepted, listener))
    });
    let service = events_ttrpc::create_events(Arc::new(Sink { events: shared.events.clone() }));
    let mut server = ttrpc::r#async::Server::new()
        .add_listener(Listener::new(sockets.boxed()))
        .register_service(service);
    server.start().await.map_err(|e| Error::rpc("event server", "-", e))?;
    // The server works as long as it is not dropped, which is until the process ends.
    std::mem::forget(server);
    Ok(())
}

#[async_trait]
impl events_ttrpc::Events for Sink {
    async fn forward(
        &self,
        _: &TtrpcContext,
        request: events_ttrpc::ForwardRequest,
    ) -> ttrpc::Result<Empty> {
        let Some(envelope) = request.envelope.into_option() else { return Ok(Empty::new()) };
        let Some(any) = envelope.event.into_option() else { return Ok(Empty::new()) };
        match decode(&envelope.topic, &any) {
            Ok(Some(event)) => {
                // Closed only when the daemon ends.
                let _ = self.events.send(event).await;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(topic = envelope.topic, %error, "undecodable shim event"),
        }
        Ok(Empty::new())
    }
}

fn decode(topic: &str, any: &pouch_protocol::Any) -> std::result::Result<Option<Event>, String> {
    let id = |text: &str| text.parse().map_err(|e| format!("{e}"));
    match topic {
        events::TOPIC_EXIT => {
            let exit: events::TaskExit =
                unpack(any, "containerd.events.TaskExit").map_err(|e| e.to_string())?;
            let at = exit.exited_at.as_ref().and_then(to_jiff).unwrap_or_else(jiff::Timestamp::now);
            let code = i32::try_from(exit.exit_status).unwrap_or(255);
            Ok(Some(Event::Exit {
                container: id(&exit.container_id)?,
                exec: (exit.id != exit.container_id).then_some(exit.id),
                pid: exit.pid,
                // Whether memory ran out is in the exit file of the main process.
                status: ExitStatus { code, at, oom_killed: false },
            }))
        }
        events::TOPIC_OOM => {
            let oom: events::TaskOOM =
                unpack(any, "containerd.events.TaskOOM").map_err(|e| e.to_string())?;
            Ok(Some(Event::Oom { container: id(&oom.container_id)? }))
        }
        _ => Ok(None),
    }
}

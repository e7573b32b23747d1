//! `serve`: the shim itself.
//!
//! Standard input is the listener. The process leaves its parent's session, collects the orphans
//! of its containers, and has a mount namespace of its own. It ends when it is told to and has no
//! container, and by SIGTERM only if it has none.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pouch_protocol::{task_ttrpc_v2, task_ttrpc_v3};
use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use ttrpc::r#async::Server;
use ttrpc::asynchronous::transport::Listener;

use crate::args::Flags;
use crate::child::Reaper;
use crate::error::TaskError;
use crate::events::Publisher;
use crate::io::{Command, IoThread};
use crate::service::TaskService;
use crate::shim::Shim;

/// Time that the last events have.
const LAST_EVENTS: Duration = Duration::from_secs(2);
/// Time that attach clients have for the last bytes.
const LAST_BYTES: Duration = Duration::from_secs(12);
/// Time that connections have to take their last answer.
const LAST_ANSWER: Duration = Duration::from_secs(2);
/// Pause after accept(2) failed (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Runs until the shim is shut down.
pub(crate) fn serve(flags: &Flags) -> Result<(), TaskError> {
    crate::sys::limit_heap();
    // Fails for the leader of a process group, which then has no terminal to lose either.
    let _ = rustix::process::setsid();
    let listener = take_listener().map_err(TaskError::io("take", "the listener"))?;
    rustix::process::chdir("/").map_err(TaskError::errno("change to", "/"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(TaskError::errno("adopt", "orphans"))?;
    crate::sys::unshare_mounts().map_err(TaskError::io("make", "a mount namespace"))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(TaskError::io("start", "the reactor"))?
        .block_on(run(flags, listener))
}

/// Moves the listener away from 0 and puts /dev/null in the place of 0 and 1.
pub(crate) fn take_listener() -> io::Result<StdListener> {
    let stdin = io::stdin();
    let listener: OwnedFd = rustix::io::fcntl_dupfd_cloexec(&stdin, 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let listener = StdListener::from(listener);
    listener.set_nonblocking(true)?;
    // Fails for anything but a socket.
    listener.local_addr()?;
    Ok(listener)
}

async fn run(flags: &Flags, listener: StdListener) -> Result<(), TaskError> {
    let signals = TaskError::io("handle", "signals");
    let handlers = (|| {
        Ok((
            signal(SignalKind::child())?,
            signal(SignalKind::terminate())?,
            // Handled only so that it does not kill; handlers, unlike ignored signals, are not
            // passed on to the programs of containers.
            signal(SignalKind::hangup())?,
        ))
    })();
    let (mut child, mut terminate, _hangup) = handlers.map_err(signals)?;
    let socket =
        listener.local_addr().ok().and_then(|address| address.as_pathname().map(PathBuf::from));
    let listener =
        UnixListener::from_std(listener).map_err(TaskError::io("watch", "the listener"))?;
    let (events, publisher) = Publisher::new(&flags.namespace, &flags.address);
    let io = IoThread::spawn().map_err(TaskError::io("start", "the io thread"))?;
    let reaper = Reaper::default();
    let shim = Arc::new(Shim::new(flags, events, io.clone(), reaper.clone()));

    let service = Arc::new(TaskService(Arc::clone(&shim)));
    let mut server = Server::new()
        .add_listener(Listener::new(connections(listener)))
        .register_service(task_ttrpc_v2::create_task(service.clone()))
        .register_service(task_ttrpc_v3::create_task(service));
    server
        .start()
        .await
        .map_err(|error| TaskError::io("serve", "the listener")(io::Error::other(error)))?;
    tracing::info!(namespace = flags.namespace, "serving");

    loop {
        // All branches are cancel-safe: a missed SIGCHLD is made up by the next.
        tokio::select! {
            _ = child.recv() => reaper.reap_orphans(),
            _ = terminate.recv() => {
                if shim.is_empty() {
                    break;
                }
                tracing::info!("not ended by a signal: a container is left");
            }
            () = shim.shutdown.notified() => break,
        }
    }
    tracing::info!("shutting down");
    let _ = tokio::time::timeout(LAST_ANSWER, server.shutdown()).await;
    if let Some(socket) = socket {
        let _ = std::fs::remove_file(socket);
    }
    let (done, finished) = oneshot::channel();
    let finish = async {
        io.send(Command::Finish { done }).await;
        let _ = finished.await;
    };
    let _ = tokio::time::timeout(LAST_BYTES, finish).await;
    // The publisher's task ends when nobody can publish any more.
    drop((server, shim));
    let _ = tokio::time::timeout(LAST_EVENTS, publisher).await;
    Ok(())
}

/// Connections of root's processes. Others, and failures, are passed over.
fn connections(
    listener: UnixListener,
) -> impl futures::Stream<Item = io::Result<UnixStream>> + Send + 'static {
    futures::stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if crate::sys::is_trusted_peer(&stream) => {
                    return Some((Ok(stream), listener));
                }
                Ok(_) => tracing::warn!("a connection of another user is refused"),
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

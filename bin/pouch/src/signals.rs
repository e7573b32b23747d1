//! Signals of the CLI: passed on to the container, or the end of the command; and the changes of
//! the terminal's size.

use pouch_client::{Client, TerminalSize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::terminal;

/// What docker forwards, but for those that concern only ourselves (CHLD, PIPE, URG) and those that
/// nobody can catch.
const FORWARDED: [(i32, &str); 13] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (6, "ABRT"),
    (10, "USR1"),
    (12, "USR2"),
    (14, "ALRM"),
    (15, "TERM"),
    (18, "CONT"),
    (20, "TSTP"),
    (28, "WINCH"),
    (29, "IO"),
    (30, "PWR"),
];

/// Passes signals on to a container until dropped.
pub(crate) fn forward(client: &Client, container: &str) -> AbortOnDropHandle<()> {
    let (client, container) = (client.clone(), container.to_owned());
    // Registered before this returns, so that no signal after it has its default effect.
    let streams: Vec<_> = FORWARDED
        .iter()
        .filter_map(|(number, name)| Some((signal(SignalKind::from_raw(*number)).ok()?, *name)))
        .collect();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut set = JoinSet::new();
        for (mut stream, name) in streams {
            let (client, container) = (client.clone(), container.clone());
            set.spawn(async move {
                while stream.recv().await.is_some() {
                    // It may have ended meanwhile; its exit says so.
                    let _ = client.kill_container(&container, name).await;
                }
            });
        }
        while set.join_next().await.is_some() {}
    }))
}

/// The first signal that should end us, so that the terminal is restored and the exit code right.
pub(crate) async fn ending() -> u8 {
    let kinds = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()];
    let mut set = JoinSet::new();
    for kind in kinds {
        if let Ok(mut stream) = signal(kind) {
            set.spawn(async move {
                stream.recv().await;
                kind.as_raw_value()
            });
        }
    }
    match set.join_next().await {
        Some(Ok(number)) => 128 + u8::try_from(number).unwrap_or(0),
        _ => std::future::pending().await,
    }
}

/// What has a terminal to resize.
#[derive(Debug, Clone)]
pub(crate) enum Resizable {
    Container(String),
    Exec(String),
}

impl Resizable {
    async fn resize(
        &self,
        client: &Client,
        size: TerminalSize,
    ) -> Result<(), pouch_client::ClientError> {
        match self {
            Self::Container(id) => client.resize_container(id, size).await,
            Self::Exec(id) => client.resize_exec(id, size).await,
        }
    }
}

/// Keeps the remote terminal as large as ours until dropped.
///
/// The process may not run yet when the first size is sent, so that one is tried for a while.
pub(crate) fn follow_size(client: &Client, what: Resizable) -> AbortOnDropHandle<()> {
    const ATTEMPTS: u64 = 10;
    let client = client.clone();
    let changes = signal(SignalKind::window_change());
    AbortOnDropHandle::new(tokio::spawn(async move {
        if let Some(size) = terminal::size() {
            for attempt in 1..=ATTEMPTS {
                if what.resize(&client, size).await.is_ok() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(attempt * 10)).await;
            }
        }
        let Ok(mut changes) = changes else { return };
        while changes.recv().await.is_some() {
            if let Some(size) = terminal::size() {
                // The next change or the exit follows anyway.
                let _ = what.resize(&client, size).await;
            }
        }
    }))
}

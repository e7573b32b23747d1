//! Publishes events to the daemon, in order, without ever waiting for it.
//!
//! Events go through a bounded queue to one task that forwards them; a daemon that is away is
//! tried again with growing pauses. An event that grew too old is given up: the exit file, not
//! the event, is what a daemon that comes back reads.

use std::sync::Arc;
use std::time::Duration;

use pouch_protocol::events_ttrpc::{EventsClient, ForwardRequest};
use pouch_protocol::types::Envelope;
use pouch_protocol::{Message, any, timestamp};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Events that wait.
const QUEUE: usize = 256;
/// Time after which an event is given up.
const MAX_AGE: Duration = Duration::from_secs(300);
/// Time that one call may take.
const CALL: Duration = Duration::from_secs(5);
/// The first and the longest pause between attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

struct Pending {
    envelope: Envelope,
    born: Instant,
}

/// The sending end. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    namespace: Arc<str>,
    queue: Option<mpsc::Sender<Pending>>,
}

impl Publisher {
    /// Forwards to the ttrpc server at `address`, a path with or without `unix://`. An empty one
    /// publishes nothing. The handle ends when all publishers are gone and the queue is empty.
    pub(crate) fn new(namespace: &str, address: &str) -> (Self, tokio::task::JoinHandle<()>) {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        let (queue, receiver) = mpsc::channel(QUEUE);
        let publishes = !path.is_empty();
        let address = format!("unix://{path}");
        let task = tokio::spawn(async move {
            if publishes {
                forward(receiver, address).await;
            }
        });
        (Self { namespace: namespace.into(), queue: publishes.then_some(queue) }, task)
    }

    /// Queues `event`, a `containerd.events.<name>`.
    pub(crate) fn publish(&self, topic: &str, name: &str, event: &impl Message) {
        let Some(queue) = &self.queue else { return };
        let packed = match any(&format!("containerd.events.{name}"), event) {
            Ok(packed) => packed,
            Err(error) => return tracing::error!(topic, %error, "an event cannot be encoded"),
        };
        let envelope = Envelope {
            timestamp: Some(timestamp(jiff::Timestamp::now())).into(),
            namespace: self.namespace.to_string(),
            topic: topic.to_owned(),
            event: Some(packed).into(),
            ..Envelope::default()
        };
        if queue.try_send(Pending { envelope, born: Instant::now() }).is_err() {
            tracing::warn!(topic, "an event is dropped: too many wait for the daemon");
        }
    }
}

async fn forward(mut queue: mpsc::Receiver<Pending>, address: String) {
    let mut client: Option<EventsClient> = None;
    while let Some(pending) = queue.recv().await {
        let topic = pending.envelope.topic.clone();
        let request =
            ForwardRequest { envelope: Some(pending.envelope).into(), ..ForwardRequest::default() };
        let mut pause = PAUSES.0;
        loop {
            match attempt(&mut client, &address, &request).await {
                Ok(()) => break,
                Err(error) => {
                    client = None;
                    if pending.born.elapsed() > MAX_AGE {
                        tracing::warn!(topic, %error, "an event is given up");
                        break;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

async fn attempt(
    client: &mut Option<EventsClient>,
    address: &str,
    request: &ForwardRequest,
) -> ttrpc::Result<()> {
    let client = match client {
        Some(client) => client,
        none => none.insert(EventsClient::new(ttrpc::r#async::Client::connect(address).await?)),
    };
    let nanoseconds = i64::try_from(CALL.as_nanos()).unwrap_or(i64::MAX);
    client.forward(ttrpc::context::with_timeout(nanoseconds), request).await?;
    Ok(())
}

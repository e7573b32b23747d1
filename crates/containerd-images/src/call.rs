//! One call: its deadline, told to the server too, the lease that it makes things under, and its
//! error.

use std::time::Duration;

use pouch_containerd::Error;
use pouch_containerd_grpc::{Request, Response, Status};

/// Answers that need no work beyond a file or two.
pub(crate) const QUICK: Duration = Duration::from_secs(30);
/// A root of a snapshotter that copies what it stands on, or removes a large tree.
pub(crate) const TREE: Duration = Duration::from_secs(600);
/// Unpacking a layer, or making one: the largest have tens of gigabytes.
pub(crate) const LAYER: Duration = Duration::from_secs(3600);
/// What waits for the collector, which stops the server's whole world.
pub(crate) const COLLECT: Duration = Duration::from_secs(300);
/// Behind the server's deadline.
const GRACE: Duration = Duration::from_secs(2);
/// The header that names a lease.
const LEASE: &str = "containerd-lease";

/// The result of a call.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// One call to be made.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// What it does, for errors.
    pub(crate) stage: &'static str,
    /// Time for the answer.
    pub(crate) limit: Duration,
    /// What it makes belongs to this.
    pub(crate) lease: Option<String>,
}

impl Call {
    /// The request, with the deadline.
    pub(crate) fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(self.limit);
        self.under_lease(request)
    }

    /// The request of a call that goes on as long as its messages do.
    pub(crate) fn open_ended<M>(&self, message: M) -> Request<M> {
        self.under_lease(Request::new(message))
    }

    fn under_lease<M>(&self, mut request: Request<M>) -> Request<M> {
        // Ids of leases are ours: digits and letters.
        if let Some(lease) = self.lease.as_deref().and_then(|lease| lease.parse().ok()) {
            request.metadata_mut().insert(LEASE, lease);
        }
        request
    }

    /// Awaits the answer.
    pub(crate) async fn answer<T>(
        &self,
        work: impl Future<Output = std::result::Result<Response<T>, Status>>,
    ) -> Result<T> {
        self.within(async { work.await.map(Response::into_inner) }).await
    }

    /// Awaits one message.
    pub(crate) async fn within<T>(
        &self,
        work: impl Future<Output = std::result::Result<T, Status>>,
    ) -> Result<T> {
        match tokio::time::timeout(self.limit + GRACE, work).await {
            Ok(answer) => answer.map_err(|status| Error::grpc(self.stage, &status)),
            Err(_) => Err(Error::Unreachable {
                stage: self.stage,
                message: format!("no answer within {} s", self.limit.as_secs()),
            }),
        }
    }
}

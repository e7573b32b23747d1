//! One call: its deadline, told to the server too, and its error.

use std::time::Duration;

use pouch_containerd_grpc::{Code, Request, Response, Status};

use crate::{Error, Result};

/// Answers that need no work beyond a signal or a file.
pub(crate) const QUICK: Duration = Duration::from_secs(10);
/// A delete, which a shim that hangs does not do.
pub(crate) const DELETE: Duration = Duration::from_secs(12);
/// What runs the OCI runtime.
pub(crate) const RUNTIME: Duration = Duration::from_secs(30);
/// Making a container includes mounts and a runtime; a loaded disk may take its time.
pub(crate) const CREATE: Duration = Duration::from_secs(60);
/// Lists; containerd gives each shim that does not answer two seconds.
pub(crate) const LISTS: Duration = Duration::from_secs(30);
/// Behind the server's deadline: a server that answers says which shim hangs.
const GRACE: Duration = Duration::from_secs(2);

/// One call to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    /// What it does, for errors.
    pub(crate) stage: &'static str,
    /// The container that it is about; `-` for none.
    pub(crate) container: &'a str,
    /// Time for the server's answer.
    pub(crate) limit: Duration,
}

impl Call<'_> {
    /// The request, with the deadline.
    pub(crate) fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(self.limit);
        request
    }

    /// Awaits the answer.
    pub(crate) async fn answer<T>(
        &self,
        work: impl Future<Output = std::result::Result<Response<T>, Status>>,
    ) -> Result<T> {
        let began = tokio::time::Instant::now();
        match tokio::time::timeout(self.limit + GRACE, work).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            // A server whose shim does not answer in time says so in no code of its own, or ends
            // the stream.
            Ok(Err(status))
                if status.code() == Code::DeadlineExceeded || began.elapsed() >= self.limit =>
            {
                Err(Error::Deadline {
                    stage: self.stage,
                    container: self.container.to_owned(),
                    after: self.limit,
                })
            }
            Ok(Err(status)) => Err(Error::grpc(self.stage, &status)),
            Err(_) => Err(self.unanswered()),
        }
    }

    /// The server is there and says nothing.
    pub(crate) fn unanswered(&self) -> Error {
        let message = format!("no answer within {} s", self.limit.as_secs());
        Error::Unreachable { stage: self.stage, message }
    }
}

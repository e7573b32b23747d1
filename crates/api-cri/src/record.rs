//! Measures how long calls take, for whoever keeps such figures.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use tonic::Code;
use tonic::body::Body;

/// The operation of all calls that nobody serves: a client makes up as many names as it likes.
const UNIMPLEMENTED: &str = "runtime.v1 unimplemented";

/// Takes measurements: the call as `runtime.v1.RuntimeService/Version`, gRPC's code of its answer,
/// and the time until its answer began (a stream goes on after that).
#[derive(Clone)]
pub struct Recorder(Arc<Record>);

/// What is told of each call: its name, its gRPC code, how long it took.
type Record = dyn Fn(&str, u16, Duration) + Send + Sync;

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// One that gives them to `take`, which must not block.
    pub fn new(take: impl Fn(&str, u16, Duration) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    pub(crate) fn record(&self, path: &str, answer: &Response<Body>, elapsed: Duration) {
        // An answer with a body has its code behind that, and has begun well.
        let code = tonic::Status::from_header_map(answer.headers());
        let code = code.map_or(Code::Ok, |status| status.code());
        let operation = match code {
            Code::Unimplemented => UNIMPLEMENTED,
            _ => path.trim_start_matches('/'),
        };
        (self.0)(operation, u16::try_from(i32::from(code)).unwrap_or_default(), elapsed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn names_of_calls_are_bounded_and_codes_are_those_of_grpc() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&seen);
        let recorder = Recorder::new(move |call, code, _| {
            taken.lock().unwrap().push(format!("{call} {code}"));
        });
        let failed = |code| tonic::Status::new(code, "x").into_http();
        let path = "/runtime.v1.RuntimeService/Status";
        recorder.record(path, &Response::new(Body::empty()), Duration::ZERO);
        recorder.record(path, &failed(Code::NotFound), Duration::ZERO);
        recorder.record("/any/thing", &failed(Code::Unimplemented), Duration::ZERO);
        let status = "runtime.v1.RuntimeService/Status";
        let expected =
            [format!("{status} 0"), format!("{status} 5"), format!("{UNIMPLEMENTED} 12")];
        assert_eq!(*seen.lock().unwrap(), expected);
    }
}

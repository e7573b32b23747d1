//! The calls of the Docker API that are measured, on one connection.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::{self, Body, Client};

/// Marks the containers that are ours to remove.
const LABEL: &str = "dev.pouch.bench";

/// Between two looks at a detached exec.
const POLL: Duration = Duration::from_micros(200);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Http(#[from] http::Error),
    #[error("{request}: status {status}: {message}")]
    Refused { request: String, status: u16, message: String },
    #[error("{request}: the answer is not JSON")]
    Json { request: String, source: serde_json::Error },
    #[error("{request}: the answer lacks {field}")]
    Missing { request: String, field: &'static str },
    #[error("{what} ended with {code} instead of 0")]
    Failed { what: &'static str, code: i64 },
    #[error("exec {id} still runs after {deadline:?}")]
    Hung { id: String, deadline: Duration },
    #[error("reading {}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
}

type Result<T> = std::result::Result<T, Error>;

/// Where a container's network comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Network {
    None,
    Bridge,
}

/// How `exec` is watched.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Watch {
    /// Its stream on a connection of its own, to its end, then one inspect.
    Attached,
    /// Detached, and inspected until it has ended.
    Polled,
}

#[derive(Debug)]
pub(crate) struct Docker {
    client: Client,
    deadline: Duration,
}

impl Docker {
    pub(crate) fn connect(socket: &Path, deadline: Duration) -> Result<Self> {
        let mut docker = Self { client: Client::connect(socket, deadline)?, deadline };
        docker.ping()?;
        Ok(docker)
    }

    /// A further connection to the same engine, in use already.
    pub(crate) fn another(&self) -> Result<Self> {
        let mut docker = Self { client: self.client.another()?, deadline: self.deadline };
        docker.ping()?;
        Ok(docker)
    }

    pub(crate) fn ping(&mut self) -> Result<()> {
        self.call("GET", "/_ping", Body::Empty).map(drop)
    }

    /// The engine's version, for the report.
    pub(crate) fn version(&mut self) -> Result<String> {
        let path = "/version";
        let answer = self.json("GET", path, Body::Empty)?;
        text(&answer, "Version", path)
    }

    /// Makes `image` of a tar archive of a root file system.
    pub(crate) fn import(&mut self, image: &str, archive: &Path) -> Result<()> {
        let bytes = std::fs::read(archive)
            .map_err(|source| Error::Read { path: archive.to_owned(), source })?;
        let path = format!("/images/create?fromSrc=-&repo={image}");
        self.call("POST", &path, Body::Tar(&bytes))?;
        // The stream's status is 200 even if it ends with an error.
        self.call("GET", &format!("/images/{image}/json"), Body::Empty).map(drop)
    }

    pub(crate) fn create(
        &mut self,
        image: &str,
        network: Network,
        command: &[&str],
    ) -> Result<String> {
        let path = "/containers/create";
        let network = match network {
            Network::None => "none",
            Network::Bridge => "bridge",
        };
        let body = json!({
            "Image": image,
            "Cmd": command,
            "Labels": { LABEL: "" },
            "HostConfig": { "NetworkMode": network },
        });
        let answer = self.json("POST", path, Body::Json(body.to_string().as_bytes()))?;
        text(&answer, "Id", path)
    }

    pub(crate) fn start(&mut self, id: &str) -> Result<()> {
        self.call("POST", &format!("/containers/{id}/start"), Body::Empty).map(drop)
    }

    /// Waits until the container is not running, and insists on exit code 0.
    pub(crate) fn wait(&mut self, id: &str) -> Result<()> {
        let path = format!("/containers/{id}/wait");
        let answer = self.json("POST", &path, Body::Empty)?;
        match number(&answer, "StatusCode", &path)? {
            0 => Ok(()),
            code => Err(Error::Failed { what: "the container", code }),
        }
    }

    pub(crate) fn remove(&mut self, id: &str) -> Result<()> {
        self.call("DELETE", &format!("/containers/{id}?v=1"), Body::Empty).map(drop)
    }

    pub(crate) fn force_remove(&mut self, id: &str) -> Result<()> {
        self.call("DELETE", &format!("/containers/{id}?force=1&v=1"), Body::Empty).map(drop)
    }

    /// From the exec's creation until its exit code is known.
    pub(crate) fn exec(&mut self, id: &str, command: &[&str], watch: Watch) -> Result<()> {
        let path = format!("/containers/{id}/exec");
        let output = matches!(watch, Watch::Attached);
        let body = json!({ "Cmd": command, "AttachStdout": output, "AttachStderr": output });
        let answer = self.json("POST", &path, Body::Json(body.to_string().as_bytes()))?;
        let exec = text(&answer, "Id", &path)?;

        let path = format!("/exec/{exec}/start");
        let body = json!({ "Detach": !output, "Tty": false }).to_string();
        let body = Body::Json(body.as_bytes());
        match watch {
            // The stream takes its connection with it when it ends.
            Watch::Attached => {
                accept("POST", &path, self.client.another()?.request("POST", &path, body)?)?
            }
            Watch::Polled => self.call("POST", &path, body)?,
        };

        let path = format!("/exec/{exec}/json");
        let end = Instant::now() + self.deadline;
        loop {
            let answer = self.json("GET", &path, Body::Empty)?;
            if answer.get("Running").and_then(Value::as_bool) == Some(false) {
                return match number(&answer, "ExitCode", &path)? {
                    0 => Ok(()),
                    code => Err(Error::Failed { what: "the exec", code }),
                };
            }
            if Instant::now() > end {
                return Err(Error::Hung { id: exec, deadline: self.deadline });
            }
            std::thread::sleep(POLL);
        }
    }

    /// How many containers the list of the running ones holds.
    pub(crate) fn list(&mut self) -> Result<usize> {
        let path = "/containers/json";
        let response = self.call("GET", path, Body::Empty)?;
        let list: Vec<serde::de::IgnoredAny> = serde_json::from_slice(&response.body)
            .map_err(|source| Error::Json { request: format!("GET {path}"), source })?;
        Ok(list.len())
    }

    /// Removes what an earlier or failed run left.
    pub(crate) fn remove_ours(&mut self) -> Result<()> {
        // {"label":["dev.pouch.bench"]}, percent-encoded.
        let path =
            format!("/containers/json?all=1&filters=%7B%22label%22%3A%5B%22{LABEL}%22%5D%7D");
        let list = self.json("GET", &path, Body::Empty)?;
        for container in list.as_array().into_iter().flatten() {
            let id = text(container, "Id", &path)?;
            self.force_remove(&id)?;
        }
        Ok(())
    }

    fn call(&mut self, method: &str, path: &str, body: Body<'_>) -> Result<http::Response> {
        accept(method, path, self.client.request(method, path, body)?)
    }

    fn json(&mut self, method: &str, path: &str, body: Body<'_>) -> Result<Value> {
        let response = self.call(method, path, body)?;
        serde_json::from_slice(&response.body)
            .map_err(|source| Error::Json { request: format!("{method} {path}"), source })
    }
}

fn accept(method: &str, path: &str, response: http::Response) -> Result<http::Response> {
    if matches!(response.status, 101 | 200..=299) {
        return Ok(response);
    }
    let message = String::from_utf8_lossy(&response.body).trim().to_owned();
    Err(Error::Refused { request: format!("{method} {path}"), status: response.status, message })
}

fn text(value: &Value, field: &'static str, request: &str) -> Result<String> {
    let text = value.get(field).and_then(Value::as_str);
    text.map(str::to_owned).ok_or_else(|| Error::Missing { request: request.to_owned(), field })
}

fn number(value: &Value, field: &'static str, request: &str) -> Result<i64> {
    let number = value.get(field).and_then(Value::as_i64);
    number.ok_or_else(|| Error::Missing { request: request.to_owned(), field })
}

//! The client itself: one daemon, its negotiated version, the core of every call.
//!
//! Deadlines: connecting and the first contact (`/_ping`) have one. A call does not, because how
//! long `stop -t 600`, a pull or a wait takes is the daemon's business; the caller ends a call by
//! dropping its future.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use crate::body::{self, ReplyBody, RequestBody};
use crate::dial::{self, Dialer};
use crate::endpoint::Endpoint;
use crate::error::ClientError;
use crate::hijack::Hijacked;
use crate::ndjson::Ndjson;
use crate::pool::Pool;
use crate::query::Query;
use crate::tls::{self, TlsOptions};
use crate::version::ApiVersion;

/// Whole replies are read up to this many bytes: `inspect` and lists of thousands of containers.
const REPLY_LIMIT: usize = 64 << 20;
/// Error bodies are read up to this many bytes.
const ERROR_LIMIT: usize = 64 << 10;
const PING_DEADLINE: Duration = Duration::from_secs(30);

/// How to reach a daemon and which version to speak.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// TLS for TCP endpoints.
    pub tls: Option<TlsOptions>,
    /// Fixes the version (`DOCKER_API_VERSION`); `None` negotiates.
    pub version: Option<ApiVersion>,
    /// Sent with every request (`HttpHeaders` of the configuration file).
    pub headers: HeaderMap,
}

impl ClientOptions {
    /// Plain, negotiating, without further headers.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, tls: None, version: None, headers: HeaderMap::new() }
    }
}

/// What `/_ping` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping {
    /// The daemon's newest version.
    pub api_version: Option<ApiVersion>,
    /// `linux`.
    pub os_type: String,
    /// `Docker-Experimental`.
    pub experimental: bool,
    /// `1` is the classic builder, `2` BuildKit.
    pub builder_version: String,
}

/// A daemon. Cheap to clone; clones share connections and the negotiated version.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: Arc<Pool>,
    version: OnceCell<ApiVersion>,
    headers: HeaderMap,
    host: HeaderValue,
    prefix: String,
}

/// One request before the version prefix is put on.
pub(crate) struct Call {
    method: Method,
    path: String,
    query: Query,
    headers: HeaderMap,
    body: RequestBody,
}

impl Call {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: Query::new(),
            headers: HeaderMap::new(),
            body: body::empty(),
        }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    pub(crate) fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    pub(crate) fn query(mut self, query: Query) -> Self {
        self.query = query;
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn json<T: Serialize>(mut self, value: &T) -> Result<Self, ClientError> {
        self.body = body::json(&self.what(), value)?;
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(self)
    }

    pub(crate) fn body(mut self, body: RequestBody, content_type: &'static str) -> Self {
        self.body = body;
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        self
    }

    fn what(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// A reply with a status of success.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) head: http::response::Parts,
    pub(crate) body: ReplyBody,
}

impl Client {
    /// A client for the daemon of `options`. Nothing is sent yet.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        let ClientOptions { endpoint, tls, version, headers } = options;
        let (host, prefix, https) = match &endpoint {
            Endpoint::Tcp { host, port, prefix, tls } => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                let authority = match port {
                    Some(port) => format!("{host}:{port}"),
                    None => host,
                };
                (authority, prefix.clone(), *tls)
            }
            // A name that cannot exist, so that no proxy or name check takes it for a host.
            Endpoint::Unix(_) | Endpoint::Ssh(_) => {
                ("api.pouch.invalid".to_owned(), String::new(), false)
            }
        };
        let is_tcp = matches!(endpoint, Endpoint::Tcp { .. });
        let tls = match tls {
            Some(options) if is_tcp => Some(tls::client_config(&options)?),
            None if https => Some(tls::client_config(&TlsOptions {
                ca: None,
                identity: None,
                verify: tls::Verify::Full,
            })?),
            _ => None,
        };
        let host = HeaderValue::from_str(&host)
            .map_err(|_| ClientError::Endpoint { host: host.clone(), reason: "not a host name" })?;
        let pool = Arc::new(Pool::new(Dialer { endpoint, tls }));
        let version = OnceCell::new_with(version);
        Ok(Self { inner: Arc::new(Inner { pool, version, headers, host, prefix }) })
    }

    /// A client that negotiates its version.
    ///
    /// # Errors
    /// See [`Client::new`].
    pub fn connect_to(endpoint: Endpoint) -> Result<Self, ClientError> {
        Self::new(ClientOptions::new(endpoint))
    }

    /// Where the daemon listens.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.pool.dialer().endpoint
    }

    /// Relays bytes between the daemon and a pair of streams until the daemon closes: what
    /// `system dial-stdio` does at the far end of an ssh connection.
    ///
    /// # Errors
    /// When the daemon cannot be reached or a copy fails.
    pub async fn relay<R, W>(&self, input: R, output: W) -> Result<(), ClientError>
    where
        R: tokio::io::AsyncRead + Unpin,
        W: tokio::io::AsyncWrite + Unpin,
    {
        dial::relay(self.inner.pool.dialer(), input, output).await
    }

    /// The version of this conversation; the first use asks the daemon.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn version(&self) -> Result<ApiVersion, ClientError> {
        self.inner
            .version
            .get_or_try_init(|| async {
                let ping = self.ping().await?;
                Ok(ping.api_version.unwrap_or(ApiVersion::OLDEST).min(ApiVersion::NEWEST))
            })
            .await
            .copied()
    }

    /// `HEAD /_ping`, and `GET` for daemons that do not know `HEAD`.
    ///
    /// # Errors
    /// When the daemon does not answer within 30 s.
    pub async fn ping(&self) -> Result<Ping, ClientError> {
        let attempt = async {
            match self.dispatch(Call::new(Method::HEAD, "/_ping"), "").await {
                Err(ClientError::Api { .. }) => self.dispatch(Call::get("/_ping"), "").await,
                other => other,
            }
        };
        let reply = tokio::time::timeout(PING_DEADLINE, attempt).await.map_err(|_| {
            ClientError::Deadline {
                stage: format!("contacting {}", self.endpoint()),
                seconds: PING_DEADLINE.as_secs(),
            }
        })??;
        let text = |name: &str| {
            reply.head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
        };
        let ping = Ping {
            api_version: text("api-version").parse().ok(),
            os_type: text("ostype").to_owned(),
            experimental: text("docker-experimental") == "true",
            builder_version: text("builder-version").to_owned(),
        };
        reply.body.collect(ERROR_LIMIT).await?;
        Ok(ping)
    }

    /// Sends `call` under the negotiated version; the reply's status is a success or 101.
    pub(crate) async fn send(&self, call: Call) -> Result<Reply, ClientError> {
        let version = self.version().await?;
        self.dispatch(call, &format!("/v{version}")).await
    }

    async fn dispatch(&self, call: Call, version: &str) -> Result<Reply, ClientError> {
        let what = call.what();
        let (request, what) = self.request(call, version, what)?;
        let (response, lease) = self.inner.pool.exchange(&what, request).await?;
        let (head, incoming) = response.into_parts();
        let body = ReplyBody::new(incoming, lease, what);
        // 304 is how the daemon says that a container is already started or stopped.
        if head.status.is_success() || head.status == StatusCode::NOT_MODIFIED {
            Ok(Reply { head, body })
        } else {
            Err(refusal(head.status, body).await)
        }
    }

    fn request(
        &self,
        call: Call,
        version: &str,
        what: String,
    ) -> Result<(Request<RequestBody>, String), ClientError> {
        let mut target = format!("{}{version}{}", self.inner.prefix, call.path);
        if !call.query.as_str().is_empty() {
            target.push('?');
            target.push_str(call.query.as_str());
        }
        let mut builder = Request::builder().method(call.method).uri(target);
        if let Some(headers) = builder.headers_mut() {
            headers.insert(
                USER_AGENT,
                HeaderValue::from_static(concat!("pouch/", env!("CARGO_PKG_VERSION"))),
            );
            headers.extend(self.inner.headers.clone());
            headers.insert(HOST, self.inner.host.clone());
            headers.extend(call.headers);
        }
        match builder.body(call.body) {
            Ok(request) => Ok((request, what)),
            Err(source) => Err(ClientError::Request { what, source }),
        }
    }

    /// Sends `call` and decodes the whole reply.
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let what = call.what();
        let bytes = self.bytes(call).await?;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Decode { what, source })
    }

    /// Sends `call` and returns the whole reply as it came.
    pub(crate) async fn bytes(&self, call: Call) -> Result<Bytes, ClientError> {
        self.send(call).await?.body.collect(REPLY_LIMIT).await
    }

    /// Sends `call` and drops the reply.
    pub(crate) async fn unit(&self, call: Call) -> Result<(), ClientError> {
        self.bytes(call).await.map(drop)
    }

    /// Sends `call` and decodes the reply as it comes.
    pub(crate) async fn ndjson<T: DeserializeOwned>(
        &self,
        call: Call,
    ) -> Result<Ndjson<T>, ClientError> {
        Ok(Ndjson::new(self.send(call).await?.body))
    }

    /// Sends `call` and takes over the connection.
    pub(crate) async fn hijack(&self, call: Call) -> Result<Hijacked, ClientError> {
        let version = self.version().await?;
        let call = call
            .header(CONNECTION, HeaderValue::from_static("Upgrade"))
            .header(UPGRADE, HeaderValue::from_static("tcp"));
        let what = call.what();
        let (request, what) = self.request(call, &format!("/v{version}"), what)?;
        let (response, lease) = self.inner.pool.exchange(&what, request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (head, incoming) = response.into_parts();
            let body = ReplyBody::new(incoming, lease, what.clone());
            return Err(if head.status.is_success() {
                ClientError::Protocol { what, reason: "the daemon did not upgrade the connection" }
            } else {
                refusal(head.status, body).await
            });
        }
        let content_type = content_type(&response);
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|source| ClientError::Transport { what, source })?;
        drop(lease);
        Ok(Hijacked::new(upgraded, content_type.as_deref()))
    }
}

fn content_type<B>(response: &Response<B>) -> Option<String> {
    response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).map(str::to_owned)
}

/// The error that a reply without success stands for.
async fn refusal(status: StatusCode, body: ReplyBody) -> ClientError {
    #[derive(serde::Deserialize)]
    struct Message {
        message: String,
    }
    let bytes = match body.collect(ERROR_LIMIT).await {
        Ok(bytes) => bytes,
        Err(error) => return error,
    };
    let message = match serde_json::from_slice::<Message>(&bytes) {
        Ok(Message { message }) => message,
        Err(_) => String::from_utf8_lossy(&bytes).trim().to_owned(),
    };
    let message =
        if message.is_empty() { format!("the daemon answered {status}") } else { message };
    ClientError::Api { status, message }
}

//! One client's rights at the sources of one repository, and one exchange with one of them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use pouch_types::{Digest, ImageRef};
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use tokio::time::timeout;

use crate::Inner;
use crate::auth::Credentials;
use crate::body::Body;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::rounds::{Fault, Haste, Rounds, Turn, Want, offence};
use crate::source::{Kind, Offence, Source, is_backend, tell_dragonfly};
use crate::token::Authorizer;
use crate::transport::{Request, Transport, host, retry_after, same_origin, verb};

/// What was learnt of the sources of one blob.
#[derive(Debug, Default, Clone)]
struct Marks {
    /// Gave bytes of it.
    gave: BTreeSet<usize>,
    /// Are not asked for it any more.
    lied: BTreeSet<usize>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    registry: Arc<Inner>,
    pub(crate) reference: ImageRef,
    /// In the order in which they are asked; the last is the origin.
    sources: Vec<(Source, Arc<Authorizer>)>,
    marks: Mutex<HashMap<Digest, Marks>>,
    /// Refuse this repository to us.
    refusing: Mutex<BTreeSet<usize>>,
}

/// How much of a blob whose digest was wrong at its end came in this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Had {
    /// All: whoever gave it is to blame.
    All,
    /// What an earlier attempt had left over; that attempt's bytes may be the wrong ones.
    Rest,
}

/// What becomes of a blob whose digest was wrong at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Recourse {
    /// Others may have it right: fetch it again, from its beginning.
    Elsewhere,
    /// The registry itself gave these bytes.
    Nowhere,
}

/// What [`Session::exchange`] needs.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    /// Below the repository: `manifests/latest`.
    pub(crate) path: &'a str,
    pub(crate) headers: HeaderMap,
    pub(crate) want: Want,
}

impl Session {
    pub(crate) fn new(
        registry: Arc<Inner>,
        reference: &ImageRef,
        sources: Vec<Source>,
        credentials: Credentials,
    ) -> Self {
        let scopes = vec![format!("repository:{}:pull", reference.path())];
        let own = Arc::new(Authorizer::new(credentials, scopes.clone()));
        let sources = sources.into_iter().map(|source| {
            let home = source.is_home_of(reference.domain());
            let authorizer = match source.kind {
                // It is led to the registry, with what the registry wants to see.
                Kind::Dragonfly => Arc::clone(&own),
                Kind::Origin | Kind::Mirror if home => Arc::clone(&own),
                // Nobody's credentials but the registry's own were given to us.
                Kind::Origin | Kind::Mirror => {
                    Arc::new(Authorizer::new(Credentials::Anonymous, scopes.clone()))
                }
            };
            (source, authorizer)
        });
        let sources = sources.collect();
        Self {
            registry,
            reference: reference.clone(),
            sources,
            marks: Mutex::default(),
            refusing: Mutex::default(),
        }
    }

    /// A session with the registry itself, with the same rights; `None` when this is one.
    pub(crate) fn without_mirrors(&self) -> Option<Self> {
        let [.., _, origin] = self.sources.as_slice() else { return None };
        Some(Self {
            registry: Arc::clone(&self.registry),
            reference: self.reference.clone(),
            sources: vec![origin.clone()],
            marks: Mutex::default(),
            refusing: Mutex::default(),
        })
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.registry
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.registry.transport
    }

    pub(crate) const fn rounds(&self, want: Want) -> Rounds<'_> {
        Rounds::new(self, want)
    }

    pub(crate) fn source(&self, index: usize) -> &Source {
        &self.sources[index].0
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = &(Source, Arc<Authorizer>)> {
        self.sources.iter()
    }

    pub(crate) const fn is_origin(&self, index: usize) -> bool {
        index + 1 == self.sources.len()
    }

    pub(crate) fn is_benched(&self, index: usize) -> bool {
        !self.is_origin(index) && self.registry.bench.has(self.source(index))
    }

    fn marks(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Marks>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusing(&self) -> std::sync::MutexGuard<'_, BTreeSet<usize>> {
        self.refusing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whom to ask, in this order.
    pub(crate) fn order(&self, want: &Want) -> VecDeque<Turn> {
        let lied = want
            .digest()
            .and_then(|digest| self.marks().get(digest).map(|marks| marks.lied.clone()))
            .unwrap_or_default();
        let refusing = self.refusing().clone();
        let able = |index: &usize| {
            let capabilities = self.source(*index).capabilities;
            let can = match want {
                Want::Tag => capabilities.resolve,
                Want::Document(_) | Want::Blob(_) => capabilities.pull,
            };
            can && !refusing.contains(index) && !lied.contains(index)
        };
        let mirrors = (0..self.sources.len().saturating_sub(1)).filter(able);
        let (benched, good): (Vec<_>, Vec<_>) = mirrors.partition(|index| self.is_benched(*index));
        let origin = self.sources.len().checked_sub(1);
        let turn = |haste| move |source| Turn { source, haste };
        good.into_iter()
            .map(turn(Haste::Strict))
            .chain(origin.into_iter().chain(benched).map(turn(Haste::Patient)))
            .collect()
    }

    /// Whether a source of this kind will be the first to be asked.
    pub(crate) fn is_first_asked(&self, kind: Kind, want: &Want) -> bool {
        self.order(want).front().is_some_and(|turn| self.source(turn.source).kind == kind)
    }

    /// Remembers what a mirror did wrong.
    pub(crate) fn blame(&self, index: usize, want: &Want, error: &RegistryError) {
        match offence(error) {
            Some(offence) => {
                self.registry.bench.put(self.source(index), offence);
                if offence == Offence::Lied
                    && let Some(digest) = want.digest()
                {
                    self.marks().entry(*digest).or_default().lied.insert(index);
                }
            }
            None if matches!(
                error,
                RegistryError::Denied { .. } | RegistryError::Unauthorized { .. }
            ) =>
            {
                self.refusing().insert(index);
            }
            None => {}
        }
    }

    /// Remembers that a source gave bytes of a blob.
    pub(crate) fn gave(&self, index: usize, digest: &Digest) {
        self.marks().entry(*digest).or_default().gave.insert(index);
        self.registry.bench.clear(self.source(index));
    }

    /// See [`crate::Repository::distrust`].
    pub(crate) fn distrust(&self, digest: &Digest, had: Had) -> Recourse {
        let mut marks = self.marks();
        let marks = marks.entry(*digest).or_default();
        let liars: Vec<usize> =
            std::mem::take(&mut marks.gave).into_iter().filter(|i| !self.is_origin(*i)).collect();
        for index in &liars {
            let source = self.source(*index);
            marks.lied.insert(*index);
            if had == Had::All {
                tracing::warn!(mirror = %source.key(), %digest, "mirror sent wrong bytes");
                self.registry.bench.put(source, Offence::Lied);
            }
        }
        if liars.is_empty() { Recourse::Nowhere } else { Recourse::Elsewhere }
    }

    /// Asks one source once and waits for the first bytes of its answer, which is a success.
    pub(crate) async fn exchange(&self, turn: Turn, ask: &Ask<'_>) -> Result<Body, Fault> {
        let transport = self.transport();
        let pace = match turn.haste {
            Haste::Strict if !self.is_slow_starter(turn, &ask.want) => transport.strict(),
            Haste::Strict | Haste::Patient => transport.patient(),
        };
        let work = async {
            let response = self.request(turn.source, ask).await?;
            if !response.status().is_success() {
                return Err(self.fault(turn, ask, response).await);
            }
            let mut body = Body::new(response, pace);
            if ask.method == Method::GET {
                body.prefetch().await?;
            }
            Ok(body)
        };
        if turn.haste == Haste::Patient {
            return work.await;
        }
        let host = || self.source(turn.source).key();
        tokio::select! {
            // Whichever is dropped here is not wanted any more.
            biased;
            outcome = timeout(pace.window, work) => outcome.unwrap_or_else(|_| {
                Err(RegistryError::Idle { host: host(), after: pace.window }.into())
            }),
            () = self.until_benched(turn.source) => Err(passed_over(host()).into()),
            error = self.until_gone(turn, &ask.want) => Err(error.into()),
        }
    }

    /// Waits until a mirror has failed somebody else.
    pub(crate) async fn until_benched(&self, index: usize) {
        self.registry.bench.until_has(self.source(index)).await;
    }

    /// One request with what authorization the source asks for.
    async fn request(&self, index: usize, ask: &Ask<'_>) -> Result<Response, RegistryError> {
        let (source, authorizer) = &self.sources[index];
        let endpoint = source.endpoint(&self.registry).await?;
        let path = format!("{}/{}", self.reference.path(), ask.path);
        let mut request = Request::new(ask.method.clone(), source.url(&endpoint, &path)?);
        request.headers = ask.headers.clone();
        request.headers.extend(source.headers.clone());
        request.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if source.kind == Kind::Dragonfly {
            return self.by_dragonfly(&endpoint, authorizer, request, ask.want).await;
        }
        self.authorized(&endpoint, authorizer, request).await
    }

    /// Sends a request to a registry or mirror and answers its challenges.
    pub(crate) async fn authorized(
        &self,
        endpoint: &Endpoint,
        authorizer: &Authorizer,
        request: Request,
    ) -> Result<Response, RegistryError> {
        let transport = self.transport();
        let outcome = authorized(transport, endpoint, authorizer, request).await;
        outcome.inspect_err(|error| {
            if error.is_transient() {
                self.registry.endpoints.forget(endpoint);
            }
        })
    }

    /// Sends a request through Dragonfly's proxy. A challenge that comes that way is not believed:
    /// the registry itself is asked what it wants to see, so that the proxy cannot name a token
    /// service of its own. Only tokens are shown to it, never a password.
    async fn by_dragonfly(
        &self,
        proxy: &Endpoint,
        authorizer: &Authorizer,
        mut request: Request,
        want: Want,
    ) -> Result<Response, RegistryError> {
        let transport = self.transport();
        let Some((origin, _)) = self.sources.last() else {
            return Err(RegistryError::Protocol {
                host: host(&proxy.base),
                why: "has no registry behind it".to_owned(),
            });
        };
        let registry = origin.endpoint(&self.registry).await?;
        // The path is the registry's, which may have a prefix.
        let path = request.url.path().strip_prefix(proxy.base.path()).map(str::to_owned);
        if let Some(path) = path {
            request.url.set_path(&format!("{}{path}", registry.base.path()));
        }
        tell_dragonfly(&mut request.headers, &registry.base, want);
        let mut token = authorizer.current().await.filter(is_token);
        for _ in 0..2 {
            let response =
                transport.follow(&proxy.tls, request.clone().authorized(token.clone())).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            let ping = Request::get(registry.base.clone());
            let challenge = transport.follow(&registry.tls, ping).await?;
            if challenge.status() != StatusCode::UNAUTHORIZED
                || !same_origin(challenge.url(), &registry.base)
            {
                return Ok(response);
            }
            let fresh = authorizer
                .answer(transport, &registry, challenge.headers(), token.as_ref())
                .await?
                .filter(is_token);
            match fresh {
                Some(value) => token = Some(value),
                None => return Ok(response),
            }
        }
        transport.follow(&proxy.tls, request.authorized(token)).await
    }

    async fn fault(&self, turn: Turn, ask: &Ask<'_>, response: Response) -> Fault {
        let status = response.status().as_u16();
        let retry_after = retry_after(&response);
        let (source, authorizer) = &self.sources[turn.source];
        let from_registry = source.kind == Kind::Dragonfly && is_backend(response.headers());
        // A refusal may be for want of the password, which Dragonfly never sees.
        let is_best = match authorizer.current().await {
            Some(value) => is_token(&value),
            None => *authorizer.credentials() == Credentials::Anonymous,
        };
        let is_verdict = from_registry && (status == 404 || matches!(status, 401 | 403) && is_best);
        let error = self.failure(response, ask, turn.haste).await;
        Fault { error, retry_after, is_verdict }
    }

    /// The error that an answer amounts to.
    pub(crate) async fn failure(
        &self,
        response: Response,
        ask: &Ask<'_>,
        haste: Haste,
    ) -> RegistryError {
        let status = response.status();
        let url = crate::transport::bare(response.url());
        let transport = self.transport();
        let pace = match haste {
            Haste::Strict => transport.strict(),
            Haste::Patient => transport.patient(),
        };
        let complaint = transport.complaint(response, pace).await;
        let message = complaint.message;
        let repository = self.reference.familiar_repository();
        let anonymous =
            self.sources.last().is_none_or(|(_, own)| *own.credentials() == Credentials::Anonymous);
        let denied = |words: &str, message: String, repository: String| RegistryError::Denied {
            repository,
            message: format!("{words}: {message}"),
        };
        match (status.as_u16(), complaint.code.as_str(), ask.want) {
            (404, _, Want::Blob(digest)) => RegistryError::BlobUnknown(digest),
            (_, "MANIFEST_UNKNOWN", _) => {
                RegistryError::ManifestUnknown { reference: self.reference.familiar(), message }
            }
            (_, "NAME_UNKNOWN", _) => RegistryError::NameUnknown {
                repository,
                message: format!("name unknown: {message}"),
            },
            (_, "DENIED", _) | (403, _, _) => denied("denied", message, repository),
            (401, _, _) if anonymous => denied("unauthorized", message, repository),
            (_, "UNAUTHORIZED", _) | (401, _, _) => RegistryError::Unauthorized { message },
            (_, "TOOMANYREQUESTS", _) | (429, _, _) => RegistryError::RateLimited { message },
            (404, _, _) => {
                RegistryError::ManifestUnknown { reference: self.reference.familiar(), message }
            }
            (status, _, _) => {
                RegistryError::Status { method: verb(&ask.method), url, status, message }
            }
        }
    }
}

/// Says that a mirror is not waited for because another stream waited in vain.
pub(crate) fn passed_over(host: String) -> RegistryError {
    RegistryError::Protocol { host, why: "has failed meanwhile".to_owned() }
}

fn is_token(value: &HeaderValue) -> bool {
    value.as_bytes().starts_with(b"Bearer ")
}

/// Sends a request as we are, then with what the challenge wants, then once more because a token
/// can expire between its making and its use.
pub(crate) async fn authorized(
    transport: &Transport,
    endpoint: &Endpoint,
    authorizer: &Authorizer,
    request: Request,
) -> Result<Response, RegistryError> {
    // A mirror's own key, from its configuration, comes before anything of ours.
    if request.headers.contains_key(AUTHORIZATION) {
        return transport.follow(&endpoint.tls, request).await;
    }
    let mut tried = authorizer.current().await;
    for _ in 0..2 {
        let response =
            transport.follow(&endpoint.tls, request.clone().authorized(tried.clone())).await?;
        // A redirect may have led elsewhere, whose challenge is none of the registry's.
        let ours = same_origin(response.url(), &request.url);
        if response.status() != StatusCode::UNAUTHORIZED || !ours {
            return Ok(response);
        }
        match authorizer.answer(transport, endpoint, response.headers(), tried.as_ref()).await? {
            Some(value) => tried = Some(value),
            None => return Ok(response),
        }
    }
    transport.follow(&endpoint.tls, request.authorized(tried)).await
}

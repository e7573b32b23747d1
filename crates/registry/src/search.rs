//! Looking for repositories by a word.
//!
//! Docker Hub and a few others still answer the search of the first registry protocol. For the
//! rest the list of all repositories (`_catalog`) serves, where the registry shows it to us.

use pouch_types::{Classified, ErrorKind};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

use crate::Registry;
use crate::auth::Credentials;
use crate::endpoint::{Endpoint, https};
use crate::error::RegistryError;
use crate::session::authorized;
use crate::tags::{PAGE, PAGE_BYTES, next_page};
use crate::token::Authorizer;
use crate::transport::{Request, bare};

/// Where Docker Hub is searched.
const HUB: &str = "index.docker.io";
/// Hits that one search may ask for.
const LIMIT_MAX: u32 = 100;
/// Pages of a list of repositories that are looked through.
const PAGES: usize = 50;

/// One repository that was found.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct Hit {
    /// As the registry's search calls it, without the host; with the host when it comes from a
    /// list of repositories.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// What its owner says of it.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// How many like it.
    #[serde(rename = "star_count", deserialize_with = "or_default")]
    pub stars: i64,
    /// Kept by the registry's own people.
    #[serde(rename = "is_official", deserialize_with = "or_default")]
    pub official: bool,
}

fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// Why a search found nothing out.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The term is a URL.
    #[error("invalid repository name: repository name ({0}) should not have a scheme")]
    Scheme(String),
    /// More or fewer hits than can be asked for.
    #[error("limit {0} is outside the range of [1, {LIMIT_MAX}]")]
    Limit(u32),
    /// The registry has neither a search nor a list of its repositories.
    #[error("registry {0} cannot be searched: it has no search and no list of its repositories")]
    None(String),
    /// The registry has no search, and its list is not for us.
    #[error(
        "registry {host} cannot be searched: it has no search, and its list of repositories is \
         not shown to us, which may require 'docker login': {message}"
    )]
    Hidden {
        /// Its name.
        host: String,
        /// Its words.
        message: String,
    },
    /// Anything else.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl Classified for SearchError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Scheme(_) | Self::Limit(_) => ErrorKind::Invalid,
            Self::None(_) => ErrorKind::Unsupported,
            Self::Hidden { .. } => ErrorKind::Denied,
            Self::Registry(error) => error.kind(),
        }
    }
}

/// What is looked for, and where.
#[derive(Debug, PartialEq, Eq)]
struct Term<'t> {
    /// `None` is Docker Hub.
    host: Option<&'t str>,
    word: &'t str,
}

impl<'t> Term<'t> {
    /// Takes a term apart by Docker's rule for names.
    fn parse(text: &'t str) -> Result<Self, SearchError> {
        if text.contains("://") {
            return Err(SearchError::Scheme(text.to_owned()));
        }
        let on_hub = |word: &'t str| Self {
            host: None,
            // Official images are listed without it.
            word: word.strip_prefix("library/").unwrap_or(word),
        };
        match text.split_once('/') {
            Some(("docker.io" | HUB, word)) => Ok(on_hub(word)),
            Some((host, word)) if host.contains(['.', ':']) || host == "localhost" => {
                Ok(Self { host: Some(host), word })
            }
            _ => Ok(on_hub(text)),
        }
    }
}

/// What became of a search of the first protocol.
enum First {
    Hits(Vec<Hit>),
    /// The registry does not speak it.
    Unknown,
}

impl Registry {
    /// Repositories whose names have to do with `term`, which is a word or `host/word`; at most
    /// `limit`, 1 to 100.
    ///
    /// # Errors
    /// [`SearchError`].
    pub async fn search(
        &self,
        term: &str,
        limit: u32,
        credentials: &Credentials,
    ) -> Result<Vec<Hit>, SearchError> {
        let term = Term::parse(term)?;
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(SearchError::Limit(limit));
        }
        let Some(host) = term.host else {
            let base = https(HUB)?;
            let tls = self.0.transport.tls_of(&base).await?;
            let endpoint = Endpoint { base, tls };
            return match self.first(&endpoint, term.word, limit, credentials).await? {
                First::Hits(hits) => Ok(hits),
                First::Unknown => Err(SearchError::None(HUB.to_owned())),
            };
        };
        let endpoint = self.origin(host).await?.endpoint(&self.0).await?;
        match self.first(&endpoint, term.word, limit, credentials).await? {
            First::Hits(hits) => Ok(hits),
            First::Unknown => self.catalog(&endpoint, host, term.word, limit, credentials).await,
        }
    }

    /// The search of the first protocol.
    async fn first(
        &self,
        endpoint: &Endpoint,
        word: &str,
        limit: u32,
        credentials: &Credentials,
    ) -> Result<First, SearchError> {
        #[derive(Deserialize)]
        struct Answer {
            results: Vec<Hit>,
        }
        let transport = &self.0.transport;
        let mut url = below(endpoint, "../v1/search")?;
        url.query_pairs_mut().append_pair("q", word).append_pair("n", &limit.to_string());
        let authorizer = Authorizer::new(credentials.clone(), Vec::new());
        let request = Request::get(url);
        let response = authorized(transport, endpoint, &authorizer, request).await?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE => {
                return Ok(First::Unknown);
            }
            _ => return Err(self.search_refused(response).await.into()),
        }
        let body = transport.body(response, "search result", PAGE_BYTES).await?;
        // Registries with a page for people show it wherever they know no better.
        let Ok(mut answer) = serde_json::from_slice::<Answer>(&body) else {
            return Ok(First::Unknown);
        };
        answer.results.truncate(limit as usize);
        Ok(First::Hits(answer.results))
    }

    /// The repositories of a registry whose names hold the word.
    async fn catalog(
        &self,
        endpoint: &Endpoint,
        host: &str,
        word: &str,
        limit: u32,
        credentials: &Credentials,
    ) -> Result<Vec<Hit>, SearchError> {
        #[derive(Deserialize)]
        struct Answer {
            repositories: Option<Vec<String>>,
        }
        let none = || SearchError::None(host.to_owned());
        let transport = &self.0.transport;
        let scopes = vec!["registry:catalog:*".to_owned()];
        let authorizer = Authorizer::new(credentials.clone(), scopes);
        let word = word.to_lowercase();
        let mut hits = Vec::new();
        let mut query = format!("n={PAGE}");
        for _ in 0..PAGES {
            let request = Request::get(below(endpoint, &format!("_catalog?{query}"))?);
            let response = authorized(transport, endpoint, &authorizer, request).await;
            let response = match response {
                // The token service has the last word in this.
                Err(RegistryError::Unauthorized { message }) => {
                    return Err(SearchError::Hidden { host: host.to_owned(), message });
                }
                other => other?,
            };
            match response.status() {
                status if status.is_success() => {}
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    let pace = transport.patient();
                    let message = transport.complaint(response, pace).await.message;
                    return Err(SearchError::Hidden { host: host.to_owned(), message });
                }
                StatusCode::NOT_FOUND
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::NOT_IMPLEMENTED => return Err(none()),
                _ => return Err(self.search_refused(response).await.into()),
            }
            let next = next_page(&response);
            let body = transport.body(response, "list of repositories", PAGE_BYTES).await?;
            let answer: Answer = serde_json::from_slice(&body).map_err(|_| none())?;
            let names = answer.repositories.unwrap_or_default();
            let found = names.into_iter().filter(|name| name.to_lowercase().contains(&word));
            hits.extend(found.map(|name| Hit { name: format!("{host}/{name}"), ..Hit::default() }));
            match next {
                Some(next) if hits.len() < limit as usize => query = next,
                _ => break,
            }
        }
        hits.truncate(limit as usize);
        Ok(hits)
    }

    async fn search_refused(&self, response: Response) -> RegistryError {
        let (status, url) = (response.status().as_u16(), bare(response.url()));
        let transport = &self.0.transport;
        let message = transport.complaint(response, transport.patient()).await.message;
        match status {
            401 | 403 => RegistryError::Unauthorized { message },
            429 => RegistryError::RateLimited { message },
            status => RegistryError::Status { method: "Get", url, status, message },
        }
    }
}

/// The URL of `rest` as seen from the base of the API.
fn below(endpoint: &Endpoint, rest: &str) -> Result<Url, RegistryError> {
    endpoint.base.join(rest).map_err(|_| RegistryError::Protocol {
        host: crate::transport::host(&endpoint.base),
        why: "has no such path".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms() {
        for (text, host, word) in [
            ("redis", None, "redis"),
            ("library/redis", None, "redis"),
            ("team/redis", None, "team/redis"),
            ("docker.io/library/redis", None, "redis"),
            ("reg.lan/redis", Some("reg.lan"), "redis"),
            ("localhost/a/b", Some("localhost"), "a/b"),
            ("box:5000/library/x", Some("box:5000"), "library/x"),
            ("box:5000/", Some("box:5000"), ""),
        ] {
            assert_eq!(Term::parse(text).unwrap(), Term { host, word }, "{text}");
        }
        assert!(Term::parse("https://x/y").is_err());
    }

    #[test]
    fn the_first_protocol_is_beside_the_second() {
        let tls = crate::transport::Tls::new(
            crate::transport::Security::Verified,
            crate::certs::Identity::default(),
        );
        let endpoint = Endpoint { base: https(HUB).unwrap(), tls };
        let url = below(&endpoint, "../v1/search").unwrap();
        assert_eq!(url.as_str(), "https://index.docker.io/v1/search");
    }
}

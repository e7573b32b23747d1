//! What a session is allowed at one place: the answer to its challenges, kept while it is good.

use std::time::SystemTime;

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::auth::{Challenge, Credentials, secret, token_service};
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::transport::{Payload, Request, Transport, bare, expiry, host, verb};

/// Bytes of a token service's answer.
const TOKEN_BYTES: u64 = 1 << 20;
/// Who we are to token services.
const CLIENT: &str = "pouch";

#[derive(Debug, Clone)]
struct Authorization {
    value: HeaderValue,
    /// `None` for credentials that do not age.
    expires: Option<SystemTime>,
}

/// What a token service gives.
#[derive(Debug)]
pub(crate) struct Token {
    value: HeaderValue,
    expires: SystemTime,
    /// To come back with, when it was asked for.
    pub(crate) refresh: Option<String>,
}

/// Whether a token service is asked for something to keep instead of the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Nothing,
    Refresh,
}

/// Credentials for one place and what became of them.
#[derive(Debug)]
pub(crate) struct Authorizer {
    credentials: Credentials,
    /// What is to be done there, in the words of token services.
    scopes: Vec<String>,
    current: Mutex<Option<Authorization>>,
}

impl Authorizer {
    pub(crate) fn new(credentials: Credentials, scopes: Vec<String>) -> Self {
        let current = match &credentials {
            // Meant for this registry as it is; everything else waits for the challenge.
            Credentials::RegistryToken(token) => secret(&format!("Bearer {token}"))
                .map(|value| Authorization { value, expires: None }),
            _ => None,
        };
        Self { credentials, scopes, current: Mutex::new(current) }
    }

    pub(crate) const fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// What to send, as far as it is known.
    pub(crate) async fn current(&self) -> Option<HeaderValue> {
        let current = self.current.lock().await;
        current
            .as_ref()
            .filter(|a| a.expires.is_none_or(|expires| SystemTime::now() < expires))
            .map(|a| a.value.clone())
    }

    /// Gets what a 401 of `endpoint` asks for; `None` when there is nothing better than what was
    /// refused.
    pub(crate) async fn answer(
        &self,
        transport: &Transport,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        // Held over the request: many layers ask at once, one token serves all.
        let mut current = self.current.lock().await;
        if let Some(fresh) = current.as_ref()
            && Some(&fresh.value) != refused
        {
            return Ok(Some(fresh.value.clone()));
        }
        let authorization = match Challenge::from_headers(headers.get_all(WWW_AUTHENTICATE).iter())
        {
            Some(Challenge::Bearer { realm, service }) => {
                if matches!(self.credentials, Credentials::RegistryToken(_)) {
                    return Ok(None);
                }
                let token = self.token(transport, endpoint, &realm, service, Keep::Nothing).await?;
                Some(Authorization { value: token.value, expires: Some(token.expires) })
            }
            Some(Challenge::Basic) => self
                .credentials
                .basic()
                .filter(|value| Some(value) != refused)
                .map(|value| Authorization { value, expires: None }),
            None => None,
        };
        current.clone_from(&authorization);
        Ok(authorization.map(|a| a.value))
    }

    /// Asks the token service that `endpoint` names.
    pub(crate) async fn token(
        &self,
        transport: &Transport,
        endpoint: &Endpoint,
        realm: &str,
        service: Option<String>,
        keep: Keep,
    ) -> Result<Token, RegistryError> {
        let realm = token_service(realm, &endpoint.base)?;
        let request = self.token_request(&realm, service.unwrap_or_default(), keep);
        let tls = if realm.host_str() == endpoint.base.host_str() {
            endpoint.tls.clone()
        } else {
            transport.tls_beside(&realm, &endpoint.tls).await?
        };
        let method = request.method.clone();
        let response = transport.follow(&tls, request).await?;
        let status = response.status();
        if !status.is_success() {
            let complaint = transport.complaint(response, transport.patient()).await;
            if matches!(status.as_u16(), 401 | 403) {
                return Err(RegistryError::Unauthorized { message: complaint.message });
            }
            return Err(RegistryError::Status {
                method: verb(&method),
                url: bare(&realm),
                status: status.as_u16(),
                message: complaint.message,
            });
        }
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            refresh_token: Option<String>,
            expires_in: Option<u64>,
        }
        let no_token = || RegistryError::Protocol {
            host: host(&realm),
            why: "answers without a token".to_owned(),
        };
        let body = transport.body(response, "token", TOKEN_BYTES).await?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| no_token())?;
        let token = answer.token.filter(|t| !t.is_empty()).or(answer.access_token);
        let value =
            token.and_then(|token| secret(&format!("Bearer {token}"))).ok_or_else(no_token)?;
        let expires = expiry(answer.expires_in.unwrap_or(60));
        let refresh = answer.refresh_token.filter(|t| !t.is_empty());
        Ok(Token { value, expires, refresh })
    }

    /// Only our own scopes are asked for: a challenge must not talk us into a token for something
    /// else.
    fn token_request(&self, realm: &Url, service: String, keep: Keep) -> Request {
        if let Credentials::IdentityToken(token) = &self.credentials {
            // Only a URL's query is wanted of it.
            let mut pairs = realm.clone();
            pairs.set_query(None);
            pairs
                .query_pairs_mut()
                .append_pair("grant_type", "refresh_token")
                .append_pair("service", &service)
                .append_pair("scope", &self.scopes.join(" "))
                .append_pair("client_id", CLIENT)
                .append_pair("refresh_token", token);
            let mut request = Request::new(Method::POST, realm.clone());
            request.payload = Payload::Form(pairs.query().unwrap_or_default().to_owned());
            return request;
        }
        let mut url = realm.clone();
        {
            let mut query = url.query_pairs_mut();
            for scope in &self.scopes {
                query.append_pair("scope", scope);
            }
            if !service.is_empty() {
                query.append_pair("service", &service);
            }
            if let Credentials::Basic { username, .. } = &self.credentials {
                query.append_pair("account", username);
            }
            if keep == Keep::Refresh {
                query.append_pair("client_id", CLIENT).append_pair("offline_token", "true");
            }
        }
        Request::get(url).authorized(self.credentials.basic())
    }
}

impl Token {
    pub(crate) fn value(&self) -> HeaderValue {
        self.value.clone()
    }
}

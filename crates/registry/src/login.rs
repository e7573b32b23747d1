//! What `docker login` asks for: do these credentials open this registry?

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode};

use crate::Registry;
use crate::auth::{Challenge, Credentials, secret};
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::source::{Kind, Source, registry, sources};
use crate::token::{Authorizer, Keep};
use crate::transport::{Request, bare};

/// Credentials that are good.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// To be kept instead of the password, when the registry gives such a thing.
    pub identity_token: Option<String>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let has = self.identity_token.is_some();
        f.debug_struct("Login").field("identity_token", &has).finish()
    }
}

impl Registry {
    /// Tries credentials at a registry. `host` is its name, as in an image's name; what
    /// `docker login` sends for docker.io (`https://index.docker.io/v1/`) is understood.
    ///
    /// # Errors
    /// [`RegistryError::Unauthorized`] when they are wrong, and all others.
    pub async fn check_login(
        &self,
        host: &str,
        credentials: &Credentials,
    ) -> Result<Login, RegistryError> {
        let inner = &self.0;
        let endpoint = self.origin(domain(host)).await?.endpoint(inner).await?;
        let first = self.ping(&endpoint, None).await?;
        if first.status().is_success() {
            // An open registry takes everybody.
            return Ok(Login::default());
        }
        if first.status() != StatusCode::UNAUTHORIZED {
            return Err(self.unexpected(first).await);
        }
        let headers = first.headers().clone();
        let (value, login) = self.prove(&endpoint, &headers, credentials).await?;
        let second = self.ping(&endpoint, Some(value)).await?;
        match second.status() {
            status if status.is_success() => Ok(login),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let transport = &inner.transport;
                let complaint = transport.complaint(second, transport.patient()).await;
                Err(RegistryError::Unauthorized { message: complaint.message })
            }
            _ => Err(self.unexpected(second).await),
        }
    }

    /// The registry itself, as far as it is its own host: another in its place gets none of its
    /// credentials.
    pub(crate) async fn origin(&self, domain: &str) -> Result<Source, RegistryError> {
        let look = {
            let (inner, domain) = (std::sync::Arc::clone(&self.0), domain.to_owned());
            move || sources(&domain, &inner)
        };
        let found = tokio::task::spawn_blocking(look).await.unwrap_or_else(|_| Ok(Vec::new()))?;
        Ok(found
            .into_iter()
            .rfind(|source| source.kind == Kind::Origin && source.is_home_of(domain))
            .unwrap_or_else(|| registry(domain)))
    }

    async fn prove(
        &self,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        credentials: &Credentials,
    ) -> Result<(HeaderValue, Login), RegistryError> {
        let none = || RegistryError::Unauthorized {
            message: "these credentials are none that the registry takes".to_owned(),
        };
        if let Credentials::RegistryToken(token) = credentials {
            let value = secret(&format!("Bearer {token}")).ok_or_else(none)?;
            return Ok((value, Login::default()));
        }
        if *credentials == Credentials::Anonymous {
            return Err(none());
        }
        match Challenge::from_headers(headers.get_all(WWW_AUTHENTICATE).iter()) {
            Some(Challenge::Basic) => Ok((credentials.basic().ok_or_else(none)?, Login::default())),
            Some(Challenge::Bearer { realm, service }) => {
                let authorizer = Authorizer::new(credentials.clone(), Vec::new());
                let transport = &self.0.transport;
                let token =
                    authorizer.token(transport, endpoint, &realm, service, Keep::Refresh).await?;
                let value = token.value();
                let identity_token = match credentials {
                    // Kept as it is unless there is a newer one.
                    Credentials::IdentityToken(old) => token.refresh.or_else(|| Some(old.clone())),
                    _ => token.refresh,
                };
                Ok((value, Login { identity_token }))
            }
            None => Err(none()),
        }
    }

    async fn ping(
        &self,
        endpoint: &Endpoint,
        authorization: Option<HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let request = Request::get(endpoint.base.clone()).authorized(authorization);
        self.0.transport.follow(&endpoint.tls, request).await
    }

    async fn unexpected(&self, response: Response) -> RegistryError {
        let (status, url) = (response.status().as_u16(), bare(response.url()));
        let transport = &self.0.transport;
        let complaint = transport.complaint(response, transport.patient()).await;
        RegistryError::Status { method: "Get", url, status, message: complaint.message }
    }
}

/// The registry that a server address means.
fn domain(text: &str) -> &str {
    let text = text.trim();
    let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = bare.unwrap_or(text).split('/').next().unwrap_or_default();
    match host {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_addresses_are_names_of_registries() {
        for (text, want) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("", "docker.io"),
            ("reg.lan:5000", "reg.lan:5000"),
            ("http://reg.lan:5000/v2/", "reg.lan:5000"),
        ] {
            assert_eq!(domain(text), want);
        }
    }
}

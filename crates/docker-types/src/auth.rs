//! Credentials of registries.

use std::fmt;

use crate::wire::is_default;

wire! { "lowercase";
    /// What `POST /auth` takes and `X-Registry-Auth` carries (base64url of JSON).
    #[derive(Eq)]
    pub struct AuthConfig {
        #[serde(skip_serializing_if = "is_default")]
        pub username: String,
        #[serde(skip_serializing_if = "is_default")]
        pub password: Secret,
        /// base64 of `user:password`, as in `config.json`.
        #[serde(skip_serializing_if = "is_default")]
        pub auth: Secret,
        #[serde(skip_serializing_if = "is_default")]
        pub email: String,
        #[serde(skip_serializing_if = "is_default")]
        pub serveraddress: String,
        /// A refresh token that stands for the password.
        #[serde(skip_serializing_if = "is_default")]
        pub identitytoken: Secret,
        /// A bearer token for the registry itself.
        #[serde(skip_serializing_if = "is_default")]
        pub registrytoken: Secret,
    }
}

wire! { "PascalCase";
    /// Reply of `POST /auth`.
    pub struct AuthResponse {
        pub identity_token: String,
        pub status: String,
    }
}

/// A word that `Debug` does not show.
#[derive(Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The word itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Nothing was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(word: String) -> Self {
        Self(word)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "<redacted>" })
    }
}

impl crate::Lenient for Secret {
    fn read<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::read(from).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let auth: AuthConfig =
            serde_json::from_str(r#"{"username":"u","password":"hunter2","email":null}"#).unwrap();
        assert_eq!(auth.password.expose(), "hunter2");
        assert!(!format!("{auth:?}").contains("hunter2"));
        assert_eq!(
            serde_json::to_string(&auth).unwrap(),
            r#"{"username":"u","password":"hunter2"}"#
        );
    }
}

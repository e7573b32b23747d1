//! One client's session with one repository: documents and blobs, whoever has them.

use std::sync::Arc;

use bytes::Bytes;
use pouch_types::{Digest, ImageRef};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use crate::Inner;
use crate::auth::Credentials;
use crate::blob::BlobStream;
use crate::body::Body;
use crate::document::{
    Content, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, INDEX_DEPTH, MANIFEST_BYTES,
    Manifest, OCI_INDEX, OCI_MANIFEST, Parsed, parse, select,
};
use crate::error::{DocumentError, RegistryError};
use crate::platform::Wanted;
use crate::push::Push;
use crate::rounds::{Fault, Turn, Want};
use crate::session::{Ask, Had, Recourse, Session};
use crate::source::Source;

/// Header in which registries say the digest of what they send.
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// See the module. A handle; clones share the session.
#[derive(Debug, Clone)]
pub struct Repository {
    session: Arc<Session>,
    pub(crate) push: Arc<Push>,
}

/// One image of a reference.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What the reference itself stands for: an index or the manifest.
    pub top: Descriptor,
    /// The manifest that was chosen.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub raw: Bytes,
    /// Its content.
    pub manifest: Manifest,
}

impl Repository {
    pub(crate) fn new(
        registry: Arc<Inner>,
        reference: &ImageRef,
        sources: Vec<Source>,
        credentials: Credentials,
    ) -> Self {
        let session = Session::new(registry, reference, sources, credentials.clone());
        Self { session: Arc::new(session), push: Arc::new(Push::new(credentials)) }
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// The reference of the session.
    #[must_use]
    pub fn reference(&self) -> &ImageRef {
        &self.session.reference
    }

    /// The document of the session's own reference: its digest, or else its tag.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn document(&self) -> Result<Document, RegistryError> {
        match self.reference().digest() {
            Some(digest) => self.document_of(digest).await,
            None => self.fetch(self.reference().tag().unwrap_or("latest"), Want::Tag).await,
        }
    }

    /// The document of a digest, for example an entry of an index.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn document_of(&self, digest: &Digest) -> Result<Document, RegistryError> {
        self.fetch(&digest.to_string(), Want::Document(*digest)).await
    }

    /// The document of another tag, for example one that holds signatures.
    ///
    /// # Errors
    /// [`RegistryError::ManifestUnknown`] when there is no such tag, and all others.
    pub async fn document_of_tag(&self, tag: &str) -> Result<Document, RegistryError> {
        self.fetch(tag, Want::Tag).await
    }

    /// The same without mirrors, for what only the registry's own word is good enough; `None` when
    /// there are none.
    #[must_use]
    pub fn without_mirrors(&self) -> Option<Self> {
        let session = self.session.without_mirrors()?;
        Some(Self { session: Arc::new(session), push: Arc::clone(&self.push) })
    }

    /// The image of the session's reference for a platform.
    ///
    /// # Errors
    /// [`RegistryError::NoPlatform`] when an index has nothing for it, and all others.
    pub async fn resolve(&self, wanted: &Wanted) -> Result<Resolved, RegistryError> {
        let mut document = self.document().await?;
        let top = document.descriptor.clone();
        for _ in 0..INDEX_DEPTH {
            match document.content {
                Content::Manifest(manifest) => {
                    let Document { descriptor, raw, .. } = document;
                    return Ok(Resolved { top, descriptor, raw, manifest });
                }
                Content::Index(entries) => {
                    let entry = select(&entries, wanted)
                        .ok_or_else(|| RegistryError::NoPlatform(wanted.platform().to_string()))?;
                    document = self.document_of(&entry.digest).await?;
                }
            }
        }
        Err(self.refused(DocumentError::Nested))
    }

    /// A small blob as a whole, digest and size checked.
    ///
    /// # Errors
    /// [`RegistryError::TooLarge`] over `cap`, [`RegistryError::Digest`], and all others.
    pub async fn small_blob(
        &self,
        descriptor: &Descriptor,
        cap: u64,
    ) -> Result<Bytes, RegistryError> {
        let what = "blob";
        if descriptor.size > cap {
            return Err(RegistryError::TooLarge { what, limit: cap });
        }
        let path = format!("blobs/{}", descriptor.digest);
        let want = Want::Blob(descriptor.digest);
        let ask = Ask { method: Method::GET, path: &path, headers: HeaderMap::new(), want };
        let mut rounds = self.session.rounds(want);
        loop {
            let turn = rounds.next().await?;
            let got: Result<Bytes, Fault> = async {
                let body = self.session.exchange(turn, &ask).await?;
                let bytes = body.collect(what, descriptor.size).await?;
                check_digest(what, &descriptor.digest, &bytes)?;
                Ok(bytes)
            }
            .await;
            match got {
                Ok(bytes) => return Ok(bytes),
                Err(fault) => rounds.failed(turn, fault)?,
            }
        }
    }

    /// The bytes of a blob from `offset` on. Mirrors, retries, resumption and parallel ranges are
    /// hidden behind it; no more than the descriptor's size ever comes. The digest is for the
    /// receiver to check, who tells [`Repository::distrust`] when it is wrong.
    ///
    /// # Errors
    /// [`RegistryError::BlobUnknown`], and all others.
    pub async fn blob(
        &self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BlobStream, RegistryError> {
        BlobStream::open(Arc::clone(&self.session), descriptor, offset).await
    }

    /// Takes note that the bytes of a blob were not those of its digest: the mirrors that gave any
    /// of them in this session are not asked for it again, and for nothing else in a while if they
    /// must be the liars. Fetched from its beginning, the blob comes from others then. Each
    /// [`Recourse::Elsewhere`] leaves a mirror less, so that retrying ends.
    pub fn distrust(&self, digest: &Digest, had: Had) -> Recourse {
        self.session.distrust(digest, had)
    }

    async fn fetch(&self, name: &str, want: Want) -> Result<Document, RegistryError> {
        let path = format!("manifests/{name}");
        let mut headers = HeaderMap::new();
        for media_type in [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST] {
            headers.append(ACCEPT, HeaderValue::from_static(media_type));
        }
        let ask = Ask { method: Method::GET, path: &path, headers, want };
        let mut rounds = self.session.rounds(want);
        loop {
            let turn = rounds.next().await?;
            match self.fetch_from(turn, &ask).await {
                Ok(document) => return Ok(document),
                Err(fault) => rounds.failed(turn, fault)?,
            }
        }
    }

    async fn fetch_from(&self, turn: Turn, ask: &Ask<'_>) -> Result<Document, Fault> {
        let body = self.session.exchange(turn, ask).await?;
        let announced = header(&body, &CONTENT_TYPE)
            .map(|text| text.split(';').next().unwrap_or_default().trim().to_owned())
            .unwrap_or_default();
        let claimed = header(&body, &CONTENT_DIGEST);
        let raw = body.collect("manifest", MANIFEST_BYTES).await?;
        let digest = Digest::of(&raw);
        // By tag, the registry's own word is the only thing to compare with; it is a check
        // against damage, not against the registry.
        let claimed = claimed.and_then(|text| text.parse::<Digest>().ok());
        if let Some(expected) = ask.want.digest().or(claimed.as_ref()) {
            check_digest("manifest", expected, &raw)?;
        }
        match parse(&raw, &announced) {
            Ok(Parsed::Content(media_type, content)) => {
                let size = raw.len() as u64;
                let descriptor = Descriptor { media_type, digest, size, platform: None };
                Ok(Document { descriptor, raw, content })
            }
            Ok(Parsed::Schema1) => Err(RegistryError::Schema1(self.reference().familiar()).into()),
            Err(why) => Err(self.refused(why).into()),
        }
    }

    fn refused(&self, why: DocumentError) -> RegistryError {
        RegistryError::Document { reference: self.reference().familiar(), why }
    }
}

fn header(body: &Body, name: &HeaderName) -> Option<String> {
    body.response().headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn check_digest(what: &'static str, expected: &Digest, bytes: &[u8]) -> Result<(), RegistryError> {
    let actual = Digest::of(bytes);
    if actual == *expected {
        return Ok(());
    }
    Err(RegistryError::Digest { what, expected: Box::new(*expected), actual: Box::new(actual) })
}

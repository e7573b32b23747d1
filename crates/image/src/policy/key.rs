//! Public keys of signers, in PEM, and what they have signed.
//!
//! Signatures are those of `cosign sign --key` and `skopeo copy --sign-by-sigstore-private-key`:
//! over the SHA-256 of the payload (Ed25519: over the payload itself), ECDSA in ASN.1, RSA with
//! PKCS #1 v1.5.

use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256,
    UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::alg_id;
use rustls_pki_types::pem::{PemObject, SectionKind};

/// Bytes of a file with a key.
pub(super) const KEY_BYTES: u64 = 64 << 10;

/// ASN.1 tags (X.690 8.1.2).
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;

/// Whose signatures count.
#[derive(Clone)]
pub(super) struct PublicKey {
    algorithm: &'static dyn VerificationAlgorithm,
    /// As `ring` wants them: the point, or the modulus and exponent in DER.
    bytes: Vec<u8>,
}

/// Why a key cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyError {
    #[error("is not PEM of one public key (\"BEGIN PUBLIC KEY\")")]
    Pem,
    #[error("holds a public key that does not parse")]
    Malformed,
    #[error("holds a key that cannot be used: only ECDSA P-256 and P-384, Ed25519 and RSA can")]
    Algorithm,
    #[error("holds an RSA key of {0} bits: only 2048 to 8192 are taken")]
    RsaSize(usize),
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublicKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl PublicKey {
    /// Reads the one key of a PEM file. A second one is refused, not passed over: its owner would
    /// think it trusted.
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        const BEGIN: &[u8] = b"-----BEGIN ";
        if pem.windows(BEGIN.len()).filter(|window| *window == BEGIN).count() != 1 {
            return Err(KeyError::Pem);
        }
        match <(SectionKind, Vec<u8>)>::from_pem_slice(pem) {
            Ok((SectionKind::PublicKey, der)) => Self::from_der(&der),
            _ => Err(KeyError::Pem),
        }
    }

    /// Reads a `SubjectPublicKeyInfo` (RFC 5280, 4.1).
    fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let (info, rest) = element(SEQUENCE, der)?;
        let (algorithm, key) = element(SEQUENCE, info)?;
        let (bits, after) = element(BIT_STRING, key)?;
        // The first byte counts the bits that are missing at the end.
        let Some((0, bytes)) = bits.split_first() else { return Err(KeyError::Malformed) };
        if !rest.is_empty() || !after.is_empty() {
            return Err(KeyError::Malformed);
        }
        let known: [(&[u8], &'static dyn VerificationAlgorithm, Form); 4] = [
            (&alg_id::ECDSA_P256, &ECDSA_P256_SHA256_ASN1, Form::Point(32)),
            (&alg_id::ECDSA_P384, &ECDSA_P384_SHA256_ASN1, Form::Point(48)),
            (&alg_id::ED25519, &ED25519, Form::Ed25519),
            (&alg_id::RSA_ENCRYPTION, &RSA_PKCS1_2048_8192_SHA256, Form::Rsa),
        ];
        let found = known.into_iter().find(|(id, ..)| *id == algorithm);
        let (_, algorithm, form) = found.ok_or(KeyError::Algorithm)?;
        form.check(bytes)?;
        Ok(Self { algorithm, bytes: bytes.to_owned() })
    }

    /// Whether the key's owner has signed `message`.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, &self.bytes).verify(message, signature).is_ok()
    }
}

/// How a key is written down. Checked when it is read, because what is wrong with it would
/// otherwise show as signatures that never fit.
enum Form {
    /// Two coordinates of so many bytes, uncompressed, which is the only form in use.
    Point(usize),
    Ed25519,
    Rsa,
}

impl Form {
    fn check(&self, key: &[u8]) -> Result<(), KeyError> {
        match self {
            Self::Point(size) if key.len() == 1 + 2 * size && key[0] == 4 => Ok(()),
            Self::Ed25519 if key.len() == 32 => Ok(()),
            Self::Point(_) | Self::Ed25519 => Err(KeyError::Malformed),
            Self::Rsa => check_rsa(key),
        }
    }
}

fn check_rsa(der: &[u8]) -> Result<(), KeyError> {
    let (key, rest) = element(SEQUENCE, der)?;
    let (modulus, _) = element(INTEGER, key)?;
    if !rest.is_empty() {
        return Err(KeyError::Malformed);
    }
    // One zero byte keeps the number positive.
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    let bits = modulus.first().map_or(0, |first| {
        8 * modulus.len() - usize::try_from(first.leading_zeros()).unwrap_or_default()
    });
    if (2048..=8192).contains(&bits) { Ok(()) } else { Err(KeyError::RsaSize(bits)) }
}

/// Splits the first element, which has to have this tag, from what follows. DER has one way to
/// write a length (X.690 10.1); keys need no more than two bytes for it.
fn element(tag: u8, der: &[u8]) -> Result<(&[u8], &[u8]), KeyError> {
    let (length, rest) = match *der {
        [first, length, ref rest @ ..] if first == tag && length < 0x80 => {
            (usize::from(length), rest)
        }
        [first, 0x81, length, ref rest @ ..] if first == tag && length >= 0x80 => {
            (usize::from(length), rest)
        }
        [first, 0x82, high, low, ref rest @ ..] if first == tag && high > 0 => {
            (usize::from(u16::from_be_bytes([high, low])), rest)
        }
        _ => return Err(KeyError::Malformed),
    };
    rest.split_at_checked(length).ok_or(KeyError::Malformed)
}

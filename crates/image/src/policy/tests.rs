//! Rules, names, keys and signatures; what registries give is in the crate's own tests.

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use rustls_pki_types::alg_id;
use serde_json::{Value, json};

use super::identity::{Identity, Named};
use super::key::{KeyError, PublicKey};
use super::signature::Signature;
use super::*;

fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

fn policy(json: &Value) -> Result<Policy, String> {
    let rules = file::parse(Path::new("/p.json"), json.to_string().as_bytes());
    rules
        .map(|rules| Policy(Some(Arc::new(rules))))
        .map_err(|error| pouch_types::error::chain(&error))
}

fn accept() -> Value {
    json!([{"type": "insecureAcceptAnything"}])
}

fn reject() -> Value {
    json!([{"type": "reject"}])
}

/// DER of anything below 128 bytes, or below 256.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u8::try_from(content.len()).unwrap();
    let mut bytes = vec![tag];
    if length >= 0x80 {
        bytes.push(0x81);
    }
    bytes.push(length);
    bytes.extend(content);
    bytes
}

fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    der(0x30, &[&der(0x30, &[algorithm]), &der(0x03, &[&[0], key])])
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn p256() -> EcdsaKeyPair {
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let random = SystemRandom::new();
    let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap()
}

fn pem_of(key: &EcdsaKeyPair) -> String {
    pem("PUBLIC KEY", &spki(&alg_id::ECDSA_P256, key.public_key().as_ref()))
}

fn sign(key: &EcdsaKeyPair, payload: &[u8]) -> Signature {
    let proof = key.sign(&SystemRandom::new(), payload).unwrap().as_ref().to_vec();
    Signature { payload: payload.to_vec().into(), proof }
}

fn payload(reference: &str, digest: &Digest) -> Value {
    json!({
        "critical": {
            "type": "cosign container image signature",
            "image": {"docker-manifest-digest": digest.to_string()},
            "identity": {"docker-reference": reference},
        },
        "optional": {"creator": "somebody", "timestamp": 1},
    })
}

#[test]
fn scopes_go_from_the_image_to_its_domain() {
    let digest = Digest::of(b"x");
    for (text, want) in [
        (
            "busybox".to_owned(),
            vec![
                "docker.io/library/busybox:latest",
                "docker.io/library/busybox",
                "docker.io/library",
                "docker.io",
                "*.io",
            ],
        ),
        (
            "a.b.example.com:5000/team/app:1".to_owned(),
            vec![
                "a.b.example.com:5000/team/app:1",
                "a.b.example.com:5000/team/app",
                "a.b.example.com:5000/team",
                "a.b.example.com:5000",
                "*.b.example.com",
                "*.example.com",
                "*.com",
            ],
        ),
        ("localhost/x:1".to_owned(), vec!["localhost/x:1", "localhost/x", "localhost"]),
        // The tag beside a digest has no meaning.
        (format!("q.io/x:1@{digest}"), vec![&format!("q.io/x@{digest}"), "q.io/x", "q.io", "*.io"]),
    ] {
        assert_eq!(scope::scopes(&image(&text)), want, "{text}");
    }
}

#[test]
fn the_most_specific_scope_alone_decides() {
    let digest = Digest::of(b"x");
    let policy = policy(&json!({
        "default": reject(),
        "transports": {"docker": {
            "q.io": accept(),
            "q.io/team": reject(),
            "q.io/team/app": accept(),
            "q.io/team/app:bad": reject(),
            "q.io/x": reject(),
            format!("q.io/x@{digest}"): accept(),
            "*.lan": accept(),
            "*.bad.lan": reject(),
            "r.lan:5000": reject(),
        }},
    }))
    .unwrap();
    for (name, want) in [
        ("q.io/app", true),
        // A repository of that name is no namespace, but the scope is its name.
        ("q.io/team", false),
        ("q.io/team/other", false),
        ("q.io/teams/other", true),
        ("q.io/team/app:1", true),
        ("q.io/team/app/sub:1", true),
        ("q.io/team/app:bad", false),
        ("q.io/team/app:bad2", true),
        ("q.io/x:1", false),
        ("a.lan/x", true),
        ("a.lan:5000/x", true),
        ("a.b.lan/x", true),
        ("a.bad.lan/x", false),
        ("r.lan:5000/x", false),
        ("r.lan/x", true),
        ("lan/x", false),
        ("busybox", false),
    ] {
        assert_eq!(policy.on_pull(&image(name)).is_ok(), want, "{name}");
    }
    assert!(policy.on_pull(&image(&format!("q.io/x@{digest}"))).is_ok());
    assert!(policy.on_pull(&image(&format!("q.io/x@{}", Digest::of(b"y")))).is_err());
    let error = policy.on_pull(&image("busybox")).unwrap_err().to_string();
    let want = "busybox:latest is rejected by the policy in /p.json, default: nothing is accepted";
    assert_eq!(error, want);
    let error = policy.on_pull(&image("q.io/team/app:bad")).unwrap_err().to_string();
    assert!(error.contains(r#"transports.docker["q.io/team/app:bad"]"#), "{error}");
}

#[test]
fn a_transport_has_a_default_of_its_own() {
    let policy = policy(&json!({
        "default": reject(),
        "transports": {"docker": {"": accept(), "q.io": reject()}, "tarball": {"": accept()}},
    }))
    .unwrap();
    assert!(policy.on_pull(&image("busybox")).is_ok());
    assert!(policy.on_pull(&image("q.io/x")).is_err());
    assert!(policy.on_unsigned(Unsigned::Tarball).is_ok());
    for what in [Unsigned::DockerArchive, Unsigned::OciArchive] {
        assert!(policy.on_unsigned(what).is_err());
    }
}

#[test]
fn without_a_policy_everything_may_come() {
    let policy = Policy::default();
    assert_eq!(policy.path(), None);
    assert!(policy.on_pull(&image("busybox")).is_ok());
    assert!(policy.on_unsigned(Unsigned::DockerArchive).is_ok());
}

#[test]
fn files_cannot_fulfil_what_asks_for_signatures() {
    use base64::Engine as _;
    let key = base64::engine::general_purpose::STANDARD.encode(pem_of(&p256()));
    let signed = json!([{"type": "sigstoreSigned", "keyData": key}]);
    let policy =
        policy(&json!({"default": accept(), "transports": {"docker-archive": {"": signed},
        "oci-archive": {"/srv": reject()}}}))
        .unwrap();
    let error = policy.on_unsigned(Unsigned::DockerArchive).unwrap_err().to_string();
    assert!(error.contains("what comes as a file has none"), "{error}");
    assert!(policy.on_unsigned(Unsigned::OciArchive).is_ok(), "it has no path");
}

#[test]
fn identities() {
    let digest = Digest::of(b"x");
    let by_digest = format!("q.io/a/b@{digest}");
    let named = |text: &str| Named::parse(text).unwrap();
    let remap = || Identity::Remap { prefix: "q.io/a".to_owned(), signed: "vendor.com".to_owned() };
    let host = || Identity::Remap { prefix: "q.io".to_owned(), signed: "v.com/x".to_owned() };
    for (identity, image_is, signed, want) in [
        (Identity::Exact, "q.io/a/b:1", "q.io/a/b:1", true),
        (Identity::Exact, "q.io/a/b:1", "q.io/a/b:2", false),
        (Identity::Exact, "q.io/a/b:1", "q.io/a/b", false),
        (Identity::Exact, "q.io/a/b:latest", "q.io/a/b", false),
        (Identity::Exact, &by_digest, "q.io/a/b:1", false),
        (Identity::Exact, &by_digest, &by_digest, true),
        (Identity::Exact, "busybox", "docker.io/library/busybox:latest", true),
        (Identity::Exact, "busybox", "index.docker.io/library/busybox:latest", true),
        (Identity::Exact, "q.io/a/b:1", "not a reference", false),
        (Identity::Exact, "q.io/a/b:1", "", false),
        (Identity::RepoDigestOrExact, "q.io/a/b:1", "q.io/a/b:1", true),
        (Identity::RepoDigestOrExact, "q.io/a/b:1", "q.io/a/b:2", false),
        (Identity::RepoDigestOrExact, "q.io/a/b:1", "q.io/a/b", false),
        (Identity::RepoDigestOrExact, "q.io/a/b:1", &by_digest, false),
        (Identity::RepoDigestOrExact, &by_digest, "q.io/a/b:2", true),
        (Identity::RepoDigestOrExact, &by_digest, "q.io/a/b", false),
        (Identity::RepoDigestOrExact, &by_digest, "q.io/a/c:2", false),
        (Identity::Repository, "q.io/a/b:1", "q.io/a/b:2", true),
        (Identity::Repository, "q.io/a/b:1", "q.io/a/b", true),
        (Identity::Repository, "q.io/a/b:1", "q.io/a/bb:1", false),
        (Identity::Repository, "q.io/a/b:1", "r.io/a/b:1", false),
        (Identity::ExactReference(named("v.com/b:1")), "q.io/a/b:7", "v.com/b:1", true),
        (Identity::ExactReference(named("v.com/b:1")), "q.io/a/b:1", "v.com/b:2", false),
        (Identity::ExactReference(named("v.com/b:latest")), "q.io/a/b:1", "v.com/b", false),
        (Identity::ExactRepository("v.com/b".to_owned()), "q.io/a/b:1", "v.com/b:2", true),
        (Identity::ExactRepository("v.com/b".to_owned()), "q.io/a/b:1", "v.com/b", true),
        (Identity::ExactRepository("v.com/b".to_owned()), "q.io/a/b:1", "q.io/a/b:1", false),
        (remap(), "q.io/a/b:1", "vendor.com/b:1", true),
        (remap(), "q.io/a/b:1", "vendor.com/b:2", false),
        (remap(), "q.io/a/b:1", "q.io/a/b:1", false),
        (remap(), "q.io/aa/b:1", "q.io/aa/b:1", true),
        (remap(), "q.io/aa/b:1", "vendor.coma/b:1", false),
        (remap(), &by_digest, "vendor.com/b:1", true),
        (remap(), &by_digest, "vendor.com/b", false),
        (host(), "q.io/a/b:1", "v.com/x/a/b:1", true),
        (host(), "q.io:5000/a/b:1", "v.com/x/a/b:1", false),
    ] {
        let accepted = identity.accepts(&image(image_is), signed);
        assert_eq!(accepted, want, "{identity:?} {image_is} signed as {signed}");
    }
}

/// Made by openssl, each with its signature (SHA-256) of `signed by openssl`.
const OPENSSL: [(&str, &str, &str); 2] = [
    (
        "RSA 2048",
        "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAmGM6o71KiorO5kq/j46h
JSTc9u63UB63EBCDTfxlBj+d0tbus8/UyJ35joLX/QgIdaPrAo4Ld8/j7eLcVFXN
UdK9AmrL0ufxmM0EORTcqPUPH+4mlVPYKgzDie/bzGg/ZI+06Tr+CFDB2ODYiZ73
VvHOAgmqO8PrM1Jl+32HzLkE1Y6kxwMvkqEBvfxkTaapDXB5ILBPDrQsGqjVe5Eb
uB4yZjYa5lG/iIm46N1k9p6Ugdl0AJJr1LIJWDCAPWyED6fK47esy72gaVb0Snq9
7WOeVFif60kgSEe/l6PCW9KD1wyElvAPjqKRsPKvluVHSSNMtTLeFTMm6X7hh6Ho
xwIDAQAB
-----END PUBLIC KEY-----
",
        "LmRQASgheWHncQJe/DqYtm5BJp98hkDv4ulBKrBfrSKvE6VJo1v/xrSeX3tJF2lhB9BzC22TeYrSOivtTlgnczcTlz\
         wvNQcxGPtvhzMVhgZt/Co4AEY4bkd6s14urGtbM1jcqhq84SKw4ry1fcjYVE7Lmp0XcO9QK3k09w3qnCsclazIciGX\
         TPqeMWRpqM2kuTSa4FljqrH44k/Tjt3BPBEbUiKD/nvaaGh8lTz4LmgyFMgTuUFNtA47fg9GbWPBc1wkN4zt0XqEnF\
         k9SjTDxhXhovcB3ufkRO95+vi2kvOBiedmKwxLM/2pdxlw2zimUKH13aw3jswJ+TeqUIEMig==",
    ),
    (
        "P-384",
        "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEZOfMNsP63jrIUQCveO7XAKhVkz/N8RHI
xYVzgefs5T5zt+SdtiMmYqZY4yyN1MjAPeGDH3Pg09av5A5rXOaQ3Ixa3QZjuPH+
ZFAak4mt8bFGxUQcFQ8Ly9N4C3XjadfP
-----END PUBLIC KEY-----
",
        "MGUCMFOZ61hynHfqV8Bbn4IHSDHnb3UhdI14gNoeX0fkVm2QARV10vrQAjc0Vax6UpT5VQIxAPPREe6s+NJLwSGn0U\
         4nufBKBH4TBujUv98JL+EB9tJRvMyAWhnMzhbon2UK8TzPQQ==",
    ),
];

#[test]
fn keys_of_all_kinds_verify() {
    use base64::Engine as _;
    let message = b"signed by openssl";
    let p256 = p256();
    let ed = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let ed = Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap();
    let ed_pem = pem("PUBLIC KEY", &spki(&alg_id::ED25519, ed.public_key().as_ref()));
    let [rsa, p384] = OPENSSL.map(|(name, pem, signature)| {
        let signature = base64::engine::general_purpose::STANDARD.decode(signature).unwrap();
        (name, pem.to_owned(), signature)
    });
    for (name, pem, signature) in [
        ("P-256", pem_of(&p256), sign(&p256, message).proof),
        ("Ed25519", ed_pem, ed.sign(message).as_ref().to_vec()),
        rsa,
        p384,
    ] {
        let key = PublicKey::from_pem(pem.as_bytes()).unwrap();
        assert!(key.has_signed(message, &signature), "{name}");
        assert!(!key.has_signed(b"signed by OpenSSL", &signature), "{name}");
        let mut damaged = signature.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(!key.has_signed(message, &damaged), "{name}");
        assert!(!key.has_signed(message, &[]), "{name}");
        let with_crlf = pem.replace('\n', "\r\n");
        assert!(PublicKey::from_pem(with_crlf.as_bytes()).is_ok(), "{name}");
    }
}

#[test]
fn keys_that_are_none_are_refused() {
    let key = p256();
    let good = spki(&alg_id::ECDSA_P256, key.public_key().as_ref());
    let pem_of_der = |der: &[u8]| pem("PUBLIC KEY", der);
    let compressed = &[&[2], &key.public_key().as_ref()[1..33]].concat();
    // One length more than the bytes that follow, one less, and one in a longer form than needed.
    let mut long = good.clone();
    long[1] += 1;
    let mut short = good.clone();
    short[1] -= 1;
    let loose = [&[0x30, 0x81, good[1]], &good[2..]].concat();
    let unused_bits = der(
        0x30,
        &[&der(0x30, &[&alg_id::ECDSA_P256]), &der(0x03, &[&[1], key.public_key().as_ref()])],
    );
    // Made by openssl.
    let rsa1024 = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDdx99xZM1NU8+wS1crN5rZ0yq0
+T4NA5CfqFp9ZvwV6glbO3JFqF2mqYUrj88vmyG209K3OIoM1ZhN1S+aBCjdcD8s
z7Lvx5fKBbKry+GZBxC5yzimDdita+WSHB6zeaO70uQh8KdhU5AvRPjkczvC2gzw
xdBa7jfffRQCvJCJIQIDAQAB
-----END PUBLIC KEY-----
";
    let two = [pem_of(&key), pem_of(&p256())].concat();
    for (name, pem, want) in [
        ("empty", String::new(), KeyError::Pem),
        ("no PEM", "c29tZXRoaW5n".to_owned(), KeyError::Pem),
        ("two keys", two, KeyError::Pem),
        ("no end", pem_of(&key).replace("END", "FIN"), KeyError::Pem),
        ("a private key", pem("PRIVATE KEY", &good), KeyError::Pem),
        ("a certificate", pem("CERTIFICATE", &good), KeyError::Pem),
        ("PGP", pem("PGP PUBLIC KEY BLOCK", &good), KeyError::Pem),
        ("no DER", pem_of_der(b"hello"), KeyError::Malformed),
        ("too long", pem_of_der(&long), KeyError::Malformed),
        ("too short", pem_of_der(&short), KeyError::Malformed),
        ("loose", pem_of_der(&loose), KeyError::Malformed),
        ("trailing", pem_of_der(&[&good[..], &[0]].concat()), KeyError::Malformed),
        ("unused bits", pem_of_der(&unused_bits), KeyError::Malformed),
        ("compressed", pem_of_der(&spki(&alg_id::ECDSA_P256, compressed)), KeyError::Malformed),
        ("P-521", pem_of_der(&spki(&alg_id::ECDSA_P521, &[4; 30])), KeyError::Algorithm),
        ("weak", rsa1024.to_owned(), KeyError::RsaSize(1024)),
    ] {
        assert_eq!(PublicKey::from_pem(pem.as_bytes()).unwrap_err(), want, "{name}");
    }
}

#[test]
fn a_signature_is_for_one_image_of_one_name_by_one_key() {
    let (key, other) = (p256(), p256());
    let digest = Digest::of(b"manifest");
    let image = image("q.io/a/b:1");
    let signed = Signed {
        keys: [&other, &key]
            .iter()
            .map(|key| PublicKey::from_pem(pem_of(key).as_bytes()).unwrap())
            .collect(),
        identity: Identity::RepoDigestOrExact,
    };
    let good = payload("q.io/a/b:1", &digest);
    let check =
        |key: &EcdsaKeyPair, payload: &[u8]| signed.check(&sign(key, payload), &digest, &image);
    let of = |payload: &Value| check(&key, payload.to_string().as_bytes());
    assert_eq!(of(&good), Ok(()));
    assert_eq!(check(&other, good.to_string().as_bytes()), Ok(()), "any of the keys");
    let stranger = check(&p256(), good.to_string().as_bytes());
    assert_eq!(stranger, Err(SignatureError::Key));

    let mut corrupted = sign(&key, good.to_string().as_bytes());
    corrupted.payload = good.to_string().replace("b:1", "b:2").into();
    assert_eq!(signed.check(&corrupted, &digest, &image), Err(SignatureError::Key));

    let mut bare = good.clone();
    bare["optional"] = Value::Null;
    assert_eq!(of(&bare), Ok(()), "cosign writes this");
    let mut none = good.clone();
    none.as_object_mut().unwrap().remove("optional");
    assert_eq!(of(&none), Ok(()));

    let another = Digest::of(b"another");
    let error = of(&payload("q.io/a/b:1", &another));
    assert_eq!(error, Err(SignatureError::Digest(another.to_string())));
    let error = of(&payload("q.io/a/b:2", &digest));
    assert_eq!(error, Err(SignatureError::Identity("q.io/a/b:2".to_owned())));

    let mut typed = good.clone();
    typed["critical"]["type"] = "atomic container signature".into();
    assert!(matches!(of(&typed), Err(SignatureError::Type(_))));
    for (place, value) in [("", json!(1)), ("/critical", json!(1)), ("/critical/image", json!("x"))]
    {
        let mut more = good.clone();
        more.pointer_mut(place).unwrap()["more"] = value;
        assert!(matches!(of(&more), Err(SignatureError::Payload(_))), "{place}");
    }
    let twice = good.to_string().replacen(
        "\"critical\":{",
        "\"critical\":{\"type\":\"cosign container image signature\",",
        1,
    );
    for text in ["", "{}", "null", &"[".repeat(100_000), &twice] {
        assert!(
            matches!(check(&key, text.as_bytes()), Err(SignatureError::Payload(_))),
            "{text:.60}"
        );
    }
    // The manifest's own name does not help a signature of something else, nor long words a log.
    let long = of(&payload(&"x".repeat(10_000), &digest)).unwrap_err();
    assert!(long.to_string().len() < 400);
}

#[test]
fn a_check_that_is_not_made_here_refuses_its_scope_alone() {
    for (requirement, named) in [
        (json!({"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}), "signedBy"),
        (json!({"type": "sigstoreSigned", "fulcio": {}}), "fulcio"),
        (json!({"type": "sigstoreSigned", "rekorPublicKeyPath": "/x"}), "rekorPublicKeyPath"),
    ] {
        let rules =
            json!({"docker": {"q.io": [requirement]}, "docker-archive": {"": [requirement]}});
        let policy = policy(&json!({"default": accept(), "transports": rules})).unwrap();
        let want = format!("it asks for {named:?}, which pouchd cannot check");
        let error = policy.on_pull(&image("q.io/x")).unwrap_err().to_string();
        assert!(error.ends_with(&want), "{error}");
        let error = policy.on_unsigned(Unsigned::DockerArchive).unwrap_err().to_string();
        assert!(error.ends_with(&want), "{error}");
        policy.on_pull(&image("other.io/x")).unwrap();
        policy.on_unsigned(Unsigned::OciArchive).unwrap();
    }
}

#[test]
fn a_policy_that_is_not_understood_is_refused_with_its_place() {
    use base64::Engine as _;
    let data = base64::engine::general_purpose::STANDARD.encode(pem_of(&p256()));
    let docker = |scope: &str, rule: Value| json!({"default": accept(), "transports": {"docker": {scope: rule}}});
    let one = |requirement: Value| docker("q.io", json!([requirement]));
    let identity = |identity: Value| {
        one(json!({"type": "sigstoreSigned", "keyData": data, "signedIdentity": identity}))
    };
    let q = r#"transports.docker["q.io"]"#;
    for (file, want) in [
        (json!({}), "line 1, column 2: missing field `default`".to_owned()),
        (json!({"default": []}), "default: has no requirement".to_owned()),
        (json!({"default": reject(), "defaults": 1}), "unknown field `defaults`".to_owned()),
        (json!({"default": [{}]}), "missing field `type`".to_owned()),
        (
            json!({"default": [{"type": "rejct"}]}),
            "default[0].type: \"rejct\" is unknown".to_owned(),
        ),
        (
            json!({"default": reject(), "transports": {"dokcer": {}}}),
            "transports.dokcer: there is no such transport".to_owned(),
        ),
        (one(json!({"type": "reject", "fulcio": {}})), format!("{q}[0].fulcio: is an unknown key")),
        (
            one(json!({"type": "reject", "keyPath": "/x"})),
            format!("{q}[0]: type \"reject\" takes no"),
        ),
        (
            one(json!({"type": "reject", "comment": ""})),
            format!("{q}[0].comment: is an unknown key"),
        ),
        (one(json!({"type": "sigstoreSigned"})), format!("{q}[0]: wants exactly one of keyPath")),
        (
            one(json!({"type": "sigstoreSigned", "keyPath": "/x", "keyData": data})),
            format!("{q}[0]: wants exactly one of keyPath"),
        ),
        (one(json!({"type": "sigstoreSigned", "keyPaths": []})), format!("{q}[0]: names no key")),
        (
            one(json!({"type": "sigstoreSigned", "keyPath": "x.pub"})),
            format!("{q}[0].keyPath: x.pub is not an absolute path"),
        ),
        (
            one(json!({"type": "sigstoreSigned", "keyPath": "/nonexistent/x.pub"})),
            format!("{q}[0].keyPath: cannot read /nonexistent/x.pub: No such file"),
        ),
        (
            one(json!({"type": "sigstoreSigned", "keyPath": "/dev/zero"})),
            format!("{q}[0].keyPath: cannot read /dev/zero: it is larger"),
        ),
        (
            one(json!({"type": "sigstoreSigned", "keyDatas": [data, "****"]})),
            format!("{q}[0].keyDatas: is not in base64"),
        ),
        (
            one(json!({"type": "sigstoreSigned", "keyData": "eA=="})),
            format!("{q}[0].keyData: is not PEM of one public key"),
        ),
        (
            identity(json!({"type": "matchAll"})),
            format!("{q}[0].signedIdentity.type: \"matchAll\""),
        ),
        (
            identity(json!({"type": "matchExact", "prefix": "x"})),
            format!("{q}[0].signedIdentity: does not have the keys"),
        ),
        (
            identity(json!({"type": "exactReference", "dockerReference": "q.io/x"})),
            "signedIdentity.dockerReference: has neither tag nor digest".to_owned(),
        ),
        (
            identity(json!({"type": "exactRepository", "dockerRepository": "q.io/x:1"})),
            "signedIdentity.dockerRepository: has a tag or digest".to_owned(),
        ),
        (
            identity(json!({"type": "remapIdentity", "prefix": "q.io/", "signedPrefix": "v.com"})),
            "signedIdentity.prefix: \"q.io/\" is no host".to_owned(),
        ),
        (
            identity(json!({"type": "remapIdentity", "prefix": "q.io", "signedPrefix": "v"})),
            "signedIdentity.signedPrefix: \"v\" is no host".to_owned(),
        ),
        (
            identity(json!({"type": "matchExact", "typo": 1})),
            "signedIdentity.typo: is an unknown key".to_owned(),
        ),
    ] {
        let error = policy(&file).unwrap_err();
        assert!(error.starts_with("image policy /p.json") && error.contains(&want), "{error}");
    }
    for (text, want) in [
        ("", "EOF"),
        ("[1", "line 1"),
        (r#"{"default":[{"type":"reject"}],"default":[{"type":"reject"}]}"#, "duplicate field"),
        (
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{"q.io":[{"type":"reject"}],
            "q.io":[{"type":"insecureAcceptAnything"}]}}}"#,
            "line 2, column 18: duplicate key \"q.io\"",
        ),
        (r#"{"default":[{"type":"reject","type":"insecureAcceptAnything"}]}"#, "duplicate field"),
        (r#"{"default":[{"type":"reject"}]} x"#, "trailing characters"),
    ] {
        let error = file::parse(Path::new("/p.json"), text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    let error = Policy::read(Path::new("/nonexistent/policy.json")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the image policy /nonexistent/policy.json");
}

#[test]
fn scopes_that_no_image_is_in_are_refused() {
    let digest = Digest::of(b"x");
    let with = |transport: &str, scope: &str| {
        policy(&json!({"default": reject(), "transports": {transport: {scope: accept()}}}))
    };
    for (transport, scope) in [
        ("docker", ""),
        ("docker", "docker.io"),
        ("docker", "docker.io/library"),
        ("docker", "docker.io/openshift"),
        ("docker", "docker.io/library/busybox"),
        ("docker", "docker.io/library/busybox:latest"),
        ("docker", &format!("q.io/x@{digest}")),
        ("docker", "localhost"),
        ("docker", "localhost:5000"),
        ("docker", "[::1]:5000/x"),
        ("docker", "*.io"),
        ("docker", "*.example.com"),
        ("dir", "/anything"),
        ("oci-archive", "/srv"),
        ("atomic", "whatever"),
    ] {
        assert!(with(transport, scope).is_ok(), "{transport} {scope}");
    }
    for (transport, scope) in [
        ("docker", "busybox"),
        ("docker", "library/busybox"),
        ("docker", "busybox:latest"),
        ("docker", "docker.io/busybox:latest"),
        ("docker", "q.io/"),
        ("docker", "https://q.io"),
        ("docker", "q.io/X"),
        ("docker", "q.io/x:"),
        ("docker", &format!("q.io/x:1@{digest}")),
        ("docker", "*"),
        ("docker", "*."),
        ("docker", "*.com:5000"),
        ("docker", "*.com/x"),
        ("docker", "a*.example.com"),
        ("docker", "*.*.example.com"),
        ("docker", "x.*"),
        ("docker-archive", "/srv"),
        ("tarball", "x"),
        ("oci-archive", "srv"),
    ] {
        let error = with(transport, scope).unwrap_err();
        assert!(error.contains(&format!("transports.{transport}[{scope:?}]")), "{error}");
    }
}

//! `--platform`: which of an image's machines a command is about.

use pouch_docker_types::image::OciPlatform;

use crate::context::Session;
use crate::failure::Failure;
use crate::flags::plain::PlatformFlag;

/// The platforms of a flag, for a daemon of API `1.{since}` or newer.
///
/// # Errors
/// Texts that are no platform; an older daemon, which would not look at them.
pub(super) async fn all(
    session: &Session,
    flag: &PlatformFlag,
    since: u16,
) -> Result<Vec<OciPlatform>, Failure> {
    let platforms: Vec<_> =
        flag.platform.iter().map(|text| platform(text)).collect::<Result<_, _>>()?;
    if !platforms.is_empty() {
        session.wants("--platform", since).await?;
    }
    Ok(platforms)
}

/// The last of them.
///
/// # Errors
/// As [`all`].
pub(super) async fn one(
    session: &Session,
    flag: &PlatformFlag,
    since: u16,
) -> Result<Option<OciPlatform>, Failure> {
    Ok(all(session, flag, since).await?.pop())
}

/// Reads `os`, `arch`, `os/arch` or `os/arch/variant`.
fn platform(text: &str) -> Result<OciPlatform, Failure> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let lower = text.trim().to_lowercase();
    let parts: Vec<&str> = lower.split('/').collect();
    let (os, architecture, variant) = match parts[..] {
        [os @ ("linux" | "windows" | "darwin" | "freebsd")] => (os, arch, ""),
        [arch] => ("linux", arch, ""),
        [os, arch] => (os, arch, ""),
        [os, arch, variant] => (os, arch, variant),
        _ => ("", "", ""),
    };
    let good = |part: &&str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    };
    if !parts.iter().all(good) || os.is_empty() {
        return Err(Failure::new(format!(
            "invalid platform: {text:?} is an invalid OS/architecture specifier: want \
             os[/arch[/variant]]"
        )));
    }
    Ok(OciPlatform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.to_owned(),
        ..OciPlatform::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_as_docker_reads_them() {
        let read = |text: &str| {
            let found = platform(text).ok().unwrap();
            format!("{}/{}/{}", found.os, found.architecture, found.variant)
        };
        assert_eq!(read("linux/arm64/v8"), "linux/arm64/v8");
        assert_eq!(read("Linux/AMD64"), "linux/amd64/");
        assert_eq!(read("arm64"), "linux/arm64/");
        assert!(read("linux").starts_with("linux/"));
        for bad in ["", "linux/", "a/b/c/d", "linux/a b", "/"] {
            assert!(platform(bad).is_err(), "{bad}");
        }
    }
}

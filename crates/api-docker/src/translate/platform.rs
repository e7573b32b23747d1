//! `platform`, by which clients choose one of an image's several machines. An image here has one,
//! so the choice can only be right or wrong.

use pouch_docker_types::image::OciPlatform;
use pouch_image::Image;
use pouch_registry::Platform;
use serde::Deserialize;

use crate::http::{ApiError, ApiResult, ApiVersion, Query};

/// Reads a platform as clients send it since API 1.46: JSON with Go's words.
///
/// # Errors
/// 400, in dockerd's words.
fn read(text: &str) -> ApiResult<Platform> {
    let platform: Platform = serde_json::from_str(text)
        .map_err(|error| ApiError::invalid(format!("failed to parse platform: {error}")))?;
    if platform.os.is_empty() || platform.architecture.is_empty() {
        return Err(ApiError::invalid("both OS and Architecture must be provided"));
    }
    Ok(platform)
}

/// The `platform` of a call that has it since API `1.{since}`; older calls never had it read.
///
/// # Errors
/// 400.
pub(crate) fn chosen(
    query: &Query,
    version: ApiVersion,
    since: u16,
) -> ApiResult<Option<Platform>> {
    query.get("platform").filter(|_| !version.below(since)).map(read).transpose()
}

/// The `platforms` of a removal, of which there can only be one to have.
///
/// # Errors
/// 400.
pub(crate) fn chosen_of_many(query: &Query, version: ApiVersion) -> ApiResult<Option<Platform>> {
    let mut all = query.all("platforms").filter(|text| !text.is_empty() && !version.below(50));
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(one), None) => read(one).map(Some),
        (Some(_), Some(_)) => {
            let why = "several platforms are not supported: an image is kept for one";
            Err(ApiError::unsupported(why))
        }
    }
}

/// Checks that an image, which was asked for as `name`, is for the machine that was chosen.
///
/// # Errors
/// 404 naming both.
pub(crate) fn check(name: &str, image: &Image, chosen: Option<&Platform>) -> ApiResult<()> {
    Ok(chosen.map_or(Ok(()), |chosen| image.config.check_platform(name, chosen))?)
}

/// For which machines the entries of an index are.
pub(crate) fn of_index(raw: &[u8]) -> Vec<OciPlatform> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        platform: Option<OciPlatform>,
    }
    let index = serde_json::from_slice::<Index>(raw);
    let entries = index.map(|index| index.manifests).unwrap_or_default();
    entries.into_iter().map(|entry| entry.platform.unwrap_or_default()).collect()
}

/// For which machine the image of a configuration is.
pub(crate) fn of_config(raw: &[u8]) -> Vec<OciPlatform> {
    let platform = serde_json::from_slice::<OciPlatform>(raw).ok();
    platform.filter(|p| !p.os.is_empty() || !p.architecture.is_empty()).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_json() {
        let amd64 = read(r#"{"architecture":"amd64","os":"linux"}"#).unwrap();
        assert_eq!(amd64.to_string(), "linux/amd64");
        for bad in ["linux/amd64", "{}", r#"{"os":"linux"}"#, r#"{"architecture":"arm"}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn platforms_of_documents() {
        let index = br#"{"manifests":[{"platform":{"os":"linux","architecture":"arm64",
            "variant":"v8","os.version":"1"}},{"digest":"x"}]}"#;
        let found = of_index(index);
        assert_eq!((found.len(), found[0].os_version.as_str()), (2, "1"));
        assert_eq!(of_config(br#"{"os":"linux","architecture":"amd64","x":1}"#)[0].os, "linux");
        assert!(of_config(b"{}").is_empty() && of_config(b"?").is_empty());
    }
}

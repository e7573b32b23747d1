//! The commands. Each takes the session and its flags and returns the exit code.

pub(crate) mod attach;
pub(crate) mod backend;
pub(crate) mod container;
pub(crate) mod cp;
pub(crate) mod exec;
pub(crate) mod image;
pub(crate) mod images;
pub(crate) mod inspect;
pub(crate) mod lifecycle;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod network;
mod platform;
pub(crate) mod ps;
pub(crate) mod run;
pub(crate) mod search;
pub(crate) mod stats;
pub(crate) mod system;
pub(crate) mod version;
pub(crate) mod volume;

use futures::StreamExt as _;
use pouch_client::{ClientError, Filters};

use crate::failure::{self, Failure, describe};
use crate::output;

/// Objects that are worked on at once.
const PARALLEL: usize = 50;

/// What a command returns: the exit code, or why there is none.
pub(crate) type Outcome = Result<u8, Failure>;

/// Does the same to each name at the same time, and reports in the order given: the name for each
/// success, and at the end what failed.
pub(crate) async fn each<'a, F, Fut>(names: &'a [String], act: F) -> Outcome
where
    F: Fn(&'a str) -> Fut,
    Fut: Future<Output = Result<String, ClientError>>,
{
    let mut results = futures::stream::iter(names).map(|name| act(name)).buffered(PARALLEL);
    let mut failed = Vec::new();
    while let Some(result) = results.next().await {
        match result {
            Ok(text) => output::line(&text)?,
            Err(error) => failed.push(describe(&error)),
        }
    }
    if failed.is_empty() { Ok(0) } else { Err(Failure::new(failed.join("\n"))) }
}

/// `--filter key=value`, repeated.
pub(crate) fn filters(flags: &[String]) -> Result<Filters, Failure> {
    let mut filters = Filters::default();
    for text in flags {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            Failure::new(format!(
                "invalid argument {text:?} for \"--filter\" flag: bad format of filter (expected \
                 name=value)"
            ))
            .with_code(failure::ENGINE)
        })?;
        filters.add(key.trim().to_lowercase(), value.trim());
    }
    Ok(filters)
}

/// Asks before something is removed; without a person to ask, nothing is.
pub(crate) fn confirmed(warning: &str) -> Result<bool, Failure> {
    output::print(&format!("{warning}\nAre you sure you want to continue? [y/N] "))?;
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::new(format!("cannot read the answer: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y"))
}

/// A repository and its tag or digest; without either the tag is `latest`.
pub(crate) fn split_reference(text: &str) -> (String, String) {
    if let Some((name, digest)) = text.split_once('@') {
        return (name.to_owned(), digest.to_owned());
    }
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name.to_owned(), tag.to_owned()),
        _ => (text.to_owned(), "latest".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_split_at_the_tag() {
        let of = |text: &str| split_reference(text);
        assert_eq!(of("busybox"), ("busybox".to_owned(), "latest".to_owned()));
        assert_eq!(of("box:5000/x"), ("box:5000/x".to_owned(), "latest".to_owned()));
        assert_eq!(of("box:5000/x:1"), ("box:5000/x".to_owned(), "1".to_owned()));
        assert_eq!(of("x@sha256:ab"), ("x".to_owned(), "sha256:ab".to_owned()));
    }
}

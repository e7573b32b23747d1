//! Filters of `docker images` and `docker image prune`.

use std::sync::Arc;

use jiff::Timestamp;
use pouch_types::ImageRef;

use crate::catalog::Catalog;
use crate::error::ImageError;
use crate::image::Image;

/// A label filter: a name, or a name with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelFilter {
    name: String,
    value: Option<String>,
}

impl LabelFilter {
    /// From `name` or `name=value`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        match text.split_once('=') {
            Some((name, value)) => Self { name: name.to_owned(), value: Some(value.to_owned()) },
            None => Self { name: text.to_owned(), value: None },
        }
    }

    fn matches(&self, image: &Image) -> bool {
        image
            .config
            .config
            .labels
            .get(&self.name)
            .is_some_and(|found| self.value.as_ref().is_none_or(|value| value == found))
    }
}

/// Which images [`Images::list`](crate::Images::list) gives. All conditions must hold; the default
/// is every image but the intermediate ones.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Also images without a name that others were made from (`docker images -a`).
    pub intermediate: bool,
    /// `Some(true)` only those without a tag, `Some(false)` only those with a name.
    pub dangling: Option<bool>,
    /// Labels that must be there.
    pub labels: Vec<LabelFilter>,
    /// Labels that must not be there.
    pub without_labels: Vec<LabelFilter>,
    /// Patterns, one of which a name must match (`*` and `?` do not match `/`). Only the names
    /// that match are given.
    pub references: Vec<String>,
    /// Images made before all of these.
    pub before: Vec<String>,
    /// Images made after all of these.
    pub since: Vec<String>,
    /// Images made before this time.
    pub until: Option<Timestamp>,
}

impl ListFilter {
    /// The images that match, newest first.
    pub(crate) fn apply(&self, catalog: &Catalog) -> Result<Vec<Arc<Image>>, ImageError> {
        let made = |names: &[String]| {
            names
                .iter()
                .map(|name| Ok(created(&catalog.resolve(name)?.0)))
                .collect::<Result<Vec<_>, ImageError>>()
        };
        let before = made(&self.before)?.into_iter().min();
        let since = made(&self.since)?.into_iter().max();
        let mut found: Vec<_> = catalog
            .images()
            .filter(|image| {
                let made = created(image);
                before.is_none_or(|before| made < before)
                    && since.is_none_or(|since| made > since)
                    && self.until.is_none_or(|until| made < until)
                    && self.labels.iter().all(|label| label.matches(image))
                    && !self.without_labels.iter().any(|label| label.matches(image))
                    && self.shows(image, catalog)
            })
            .filter_map(|image| self.narrow(image))
            .collect();
        found.sort_by(|a, b| created(b).cmp(&created(a)).then_with(|| a.id.cmp(&b.id)));
        Ok(found)
    }

    fn shows(&self, image: &Image, catalog: &Catalog) -> bool {
        let nameless = image.repo_tags.is_empty() && image.repo_digests.is_empty();
        if nameless && !self.intermediate && catalog.children(&image.id) {
            return false;
        }
        match self.dangling {
            None => true,
            Some(true) => image.repo_tags.is_empty(),
            Some(false) => !nameless,
        }
    }

    /// The image with only the names that match a pattern, or nothing when none does.
    fn narrow(&self, image: &Arc<Image>) -> Option<Arc<Image>> {
        if self.references.is_empty() {
            return Some(Arc::clone(image));
        }
        let wanted = |name: &String| self.references.iter().any(|p| matches_name(p, name));
        let mut narrowed = Image::clone(image);
        narrowed.repo_tags.retain(wanted);
        narrowed.repo_digests.retain(wanted);
        let empty = narrowed.repo_tags.is_empty() && narrowed.repo_digests.is_empty();
        (!empty).then(|| Arc::new(narrowed))
    }
}

fn created(image: &Image) -> Timestamp {
    image.created.unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Whether a pattern matches a name, with or without its tag, in its familiar form.
fn matches_name(pattern: &str, familiar: &str) -> bool {
    if glob(pattern.as_bytes(), familiar.as_bytes()) {
        return true;
    }
    familiar
        .parse::<ImageRef>()
        .is_ok_and(|name| glob(pattern.as_bytes(), name.familiar_repository().as_bytes()))
}

/// Go's `path.Match`: `*`, `?`, `[a-z]`, `[^a]`, `\x`; a malformed pattern matches nothing.
fn glob(mut pattern: &[u8], mut text: &[u8]) -> bool {
    // Where to go on when the part after the last star does not fit: one byte later.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        let matched = match pattern.split_first() {
            None if text.is_empty() => return true,
            None => None,
            Some((b'*', rest)) => {
                retry = Some((rest, text));
                pattern = rest;
                continue;
            }
            Some((&first, rest)) => match text.split_first() {
                None => None,
                Some((&byte, after)) => one(first, rest, byte).map(|rest| (rest, after)),
            },
        };
        if let Some((rest, after)) = matched {
            (pattern, text) = (rest, after);
            continue;
        }
        match retry {
            Some((rest, [skipped, after @ ..])) if *skipped != b'/' => {
                retry = Some((rest, after));
                (pattern, text) = (rest, after);
            }
            _ => return false,
        }
    }
}

/// Matches one byte against the pattern element that begins with `first`; the rest of the pattern.
fn one(first: u8, rest: &[u8], byte: u8) -> Option<&[u8]> {
    match first {
        b'?' => (byte != b'/').then_some(rest),
        b'\\' => match rest {
            [escaped, rest @ ..] if *escaped == byte => Some(rest),
            _ => None,
        },
        b'[' => {
            let (negated, mut class) = match rest {
                [b'^', class @ ..] => (true, class),
                class => (false, class),
            };
            let mut found = false;
            let mut any = false;
            loop {
                match class {
                    [b']', rest @ ..] if any => return (found != negated).then_some(rest),
                    [low, b'-', high, rest @ ..] if *high != b']' => {
                        found |= (*low..=*high).contains(&byte);
                        class = rest;
                    }
                    [single, rest @ ..] => {
                        found |= *single == byte;
                        class = rest;
                    }
                    [] => return None,
                }
                any = true;
            }
        }
        literal => (literal == byte).then_some(rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::{name, record};

    #[test]
    fn globs() {
        for (pattern, text, wanted) in [
            ("busybox*", "busybox:latest", true),
            ("*", "busybox:latest", true),
            ("*", "a/b:1", false),
            ("*/*", "a/b:1", true),
            ("b?syb[a-o]x", "busybox", true),
            ("b[^u]sybox", "busybox", false),
            ("*:[12]", "x:2", true),
            ("*box*:*1", "busybox:3.1", true),
            ("a[", "a[", false),
            ("a[]", "a]", false),
            (r"a\*", "a*", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), wanted, "{pattern} {text}");
        }
        let slow = "*a".repeat(2000);
        assert!(!glob(slow.as_bytes(), "a".repeat(1999).as_bytes()));
    }

    fn catalog() -> Catalog {
        let records = (1..=4).map(record).collect();
        Catalog::new(records, vec![name("a", 1), name("b:1", 2), name("b:2", 2), name("c/d", 3)])
    }

    fn tags(filter: &ListFilter) -> Vec<String> {
        let images = filter.apply(&catalog()).unwrap();
        images.iter().flat_map(|image| image.repo_tags.clone()).collect()
    }

    #[test]
    fn newest_first_and_filtered() {
        assert_eq!(tags(&ListFilter::default()), ["c/d:latest", "b:1", "b:2", "a:latest"]);
        let references = |patterns: &[&str]| ListFilter {
            references: patterns.iter().map(ToString::to_string).collect(),
            ..ListFilter::default()
        };
        assert_eq!(tags(&references(&["b:2", "a"])), ["b:2", "a:latest"]);
        let before = ListFilter { before: vec!["b:1".into()], ..ListFilter::default() };
        assert_eq!(tags(&before), ["a:latest"]);
        let since = ListFilter { since: vec!["b:1".into()], ..ListFilter::default() };
        assert_eq!(tags(&since), ["c/d:latest"]);
        let unknown = ListFilter { since: vec!["nope".into()], ..ListFilter::default() };
        assert!(unknown.apply(&catalog()).is_err());
        let dangling = ListFilter { dangling: Some(true), ..ListFilter::default() };
        let found = dangling.apply(&catalog()).unwrap();
        assert_eq!((found.len(), found[0].is_dangling()), (1, true));
        let named = ListFilter { dangling: Some(false), ..ListFilter::default() };
        assert_eq!(named.apply(&catalog()).unwrap().len(), 3);
    }

    #[test]
    fn labels_by_name_and_by_value() {
        let mut labelled = record(1);
        let mut config = (*labelled.config).clone();
        config.config.labels.insert("k".into(), "v".into());
        labelled.config = Arc::new(config);
        let catalog = Catalog::new(vec![labelled, record(2)], Vec::new());
        let count = |with: &[&str], without: &[&str]| {
            let labels = |texts: &[&str]| texts.iter().map(|t| LabelFilter::new(t)).collect();
            let (labels, without_labels) = (labels(with), labels(without));
            let filter = ListFilter { labels, without_labels, ..ListFilter::default() };
            filter.apply(&catalog).unwrap().len()
        };
        assert_eq!(count(&["k"], &[]), 1);
        assert_eq!(count(&["k=v"], &[]), 1);
        assert_eq!(count(&["k=w"], &[]), 0);
        assert_eq!(count(&[], &["k"]), 1);
        assert_eq!(count(&[], &["k=w"]), 2);
    }
}

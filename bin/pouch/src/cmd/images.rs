//! `images` and `history`.

use std::collections::BTreeMap;

use pouch_client::ListImages;
use pouch_docker_types::image::{ImageHistory, ImageSummary};

use super::{Outcome, filters, platform};
use crate::context::Session;
use crate::failure::Failure;
use crate::flags::plain::{HistoryFlags, ImagesFlags};
use crate::listing::{Format, Layout};
use crate::template::{Labels, Row, Value};
use crate::{output, units};

const NONE: &str = "<none>";

const TITLES: &[(&str, &str)] = &[
    ("Containers", "CONTAINERS"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("SharedSize", "SHARED SIZE"),
    ("Size", "SIZE"),
    ("Tag", "TAG"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];

static LAYOUT: Layout = Layout {
    titles: TITLES,
    table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    quiet: "{{.ID}}",
    raw: "repository: {{.Repository}}\ntag: {{.Tag}}\nimage_id: {{.ID}}\ncreated_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}\n",
};

static LAYOUT_DIGESTS: Layout = Layout {
    table: "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    ..LAYOUT
};

/// `pouch images`.
pub(crate) async fn images(session: &Session, flags: ImagesFlags) -> Outcome {
    if flags.tree {
        let why = "an image has one platform here, so there is no tree";
        return Err(Failure::unsupported("--tree", why));
    }
    let layout = if flags.digests { &LAYOUT_DIGESTS } else { &LAYOUT };
    let format = Format::new(
        layout,
        flags.format.as_deref(),
        Some(&session.config.images_format),
        flags.quiet,
    )?;
    let mut filters = filters(&flags.filter)?;
    if let Some(repository) = &flags.repository {
        filters.add("reference", repository);
    }
    let digests = flags.digests || format.shows("Digest");
    let list = ListImages { all: flags.all, digests: flags.digests, filters };
    let images = session.client.images(&list).await?;
    let now = units::now();
    let rows = images.iter().flat_map(|image| rows(image, digests, flags.no_trunc, now)).collect();
    output::print(&format.render(rows)?)?;
    Ok(0)
}

/// One line per name; the digests of a name multiply its lines only when they are shown.
pub(crate) fn rows(image: &ImageSummary, digests: bool, no_trunc: bool, now: i64) -> Vec<Row> {
    let mut tags: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for reference in image.repo_tags.iter().filter(|r| *r != "<none>:<none>") {
        if let Some((name, tag)) = reference.rsplit_once(':') {
            tags.entry(name).or_default().push(tag);
        }
    }
    let mut by_digest: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for reference in image.repo_digests.iter().filter(|r| *r != "<none>@<none>") {
        if let Some((name, digest)) = reference.split_once('@') {
            by_digest.entry(name).or_default().push(digest);
        }
    }
    let row = |name, tag, digest| columns(image, name, tag, digest, no_trunc, now);
    if tags.is_empty() && by_digest.is_empty() {
        return vec![row(NONE, NONE, NONE)];
    }
    let mut out = Vec::new();
    for (name, tags) in &tags {
        let known = by_digest.remove(name).filter(|_| digests).unwrap_or_else(|| vec![NONE]);
        for tag in tags {
            out.extend(known.iter().map(|digest| row(name, tag, digest)));
        }
    }
    for (name, known) in by_digest {
        let known = if digests { known } else { vec![NONE] };
        out.extend(known.iter().map(|digest| row(name, NONE, digest)));
    }
    out
}

fn columns(
    image: &ImageSummary,
    name: &str,
    tag: &str,
    digest: &str,
    no_trunc: bool,
    now: i64,
) -> Row {
    // Four digits here and three there are docker's.
    let known = |bytes: i64| if bytes < 0 { "N/A".to_owned() } else { units::size4(bytes) };
    let unique = if image.shared_size < 0 { -1 } else { image.size - image.shared_size };
    let containers =
        if image.containers < 0 { "N/A".to_owned() } else { image.containers.to_string() };
    let id = if no_trunc { &image.id } else { units::short_id(&image.id) };
    let columns = vec![
        ("Containers", Value::str(containers)),
        ("CreatedAt", Value::str(units::local_time(image.created))),
        ("CreatedSince", Value::str(units::ago(image.created, now))),
        ("Digest", Value::str(digest)),
        ("ID", Value::str(id)),
        ("Repository", Value::str(name)),
        ("SharedSize", Value::str(known(image.shared_size))),
        ("Size", Value::str(units::size(image.size))),
        ("Tag", Value::str(tag)),
        ("UniqueSize", Value::str(known(unique))),
        ("VirtualSize", Value::str(units::size4(image.size))),
    ];
    Row { columns, labels: Labels::None }
}

const HISTORY_TITLES: &[(&str, &str)] = &[
    ("Comment", "COMMENT"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("CreatedSince", "CREATED"),
    ("ID", "IMAGE"),
    ("Size", "SIZE"),
];

static HISTORY: Layout = Layout {
    titles: HISTORY_TITLES,
    table: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    quiet: "{{.ID}}",
    raw: "",
};

static HISTORY_EXACT: Layout =
    Layout { table: "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}", ..HISTORY };

/// `pouch history`.
pub(crate) async fn history(session: &Session, flags: HistoryFlags) -> Outcome {
    let platform = platform::one(session, &flags.platform, 48).await?;
    let human = flags.human.unwrap_or(true);
    let layout = if human { &HISTORY } else { &HISTORY_EXACT };
    let format = Format::new(layout, flags.format.as_deref(), None, flags.quiet)?;
    let steps = session.client.image_history(&flags.image, platform.as_ref()).await?;
    let now = units::now();
    let rows = steps.iter().map(|step| step_row(step, human, flags.no_trunc, now)).collect();
    output::print(&format.render(rows)?)?;
    Ok(0)
}

fn step_row(step: &ImageHistory, human: bool, no_trunc: bool, now: i64) -> Row {
    let created_by = step.created_by.replace('\t', " ");
    let at =
        jiff::Timestamp::from_second(step.created).map(|time| time.to_string()).unwrap_or_default();
    let columns = vec![
        ("Comment", Value::str(step.comment.as_str())),
        ("CreatedAt", Value::str(at)),
        (
            "CreatedBy",
            Value::str(if no_trunc { created_by } else { units::ellipsis(&created_by, 45) }),
        ),
        (
            "CreatedSince",
            Value::str(if human {
                units::ago(step.created, now)
            } else {
                step.created.to_string()
            }),
        ),
        ("ID", Value::str(if no_trunc { &step.id } else { units::short_id(&step.id) })),
        ("Size", Value::str(if human { units::size(step.size) } else { step.size.to_string() })),
    ];
    Row { columns, labels: Labels::None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(tags: &[&str], digests: &[&str]) -> ImageSummary {
        ImageSummary {
            id: "sha256:0123456789abcdef".to_owned(),
            repo_tags: tags.iter().map(|t| (*t).to_owned()).collect(),
            repo_digests: digests.iter().map(|t| (*t).to_owned()).collect(),
            size: 1_240_000,
            ..ImageSummary::default()
        }
    }

    fn names(rows: &[Row]) -> Vec<String> {
        let column = |row: &Row, name: &str| {
            row.columns.iter().find(|(n, _)| *n == name).unwrap().1.to_string()
        };
        rows.iter()
            .map(|r| {
                format!("{} {} {}", column(r, "Repository"), column(r, "Tag"), column(r, "Digest"))
            })
            .collect()
    }

    #[test]
    fn each_name_has_its_line() {
        let both = image(&["a:1", "r:5000/b:2"], &["a@sha256:x", "c@sha256:y"]);
        assert_eq!(
            names(&rows(&both, false, false, 0)),
            ["a 1 <none>", "r:5000/b 2 <none>", "c <none> <none>"]
        );
        assert_eq!(
            names(&rows(&both, true, false, 0)),
            ["a 1 sha256:x", "r:5000/b 2 <none>", "c <none> sha256:y"]
        );
        assert_eq!(
            names(&rows(&image(&["<none>:<none>"], &[]), false, false, 0)),
            ["<none> <none> <none>"]
        );
    }
}

//! `search`.

use pouch_client::SearchImages;
use pouch_docker_types::image::SearchResult;

use super::{Outcome, filters};
use crate::context::Session;
use crate::failure::Failure;
use crate::flags::registry::SearchFlags;
use crate::listing::{Format, Layout};
use crate::template::{Labels, Row, Value};
use crate::{credentials, output, units};

static LAYOUT: Layout = Layout {
    titles: &[
        ("Description", "DESCRIPTION"),
        ("IsOfficial", "OFFICIAL"),
        ("Name", "NAME"),
        ("StarCount", "STARS"),
    ],
    table: "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}",
    quiet: "",
    raw: "",
};

/// `pouch search`.
pub(crate) async fn search(session: &Session, flags: SearchFlags) -> Outcome {
    let format = Format::new(&LAYOUT, flags.format.as_deref(), None, false)?;
    let limit = flags.limit.filter(|limit| *limit != 0);
    if limit.is_some_and(|limit| limit < 0) {
        return Err(Failure::new("invalid argument for --limit: want a number from 1 to 100"));
    }
    // Whether the first part is a host is decided as for an image.
    let auth = credentials::lookup(&session.config, &flags.term).await?;
    let search = SearchImages { term: flags.term, limit, filters: filters(&flags.filter)? };
    let results = session.client.search_images(&search, auth.as_ref()).await?;
    let words = if format.is_json() { ["false", "true"] } else { ["", "[OK]"] };
    let rows = results.iter().map(|result| row(result, words, flags.no_trunc)).collect();
    output::print(&format.render(rows)?)?;
    Ok(0)
}

fn row(result: &SearchResult, words: [&str; 2], no_trunc: bool) -> Row {
    let description = result.description.replace(['\n', '\r'], " ");
    let description = if no_trunc { description } else { units::ellipsis(&description, 45) };
    let columns = vec![
        ("Description", Value::str(description)),
        ("IsOfficial", Value::str(words[usize::from(result.is_official)])),
        ("Name", Value::str(result.name.as_str())),
        ("StarCount", Value::str(result.star_count.to_string())),
    ];
    Row { columns, labels: Labels::None }
}

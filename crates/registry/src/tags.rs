//! The tags of a repository (distribution-spec, "Listing Tags").

use pouch_types::ImageRef;
use reqwest::header::{HeaderMap, LINK};
use reqwest::{Method, Response, Url};
use serde::Deserialize;

use crate::Repository;
use crate::error::RegistryError;
use crate::rounds::Want;
use crate::session::Ask;

/// Bytes of one page of names.
pub(crate) const PAGE_BYTES: u64 = 4 << 20;
/// Names that are asked for at once; a registry may give fewer.
pub(crate) const PAGE: usize = 1000;
/// Pages of one list.
const PAGES: usize = 100;
/// Tags of one repository.
const TAGS: usize = 20_000;

#[derive(Deserialize)]
struct Answer {
    /// Some registries say `null` for none.
    tags: Option<Vec<String>>,
}

impl Repository {
    /// All tags of the session's repository as references, in the registry's order.
    ///
    /// # Errors
    /// [`RegistryError::NameUnknown`], [`RegistryError::TooLarge`] for a list beyond all bounds,
    /// [`RegistryError::Protocol`] for what is no list of tags, and all others.
    pub async fn tags(&self) -> Result<Vec<ImageRef>, RegistryError> {
        let protocol = |why: &str| RegistryError::Protocol {
            host: self.reference().domain().to_owned(),
            why: why.to_owned(),
        };
        let mut tags = Vec::new();
        let mut path = format!("tags/list?n={PAGE}");
        for _ in 0..PAGES {
            let (page, next) = self.page(&path).await?;
            let answer: Answer = serde_json::from_slice(&page)
                .map_err(|_| protocol("answers with something else than a list of tags"))?;
            for tag in answer.tags.unwrap_or_default() {
                let named = self.reference().with_tag(&tag);
                tags.push(named.map_err(|_| protocol("lists a tag that cannot be one"))?);
            }
            if tags.len() > TAGS {
                break;
            }
            match next {
                Some(query) => path = format!("tags/list?{query}"),
                None => return Ok(tags),
            }
        }
        Err(RegistryError::TooLarge { what: "list of tags", limit: PAGE_BYTES })
    }

    async fn page(&self, path: &str) -> Result<(bytes::Bytes, Option<String>), RegistryError> {
        let ask = Ask { method: Method::GET, path, headers: HeaderMap::new(), want: Want::Tag };
        let mut rounds = self.session().rounds(Want::Tag);
        loop {
            let turn = rounds.next().await?;
            let got = async {
                let body = self.session().exchange(turn, &ask).await?;
                let next = next_page(body.response());
                Ok((body.collect("list of tags", PAGE_BYTES).await?, next))
            };
            match got.await {
                Ok(page) => return Ok(page),
                Err(fault) => rounds.failed(turn, fault)?,
            }
        }
    }
}

/// The query of the next page. Only the query is taken of the link: where the list is, we know,
/// and registries behind proxies name hosts that nobody reaches.
pub(crate) fn next_page(response: &Response) -> Option<String> {
    let link = response.headers().get(LINK)?.to_str().ok()?;
    next_query(response.url(), link)
}

fn next_query(base: &Url, link: &str) -> Option<String> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.split(';').any(|parameter| {
        let parameter = parameter.trim().replace([' ', '"'], "");
        parameter.eq_ignore_ascii_case("rel=next")
    });
    let target = base.join(target).ok().filter(|_| is_next)?;
    target.query().filter(|query| !query.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_a_query() {
        let base = Url::parse("https://r.example/v2/a/tags/list?n=2").unwrap();
        let next = |link: &str| next_query(&base, link);
        let query = |text: &str| Some(text.to_owned());
        assert_eq!(next("</v2/a/tags/list?last=b&n=2>; rel=\"next\""), query("last=b&n=2"));
        assert_eq!(next("<https://inside:1/x?next_page=t>;rel=next"), query("next_page=t"));
        assert_eq!(next("</v2/a/tags/list?last=b>; rel=\"prev\""), None);
        assert_eq!(next("</v2/a/tags/list>; rel=\"next\""), None);
        assert_eq!(next("nonsense"), None);
    }
}

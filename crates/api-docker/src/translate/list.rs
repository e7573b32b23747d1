//! Which containers `GET /containers/json` shows.

use std::collections::BTreeSet;
use std::sync::Arc;

use pouch_docker_types::Filters;
use pouch_docker_types::filters::FilterError;
use pouch_engine::{ContainerView, Status};
use pouch_types::ImageId;
use regex::{Regex, RegexBuilder};

use super::container::attachments;
use crate::http::error::bad_filter;
use crate::http::{ApiError, ApiResult, Query};

/// Keys that dockerd knows.
const KEYS: [&str; 16] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
    "label!",
];

/// Bytes of a compiled pattern; patterns come from clients.
const PATTERN_MAX: usize = 256 << 10;

/// What a list call asks for.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Not only those that run.
    all: bool,
    /// The newest so many, running or not.
    limit: Option<usize>,
    before: Option<String>,
    since: Option<String>,
    names: Option<Vec<Regex>>,
    ids: Option<Vec<Regex>>,
    exited: BTreeSet<i32>,
    ports: Vec<(Where, u16, u16, Option<String>)>,
    filters: Filters,
    /// With `size=1`.
    pub sizes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Published,
    Exposed,
}

/// Patterns that select by substring or expression, as dockerd matches names and ids.
pub(crate) fn patterns(filters: &Filters, key: &str) -> ApiResult<Option<Vec<Regex>>> {
    if !filters.has(key) {
        return Ok(None);
    }
    let compile = |text: &str| {
        RegexBuilder::new(text).size_limit(PATTERN_MAX).build().map_err(|_| {
            bad_filter(FilterError::Value { key: key.to_owned(), values: vec![text.to_owned()] })
        })
    };
    filters.get(key).map(compile).collect::<ApiResult<Vec<_>>>().map(Some)
}

/// Whether any pattern is found in any text, or none was given.
pub(crate) fn found(patterns: Option<&Vec<Regex>>, texts: &[&str]) -> bool {
    patterns.is_none_or(|patterns| {
        patterns.iter().any(|pattern| texts.iter().any(|text| pattern.is_match(text)))
    })
}

fn wrong(key: &str, value: &str) -> ApiError {
    bad_filter(FilterError::Value { key: key.to_owned(), values: vec![value.to_owned()] })
}

impl Asked {
    /// Reads the query.
    ///
    /// # Errors
    /// 400 for filters that are unknown or malformed.
    pub(crate) fn read(query: &Query) -> ApiResult<Self> {
        let filters = query.filters(&KEYS)?;
        for status in filters.get("status") {
            if !Status::ALL.iter().any(|known| known.as_str() == status) {
                return Err(ApiError::invalid(format!("invalid filter 'status={status}'")));
            }
        }
        for health in filters.get("health") {
            if !matches!(health, "none" | "starting" | "healthy" | "unhealthy") {
                return Err(wrong("health", health));
            }
        }
        let exited = filters
            .get("exited")
            .map(|code| code.parse::<i32>().map_err(|_| wrong("exited", code)))
            .collect::<ApiResult<BTreeSet<_>>>()?;
        let mut ports = Vec::new();
        for (key, place) in [("publish", Where::Published), ("expose", Where::Exposed)] {
            for text in filters.get(key) {
                ports.push(read_port(text, place).ok_or_else(|| wrong(key, text))?);
            }
        }
        let only = |key: &str, old: &str| {
            filters.get(key).next().or_else(|| query.get(old)).map(str::to_owned)
        };
        let limit = query
            .number::<i64>("limit")?
            .and_then(|limit| usize::try_from(limit).ok())
            .filter(|limit| *limit > 0);
        Ok(Self {
            all: query.flag("all") || filters.has("status"),
            limit,
            before: only("before", "before"),
            since: only("since", "since"),
            names: patterns(&filters, "name")?,
            ids: patterns(&filters, "id")?,
            exited,
            ports,
            sizes: query.flag("size"),
            filters,
        })
    }

    /// Chooses from all containers, newest first. `family` tells whether a container's image is, or
    /// descends from, the image of a name; `find` looks a container up by name.
    ///
    /// # Errors
    /// 404 when `before` or `since` names no container.
    pub(crate) fn choose(
        &self,
        views: Vec<Arc<ContainerView>>,
        family: impl Fn(&str, &ImageId) -> bool,
        find: impl Fn(&str) -> ApiResult<Arc<ContainerView>>,
    ) -> ApiResult<Vec<Arc<ContainerView>>> {
        let border = |name: &Option<String>| name.as_deref().map(&find).transpose();
        let (before, since) = (border(&self.before)?, border(&self.since)?);
        // Any of these means more than what runs, as with dockerd.
        let all = self.all
            || self.limit.is_some()
            || before.is_some()
            || since.is_some()
            || !self.exited.is_empty();
        let chosen = views.into_iter().filter(|view| {
            let running = view.state.is_running() || view.state.status == Status::Restarting;
            (all || running)
                && before.as_ref().is_none_or(|border| view.created < border.created)
                && since.as_ref().is_none_or(|border| view.created > border.created)
                && self.matches(view, &family)
        });
        Ok(chosen.take(self.limit.unwrap_or(usize::MAX)).collect())
    }

    fn matches(&self, view: &ContainerView, family: impl Fn(&str, &ImageId) -> bool) -> bool {
        let filters = &self.filters;
        let name = view.name.as_str();
        let slashed = format!("/{name}");
        let any = |key: &str, test: &dyn Fn(&str) -> bool| {
            !filters.has(key) || filters.get(key).any(test)
        };
        let health = view.state.health.as_ref().map_or("none", |health| health.status.as_str());
        let ended = matches!(view.state.status, Status::Exited | Status::Dead);
        found(self.names.as_ref(), &[name, &slashed])
            && found(self.ids.as_ref(), &[view.id.as_str()])
            && filters.exact("status", view.state.status.as_str())
            && filters.exact("health", health)
            && filters.exact("is-task", "false")
            && filters.labels("label", &view.spec.labels)
            && !filters.any_label("label!", &view.spec.labels)
            && (self.exited.is_empty() || ended && self.exited.contains(&view.state.exit_code))
            && any("ancestor", &|text| family(text, &view.image) || text == view.spec.image_name)
            && any("volume", &|text| {
                view.mounts.iter().any(|mount| {
                    mount.volume.as_deref() == Some(text)
                        || mount.source == text
                        || mount.spec.destination == text
                })
            })
            && any("network", &|text| {
                attachments(view).iter().any(|(name, endpoint)| {
                    name == text || !text.is_empty() && endpoint.network_id.starts_with(text)
                })
            })
            && self.has_ports(view)
    }

    fn has_ports(&self, view: &ContainerView) -> bool {
        let place = |place: Where| self.ports.iter().filter(move |port| port.0 == place);
        let fits = |wanted: &(Where, u16, u16, Option<String>), number: u16, protocol: &str| {
            (wanted.1..=wanted.2).contains(&number)
                && wanted.3.as_deref().is_none_or(|wanted| wanted == protocol)
        };
        let published = place(Where::Published).next().is_none()
            || view.endpoints.iter().flat_map(|endpoint| &endpoint.ports).any(|port| {
                let protocol = port.container.protocol.as_str();
                place(Where::Published).any(|wanted| {
                    fits(wanted, port.host_port, protocol)
                        || fits(wanted, port.container.number, protocol)
                })
            });
        let exposed = place(Where::Exposed).next().is_none()
            || view.spec.exposed_ports.iter().any(|port| {
                place(Where::Exposed)
                    .any(|wanted| fits(wanted, port.number, port.protocol.as_str()))
            });
        published && exposed
    }
}

/// `80`, `80/udp`, `8000-8010/tcp`.
fn read_port(text: &str, place: Where) -> Option<(Where, u16, u16, Option<String>)> {
    let (numbers, protocol) = match text.split_once('/') {
        Some((numbers, protocol @ ("tcp" | "udp" | "sctp"))) => (numbers, Some(protocol)),
        Some(_) => return None,
        None => (text, None),
    };
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then(|| (place, first, last, protocol.map(str::to_owned)))
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;

//! Events and their filters.

use pouch_docker_types::Filters;
use pouch_docker_types::event::{EventActor, EventMessage};
use pouch_engine::{Event, EventKind};

/// Keys that dockerd knows.
pub(crate) const KEYS: [&str; 14] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// Actions that carry an argument behind a colon, which a filter may leave out.
const WITH_ARGUMENT: [&str; 3] = ["exec_create", "exec_start", "health_status"];

/// One line of the stream, with the fields of old clients where dockerd still sends them.
pub(crate) fn write(event: &Event) -> EventMessage {
    let nanoseconds = i64::try_from(event.time.as_nanosecond()).unwrap_or(i64::MAX);
    let old = matches!(event.kind, EventKind::Container | EventKind::Image);
    let image = match event.kind {
        EventKind::Container => event.attributes.get("image").cloned().unwrap_or_default(),
        _ => String::new(),
    };
    EventMessage {
        status: if old { event.action.clone() } else { String::new() },
        id: if old { event.actor.clone() } else { String::new() },
        from: image,
        r#type: event.kind.as_str().to_owned(),
        action: event.action.clone(),
        actor: EventActor { id: event.actor.clone(), attributes: event.attributes.clone() },
        scope: "local".to_owned(),
        time: event.time.as_second(),
        time_nano: nanoseconds,
    }
}

/// Whether an event passes the filters.
pub(crate) fn matches(filters: &Filters, event: &Event) -> bool {
    let action = event.action.as_str();
    let bare = action.split(':').next().unwrap_or_default();
    let event_matches = !filters.has("event")
        || filters
            .get("event")
            .any(|wanted| wanted == action || wanted == bare && WITH_ARGUMENT.contains(&wanted));
    event_matches
        && filters.exact("type", event.kind.as_str())
        && filters.exact("scope", "local")
        && filters.labels("label", &event.attributes)
        && about(filters, "container", event, EventKind::Container)
        && about(filters, "volume", event, EventKind::Volume)
        && about(filters, "network", event, EventKind::Network)
        && about(filters, "daemon", event, EventKind::Daemon)
        && image_matches(filters, event)
        && ["plugin", "service", "node", "secret", "config"].iter().all(|key| !filters.has(key))
}

/// By id or name, of which the beginning is enough.
fn about(filters: &Filters, key: &str, event: &Event, kind: EventKind) -> bool {
    if !filters.has(key) {
        return true;
    }
    let name = event.attributes.get("name").map_or("", String::as_str);
    event.kind == kind
        && filters
            .get(key)
            .any(|wanted| event.actor.starts_with(wanted) || name.starts_with(wanted))
}

/// An image, or a container's: with its tag or without.
fn image_matches(filters: &Filters, event: &Event) -> bool {
    if !filters.has("image") {
        return true;
    }
    let name = match event.kind {
        EventKind::Image => "name",
        EventKind::Container => "image",
        _ => return Default::default(),
    };
    let name = event.attributes.get(name).map_or("", String::as_str);
    // A colon before the last slash belongs to a registry's port.
    let untagged = match name.rfind(':') {
        Some(colon) if !name[colon..].contains('/') => &name[..colon],
        _ => name,
    };
    let id = if event.kind == EventKind::Image { event.actor.as_str() } else { "" };
    filters.get("image").any(|wanted| [name, untagged, id].contains(&wanted))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;

    fn event(kind: EventKind, action: &str, attributes: &[(&str, &str)]) -> Event {
        Event {
            kind,
            action: action.to_owned(),
            actor: "abcdef".to_owned(),
            attributes: attributes
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>(),
            time: Timestamp::new(1_700_000_000, 5).unwrap(),
        }
    }

    fn passes(filters: &str, event: &Event) -> bool {
        matches(&Filters::parse(filters).unwrap(), event)
    }

    #[test]
    fn filters() {
        let attributes = [("name", "web"), ("image", "localhost:5000/a:1"), ("k", "v")];
        let start = event(EventKind::Container, "start", &attributes);
        let health = event(EventKind::Container, "health_status: healthy", &attributes);
        for filter in [
            "{}",
            r#"{"type":["container"]}"#,
            r#"{"event":["start","die"]}"#,
            r#"{"container":["web"]}"#,
            r#"{"container":["abc"]}"#,
            r#"{"image":["localhost:5000/a"]}"#,
            r#"{"image":["localhost:5000/a:1"]}"#,
            r#"{"label":["k=v"]}"#,
            r#"{"scope":["local"]}"#,
        ] {
            assert!(passes(filter, &start), "{filter}");
        }
        for filter in [
            r#"{"type":["image"]}"#,
            r#"{"event":["star"]}"#,
            r#"{"container":["other"]}"#,
            r#"{"image":["localhost"]}"#,
            r#"{"label":["k=w"]}"#,
            r#"{"network":["web"]}"#,
            r#"{"service":["web"]}"#,
            r#"{"scope":["swarm"]}"#,
        ] {
            assert!(!passes(filter, &start), "{filter}");
        }
        assert!(passes(r#"{"event":["health_status"]}"#, &health));
        assert!(passes(r#"{"event":["health_status: healthy"]}"#, &health));
        assert!(!passes(r#"{"event":["health_status: unhealthy"]}"#, &health));
    }

    #[test]
    fn shape() {
        let start = event(EventKind::Container, "start", &[("image", "a"), ("name", "web")]);
        insta::assert_json_snapshot!("container_event", write(&start));
        let connect = event(EventKind::Network, "connect", &[("name", "front")]);
        insta::assert_json_snapshot!("network_event", write(&connect));
    }
}

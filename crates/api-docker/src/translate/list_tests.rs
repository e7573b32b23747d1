use axum::extract::FromRequestParts;
use pouch_engine::PublishedPort;
use pouch_types::{Digest, ImageId};

use super::*;
use crate::translate::container::tests::{at, created, running};

async fn asked(query: &str) -> ApiResult<Asked> {
    let uri = format!("/containers/json?{query}");
    let (mut parts, ()) = http::Request::get(uri).body(()).unwrap().into_parts();
    Asked::read(&Query::from_request_parts(&mut parts, &()).await?)
}

/// Names of those chosen from `web` (runs, oldest), `new` (never ran) and `end` (exited with 3).
async fn chosen(query: &str) -> Vec<String> {
    let mut new = created();
    (new.name, new.created) = ("new".parse().unwrap(), at(10));
    new.id = "beef0000".repeat(8).parse().unwrap();
    new.image = ImageId(Digest::of(b"other"));
    let mut end = created();
    (end.name, end.created) = ("end".parse().unwrap(), at(20));
    end.id = "abba0000".repeat(8).parse().unwrap();
    (end.state.status, end.state.exit_code) = (Status::Exited, 3);
    let views: Vec<_> = [end, new, running()].into_iter().map(Arc::new).collect();
    let all = views.clone();
    let find = |name: &str| {
        let found = all.iter().find(|view| view.name.as_str() == name).cloned();
        found.ok_or_else(|| ApiError::new(http::StatusCode::NOT_FOUND, "no"))
    };
    let family =
        |name: &str, image: &ImageId| name == "base" && *image == ImageId(Digest::of(b"image"));
    let chosen = asked(query).await.unwrap().choose(views, family, find).unwrap();
    chosen.iter().map(|view| view.name.to_string()).collect()
}

fn filter(json: &str) -> String {
    let escaped: String = json.bytes().map(|byte| format!("%{byte:02x}")).collect();
    format!("all=1&filters={escaped}")
}

#[tokio::test]
async fn what_runs_unless_more_is_asked_for() {
    assert_eq!(chosen("").await, ["web"]);
    assert_eq!(chosen("all=1").await, ["end", "new", "web"]);
    assert_eq!(chosen("limit=2").await, ["end", "new"]);
    assert_eq!(chosen("limit=-1").await, ["web"]);
    assert_eq!(chosen("before=end").await, ["new", "web"]);
    assert_eq!(chosen("since=web").await, ["end", "new"]);
}

#[tokio::test]
async fn filters() {
    for (json, names) in [
        (r#"{"status":["exited"]}"#, &["end"][..]),
        (r#"{"status":["created","running"]}"#, &["new", "web"]),
        (r#"{"exited":["3"]}"#, &["end"]),
        (r#"{"exited":["0"]}"#, &[]),
        (r#"{"name":["e"]}"#, &["end", "new", "web"]),
        (r#"{"name":["^/?end$"]}"#, &["end"]),
        (r#"{"id":["c0ffee"]}"#, &["web"]),
        (r#"{"label":["tier=front"]}"#, &["end", "new", "web"]),
        (r#"{"label":["tier=back"]}"#, &[]),
        (r#"{"label!":["tier"]}"#, &[]),
        (r#"{"ancestor":["base"]}"#, &["end", "web"]),
        (r#"{"ancestor":["busybox"]}"#, &["end", "new", "web"]),
        (r#"{"health":["none"]}"#, &["end", "new", "web"]),
        (r#"{"health":["healthy"]}"#, &[]),
        (r#"{"network":["bridge"]}"#, &["end", "new", "web"]),
        (r#"{"network":["abab"]}"#, &["web"]),
        (r#"{"volume":["/srv"]}"#, &["end", "new", "web"]),
        (r#"{"volume":["/nope"]}"#, &[]),
        (r#"{"publish":["8080"]}"#, &["web"]),
        (r#"{"publish":["80/tcp"]}"#, &["web"]),
        (r#"{"publish":["8000-8100/udp"]}"#, &[]),
        (r#"{"expose":["50-60/udp"]}"#, &["end", "new", "web"]),
        (r#"{"is-task":["true"]}"#, &[]),
        (r#"{"before":["end"]}"#, &["new", "web"]),
    ] {
        assert_eq!(chosen(&filter(json)).await, names, "{json}");
    }
    let ports: Vec<PublishedPort> = running().endpoints[0].ports.clone();
    assert_eq!(ports[0].host_port, 8080);
}

#[tokio::test]
async fn refuses() {
    for json in [
        r#"{"nope":["1"]}"#,
        r#"{"status":["sleeping"]}"#,
        r#"{"health":["fine"]}"#,
        r#"{"exited":["x"]}"#,
        r#"{"publish":["x"]}"#,
        r#"{"publish":["90-80"]}"#,
        r#"{"name":["("]}"#,
        r#"{"name":["(a{1000}){1000}"]}"#,
    ] {
        let error = asked(&filter(json)).await.unwrap_err();
        assert!(error.message().starts_with("invalid filter"), "{json}: {}", error.message());
    }
    assert!(asked("limit=x").await.is_err());
}

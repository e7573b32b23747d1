//! `system backend`.

use std::fmt::Write as _;

use pouch_client::ClientError;
use pouch_docker_types::system::BackendInfo;

use super::Outcome;
use crate::context::Session;
use crate::failure::Failure;
use crate::flags::plain::FormatFlag;
use crate::output;
use crate::template::{Mode, Template, Value};

/// `pouch system backend`.
pub(crate) async fn backend(session: &Session, flags: FormatFlag) -> Outcome {
    let answer = match session.client.backend_raw().await {
        Err(ClientError::Api { status, .. }) if status == 404 => {
            return Err(Failure::new("this daemon is no pouchd, or one that has no backends"));
        }
        other => other?,
    };
    if let Some(text) = flags.format.as_deref().filter(|text| !text.is_empty()) {
        let text = if text == "json" { "{{json .}}" } else { text };
        let template = Template::parse(text)?;
        let value = Value::from_json(&answer)
            .map_err(|error| Failure::new(format!("the daemon sent no JSON: {error}")))?;
        output::line(&template.render(&value, Mode::Data)?)?;
        return Ok(0);
    }
    let info: BackendInfo = serde_json::from_slice(&answer).map_err(|error| {
        Failure::new(format!("unexpected reply to GET /pouch/backend: {error}"))
    })?;
    output::print(&text(&info))?;
    for warning in &info.warnings {
        output::note(warning);
    }
    Ok(0)
}

fn text(info: &BackendInfo) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let mut add = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(out, "{name}: {value}");
    };
    add("Backend", &info.backend);
    add("Version", &info.version);
    add("Image Store", &info.image_store);
    if let Some(containerd) = &info.containerd {
        add("Socket", &containerd.socket);
        add("Namespace", &containerd.namespace);
        add("State", &format_args!("{} since {}", containerd.state, containerd.since));
        if !containerd.error.is_empty() {
            add("Last Error", &containerd.error);
        }
        let (open, most) = (containerd.open_connections, containerd.connections);
        add("Connections", &format_args!("{open} of {most} open"));
        add("Calls In Flight", &containerd.calls_in_flight);
    }
    for (backend, count) in &info.containers {
        let whose = if *backend == info.backend { "" } else { ", listed and left alone" };
        let (running, all) = (count.running, count.total);
        add(
            &format!("Containers ({backend})"),
            &format_args!("{all}, {running} running{}", if all == 0 { "" } else { whose }),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_backend_s_containers_are_told_apart() {
        let info = r#"{"Backend":"remote","Version":"1.6.20","ImageStore":"local","Containerd":{
            "Socket":"/c.sock","Namespace":"pouch","State":"unavailable","Since":"t","Error":"gone",
            "Connections":2,"OpenConnections":0,"CallsInFlight":3},"Containers":{
            "local":{"Running":1,"Total":2},"remote":{"Running":0,"Total":0}},"Warnings":[]}"#;
        assert_eq!(
            text(&serde_json::from_str(info).unwrap()),
            "Backend: remote\nVersion: 1.6.20\nImage Store: local\nSocket: /c.sock\n\
             Namespace: pouch\nState: unavailable since t\nLast Error: gone\n\
             Connections: 0 of 2 open\nCalls In Flight: 3\n\
             Containers (local): 2, 1 running, listed and left alone\n\
             Containers (remote): 0, 0 running\n"
        );
    }
}

//! `top`, `port`, `diff`, `export`.

use super::Outcome;
use super::ps::join_host_port;
use crate::context::Session;
use crate::failure::Failure;
use crate::flags::plain::{ExportFlags, PortFlags, TopFlags};
use crate::{output, streams, terminal};

/// `pouch top`.
pub(crate) async fn top(session: &Session, flags: TopFlags) -> Outcome {
    let (container, arguments) =
        flags.words.split_first().ok_or_else(|| Failure::new("a container is needed"))?;
    let top = session.client.top(container, &arguments.join(" ")).await?;
    let mut text = String::new();
    for row in std::iter::once(&top.titles).chain(&top.processes) {
        text.push_str(&row.join("\t"));
        text.push('\n');
    }
    output::print(&crate::table::align_wide(&text))?;
    Ok(0)
}

/// `pouch port`.
pub(crate) async fn port(session: &Session, flags: PortFlags) -> Outcome {
    let container = session.client.inspect_container(&flags.container).await?;
    let ports = &container.network_settings.ports;
    if let Some(wanted) = &flags.port {
        let key =
            if wanted.contains('/') { wanted.to_lowercase() } else { format!("{wanted}/tcp") };
        let bindings = ports.get(&key).and_then(Option::as_ref).filter(|b| !b.is_empty());
        let Some(bindings) = bindings else {
            return Err(Failure::new(format!(
                "Error: No public port '{wanted}' published for {}",
                flags.container
            )));
        };
        for binding in bindings {
            output::line(&join_host_port(&binding.host_ip, &binding.host_port))?;
        }
        return Ok(0);
    }
    let mut lines: Vec<((u16, String), String)> = Vec::new();
    for (key, bindings) in ports {
        let number = key.split('/').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        for binding in bindings.iter().flatten() {
            let host = join_host_port(&binding.host_ip, &binding.host_port);
            lines.push(((number, key.clone()), format!("{key} -> {host}")));
        }
    }
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    for (_, line) in lines {
        output::line(&line)?;
    }
    Ok(0)
}

/// `pouch diff`.
pub(crate) async fn diff(session: &Session, container: &str) -> Outcome {
    for change in session.client.changes(container).await? {
        let kind = match change.kind {
            0 => "C",
            1 => "A",
            2 => "D",
            _ => "?",
        };
        output::line(&format!("{kind} {}", change.path))?;
    }
    Ok(0)
}

/// `pouch export`.
pub(crate) async fn export(session: &Session, flags: ExportFlags) -> Outcome {
    if flags.output.is_none() && terminal::stdout_is_terminal() {
        return Err(Failure::new("cowardly refusing to save to a terminal: use -o, or redirect"));
    }
    let body = session.client.export(&flags.container).await?;
    streams::save(body, flags.output.as_deref()).await?;
    Ok(0)
}

//! `version` and `info`.

use std::fmt::Write as _;

use pouch_client::ApiVersion;
use pouch_docker_types::system::{Info, Version};

use super::Outcome;
use crate::context::Session;
use crate::failure::Failure;
use crate::flags::plain::FormatFlag;
use crate::template::{Mode, Template, Value};
use crate::{output, units};

/// The client's half of `version`.
fn client_half(api: ApiVersion) -> serde_json::Value {
    serde_json::json!({
        "Platform": {"Name": "pouch"},
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": api.to_string(),
        "DefaultAPIVersion": ApiVersion::NEWEST.to_string(),
        "GitCommit": "",
        "GoVersion": "",
        "Os": std::env::consts::OS,
        "Arch": arch(),
        "Context": "default",
    })
}

const fn arch() -> &'static str {
    // Go's name for it, which is what users compare with.
    if cfg!(target_arch = "x86_64") {
        "amd64"
    } else if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        std::env::consts::ARCH
    }
}

/// `pouch version`. The client's half is shown even when the daemon does not answer.
pub(crate) async fn version(session: &Session, flags: FormatFlag) -> Outcome {
    let answer = session.client.daemon_version_raw().await;
    let api = session.client.version().await.unwrap_or(ApiVersion::NEWEST);
    if let Some(text) = flags.format.as_deref().filter(|text| !text.is_empty()) {
        let text = if text == "json" { "{{json .}}" } else { text };
        let template = Template::parse(text)?;
        let server = match &answer {
            Ok(bytes) => String::from_utf8_lossy(bytes).trim().to_owned(),
            Err(_) => "null".to_owned(),
        };
        let both = format!("{{\"Client\":{},\"Server\":{server}}}", client_half(api));
        let value = Value::from_json(both.as_bytes())
            .map_err(|error| Failure::new(format!("the daemon sent no JSON: {error}")))?;
        let rendered = template.render(&value, Mode::Data);
        // Without a daemon its half is missing, and that is the reason to give.
        return match (answer, rendered) {
            (_, Ok(text)) => {
                output::line(&text)?;
                Ok(0)
            }
            (Err(error), Err(_)) => Err(error.into()),
            (Ok(_), Err(error)) => Err(error.into()),
        };
    }
    output::print(&client_text(api))?;
    let server: Version = serde_json::from_slice(&answer?)
        .map_err(|error| Failure::new(format!("unexpected reply to GET /version: {error}")))?;
    output::print(&server_text(&server))?;
    Ok(0)
}

fn client_text(api: ApiVersion) -> String {
    format!(
        "Client: pouch\n Version:           {}\n API version:       {api}\n OS/Arch:           {}/{}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        arch()
    )
}

fn server_text(server: &Version) -> String {
    let mut out = String::from("\nServer:");
    let mut add = |text: &str| out.push_str(text);
    if !server.platform.name.is_empty() {
        add(&format!(" {}", server.platform.name));
    }
    add("\n Engine:\n");
    for (name, value) in [
        ("Version", server.version.clone()),
        (
            "API version",
            format!("{} (minimum version {})", server.api_version, server.min_api_version),
        ),
        ("Go version", server.go_version.clone()),
        ("Git commit", server.git_commit.clone()),
        ("Built", server.build_time.clone()),
        ("OS/Arch", format!("{}/{}", server.os, server.arch)),
        ("Experimental", server.experimental.to_string()),
    ] {
        if !value.is_empty() {
            add(&format!("  {:<16} {value}\n", format!("{name}:")));
        }
    }
    for component in server.components.iter().filter(|c| c.name != "Engine") {
        add(&format!(" {}:\n  {:<16} {}\n", component.name, "Version:", component.version));
        for (name, value) in &component.details {
            add(&format!("  {:<16} {value}\n", format!("{name}:")));
        }
    }
    out
}

/// `pouch info`.
pub(crate) async fn info(session: &Session, flags: FormatFlag) -> Outcome {
    let answer = session.client.info_raw().await;
    if let Some(text) = flags.format.as_deref().filter(|text| !text.is_empty()) {
        let text = if text == "json" { "{{json .}}" } else { text };
        let template = Template::parse(text)?;
        let value = Value::from_json(&answer?)
            .map_err(|error| Failure::new(format!("the daemon sent no JSON: {error}")))?;
        output::line(&template.render(&value, Mode::Data)?)?;
        return Ok(0);
    }
    output::print(&format!(
        "Client: pouch\n Version:    {}\n Context:    default\n Debug Mode: false\n\nServer:\n",
        env!("CARGO_PKG_VERSION")
    ))?;
    let info: Info = serde_json::from_slice(&answer?)
        .map_err(|error| Failure::new(format!("unexpected reply to GET /info: {error}")))?;
    output::print(&info_text(&info))?;
    for warning in info.warnings.unwrap_or_default() {
        output::note(&warning);
    }
    Ok(0)
}

fn info_text(info: &Info) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let mut add = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(out, " {name}: {value}");
    };
    add("Containers", &info.containers);
    add(" Running", &info.containers_running);
    add(" Paused", &info.containers_paused);
    add(" Stopped", &info.containers_stopped);
    add("Images", &info.images);
    add("Server Version", &info.server_version);
    add("Storage Driver", &info.driver);
    for [name, value] in &info.driver_status {
        add(&format!(" {name}"), value);
    }
    add("Logging Driver", &info.logging_driver);
    add("Cgroup Driver", &info.cgroup_driver);
    add("Cgroup Version", &info.cgroup_version);
    add("Plugins", &"");
    add(" Volume", &info.plugins.volume.join(" "));
    add(" Network", &info.plugins.network.join(" "));
    add(" Log", &info.plugins.log.join(" "));
    add("Swarm", &info.swarm.local_node_state);
    let runtimes: Vec<&str> = info.runtimes.keys().map(String::as_str).collect();
    add("Runtimes", &runtimes.join(" "));
    add("Default Runtime", &info.default_runtime);
    add("Init Binary", &info.init_binary);
    add("Security Options", &"");
    for option in &info.security_options {
        add(" ", &option.replace("name=", "").replace(",profile=", "\n   Profile: "));
    }
    add("Kernel Version", &info.kernel_version);
    add("Operating System", &info.operating_system);
    add("OSType", &info.os_type);
    add("Architecture", &info.architecture);
    add("CPUs", &info.ncpu);
    add("Total Memory", &units::binary_size(u64::try_from(info.mem_total).unwrap_or(0)));
    add("Name", &info.name);
    add("ID", &info.id);
    add("Docker Root Dir", &info.docker_root_dir);
    add("Debug Mode", &info.debug);
    for (name, value) in [
        ("HTTP Proxy", &info.http_proxy),
        ("HTTPS Proxy", &info.https_proxy),
        ("No Proxy", &info.no_proxy),
    ] {
        if !value.is_empty() {
            add(name, value);
        }
    }
    if !info.index_server_address.is_empty() {
        add("Registry", &info.index_server_address);
    }
    if !info.labels.is_empty() {
        add("Labels", &"");
        for label in &info.labels {
            add(" ", label);
        }
    }
    add("Experimental", &info.experimental_build);
    if !info.registry_config.insecure_registry_cidrs.is_empty() {
        add("Insecure Registries", &"");
        for network in &info.registry_config.insecure_registry_cidrs {
            add(" ", network);
        }
    }
    if !info.registry_config.mirrors.is_empty() {
        add("Registry Mirrors", &"");
        for mirror in &info.registry_config.mirrors {
            add(" ", mirror);
        }
    }
    add("Live Restore Enabled", &info.live_restore_enabled);
    // Headings and list items have no value behind, or no name before, their colon.
    out.replace("  : ", "  ").replace(": \n", ":\n")
}

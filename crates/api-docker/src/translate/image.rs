//! Images as lists and inspect show them, and the progress of their making.

use std::collections::BTreeMap;

use pouch_docker_types::Empty;
use pouch_docker_types::container::{ContainerConfig as Wire, HealthConfig};
use pouch_docker_types::image::{
    GraphDriver, ImageConfig as WireConfig, ImageDelete, ImageHistory, ImageInspect, ImageMetadata,
    ImageSummary, RootFs,
};
use pouch_docker_types::progress::{ProgressDetail, ProgressMessage};
use pouch_image::{Amount, ContainerConfig, Event, Image, LabelFilter, Removed, Step};
use pouch_types::spec::ContainerSpec;

use super::container::STORAGE_DRIVER;
use super::time;
use crate::http::{ApiResult, ApiVersion};

/// Back to the wire: JSON has no unsigned 64 bits in Go's structs.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// An entry of `GET /images/json`. `shared` is -1 and `containers` too unless they were counted.
pub(crate) fn summary(
    image: &Image,
    shared: i64,
    containers: i64,
    version: ApiVersion,
) -> ImageSummary {
    let labels = &image.config.config.labels;
    let (mut repo_tags, mut repo_digests) = (image.repo_tags.clone(), image.repo_digests.clone());
    // Clients before 1.43 look for these words to find images without a name.
    if version.below(43) && repo_tags.is_empty() && repo_digests.is_empty() {
        repo_tags.push("<none>:<none>".to_owned());
        repo_digests.push("<none>@<none>".to_owned());
    }
    ImageSummary {
        containers,
        created: image.created.map_or(0, |time| time.as_second()),
        id: image.id.to_string(),
        labels: (!labels.is_empty()).then(|| labels.clone()),
        parent_id: image.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        repo_digests,
        repo_tags,
        shared_size: shared,
        size: signed(image.size),
        virtual_size: if version.below(44) { signed(image.size) } else { 0 },
    }
}

/// Reply of `GET /images/{name}/json`.
pub(crate) fn inspect(image: &Image, version: ApiVersion) -> ImageInspect {
    let config = &image.config;
    ImageInspect {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        parent: image.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        comment: config.comment.clone(),
        created: image.created.map(|created| time::write(Some(created))).unwrap_or_default(),
        docker_version: config.docker_version.clone(),
        author: config.author.clone(),
        config: Some(write_config(&config.config)),
        architecture: config.architecture.clone(),
        variant: config.variant.clone().unwrap_or_default(),
        os: config.os.clone(),
        os_version: config.os_version.clone().unwrap_or_default(),
        size: signed(image.size),
        virtual_size: if version.below(44) { signed(image.size) } else { 0 },
        graph_driver: GraphDriver { data: None, name: STORAGE_DRIVER.to_owned() },
        root_fs: RootFs {
            r#type: config.rootfs.kind.clone(),
            layers: image.diff_ids().map(ToString::to_string).collect(),
        },
        metadata: ImageMetadata { last_tag_time: time::write(image.last_tagged) },
    }
}

/// Fields of `Config` that dockerd shows also when they are empty, by the version that ended it.
pub(crate) fn always_shown(version: ApiVersion) -> serde_json::Value {
    let mut fields = serde_json::json!({
        "Cmd": null, "Entrypoint": null, "Env": null, "Labels": null, "OnBuild": null, "User": "",
        "Volumes": null, "WorkingDir": "",
    });
    if let Some(fields) = fields.as_object_mut().filter(|_| version.below(50)) {
        for name in ["AttachStderr", "AttachStdin", "AttachStdout", "OpenStdin", "StdinOnce", "Tty"]
        {
            fields.insert(name.to_owned(), serde_json::Value::Bool(Default::default()));
        }
        for name in ["Domainname", "Hostname", "Image"] {
            fields.insert(name.to_owned(), serde_json::Value::String(String::new()));
        }
    }
    fields
}

fn write_config(config: &ContainerConfig) -> WireConfig {
    let set = |keys: &std::collections::BTreeSet<String>| -> BTreeMap<String, Empty> {
        keys.iter().map(|key| (key.clone(), Empty {})).collect()
    };
    WireConfig {
        user: config.user.clone(),
        exposed_ports: set(&config.exposed_ports),
        env: config.env.clone(),
        entrypoint: config.entrypoint.clone().unwrap_or_default(),
        cmd: config.cmd.clone().unwrap_or_default(),
        volumes: set(&config.volumes),
        working_dir: config.working_dir.clone(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        args_escaped: config.args_escaped,
        healthcheck: config.healthcheck.as_ref().map(|health| HealthConfig {
            test: health.test.clone(),
            interval: health.interval,
            timeout: health.timeout,
            start_period: health.start_period,
            start_interval: health.start_interval,
            retries: health.retries,
        }),
        on_build: config.on_build.clone(),
        shell: (!config.shell.is_empty()).then(|| config.shell.clone().into()),
    }
}

/// What a commit is to change of a container's configuration. Fields that no image has (host name,
/// terminal, attached streams) are of no consequence, as in dockerd.
///
/// # Errors
/// 400 for what a container could not have.
pub(crate) fn read_config(config: Wire) -> ApiResult<ContainerConfig> {
    super::process::read(config.clone(), &mut ContainerSpec::default())?;
    let health = config.healthcheck.map(|health| pouch_image::HealthConfig {
        test: health.test,
        interval: health.interval,
        timeout: health.timeout,
        start_period: health.start_period,
        start_interval: health.start_interval,
        retries: health.retries,
    });
    Ok(ContainerConfig {
        user: config.user,
        exposed_ports: config
            .exposed_ports
            .into_keys()
            .map(|port| if port.contains('/') { port } else { port + "/tcp" })
            .collect(),
        env: config.env.unwrap_or_default(),
        entrypoint: config.entrypoint.map(Vec::from),
        cmd: config.cmd.map(Vec::from),
        volumes: config.volumes.unwrap_or_default().into_keys().collect(),
        working_dir: config.working_dir,
        labels: config.labels,
        stop_signal: Some(config.stop_signal).filter(|signal| !signal.is_empty()),
        stop_timeout: config.stop_timeout,
        healthcheck: health,
        args_escaped: config.args_escaped,
        on_build: config.on_build.unwrap_or_default(),
        shell: config.shell.map(Vec::from).unwrap_or_default(),
    })
}

/// One line of `GET /images/{name}/history`.
pub(crate) fn history(step: &Step) -> ImageHistory {
    let made = step.history.created.as_deref().and_then(|text| text.parse().ok());
    ImageHistory {
        comment: step.history.comment.clone(),
        created: made.map_or(0, |time: jiff::Timestamp| time.as_second()),
        created_by: step.history.created_by.clone(),
        id: step.id.as_ref().map_or_else(|| "<missing>".to_owned(), ToString::to_string),
        size: signed(step.size),
        tags: super::value::list(step.tags.clone()),
    }
}

/// One step of a removal.
pub(crate) fn removed(step: &Removed) -> ImageDelete {
    match step {
        Removed::Untagged(name) => ImageDelete { untagged: name.clone(), ..ImageDelete::default() },
        Removed::Deleted(digest) => {
            ImageDelete { deleted: digest.to_string(), ..ImageDelete::default() }
        }
    }
}

/// Label filters as the image store takes them.
pub(crate) fn labels(filters: &pouch_docker_types::Filters, key: &str) -> Vec<LabelFilter> {
    filters.get(key).map(LabelFilter::new).collect()
}

/// A step of a pull or a load as a progress message.
pub(crate) fn progress(event: Event) -> ProgressMessage {
    let status = |status: String| ProgressMessage { status, ..ProgressMessage::default() };
    match event {
        Event::Pulling { id, repository } => {
            ProgressMessage { id, ..status(format!("Pulling from {repository}")) }
        }
        Event::Layer { id, state } => ProgressMessage {
            id,
            // An empty object, not nothing, tells clients that this line belongs to a bar.
            progress_detail: Some(state.amount().map(detail).unwrap_or_default()),
            progress: state.amount().map(bar).unwrap_or_default(),
            ..status(state.status().to_owned())
        },
        Event::Mounted { id, from } => ProgressMessage {
            id,
            progress_detail: Some(ProgressDetail::default()),
            ..status(format!("Mounted from {from}"))
        },
        Event::Pushed { tag, digest, size } => ProgressMessage {
            progress_detail: Some(ProgressDetail::default()),
            aux: Some(serde_json::json!({
                "Tag": tag, "Digest": digest.to_string(), "Size": size,
            })),
            ..ProgressMessage::default()
        },
        Event::Digest(digest) => status(format!("Digest: {digest}")),
        Event::Status(text) => status(text),
        Event::Loaded(loaded) => {
            ProgressMessage { stream: format!("{loaded}\n"), ..ProgressMessage::default() }
        }
    }
}

fn detail(amount: Amount) -> ProgressDetail {
    ProgressDetail {
        current: signed(amount.current),
        total: signed(amount.total),
        ..ProgressDetail::default()
    }
}

/// The bar as text, for clients that print it as it comes.
fn bar(amount: Amount) -> String {
    const WIDTH: u64 = 50;
    if amount.total == 0 {
        return human(amount.current);
    }
    let done = amount.current.saturating_mul(WIDTH) / amount.total;
    let done = usize::try_from(done.min(WIDTH)).unwrap_or(0);
    let left = 50 - done;
    format!(
        "[{}>{}] {:>8}/{}",
        "=".repeat(done),
        " ".repeat(left),
        human(amount.current),
        human(amount.total)
    )
}

/// Decimal units with four significant digits, as Docker prints sizes.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    #[expect(clippy::cast_precision_loss, reason = "four digits are printed")]
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    let digits: usize = match size {
        1000.0.. => 0,
        100.0.. => 1,
        10.0.. => 2,
        _ => 3,
    };
    let text = format!("{size:.digits$}");
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use pouch_image::LayerState;

    use super::*;

    #[test]
    fn sizes_are_dockers() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (4_260_000, "4.26MB"),
            (12_345_678, "12.35MB"),
            (1_073_741_824, "1.074GB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn progress_lines() {
        let amount = Amount { current: 500_000, total: 1_000_000 };
        let line = progress(Event::Layer {
            id: "a1b2".to_owned(),
            state: LayerState::Downloading(amount),
        });
        insta::assert_json_snapshot!("pull_progress", line);
        let done =
            progress(Event::Layer { id: "a1b2".to_owned(), state: LayerState::PullComplete });
        assert_eq!(
            serde_json::to_string(&done).unwrap(),
            r#"{"status":"Pull complete","progressDetail":{},"id":"a1b2"}"#
        );
    }

    #[test]
    fn a_bar_never_overflows() {
        let amount = Amount { current: 30, total: 20 };
        assert!(bar(amount).starts_with(&format!("[{}>]", "=".repeat(50))));
    }
}

//! A stock Rust SDK, bollard: it decodes every answer into types of its own, made from Docker's
//! published description of the API, and fails on what does not fit.

use std::collections::HashMap;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerCreateBody, ContainerStateStatusEnum, ExecConfig, HostConfig, VolumeCreateRequest,
};
use bollard::query_parameters as query;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use pouch_testkit::{Archive, Daemon, daemon, docker_archive};

/// Seconds that one call may take.
const PATIENCE: u64 = 30;

/// Runs a conversation with the daemon on a runtime of its own.
fn talk(d: &Daemon, conversation: impl AsyncFnOnce(Docker)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = format!("unix://{}", d.socket().display());
        let docker = Docker::connect_with_unix(&socket, PATIENCE, bollard::API_DEFAULT_VERSION);
        let docker = docker.unwrap().negotiate_version().await.unwrap();
        conversation(docker).await;
    });
}

async fn all<T>(stream: impl Stream<Item = Result<T, Error>>) -> Vec<T> {
    stream.try_collect().await.unwrap()
}

async fn create(docker: &Docker, name: &str, words: &[&str], host: HostConfig) -> String {
    let options = query::CreateContainerOptionsBuilder::default().name(name).build();
    let body = ContainerCreateBody {
        image: Some("busybox".into()),
        cmd: Some(words.iter().map(|&word| word.to_owned()).collect()),
        labels: Some(HashMap::from([("from".into(), "sdk".into())])),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    };
    docker.create_container(Some(options), body).await.unwrap().id
}

async fn remove(docker: &Docker, name: &str) {
    let options = query::RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    docker.remove_container(name, Some(options)).await.unwrap();
}

fn text(parts: &[LogOutput]) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    for part in parts {
        match part {
            LogOutput::StdErr { message } => err += &String::from_utf8_lossy(message),
            other => out += &String::from_utf8_lossy(other.as_ref()),
        }
    }
    (out, err)
}

#[test]
fn the_daemon_introduces_itself() {
    daemon(|d| {
        talk(d, async |docker| {
            assert_eq!(docker.ping().await.unwrap(), "OK");
            let version = docker.version().await.unwrap();
            assert_eq!(version.os.as_deref(), Some("linux"));
            assert!(version.components.unwrap().iter().any(|c| !c.version.is_empty()));
            let info = docker.info().await.unwrap();
            assert_eq!(info.driver.as_deref(), Some("overlay2"));
            assert_eq!(info.images, Some(1));
            assert!(info.security_options.unwrap().iter().any(|o| o.contains("seccomp")));
            docker.df(None::<query::DataUsageOptions>).await.unwrap();
        });
    });
}

#[test]
fn a_container_lives_through_the_sdk() {
    daemon(|d| {
        talk(d, async |docker| {
            let script = "echo out; echo err >&2; exit 7";
            let id = create(&docker, "box", &["sh", "-c", script], HostConfig::default()).await;
            // Registered before the start, so that nothing is missed.
            let mut wait = docker.wait_container(
                "box",
                Some(query::WaitContainerOptionsBuilder::default().condition("next-exit").build()),
            );
            let (ended, started) =
                tokio::join!(wait.next(), docker.start_container("box", None::<Start>));
            started.unwrap();
            // The SDK makes an error of a code that is not zero.
            match ended.unwrap() {
                Err(Error::DockerContainerWaitError { code, .. }) => assert_eq!(code, 7),
                other => panic!("{other:?}"),
            }
            let logs = query::LogsOptionsBuilder::default().stdout(true).stderr(true).build();
            let logs = all(docker.logs("box", Some(logs))).await;
            assert_eq!(text(&logs), ("out\n".to_owned(), "err\n".to_owned()));
            let view = docker.inspect_container("box", None::<Inspect>).await.unwrap();
            let state = view.state.unwrap();
            assert_eq!(state.status, Some(ContainerStateStatusEnum::EXITED));
            assert_eq!((state.exit_code, view.id), (Some(7), Some(id.clone())));
            let filter = HashMap::from([("label".to_owned(), vec!["from=sdk".to_owned()])]);
            let list = query::ListContainersOptionsBuilder::default().all(true).filters(&filter);
            let list = docker.list_containers(Some(list.build())).await.unwrap();
            assert_eq!(list.len(), 1);
            assert_eq!(list[0].names.as_deref(), Some(&["/box".to_owned()][..]));
            docker.container_changes("box").await.unwrap();
            remove(&docker, "box").await;
            match docker.inspect_container("box", None::<Inspect>).await {
                Err(Error::DockerResponseServerError { status_code: 404, message }) => {
                    assert!(message.contains("No such container: box"), "{message}");
                }
                other => panic!("{other:?}"),
            }
        });
    });
}

type Start = query::StartContainerOptions;
type Inspect = query::InspectContainerOptions;

#[test]
fn execs_statistics_and_events_decode() {
    daemon(|d| {
        talk(d, async |docker| {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let since = since.unwrap().as_secs().to_string();
            let limits = HostConfig { memory: Some(64 << 20), ..HostConfig::default() };
            create(&docker, "box", &["sleep", "600"], limits).await;
            docker.start_container("box", None::<Start>).await.unwrap();
            let exec = ExecConfig {
                cmd: Some(["sh", "-c", "cat; exit 3"].map(str::to_owned).to_vec()),
                attach_stdin: Some(true),
                attach_stdout: Some(true),
                attach_stderr: Some(true),
                ..ExecConfig::default()
            };
            let exec = docker.create_exec("box", exec).await.unwrap().id;
            let started = docker.start_exec(&exec, None::<StartExecOptions>).await.unwrap();
            let StartExecResults::Attached { output, mut input } = started else {
                panic!("detached");
            };
            let write = async {
                use tokio::io::AsyncWriteExt as _;
                input.write_all(b"typed\n").await.unwrap();
                input.shutdown().await.unwrap();
            };
            let (parts, ()) = tokio::join!(all(output), write);
            assert_eq!(text(&parts).0, "typed\n");
            let view = docker.inspect_exec(&exec).await.unwrap();
            assert_eq!((view.exit_code, view.running), (Some(3), Some(false)));

            let options = query::StatsOptionsBuilder::default().stream(true).build();
            let stats = all(docker.stats("box", Some(options)).take(2)).await;
            let memory = stats[1].memory_stats.as_ref().unwrap();
            assert_eq!(memory.limit, Some(64 << 20));
            assert!(memory.usage.unwrap() > 0);
            assert!(stats[1].networks.as_ref().unwrap().contains_key("eth0"));
            let top = docker.top_processes("box", None::<query::TopOptions>).await.unwrap();
            assert_eq!(top.processes.unwrap().len(), 1);

            docker.kill_container("box", None::<query::KillContainerOptions>).await.unwrap();
            remove(&docker, "box").await;
            let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let until = (until.unwrap().as_secs() + 1).to_string();
            let filter = HashMap::from([("container".to_owned(), vec!["box".to_owned()])]);
            let options = query::EventsOptionsBuilder::default()
                .since(&since)
                .until(&until)
                .filters(&filter)
                .build();
            let events = all(docker.events(Some(options))).await;
            let actions: Vec<_> = events.iter().filter_map(|e| e.action.as_deref()).collect();
            let place = |what: &str| actions.iter().position(|a| *a == what);
            let order = ["create", "start", "exec_die", "kill", "die", "destroy"].map(place);
            assert!(order.iter().all(Option::is_some), "{actions:?}");
            assert!(order.is_sorted(), "{actions:?}");
        });
    });
}

#[test]
fn archives_go_up_and_down() {
    daemon(|d| {
        talk(d, async |docker| {
            create(&docker, "box", &["cat", "/tmp/up"], HostConfig::default()).await;
            let mut archive = Archive::new();
            archive.file("up", 0o600, b"carried\n");
            let to = query::UploadToContainerOptionsBuilder::default().path("/tmp").build();
            let body = bollard::body_full(Bytes::from(archive.finish()));
            docker.upload_to_container("box", Some(to), body).await.unwrap();
            let from = query::DownloadFromContainerOptionsBuilder::default().path("/tmp/up");
            let parts = all(docker.download_from_container("box", Some(from.build()))).await;
            let bytes = parts.concat();
            assert!(bytes.starts_with(b"up\0") && bytes.windows(8).any(|w| w == b"carried\n"));
            let look = query::ContainerArchiveInfoOptionsBuilder::default().path("/tmp/up");
            let info = docker.get_container_archive_info("box", Some(look.build())).await.unwrap();
            assert_eq!((info.name.as_str(), info.size), ("up", 8));
            remove(&docker, "box").await;
        });
    });
}

#[test]
fn volumes_and_images_decode() {
    daemon(|d| {
        talk(d, async |docker| {
            let asked = VolumeCreateRequest {
                name: Some("vol".into()),
                labels: Some(HashMap::from([("from".into(), "sdk".into())])),
                ..VolumeCreateRequest::default()
            };
            let made = docker.create_volume(asked).await.unwrap();
            assert_eq!((made.name.as_str(), made.driver.as_str()), ("vol", "local"));
            let list = docker.list_volumes(None::<query::ListVolumesOptions>).await.unwrap();
            assert_eq!(list.volumes.unwrap().len(), 1);
            assert_eq!(docker.inspect_volume("vol").await.unwrap().labels["from"], "sdk");
            docker.remove_volume("vol", None::<query::RemoveVolumeOptions>).await.unwrap();

            let mut layer = Archive::new();
            layer.file("f", 0o644, b"x");
            let config = serde_json::json!({"Cmd": ["/f"], "Env": ["A=b"], "Labels": {"k": "v"}});
            let saved = docker_archive("loaded:1", &layer.finish(), &config);
            let options = query::ImportImageOptionsBuilder::default().build();
            let body = bollard::body_full(Bytes::from(saved));
            assert!(!all(docker.import_image(options, body, None)).await.is_empty());
            let image = docker.inspect_image("loaded:1").await.unwrap();
            let config = image.config.unwrap();
            assert_eq!(config.env.as_deref(), Some(&["A=b".to_owned()][..]));
            assert_eq!(config.labels.unwrap()["k"], "v");
            assert_eq!(docker.image_history("loaded:1").await.unwrap().len(), 1);

            let import = query::CreateImageOptionsBuilder::default().from_src("-").repo("made");
            let body = bollard::body_full(Bytes::from(pouch_testkit::busybox().to_vec()));
            all(docker.create_image(Some(import.build()), Some(body), None)).await;
            let list = query::ListImagesOptionsBuilder::default().all(true).build();
            let list = docker.list_images(Some(list)).await.unwrap();
            let mut tags: Vec<_> = list.iter().flat_map(|i| i.repo_tags.clone()).collect();
            tags.sort();
            assert_eq!(tags, ["busybox:latest", "loaded:1", "made:latest"]);
            for name in ["loaded:1", "made"] {
                let gone = docker.remove_image(name, None::<query::RemoveImageOptions>, None).await;
                assert!(!gone.unwrap().is_empty(), "{name}");
            }
        });
    });
}

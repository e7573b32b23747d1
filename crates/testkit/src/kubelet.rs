//! A client of the CRI that is like kubelet, and the network that its pods get.
//!
//! Each call has a connection of its own, so a daemon that came back is found without further ado.
//! A call that takes a minute fails its test rather than hang.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pouch_cri_grpc as cri;
use pouch_cri_grpc::image_service_client::ImageServiceClient;
use pouch_cri_grpc::runtime_service_client::RuntimeServiceClient;
use tonic::body::Body;
use tonic::{Response, Status};

/// The bridge of pods.
pub(crate) const BRIDGE: &str = "kube0";
/// What a call may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The answer to a call.
pub type Called<T> = Result<T, Status>;

/// Writes the configuration of the pods' network below a daemon's directory; gives the daemon's
/// flags.
pub(crate) fn prepare(dir: &Path) -> Vec<String> {
    let conf = dir.join("net.d");
    std::fs::create_dir(&conf).unwrap();
    std::fs::create_dir(dir.join("logs")).unwrap();
    std::fs::write(conf.join("10-pods.conflist"), network(dir).to_string()).unwrap();
    vec![
        format!("--cri-host=unix://{}", socket(dir).display()),
        format!("--cni-conf-dir={}", conf.display()),
        "--cni-bin-dir=/usr/lib/cni".to_owned(),
        format!("--cni-bin-dir={}", dir.join("plugins").display()),
    ]
}

/// A bridge with addresses by host-local and published ports.
fn network(dir: &Path) -> serde_json::Value {
    serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": dir.join("n"),
                    "ranges": [[{"subnet": "10.214.0.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("k")
}

/// Drives pods.
#[derive(Debug)]
pub struct Kubelet {
    dir: PathBuf,
    work: tokio::runtime::Runtime,
    channel: Channel,
}

impl Kubelet {
    pub(crate) fn new(dir: &Path) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let work = builder.worker_threads(2).enable_all().build().unwrap();
        Self { dir: dir.to_owned(), work, channel: Channel { socket: socket(dir) } }
    }

    /// The runtime service; clones are for calls at the same time.
    #[must_use]
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20)
    }

    /// The image service.
    #[must_use]
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    /// Waits for calls.
    ///
    /// # Panics
    /// When they take more than a minute.
    #[track_caller]
    pub fn block<T>(&self, calls: impl Future<Output = T>) -> T {
        self.work
            .block_on(async { tokio::time::timeout(PATIENCE, calls).await })
            .expect("an answer within a minute")
    }

    /// Waits for the answer to one call.
    ///
    /// # Errors
    /// The daemon's.
    #[track_caller]
    pub fn call<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Called<T> {
        self.block(call).map(Response::into_inner)
    }

    /// Does something beside the test.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.work.spawn(work)
    }

    /// The directory of the configuration of pods' networks.
    #[must_use]
    pub fn network_dir(&self) -> PathBuf {
        self.dir.join("net.d")
    }

    /// Addresses that the network has given out.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.join("n/pods")).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut all: Vec<String> = names.filter(|name| name.starts_with("10.")).collect();
        all.sort();
        all
    }

    /// Where the logs of a pod's containers go.
    #[must_use]
    pub fn log_dir(&self, pod: &str) -> PathBuf {
        self.dir.join("logs").join(pod)
    }

    /// A pod of this name with a network, log directory and host name of its own.
    #[must_use]
    pub fn pod(&self, name: &str) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-of-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.log_dir(name).to_string_lossy().into_owned(),
            labels: [("pod".to_owned(), name.to_owned())].into(),
            ..Default::default()
        }
    }

    /// A container of the image `busybox` whose shell runs `script`; its log is `NAME/0.log`.
    #[must_use]
    pub fn container(&self, name: &str, script: &str) -> cri::ContainerConfig {
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: "busybox".to_owned(), ..Default::default() }),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            labels: [("container".to_owned(), name.to_owned())].into(),
            log_path: format!("{name}/0.log"),
            ..Default::default()
        }
    }

    /// `RunPodSandbox`.
    ///
    /// # Errors
    /// The daemon's.
    #[track_caller]
    pub fn try_run(&self, pod: &cri::PodSandboxConfig) -> Called<String> {
        std::fs::create_dir_all(&pod.log_directory).unwrap();
        let request = cri::RunPodSandboxRequest { config: Some(pod.clone()), ..Default::default() };
        self.call(self.runtime().run_pod_sandbox(request)).map(|answer| answer.pod_sandbox_id)
    }

    /// `RunPodSandbox`, which must succeed.
    #[track_caller]
    pub fn run(&self, pod: &cri::PodSandboxConfig) -> String {
        self.try_run(pod).unwrap()
    }

    /// `CreateContainer`.
    ///
    /// # Errors
    /// The daemon's.
    #[track_caller]
    pub fn try_create(
        &self,
        id: &str,
        pod: &cri::PodSandboxConfig,
        container: &cri::ContainerConfig,
    ) -> Called<String> {
        if let Some(dir) = Path::new(&pod.log_directory).join(&container.log_path).parent()
            && !container.log_path.contains("..")
        {
            std::fs::create_dir_all(dir).unwrap();
        }
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: id.to_owned(),
            config: Some(container.clone()),
            sandbox_config: Some(pod.clone()),
        };
        self.call(self.runtime().create_container(request)).map(|answer| answer.container_id)
    }

    /// `CreateContainer`, which must succeed.
    #[track_caller]
    pub fn create(
        &self,
        id: &str,
        pod: &cri::PodSandboxConfig,
        container: &cri::ContainerConfig,
    ) -> String {
        self.try_create(id, pod, container).unwrap()
    }

    /// `StartContainer`.
    ///
    /// # Errors
    /// The daemon's.
    #[track_caller]
    pub fn start(&self, id: &str) -> Called<()> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        self.call(self.runtime().start_container(request)).map(drop)
    }

    /// Makes and starts a container.
    #[track_caller]
    pub fn launch(
        &self,
        id: &str,
        pod: &cri::PodSandboxConfig,
        container: &cri::ContainerConfig,
    ) -> String {
        let made = self.create(id, pod, container);
        self.start(&made).unwrap();
        made
    }

    /// `StopContainer`, with seconds.
    ///
    /// # Errors
    /// The daemon's.
    #[track_caller]
    pub fn stop(&self, id: &str, timeout: i64) -> Called<()> {
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout };
        self.call(self.runtime().stop_container(request)).map(drop)
    }

    /// `RemoveContainer`.
    ///
    /// # Errors
    /// The daemon's.
    #[track_caller]
    pub fn remove(&self, id: &str) -> Called<()> {
        let request = cri::RemoveContainerRequest { container_id: id.to_owned() };
        self.call(self.runtime().remove_container(request)).map(drop)
    }

    /// `StopPodSandbox`.
    ///
    /// # Errors
    /// The daemon's.
    #[track_caller]
    pub fn stop_pod(&self, id: &str) -> Called<()> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call(self.runtime().stop_pod_sandbox(request)).map(drop)
    }

    /// `RemovePodSandbox`.
    ///
    /// # Errors
    /// The daemon's.
    #[track_caller]
    pub fn remove_pod(&self, id: &str) -> Called<()> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.call(self.runtime().remove_pod_sandbox(request)).map(drop)
    }

    /// `PodSandboxStatus`.
    ///
    /// # Errors
    /// The daemon's.
    #[track_caller]
    pub fn pod_status(&self, id: &str) -> Called<cri::PodSandboxStatus> {
        let request =
            cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        self.call(self.runtime().pod_sandbox_status(request)).map(|answer| answer.status.unwrap())
    }

    /// Whether a pod is ready.
    #[track_caller]
    pub fn is_ready(&self, id: &str) -> bool {
        self.pod_status(id).unwrap().state() == cri::PodSandboxState::SandboxReady
    }

    /// What `PodSandboxStatus` tells beside the contract.
    #[track_caller]
    pub fn pod_info(&self, id: &str) -> serde_json::Value {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let answer = self.call(self.runtime().pod_sandbox_status(request)).unwrap();
        serde_json::from_str(&answer.info["info"]).unwrap()
    }

    /// `ContainerStatus`.
    ///
    /// # Errors
    /// The daemon's.
    #[track_caller]
    pub fn status(&self, id: &str) -> Called<cri::ContainerStatus> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        self.call(self.runtime().container_status(request)).map(|answer| answer.status.unwrap())
    }

    /// Waits for the end of a container.
    #[track_caller]
    pub fn ended(&self, id: &str) -> cri::ContainerStatus {
        crate::within(Duration::from_secs(30), "the container ends", || {
            let status = self.status(id).unwrap();
            (status.state() == cri::ContainerState::ContainerExited).then_some(status)
        })
    }

    /// `ExecSync`, with seconds; 0 waits for ever.
    ///
    /// # Errors
    /// The daemon's.
    #[track_caller]
    pub fn exec(&self, id: &str, script: &str, timeout: i64) -> Called<cri::ExecSyncResponse> {
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
            timeout,
        };
        self.call(self.runtime().exec_sync(request))
    }

    /// What a command in a container prints; it has to succeed.
    #[track_caller]
    pub fn output(&self, id: &str, script: &str) -> String {
        let done = self.exec(id, script, 30).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        assert_eq!(done.exit_code, 0, "{script}: {}", text(&done.stderr));
        text(&done.stdout)
    }

    /// Ids of all pods.
    #[track_caller]
    pub fn pods(&self) -> Vec<String> {
        let listed =
            self.call(self.runtime().list_pod_sandbox(cri::ListPodSandboxRequest::default()));
        listed.unwrap().items.into_iter().map(|pod| pod.id).collect()
    }

    /// Ids of all containers.
    #[track_caller]
    pub fn containers(&self) -> Vec<String> {
        let listed =
            self.call(self.runtime().list_containers(cri::ListContainersRequest::default()));
        listed.unwrap().containers.into_iter().map(|container| container.id).collect()
    }

    /// Brings into being what stays after the first pod: bridge, rules, the network's files.
    pub(crate) fn warm_up(&self) {
        let mut pod = self.pod("first");
        pod.port_mappings =
            vec![cri::PortMapping { container_port: 1, host_port: 1, ..Default::default() }];
        let id = self.run(&pod);
        let container = self.launch(&id, &pod, &self.container("c", "true"));
        self.ended(&container);
        self.remove_pod(&id).unwrap();
        self.settle();
    }

    /// Removes all pods.
    #[track_caller]
    pub(crate) fn clear(&self) {
        for pod in self.pods() {
            self.remove_pod(&pod).unwrap();
        }
        self.settle();
    }

    /// Waits until the network has taken away what it has cut off from pods.
    #[track_caller]
    fn settle(&self) {
        let attachments = self.dir.join("x/cni/attachments");
        crate::within(Duration::from_secs(20), "no attachment is left", || {
            let none = std::fs::read_dir(&attachments).is_ok_and(|mut all| all.next().is_none());
            none.then_some(())
        });
    }
}

/// The way to the daemon's socket.
#[derive(Debug, Clone)]
pub struct Channel {
    socket: PathBuf,
}

impl tower_service::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let socket = self.socket.clone();
        Box::pin(async move {
            let broken = |e: &dyn std::fmt::Display| Status::unavailable(e.to_string());
            let stream = tokio::net::UnixStream::connect(socket).await.map_err(|e| broken(&e))?;
            let made = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(4 << 20)
                .initial_connection_window_size(4 << 20)
                .handshake(TokioIo::new(stream));
            let (mut sender, connection) = made.await.map_err(|e| broken(&e))?;
            // Ends when the answer was read.
            tokio::spawn(connection);
            let (parts, body) = request.into_parts();
            let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
            let mut rebuilt = http::Request::new(body);
            *rebuilt.uri_mut() = format!("http://localhost{path}").parse().unwrap();
            *rebuilt.method_mut() = parts.method;
            *rebuilt.headers_mut() = parts.headers;
            sender.send_request(rebuilt).await.map_err(|e| broken(&e))
        })
    }
}

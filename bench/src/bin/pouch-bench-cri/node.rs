//! The calls of a kubelet that are measured, at one runtime's socket.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use http::Uri;
use pouch_containerd_grpc::{Pool, PoolConfig, Request, Status};
use pouch_cri_grpc::image_service_client::ImageServiceClient;
use pouch_cri_grpc::runtime_service_client::RuntimeServiceClient;
use pouch_cri_grpc::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, LinuxContainerConfig,
    LinuxPodSandboxConfig, ListContainersRequest, ListPodSandboxRequest, MAX_MESSAGE,
    PodSandboxConfig, PodSandboxMetadata, PullImageRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest, VersionRequest,
};
use tokio::runtime::Runtime;

/// A single call takes no longer than this, or the runtime counts as hung.
const DEADLINE: Duration = Duration::from_secs(120);

/// All pods of this program are in this namespace.
const NAMESPACE: &str = "bench";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot start tasks")]
    Tasks { source: std::io::Error },
    #[error("the pool of connections")]
    Pool { source: pouch_containerd_grpc::InvalidNamespace },
    #[error("{call}")]
    Call { call: &'static str, source: Box<Status> },
}

/// A pod that runs.
#[derive(Debug)]
pub(crate) struct Pod {
    id: String,
    config: PodSandboxConfig,
}

/// A runtime, asked one call after the other.
#[derive(Debug)]
pub(crate) struct Node {
    tasks: Runtime,
    runtime: RuntimeServiceClient<Pool>,
    images: ImageServiceClient<Pool>,
    image: String,
    parent: String,
    pods: u32,
}

impl Node {
    /// `parent` is the control group that pods are made in.
    pub(crate) fn new(socket: &Path, image: &str, parent: &str) -> Result<Self, Error> {
        let tasks = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::Tasks { source })?;
        // As the kubelet has it: one connection. Its header is nothing to a runtime.
        let pool = Pool::new(PoolConfig {
            socket: socket.to_owned(),
            namespace: NAMESPACE.to_owned(),
            connections: NonZeroUsize::MIN,
        })
        .map_err(|source| Error::Pool { source })?;
        // Which host that is matters to nobody at a socket of a file.
        let origin = Uri::from_static("http://localhost");
        Ok(Self {
            tasks,
            runtime: RuntimeServiceClient::with_origin(pool.clone(), origin.clone())
                .max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::with_origin(pool, origin),
            image: image.to_owned(),
            parent: parent.to_owned(),
            pods: 0,
        })
    }

    /// The runtime's name for itself, and its version.
    pub(crate) fn version(&mut self) -> Result<String, Error> {
        let call = self.runtime.version(limited(VersionRequest::default()));
        let version = wait(&self.tasks, "Version", call)?;
        Ok(format!("{} {}", version.runtime_name, version.runtime_version))
    }

    pub(crate) fn pull(&mut self) -> Result<(), Error> {
        let image = Some(ImageSpec { image: self.image.clone(), ..Default::default() });
        let request = PullImageRequest { image, ..Default::default() };
        wait(&self.tasks, "PullImage", self.images.pull_image(limited(request))).map(drop)
    }

    /// Another pod than all before.
    pub(crate) fn run_pod(&mut self) -> Result<Pod, Error> {
        self.pods += 1;
        let name = format!("pod-{}", self.pods);
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.clone(),
                uid: format!("uid-{name}"),
                namespace: NAMESPACE.to_owned(),
                attempt: 0,
            }),
            hostname: name,
            labels: HashMap::from([("made-by".to_owned(), "pouch-bench".to_owned())]),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.parent.clone(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let request =
            RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let call = self.runtime.run_pod_sandbox(limited(request));
        let id = wait(&self.tasks, "RunPodSandbox", call)?.pod_sandbox_id;
        Ok(Pod { id, config })
    }

    /// Creates a container that sleeps, and starts it.
    pub(crate) fn start_container(&mut self, pod: &Pod) -> Result<(), Error> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "sleeper".to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: self.image.clone(), ..Default::default() }),
            command: vec!["sleep".to_owned(), "100000".to_owned()],
            linux: Some(LinuxContainerConfig::default()),
            ..Default::default()
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let call = self.runtime.create_container(limited(request));
        let container_id = wait(&self.tasks, "CreateContainer", call)?.container_id;
        let call = self.runtime.start_container(limited(StartContainerRequest { container_id }));
        wait(&self.tasks, "StartContainer", call).map(drop)
    }

    pub(crate) fn stop_pod(&mut self, pod: &Pod) -> Result<(), Error> {
        let request = StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        let call = self.runtime.stop_pod_sandbox(limited(request));
        wait(&self.tasks, "StopPodSandbox", call).map(drop)
    }

    pub(crate) fn remove_pod(&mut self, pod: &Pod) -> Result<(), Error> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        let call = self.runtime.remove_pod_sandbox(limited(request));
        wait(&self.tasks, "RemovePodSandbox", call).map(drop)
    }

    /// What the kubelet asks every second. How many pods and containers there are.
    pub(crate) fn relist(&mut self) -> Result<(usize, usize), Error> {
        let call = self.runtime.list_pod_sandbox(limited(ListPodSandboxRequest::default()));
        let pods = wait(&self.tasks, "ListPodSandbox", call)?.items.len();
        let call = self.runtime.list_containers(limited(ListContainersRequest::default()));
        let containers = wait(&self.tasks, "ListContainers", call)?.containers.len();
        Ok((pods, containers))
    }
}

fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// The deadline is also told to the runtime; this one holds when it does not answer at all.
fn wait<T>(
    tasks: &Runtime,
    name: &'static str,
    call: impl Future<Output = Result<pouch_containerd_grpc::Response<T>, Status>>,
) -> Result<T, Error> {
    let limit = DEADLINE + Duration::from_secs(1);
    let answer = tasks.block_on(async { tokio::time::timeout(limit, call).await });
    match answer {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::Call { call: name, source: Box::new(status) }),
        Err(_) => {
            let status = Status::deadline_exceeded("no answer");
            Err(Error::Call { call: name, source: Box::new(status) })
        }
    }
}

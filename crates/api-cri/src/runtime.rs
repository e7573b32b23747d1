//! The runtime service: one method per call of the contract.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use pouch_cri_grpc as cri;
use pouch_cri_grpc::runtime_service_server::RuntimeService;
use pouch_engine::{ContainerView, ExecSync, NetworkState, PodView, UpdateOptions};
use tonic::{Request, Response, Status};

use crate::api::Api;
use crate::error::{invalid, status, unsupported};
use crate::translate::security::Machine;
use crate::translate::{container, pod, resources, selects};

/// The answer to a call.
pub(crate) type Answer<T> = Result<Response<T>, Status>;
/// A list in pieces.
type Pieces<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What kubelet calls us.
const NAME: &str = "pouch";
/// Version of the contract.
const API_VERSION: &str = "v1";
/// What `Version` was always asked with.
const KUBELET_VERSION: &str = "0.1.0";
/// Items of one piece of a streamed list.
const PIECE: usize = 1000;

/// A list in pieces of a size that no limit of messages minds.
pub(crate) fn pieces<T, R>(
    items: Vec<T>,
    wrap: impl Fn(Vec<T>) -> R + Send + 'static,
) -> Response<Pieces<R>>
where
    T: Send + 'static,
    R: Send + 'static,
{
    let mut items = items.into_iter();
    let pieces = std::iter::from_fn(move || {
        let piece: Vec<T> = items.by_ref().take(PIECE).collect();
        (!piece.is_empty()).then(|| Ok(wrap(piece)))
    });
    Response::new(Box::pin(futures::stream::iter(pieces)))
}

impl Api {
    fn pods(&self, filter: Option<cri::PodSandboxFilter>) -> Vec<Arc<PodView>> {
        let filter = filter.unwrap_or_default();
        let mut pods = self.engine.pods();
        pods.retain(|view| {
            let state = filter.state.as_ref().is_none_or(|s| s.state() == pod::state(view));
            (filter.id.is_empty() || view.id.as_str().starts_with(&filter.id))
                && state
                && selects(&filter.label_selector, &view.spec.labels)
        });
        pods
    }

    fn containers(&self, filter: Option<cri::ContainerFilter>) -> Vec<Arc<ContainerView>> {
        let filter = filter.unwrap_or_default();
        let mut views = self.engine.pod_containers();
        views.retain(|view| {
            let Some(member) = &view.spec.pod else { return false };
            let state = filter.state.as_ref().is_none_or(|s| s.state() == container::state(view));
            (filter.id.is_empty() || view.id.as_str().starts_with(&filter.id))
                && (filter.pod_sandbox_id.is_empty()
                    || member.pod.as_str().starts_with(&filter.pod_sandbox_id))
                && state
                && selects(&filter.label_selector, &member.labels)
        });
        views
    }

    fn container_items(&self, filter: Option<cri::ContainerFilter>) -> Vec<cri::Container> {
        let views = self.containers(filter);
        views.iter().filter_map(|v| Some(container::item(v, v.spec.pod.as_ref()?))).collect()
    }

    async fn all_container_stats(
        &self,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Vec<cri::ContainerStats> {
        let filter = filter.unwrap_or_default();
        let views = self.containers(Some(cri::ContainerFilter {
            id: filter.id,
            state: None,
            pod_sandbox_id: filter.pod_sandbox_id,
            label_selector: filter.label_selector,
        }));
        self.containers_stats(views).await
    }

    async fn all_pod_stats(
        &self,
        filter: Option<cri::PodSandboxStatsFilter>,
    ) -> Vec<cri::PodSandboxStats> {
        let filter = filter.unwrap_or_default();
        let pods = self.pods(Some(cri::PodSandboxFilter {
            id: filter.id,
            state: Some(cri::PodSandboxStateValue {
                state: cri::PodSandboxState::SandboxReady.into(),
            }),
            label_selector: filter.label_selector,
        }));
        self.pods_stats(pods).await
    }

    fn machine(&self) -> Machine {
        Machine { apparmor: self.engine.has_apparmor() }
    }
}

#[tonic::async_trait]
impl RuntimeService for Api {
    async fn version(
        &self,
        _request: Request<cri::VersionRequest>,
    ) -> Answer<cri::VersionResponse> {
        Ok(Response::new(cri::VersionResponse {
            version: KUBELET_VERSION.to_owned(),
            runtime_name: NAME.to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: API_VERSION.to_owned(),
        }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        let asked = request.into_inner();
        let config = asked.config.ok_or_else(|| invalid("config", "is missing"))?;
        let spec = pod::spec(config, asked.runtime_handler)?;
        let id = self.engine.run_pod(spec).await.map_err(status)?;
        Ok(Response::new(cri::RunPodSandboxResponse { pod_sandbox_id: id.to_string() }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        self.engine.stop_pod(&request.into_inner().pod_sandbox_id).await.map_err(status)?;
        Ok(Response::new(cri::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        self.engine.remove_pod(&request.into_inner().pod_sandbox_id).await.map_err(status)?;
        Ok(Response::new(cri::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let asked = request.into_inner();
        let view = self.engine.pod(&asked.pod_sandbox_id).map_err(status)?;
        let mut info = HashMap::new();
        if asked.verbose {
            let text = serde_json::json!({
                "pid": view.pid,
                "runtimeHandler": view.spec.runtime_handler,
                "networkNamespace": view.netns,
                "config": view.spec.as_ref(),
            });
            info.insert("info".to_owned(), text.to_string());
        }
        Ok(Response::new(cri::PodSandboxStatusResponse {
            status: Some(pod::status(&view)),
            info,
            containers_statuses: self.statuses_of(view.id.as_str()),
            timestamp: crate::stats::timestamp(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        let pods = self.pods(request.into_inner().filter);
        let items = pods.iter().map(|view| pod::item(view)).collect();
        Ok(Response::new(cri::ListPodSandboxResponse { items }))
    }

    type StreamPodSandboxesStream = Pieces<cri::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let pods = self.pods(request.into_inner().filter);
        let items = pods.iter().map(|view| pod::item(view)).collect();
        Ok(pieces(items, |pod_sandboxes| cri::StreamPodSandboxesResponse { pod_sandboxes }))
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let asked = request.into_inner();
        let pod = self.engine.pod(&asked.pod_sandbox_id).map_err(status)?;
        let config = asked.config.ok_or_else(|| invalid("config", "is missing"))?;
        let spec = container::spec(config, &pod, self.machine())?;
        let id = self.engine.create_pod_container(spec).await.map_err(status)?;
        Ok(Response::new(cri::CreateContainerResponse { container_id: id.to_string() }))
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        let id = request.into_inner().container_id;
        self.engine.start_pod_container(&id).await.map_err(status)?;
        Ok(Response::new(cri::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        let asked = request.into_inner();
        let timeout = Some(asked.timeout.max(0));
        self.engine.stop_pod_container(&asked.container_id, timeout).await.map_err(status)?;
        Ok(Response::new(cri::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        self.engine.remove_pod_container(&id).await.map_err(status)?;
        Ok(Response::new(cri::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        let containers = self.container_items(request.into_inner().filter);
        Ok(Response::new(cri::ListContainersResponse { containers }))
    }

    type StreamContainersStream = Pieces<cri::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let items = self.container_items(request.into_inner().filter);
        Ok(pieces(items, |containers| cri::StreamContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let asked = request.into_inner();
        let view = self.engine.pod_container(&asked.container_id).map_err(status)?;
        let gone = || Status::not_found(format!("container {} is of no pod", view.id));
        let member = view.spec.pod.as_ref().ok_or_else(gone)?;
        let user = self.engine.process_user(view.id.as_str()).map_err(status)?;
        let mut info = HashMap::new();
        if asked.verbose {
            let spec = self.engine.oci_spec(view.id.as_str()).map_err(status)?;
            let text = serde_json::json!({
                "sandboxID": member.pod,
                "pid": view.state.pid,
                "runtimeSpec": spec,
            });
            info.insert("info".to_owned(), text.to_string());
        }
        let status = container::status(&view, member, user.as_ref());
        Ok(Response::new(cri::ContainerStatusResponse { status: Some(status), info }))
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        let asked = request.into_inner();
        if asked.windows.is_some() {
            return Err(unsupported("windows", "this is a node with Linux"));
        }
        let mut limits = resources::limits(&asked.linux.unwrap_or_default())?;
        // It is decided at the start.
        limits.oom_score_adj = None;
        let options = UpdateOptions { resources: limits, restart: None };
        let updated = self.engine.update_pod_container(&asked.container_id, options).await;
        for warning in updated.map_err(status)? {
            tracing::warn!(container.id = asked.container_id, "{warning}");
        }
        Ok(Response::new(cri::UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        self.engine.reopen_log(&request.into_inner().container_id).await.map_err(status)?;
        Ok(Response::new(cri::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(
        &self,
        request: Request<cri::ExecSyncRequest>,
    ) -> Answer<cri::ExecSyncResponse> {
        let asked = request.into_inner();
        if asked.cmd.is_empty() {
            return Err(invalid("cmd", "is empty"));
        }
        let timeout = match asked.timeout {
            0 => None,
            seconds => Some(Duration::from_secs(
                u64::try_from(seconds).map_err(|_| invalid("timeout", "is below 0"))?,
            )),
        };
        let command = ExecSync { cmd: asked.cmd, timeout };
        let output = self.engine.exec_sync(&asked.container_id, command).await.map_err(status)?;
        Ok(Response::new(cri::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.exit_code,
        }))
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        let url = self.exec_url(request.into_inner())?;
        Ok(Response::new(cri::ExecResponse { url }))
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        let url = self.attach_url(&request.into_inner())?;
        Ok(Response::new(cri::AttachResponse { url }))
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Answer<cri::PortForwardResponse> {
        let url = self.forward_url(&request.into_inner())?;
        Ok(Response::new(cri::PortForwardResponse { url }))
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        let id = request.into_inner().container_id;
        let view = self.engine.pod_container(&id).map_err(status)?;
        let stats = Api::container_stats(self, &view).await.map_err(status)?;
        Ok(Response::new(cri::ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        let stats = self.all_container_stats(request.into_inner().filter).await;
        Ok(Response::new(cri::ListContainerStatsResponse { stats }))
    }

    type StreamContainerStatsStream = Pieces<cri::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let stats = self.all_container_stats(request.into_inner().filter).await;
        Ok(pieces(stats, |container_stats| cri::StreamContainerStatsResponse { container_stats }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        let view = self.engine.pod(&request.into_inner().pod_sandbox_id).map_err(status)?;
        let stats = self.pod_stats(&view).await.map_err(status)?;
        Ok(Response::new(cri::PodSandboxStatsResponse { stats: Some(stats) }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        let stats = self.all_pod_stats(request.into_inner().filter).await;
        Ok(Response::new(cri::ListPodSandboxStatsResponse { stats }))
    }

    type StreamPodSandboxStatsStream = Pieces<cri::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let stats = self.all_pod_stats(request.into_inner().filter).await;
        Ok(pieces(stats, |pod_sandbox_stats| cri::StreamPodSandboxStatsResponse {
            pod_sandbox_stats,
        }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        // Networks take their ranges from their own configuration.
        let network = request.into_inner().runtime_config.and_then(|config| config.network_config);
        if let Some(network) = network {
            tracing::info!(pod_cidr = network.pod_cidr, "kubelet told the pods' range");
        }
        Ok(Response::new(cri::UpdateRuntimeConfigResponse {}))
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        let condition = |kind: &str, reason: Option<(&str, String)>| {
            let (reason, message) = reason.clone().unwrap_or(("", String::new()));
            cri::RuntimeCondition {
                r#type: kind.to_owned(),
                status: reason.is_empty(),
                reason: reason.to_owned(),
                message,
            }
        };
        let network = match self.engine.pod_network().await {
            NetworkState::Ready => None,
            NetworkState::NotReady(why) => Some(("NetworkPluginNotReady", why)),
        };
        let conditions = vec![condition("RuntimeReady", None), condition("NetworkReady", network)];
        let mut info = HashMap::new();
        let config = self.engine.config();
        if request.into_inner().verbose {
            let text = serde_json::json!({
                "dataRoot": config.data_root,
                "execRoot": config.exec_root,
                "defaultRuntime": config.default_runtime,
            });
            info.insert("config".to_owned(), text.to_string());
        }
        let handlers = config.runtime_handlers().into_iter();
        Ok(Response::new(cri::StatusResponse {
            status: Some(cri::RuntimeStatus { conditions }),
            info,
            runtime_handlers: handlers
                .map(|name| cri::RuntimeHandler {
                    features: Some(cri::RuntimeHandlerFeatures {
                        recursive_read_only_mounts: true,
                        user_namespaces: config.has_own_user_namespaces(&name),
                    }),
                    name,
                })
                .collect(),
            features: Some(cri::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
                mount_options: false,
            }),
        }))
    }

    async fn checkpoint_container(
        &self,
        _request: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        Err(Status::unimplemented("checkpoints are not supported"))
    }

    async fn checkpoint_pod(
        &self,
        _request: Request<cri::CheckpointPodRequest>,
    ) -> Answer<cri::CheckpointPodResponse> {
        Err(Status::unimplemented("checkpoints are not supported"))
    }

    async fn restore_pod(
        &self,
        _request: Request<cri::RestorePodRequest>,
    ) -> Answer<cri::RestorePodResponse> {
        Err(Status::unimplemented("checkpoints are not supported"))
    }

    type GetContainerEventsStream = Pieces<cri::ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _request: Request<cri::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        Ok(Response::new(Box::pin(self.container_events())))
    }

    async fn list_metric_descriptors(
        &self,
        _request: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        let descriptors = crate::metrics::descriptors();
        Ok(Response::new(cri::ListMetricDescriptorsResponse { descriptors }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _request: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        let pod_metrics = self.pod_metrics().await;
        Ok(Response::new(cri::ListPodSandboxMetricsResponse { pod_metrics }))
    }

    type StreamPodSandboxMetricsStream = Pieces<cri::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _request: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        let metrics = self.pod_metrics().await;
        Ok(pieces(metrics, |pod_sandbox_metrics| cri::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        }))
    }

    async fn runtime_config(
        &self,
        _request: Request<cri::RuntimeConfigRequest>,
    ) -> Answer<cri::RuntimeConfigResponse> {
        let driver = match self.engine.cgroup_driver() {
            pouch_engine::CgroupDriver::Systemd => cri::CgroupDriver::Systemd,
            pouch_engine::CgroupDriver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
        };
        let linux = cri::LinuxRuntimeConfiguration { cgroup_driver: driver.into() };
        Ok(Response::new(cri::RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        let asked = request.into_inner();
        let limits =
            |r: Option<cri::LinuxContainerResources>| r.map(|r| resources::limits(&r)).transpose();
        let (overhead, resources) = (limits(asked.overhead)?, limits(asked.resources)?);
        let told = self.engine.resize_pod(&asked.pod_sandbox_id, resources, overhead).await;
        told.map_err(status)?;
        Ok(Response::new(cri::UpdatePodSandboxResourcesResponse {}))
    }
}

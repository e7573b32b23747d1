//! The figures that kubelet hands on as `/metrics/cadvisor`, under the names, labels and units that
//! cAdvisor gave them, so that what reads those reads these.
//!
//! One file per kind of figure: its names, and how they come from a reading. The contract has whole
//! numbers only; seconds are cut, as the other runtimes do. What a kernel or a layout of control
//! groups does not count has a name and no value.

mod cpu;
mod disk;
mod family;
mod memory;
mod network;
mod pressure;
mod process;
mod spec;

use pouch_cri_grpc as cri;
use pouch_engine::{ContainerView, PodPhase, PodView};
use pouch_types::spec::Resources;

use crate::api::Api;
use crate::stats::sweep::{self, ContainerReading, PodReading, Reading};
use crate::stats::{Layer, Sampler};
use disk::{Devices, Filesystem};
use family::{List, Subject};
use process::{Budget, Processes};

/// All metrics with their labels.
pub(crate) fn descriptors() -> Vec<cri::MetricDescriptor> {
    [
        spec::descriptors(),
        cpu::descriptors(),
        memory::descriptors(),
        pressure::descriptors(),
        network::descriptors(),
        disk::descriptors(),
        process::descriptors(),
    ]
    .concat()
}

/// Everything about pods at one moment.
#[derive(Debug)]
struct Picture {
    pods: Vec<PodReading>,
    /// In the order of the containers of all pods.
    processes: Vec<Processes>,
    filesystem: Option<Filesystem>,
    devices: Devices,
}

impl Api {
    /// The metrics of all pods that are ready.
    pub(crate) async fn pod_metrics(&self) -> Vec<cri::PodSandboxMetrics> {
        let engine = self.engine.clone();
        let picture = sweep::beside(move || {
            let mut views = engine.pods();
            views.retain(|view| view.phase == PodPhase::Ready);
            let pods = sweep::pods(&engine, views);
            let mut budget = Budget::default();
            let containers = pods.iter().flat_map(|pod| &pod.containers);
            let processes = containers.map(|container| processes(container, &mut budget)).collect();
            let mut devices = Devices::default();
            let filesystem = Filesystem::look(&engine.config().data_root, &mut devices);
            Picture { pods, processes, filesystem, devices }
        });
        match picture.await {
            Ok(picture) => {
                let layers = self.layers_of(&picture).await;
                picture.render(layers)
            }
            Err(error) => {
                let error = pouch_types::error::chain(&error);
                tracing::warn!(error, "no metrics of pods");
                Vec::new()
            }
        }
    }

    async fn layers_of(&self, picture: &Picture) -> Vec<Option<Layer>> {
        let containers = picture.pods.iter().flat_map(|pod| &pod.containers);
        let views: Vec<_> = containers.map(|container| container.view.clone()).collect();
        Sampler::layers(&self.sampler, &self.engine, &views).await
    }
}

fn processes(container: &ContainerReading, budget: &mut Budget) -> Processes {
    // One that ended meanwhile has none.
    let pids = container.reading.as_ref().and_then(|reading| reading.group.processes().ok());
    Processes::look(&pids.unwrap_or_default(), container.view.state.pid, budget)
}

impl Picture {
    /// `layers` are in the order of `processes`.
    fn render(mut self, layers: Vec<Option<Layer>>) -> Vec<cri::PodSandboxMetrics> {
        let mut beside = self.processes.iter().zip(layers);
        let mut all = Vec::with_capacity(self.pods.len());
        for pod in &self.pods {
            let containers = pod.containers.iter().zip(&mut beside);
            let container_metrics = containers
                .map(|(container, (processes, layer))| {
                    let filesystem = self.filesystem.as_ref();
                    let view = &container.view;
                    let mut list = List::of(of_container(&pod.view, container));
                    spec::put_life(&mut list, view.state.started_at);
                    if let Some(reading) = &container.reading {
                        let asked = &view.spec.resources;
                        put_group(&mut list, reading, asked, &mut self.devices);
                        process::put(&mut list, &reading.stats.pids, processes);
                    }
                    if let Some(filesystem) = filesystem {
                        disk::put_filesystem(&mut list, filesystem, layer);
                    }
                    cri::ContainerMetrics {
                        container_id: view.id.to_string(),
                        metrics: list.metrics(),
                    }
                })
                .collect();
            let mut list = List::of(of_pod(pod));
            spec::put_life(&mut list, Some(pod.view.created));
            if let Some(reading) = &pod.group {
                let none = Resources::default();
                let asked = pod.view.spec.resources.as_ref().unwrap_or(&none);
                put_group(&mut list, reading, asked, &mut self.devices);
            }
            network::put(&mut list, &pod.networks);
            all.push(cri::PodSandboxMetrics {
                pod_sandbox_id: pod.view.id.to_string(),
                metrics: list.metrics(),
                container_metrics,
            });
        }
        all
    }
}

/// What a control group tells.
fn put_group(list: &mut List, reading: &Reading, asked: &Resources, devices: &mut Devices) {
    let stats = &reading.stats;
    spec::put_limits(list, asked, &stats.memory);
    cpu::put(list, &stats.cpu);
    memory::put(list, stats);
    pressure::put(list, &stats.pressure);
    disk::put_io(list, &stats.io, devices);
}

fn of_pod(pod: &PodReading) -> Subject {
    let view: &PodView = &pod.view;
    let group = pod.group.as_ref().map(|reading| reading.group.path().to_owned());
    Subject {
        // Something that no other pod has.
        id: group.unwrap_or_else(|| view.id.to_string()),
        namespace: view.spec.key.namespace.clone(),
        pod: view.spec.key.name.clone(),
        ..Subject::default()
    }
}

fn of_container(pod: &PodView, container: &ContainerReading) -> Subject {
    let view: &ContainerView = &container.view;
    let group = container.reading.as_ref().map(|reading| reading.group.path().to_owned());
    let member = view.spec.pod.as_ref();
    // What the pod's author wrote says more than the id that kubelet makes of it.
    let image = member.map(|member| member.user_specified_image.as_str());
    let image = image.filter(|image| !image.is_empty()).unwrap_or(&view.spec.image_name);
    Subject {
        container: member.map(|member| member.name.clone()).unwrap_or_default(),
        id: group.unwrap_or_default(),
        image: image.to_owned(),
        name: view.id.to_string(),
        namespace: pod.spec.key.namespace.clone(),
        pod: pod.spec.key.name.clone(),
    }
}

#[cfg(test)]
mod tests;

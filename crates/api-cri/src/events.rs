//! GetContainerEvents: what happened to containers of pods and to pods, with how they are now.

use std::sync::Arc;

use futures::Stream;
use pouch_cri_grpc as cri;
use pouch_engine::{Event, EventKind};
use tonic::Status;

use crate::api::Api;
use crate::translate::{container, nanoseconds, pod};

impl Api {
    /// Everything from now on, until the daemon ends.
    pub(crate) fn container_events(
        &self,
    ) -> impl Stream<Item = Result<cri::ContainerEventResponse, Status>> + Send + 'static {
        let api = self.clone();
        let events = self.engine.events(None, None);
        futures::stream::unfold((api, events), |(api, mut events)| async move {
            loop {
                // Cancel-safe: an event that is not taken stays.
                let event = tokio::select! {
                    () = api.closing.cancelled() => return None,
                    event = events.next() => event?,
                };
                if let Some(told) = api.tell(&event) {
                    return Some((Ok(told), (api, events)));
                }
            }
        })
    }

    fn tell(&self, event: &Arc<Event>) -> Option<cri::ContainerEventResponse> {
        let kind = match event.action.as_str() {
            "create" => cri::ContainerEventType::ContainerCreatedEvent,
            "start" => cri::ContainerEventType::ContainerStartedEvent,
            "die" => cri::ContainerEventType::ContainerStoppedEvent,
            "destroy" => cri::ContainerEventType::ContainerDeletedEvent,
            _ => return None,
        };
        let sandbox = match event.kind {
            EventKind::Pod => event.actor.clone(),
            // Of one that is gone its pod is in the labels no more: its view was the last to know.
            EventKind::Container => match self.engine.pod_container(&event.actor) {
                Ok(view) => view.spec.pod.as_ref()?.pod.to_string(),
                Err(_) => event.attributes.get(pouch_engine::POD_ATTRIBUTE)?.clone(),
            },
            EventKind::Image | EventKind::Network | EventKind::Volume | EventKind::Daemon => {
                return None;
            }
        };
        let pod = self.engine.pod(&sandbox).ok();
        Some(cri::ContainerEventResponse {
            container_id: event.actor.clone(),
            container_event_type: kind.into(),
            created_at: nanoseconds(Some(event.time)),
            pod_sandbox_status: pod.as_ref().map(|pod| Box::new(pod::status(pod))),
            containers_statuses: self.statuses_of(&sandbox),
        })
    }

    /// How all containers of a pod are.
    pub(crate) fn statuses_of(&self, sandbox: &str) -> Vec<cri::ContainerStatus> {
        let views = self.engine.pod_containers().into_iter();
        views
            .filter_map(|view| {
                let member = view.spec.pod.as_ref().filter(|m| m.pod.as_str() == sandbox)?;
                let user = self.engine.process_user(view.id.as_str()).ok().flatten();
                Some(container::status(&view, member, user.as_ref()))
            })
            .collect()
    }
}

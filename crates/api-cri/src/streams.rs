//! Exec, Attach and PortForward: what the streaming server is given.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use pouch_cri_grpc as cri;
use pouch_engine::{AttachOptions, Engine, EngineError, ExecSpec, PodPhase};
use pouch_streaming::{Cause, Duplex, Output, Process, Request, Resize, StreamSet};
use pouch_types::spec::Attach;
use pouch_types::{ContainerId, ErrorKind, ExecId};
use tokio::net::TcpStream;
use tonic::Status;

use crate::api::Api;
use crate::error::{invalid, status};

/// Time for connecting to a port of a pod.
const CONNECT: Duration = Duration::from_secs(10);

const fn attach(streams: StreamSet) -> Attach {
    Attach { stdin: streams.stdin, stdout: streams.stdout, stderr: streams.stderr }
}

/// What the engine gives, as the streaming server takes it.
fn process(attached: pouch_engine::Attached, resize: Resize) -> Process {
    Process {
        input: attached.input,
        output: match attached.tty {
            true => Output::Terminal(attached.output),
            false => Output::Frames(attached.output),
        },
        resize: attached.tty.then_some(resize),
        exit: None,
    }
}

impl Api {
    /// The id of a container that runs.
    fn running(&self, key: &str) -> Result<ContainerId, Status> {
        let view = self.engine.pod_container(key).map_err(status)?;
        if !view.state.is_running() {
            return Err(Status::failed_precondition(format!("container {} does not run", view.id)));
        }
        Ok(view.id.clone())
    }

    /// The URL where a client of this exec is to go.
    pub(crate) fn exec_url(&self, asked: cri::ExecRequest) -> Result<String, Status> {
        let id = self.running(&asked.container_id)?;
        if asked.cmd.is_empty() {
            return Err(invalid("cmd", "is empty"));
        }
        let streams = StreamSet {
            stdin: asked.stdin,
            stdout: asked.stdout,
            stderr: asked.stderr,
            tty: asked.tty,
        };
        let engine = self.engine.clone();
        let open = move || async move {
            let spec = ExecSpec {
                cmd: asked.cmd,
                tty: streams.tty,
                attach: attach(streams),
                ..ExecSpec::default()
            };
            begin(engine, id.as_str(), spec).await.map_err(Cause::from)
        };
        let request = Request::exec(streams, open).map_err(status)?;
        self.streams.issue(request).map_err(status)
    }

    /// The URL where a client that attaches is to go.
    pub(crate) fn attach_url(&self, asked: &cri::AttachRequest) -> Result<String, Status> {
        let id = self.running(&asked.container_id)?;
        let streams = StreamSet {
            stdin: asked.stdin,
            stdout: asked.stdout,
            stderr: asked.stderr,
            tty: asked.tty,
        };
        let engine = self.engine.clone();
        let open = move || async move {
            let options = AttachOptions { streams: attach(streams), stream: true, logs: false };
            let attached = engine.attach(id.as_str(), options).await?;
            let resize: Resize = Box::new(move |size| {
                let (engine, id) = (engine.clone(), id.clone());
                Box::pin(async move {
                    let set = engine.resize(id.as_str(), size.width, size.height).await;
                    set.map_err(Cause::from)
                })
            });
            Ok(process(attached, resize))
        };
        let request = Request::attach(streams, open).map_err(status)?;
        self.streams.issue(request).map_err(status)
    }

    /// The URL where a client that forwards ports is to go.
    pub(crate) fn forward_url(&self, asked: &cri::PortForwardRequest) -> Result<String, Status> {
        let pod = self.engine.pod(&asked.pod_sandbox_id).map_err(status)?;
        if pod.phase != PodPhase::Ready {
            return Err(Status::failed_precondition(format!(
                "pod sandbox {} is not ready",
                pod.id
            )));
        }
        let ports = asked.port.iter().map(|port| {
            let number = u16::try_from(*port).ok().filter(|port| *port > 0);
            number.ok_or_else(|| invalid("port", format!("{port} is no port")))
        });
        let ports = ports.collect::<Result<Vec<u16>, Status>>()?;
        let netns = pod.netns.clone();
        let request = Request::port_forward(ports, move |port| {
            let netns = netns.clone();
            async move { connect(netns, port).await.map_err(Cause::from) }
        });
        self.streams.issue(request).map_err(status)
    }
}

async fn begin(engine: Engine, container: &str, spec: ExecSpec) -> Result<Process, EngineError> {
    let streams = spec.attach;
    let id: ExecId = engine.exec_create(container, spec).await?;
    let attached = engine
        .exec_start(id.as_str(), streams, None)
        .await?
        .ok_or_else(|| EngineError::new(ErrorKind::Internal, "the exec has no streams"))?;
    let (resized, waited, at) = (engine.clone(), engine, id.clone());
    let resize: Resize = Box::new(move |size| {
        let (engine, id) = (resized.clone(), at.clone());
        Box::pin(async move {
            let set = engine.exec_resize(id.as_str(), size.width, size.height).await;
            set.map_err(Cause::from)
        })
    });
    let mut process = process(attached, resize);
    process.exit =
        Some(Box::pin(async move { waited.exec_wait(id.as_str()).await.map_err(Cause::from) }));
    Ok(process)
}

/// Connects to a port on the loopback of a pod, as kubelet's clients expect; IPv4 first.
async fn connect(
    netns: Option<std::path::PathBuf>,
    port: u16,
) -> Result<Box<dyn Duplex>, EngineError> {
    let addresses = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ];
    let dial = move || {
        let mut last = None;
        for address in addresses {
            match std::net::TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = last.or(Some(error)),
            }
        }
        Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrNotAvailable.into()))
    };
    let doing = || format!("connect to port {port} of the pod");
    let dialled = match netns {
        Some(path) => {
            let entered = pouch_netns::Netns::open(&path)
                .map_err(|e| EngineError::wrap("enter the network of the pod", e))?;
            entered
                .run_async(dial)
                .await
                .map_err(|e| EngineError::wrap("enter the network of the pod", e))?
        }
        None => tokio::task::spawn_blocking(dial)
            .await
            .map_err(|e| EngineError::new(ErrorKind::Internal, e.to_string()))?,
    };
    let stream = dialled.map_err(|e| EngineError::io(doing(), e))?;
    let ready = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
    Ok(Box::new(ready.map_err(|e| EngineError::io(doing(), e))?))
}

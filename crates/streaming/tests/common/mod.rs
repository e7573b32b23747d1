//! Fakes of what the server is given: processes and pods.

#![allow(dead_code, reason = "each test program uses a part")]

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use pouch_streaming::{Cause, Duplex, Limits, Process, Request, Server, StreamSet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// Longer than anything here takes on a busy machine.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(60)
}

pub(crate) async fn bind(limits: Limits) -> Server {
    Server::bind("127.0.0.1:0".parse().unwrap(), limits).await.unwrap()
}

/// Docker's frame.
pub(crate) fn frame(stream: u8, bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![stream, 0, 0, 0];
    frame.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(bytes);
    frame
}

type Sizes = Arc<Mutex<Vec<(u16, u16)>>>;
type Script = Box<dyn FnOnce(UnixStream, Sizes) -> BoxFuture<'static, io::Result<i32>> + Send>;

/// A process behind a socket, as the engine gives them.
pub(crate) struct Fake {
    script: Script,
    sizes: Sizes,
}

impl Fake {
    pub(crate) fn new<F, R>(script: F) -> Self
    where
        F: FnOnce(UnixStream, Sizes) -> R + Send + 'static,
        R: Future<Output = io::Result<i32>> + Send + 'static,
    {
        Self {
            script: Box::new(move |socket, sizes| Box::pin(script(socket, sizes))),
            sizes: Arc::default(),
        }
    }

    /// Writes to its streams and ends.
    pub(crate) fn says(what: &[(u8, &[u8])], code: i32) -> Self {
        let wire: Vec<u8> = what.iter().flat_map(|(stream, bytes)| frame(*stream, bytes)).collect();
        Self::new(move |mut socket: UnixStream, _| async move {
            socket.write_all(&wire).await?;
            Ok(code)
        })
    }

    /// Echoes its input until that ends.
    pub(crate) fn cat(code: i32) -> Self {
        Self::new(move |mut socket: UnixStream, _| async move {
            let mut buffer = vec![0; 20_000];
            loop {
                let length = socket.read(&mut buffer).await?;
                if length == 0 {
                    return Ok(code);
                }
                socket.write_all(&frame(1, &buffer[..length])).await?;
            }
        })
    }

    /// Echoes raw bytes until its input has ended and it was resized `resizes` times.
    pub(crate) fn terminal(resizes: usize) -> Self {
        Self::new(move |mut socket: UnixStream, sizes: Sizes| async move {
            let mut buffer = vec![0; 20_000];
            loop {
                let length = socket.read(&mut buffer).await?;
                if length == 0 {
                    break;
                }
                socket.write_all(&buffer[..length]).await?;
            }
            while sizes.lock().unwrap().len() < resizes {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(0)
        })
    }

    pub(crate) fn sizes(&self) -> Sizes {
        Arc::clone(&self.sizes)
    }

    /// Starts it when it is called.
    pub(crate) fn opener(
        self,
        streams: StreamSet,
    ) -> impl FnOnce() -> BoxFuture<'static, Result<Process, Cause>> + Send + 'static {
        move || {
            Box::pin(async move {
                let (ours, theirs) = UnixStream::pair()?;
                let (ended, exit) = oneshot::channel();
                let running = (self.script)(theirs, Arc::clone(&self.sizes));
                tokio::spawn(async move {
                    let _ = ended.send(running.await);
                });
                let mut process = Process::over(ours, streams);
                let sizes = self.sizes;
                process.resize = Some(Box::new(move |size| {
                    let sizes = Arc::clone(&sizes);
                    Box::pin(async move {
                        sizes.lock().unwrap().push((size.width, size.height));
                        Ok(())
                    })
                }));
                process.exit = Some(Box::pin(async move { Ok(exit.await??) }));
                Ok(process)
            })
        }
    }
}

/// A pod that names the port, echoes, and says goodbye after the end of its input. Nothing listens
/// on ports below 10.
pub(crate) struct Pod {
    pub(crate) connected: Arc<Mutex<Vec<u16>>>,
}

pub(crate) async fn echo_pod() -> Pod {
    Pod { connected: Arc::default() }
}

impl Pod {
    pub(crate) fn request(&self) -> Request {
        self.request_for(vec![])
    }

    pub(crate) fn request_for(&self, ports: Vec<u16>) -> Request {
        let connected = Arc::clone(&self.connected);
        Request::port_forward(ports, move |port| {
            connected.lock().unwrap().push(port);
            async move {
                if port < 10 {
                    return Err(format!("nothing listens on {port}").into());
                }
                let (ours, theirs) = UnixStream::pair()?;
                tokio::spawn(echo(theirs, port));
                Ok(Box::new(ours) as Box<dyn Duplex>)
            }
        })
    }
}

async fn echo(mut stream: UnixStream, port: u16) -> io::Result<()> {
    stream.write_all(format!("{port}\n").as_bytes()).await?;
    let mut buffer = vec![0; 20_000];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            break;
        }
        stream.write_all(&buffer[..length]).await?;
    }
    stream.write_all(b"bye\n").await
}

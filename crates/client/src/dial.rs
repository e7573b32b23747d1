//! One byte stream to the daemon over whichever transport the endpoint names.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio_rustls::TlsConnector;

use crate::endpoint::{Endpoint, SshTarget, Transport};
use crate::error::ClientError;
use crate::resolve;

/// For the connection alone, name resolution and TLS included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(30);

/// What a failed ssh said is kept up to this many bytes.
const SSH_STDERR_LIMIT: u64 = 4096;

/// A stream that HTTP can be spoken on.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The way to one daemon.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    pub(crate) endpoint: Endpoint,
    pub(crate) tls: Option<Arc<rustls::ClientConfig>>,
}

impl Dialer {
    pub(crate) async fn dial(&self) -> Result<Box<dyn Duplex>, ClientError> {
        match tokio::time::timeout(CONNECT_DEADLINE, self.connect()).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(source)) => Err(self.explain(source)),
            Err(_) => Err(ClientError::Deadline {
                stage: format!("connecting to {}", self.endpoint),
                seconds: CONNECT_DEADLINE.as_secs(),
            }),
        }
    }

    async fn connect(&self) -> io::Result<Box<dyn Duplex>> {
        match &self.endpoint {
            Endpoint::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Endpoint::Tcp { host, port, .. } => {
                let transport = if self.tls.is_some() { Transport::Tls } else { Transport::Plain };
                let stream = tcp(host, Endpoint::tcp_port(*port, &transport)).await?;
                match &self.tls {
                    None => Ok(Box::new(stream)),
                    Some(config) => {
                        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                        let connector = TlsConnector::from(Arc::clone(config));
                        Ok(Box::new(connector.connect(name, stream).await?))
                    }
                }
            }
            Endpoint::Ssh(target) => Ok(Box::new(SshStream::spawn(target)?)),
        }
    }

    fn explain(&self, source: io::Error) -> ClientError {
        let hint = match (&self.endpoint, source.kind()) {
            (Endpoint::Unix(path), io::ErrorKind::PermissionDenied) => format!(
                "permission denied on {}: run as root or join the group that owns the socket",
                path.display()
            ),
            (Endpoint::Unix(_), _) => format!("is {} running?", daemon_of(&self.endpoint)),
            (Endpoint::Tcp { .. }, io::ErrorKind::ConnectionRefused) => {
                "nothing listens there; check the address, and that the daemon has this -H"
                    .to_owned()
            }
            (Endpoint::Tcp { .. }, _) => {
                format!("{source}; check the address and the --tls options")
            }
            (Endpoint::Ssh(_), _) => format!("cannot start ssh ({source}); is it installed?"),
        };
        ClientError::Connect { endpoint: self.endpoint.to_string(), hint, source }
    }
}

fn daemon_of(endpoint: &Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Unix(path) if path.file_name() == Some("docker.sock".as_ref()) => {
            "the daemon behind it"
        }
        _ => "pouchd",
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for ip in resolve::addresses(host).await? {
        match TcpStream::connect(SocketAddr::new(ip, port)).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The standard streams of an ssh that relays to the remote daemon's socket.
///
/// When the remote end closes before it has sent a byte, what ssh wrote to stderr becomes the
/// read error: that is where "permission denied" and "host not found" are.
struct SshStream {
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    stderr: Option<tokio::process::ChildStderr>,
    complaint: Vec<u8>,
    received: bool,
    // Killed when dropped.
    _child: Child,
}

impl SshStream {
    fn spawn(target: &SshTarget) -> io::Result<Self> {
        let mut command = Command::new("ssh");
        command.args(["-T", "-o", "ConnectTimeout=30"]);
        if let Some(user) = &target.user {
            command.args(["-l", user]);
        }
        if let Some(port) = target.port {
            command.args(["-p", &port.to_string()]);
        }
        command.arg("--").arg(&target.host).arg(remote_command(target.socket.as_deref()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A ^C for the CLI must not take the transport away before the CLI has used it to stop
        // what it started.
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        let missing = || io::Error::other("ssh has no pipe");
        Ok(Self {
            stdin: Some(child.stdin.take().ok_or_else(missing)?),
            stdout: child.stdout.take().ok_or_else(missing)?,
            stderr: child.stderr.take(),
            complaint: Vec::new(),
            received: false,
            _child: child,
        })
    }

    fn poll_complaint(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while let Some(stderr) = &mut self.stderr {
            let mut space = [0u8; 512];
            let mut buf = ReadBuf::new(&mut space);
            match Pin::new(stderr).poll_read(cx, &mut buf) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => {
                    let room = usize::try_from(SSH_STDERR_LIMIT)
                        .unwrap_or(usize::MAX)
                        .saturating_sub(self.complaint.len());
                    let new = buf.filled();
                    self.complaint.extend_from_slice(&new[..new.len().min(room)]);
                    if result.is_err() || new.is_empty() {
                        self.stderr = None;
                    }
                }
            }
        }
        let text = String::from_utf8_lossy(&self.complaint);
        Poll::Ready(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            format!("ssh ended without an answer: {}", text.trim()),
        ))
    }
}

/// The remote shell picks our CLI when it is there, else docker's; both relay alike.
fn remote_command(socket: Option<&str>) -> String {
    let host = socket.map(|path| format!(" --host {}", shell_word(&format!("unix://{path}"))));
    let host = host.unwrap_or_default();
    format!(
        "if command -v pouch >/dev/null 2>&1; then exec pouch{host} system dial-stdio; \
         else exec docker{host} system dial-stdio; fi"
    )
}

fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl AsyncRead for SshStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.stdout).poll_read(cx, buf) {
            Poll::Ready(Ok(())) if buf.filled().len() == before && !self.received => {
                self.poll_complaint(cx).map(Err)
            }
            Poll::Ready(Ok(())) => {
                self.received = true;
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

impl AsyncWrite for SshStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_write(cx, buf),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Closing the pipe is the only half-close that a pipe has.
        self.stdin = None;
        Poll::Ready(Ok(()))
    }
}

/// Relays bytes between the daemon and a pair of streams until the daemon closes.
pub(crate) async fn relay<R, W>(dialer: &Dialer, input: R, output: W) -> Result<(), ClientError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let stream = dialer.dial().await?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (mut input, mut output) = (input, output);
    let up = async {
        tokio::io::copy(&mut input, &mut writer).await?;
        tokio::io::AsyncWriteExt::shutdown(&mut writer).await
    };
    let down = async {
        let mut buf = vec![0u8; 32 * 1024];
        loop {
            let n = reader.read(&mut buf).await?;
            if n == 0 {
                return tokio::io::AsyncWriteExt::shutdown(&mut output).await;
            }
            tokio::io::AsyncWriteExt::write_all(&mut output, &buf[..n]).await?;
            tokio::io::AsyncWriteExt::flush(&mut output).await?;
        }
    };
    tokio::pin!(up, down);
    // The daemon's end decides: when it has closed, nobody reads what the input still has.
    let broke = |source| ClientError::Stream { what: "dial-stdio".to_owned(), source };
    tokio::select! {
        result = &mut down => result.map_err(broke),
        result = &mut up => {
            result.map_err(broke)?;
            down.await.map_err(broke)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_paths_are_quoted() {
        let command = remote_command(Some("/run/it's; rm -rf /"));
        assert!(command.contains(r"--host 'unix:///run/it'\''s; rm -rf /' system dial-stdio"));
        assert!(!remote_command(None).contains("--host"));
    }

    #[tokio::test]
    async fn an_absent_socket_says_what_to_do() {
        let dialer =
            Dialer { endpoint: "unix:///nonexistent/pouchd.sock".parse().unwrap(), tls: None };
        let error = dialer.dial().await.err().unwrap();
        assert_eq!(
            error.to_string(),
            "cannot connect to the pouch daemon at unix:///nonexistent/pouchd.sock: is pouchd running?"
        );
    }
}

//! `stdio`: holds the streams of a container that a foreign shim runs.
//!
//! Such a shim knows named pipes only. This process makes them in its directory, keeps them open,
//! writes the log and serves attach clients at `io.sock`, all as the shim does for its own
//! containers, in a process of its own that the daemon's death does not concern: the container
//! neither blocks nor loses a line.
//!
//! It takes orders at the listener on its standard input: lines of JSON, one answer each. It ends
//! when it is told to, which is when the container is deleted.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pouch_protocol::options;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};

use crate::args::Flags;
use crate::error::TaskError;
use crate::io::{Command, Framing, IoThread, Key, NewSession, OutputSide, StdinEnd, StdinSide};
use crate::serve::take_listener;
use crate::shim::{check_id, listen, open_log};

/// Bytes of one order.
const ORDER_MAX: u64 = 256 * 1024;
/// Time that a process's last output has to come out of its pipes.
const DRAIN: Duration = Duration::from_secs(12);
/// Pause after accept(2) failed (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What the daemon wants. An empty `exec` is the container's first process.
#[derive(Debug, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
enum Order {
    /// Make the pipes of a process; answered with their paths.
    Open(Box<Open>),
    /// It starts: clients that come from now on are late.
    Started { exec: String },
    /// Answered when its input has ended, so that the shim can be told.
    AwaitInputEnd { exec: String },
    /// It is gone; answered when its output is where it belongs.
    Close { exec: String },
    /// All are gone, and this process is of no use any more.
    Finish,
}

#[derive(Debug, Deserialize)]
struct Open {
    exec: String,
    terminal: bool,
    stdin: bool,
    stdin_once: bool,
    log: Option<LogOrder>,
}

#[derive(Debug, Deserialize)]
struct LogOrder {
    driver: String,
    path: String,
    max_size: u64,
    max_files: u32,
    non_blocking: bool,
    buffer_size: u64,
    attributes: BTreeMap<String, String>,
}

/// The answer; paths are empty for streams that the process does not have.
#[derive(Debug, Default, Serialize)]
struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    stdin: String,
    stdout: String,
    stderr: String,
}

struct Keeper {
    container: Arc<str>,
    directory: PathBuf,
    io: IoThread,
    sessions: Mutex<Sessions>,
    finished: Notify,
}

#[derive(Default)]
struct Sessions {
    keys: BTreeMap<String, Key>,
    next: Key,
}

/// Runs until it is told to finish.
pub(crate) fn keep(flags: &Flags) -> Result<(), TaskError> {
    crate::sys::limit_heap();
    // Fails for the leader of a process group, which then has no terminal to lose either.
    let _ = rustix::process::setsid();
    check_id("container id", &flags.id)?;
    let directory = flags.bundle.clone().filter(|path| path.is_absolute());
    let directory = directory.ok_or_else(|| TaskError::Invalid {
        what: "-bundle",
        detail: "is not an absolute path".to_owned(),
    })?;
    let listener = take_listener().map_err(TaskError::io("take", "the listener"))?;
    rustix::process::chdir("/").map_err(TaskError::errno("change to", "/"))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(TaskError::io("start", "the reactor"))?
        .block_on(run(flags, directory, listener))
}

async fn run(
    flags: &Flags,
    directory: PathBuf,
    listener: std::os::unix::net::UnixListener,
) -> Result<(), TaskError> {
    // Handled only so that they do not kill: what would be lost is the container's.
    let handlers = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()];
    let handlers: Result<Vec<_>, _> = handlers.into_iter().map(signal).collect();
    let _handlers = handlers.map_err(TaskError::io("handle", "signals"))?;
    let listener =
        UnixListener::from_std(listener).map_err(TaskError::io("watch", "the listener"))?;
    let io = IoThread::spawn().map_err(TaskError::io("start", "the io thread"))?;
    let container: Arc<str> = flags.id.as_str().into();
    let attach = listen(&directory.join("io.sock"))?;
    io.send(Command::Listen { container: Arc::clone(&container), listener: attach }).await;
    let keeper = Arc::new(Keeper {
        container,
        directory,
        io,
        sessions: Mutex::default(),
        finished: Notify::new(),
    });
    loop {
        // Cancel-safe, both.
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if crate::sys::is_trusted_peer(&stream) => {
                    let keeper = Arc::clone(&keeper);
                    tokio::spawn(async move { keeper.serve(stream).await });
                }
                Ok(_) => tracing::warn!("a connection of another user is refused"),
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = keeper.finished.notified() => return Ok(()),
        }
    }
}

impl Keeper {
    async fn serve(&self, mut stream: UnixStream) {
        let (reader, mut writer) = stream.split();
        let mut line = Vec::new();
        let mut reader = BufReader::new(reader.take(ORDER_MAX));
        loop {
            line.clear();
            match reader.read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => reader.get_mut().set_limit(ORDER_MAX),
            }
            let order = serde_json::from_slice::<Order>(&line);
            let last = matches!(order, Ok(Order::Finish));
            let answer = match order {
                Ok(order) => self.obey(order).await,
                Err(error) => Err(TaskError::Invalid { what: "order", detail: error.to_string() }),
            };
            let answer = answer.unwrap_or_else(|error| Answer {
                error: Some(pouch_types::error::chain(&error)),
                ..Answer::default()
            });
            let Ok(mut text) = serde_json::to_vec(&answer) else { return };
            text.push(b'\n');
            let told = writer.write_all(&text).await;
            if last {
                self.finished.notify_one();
            }
            if told.is_err() {
                return;
            }
        }
    }

    async fn obey(&self, order: Order) -> Result<Answer, TaskError> {
        match order {
            Order::Open(open) => self.open(*open).await,
            Order::Started { exec } => {
                let key = self.key(&exec)?;
                self.io.send(Command::Started { key }).await;
                Ok(Answer::default())
            }
            Order::AwaitInputEnd { exec } => {
                let key = self.key(&exec)?;
                let (ended, end) = oneshot::channel();
                self.io.send(Command::AwaitInputEnd { key, ended }).await;
                // Dropped with the session, which is an end too.
                let _ = end.await;
                Ok(Answer::default())
            }
            Order::Close { exec } => {
                self.close(&exec).await?;
                Ok(Answer::default())
            }
            Order::Finish => {
                let all: Vec<String> = self.lock().keys.keys().cloned().collect();
                for exec in all {
                    self.close(&exec).await?;
                }
                let (done, finished) = oneshot::channel();
                self.io.send(Command::Finish { done }).await;
                let _ = tokio::time::timeout(DRAIN, finished).await;
                Ok(Answer::default())
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, exec: &str) -> Result<Key, TaskError> {
        self.lock().keys.get(exec).copied().ok_or_else(|| TaskError::NoExec(exec.to_owned()))
    }

    async fn open(&self, open: Open) -> Result<Answer, TaskError> {
        if !open.exec.is_empty() {
            check_id("exec id", &open.exec)?;
        }
        if self.lock().keys.contains_key(&open.exec) {
            return Err(TaskError::Exists(open.exec));
        }
        let log = open.log.map(|log| log.open()).transpose()?.flatten();
        let [stdin, stdout, stderr] = pipes(&self.directory, &open.exec);
        let mut answer = Answer::default();
        let mut session = NewSession {
            key: 0,
            container: Arc::clone(&self.container),
            exec: open.exec.as_str().into(),
            framing: if open.terminal { Framing::Raw } else { Framing::Docker },
            stdin_end: if open.stdin_once { StdinEnd::WithClient } else { StdinEnd::OnRequest },
            attachable: true,
            stdin: None,
            stdout: None,
            stderr: None,
            log,
        };
        if open.stdin {
            // For both ways, because the shim may not read yet; nothing is ever read here.
            let sink = make_pipe(&stdin, OFlags::RDWR)?;
            session.stdin = Some(StdinSide { sink: Some(sink), source: None });
            answer.stdin = text(&stdin);
        }
        let side = |path: &Path| {
            let source = make_pipe(path, OFlags::RDONLY)?;
            Ok::<_, TaskError>(Some(OutputSide { source: Some(source), forward: None }))
        };
        session.stdout = side(&stdout)?;
        answer.stdout = text(&stdout);
        if !open.terminal {
            session.stderr = side(&stderr)?;
            answer.stderr = text(&stderr);
        }
        {
            let mut sessions = self.lock();
            sessions.next += 1;
            session.key = sessions.next;
            let key = session.key;
            sessions.keys.insert(open.exec, key);
        }
        self.io.send(Command::Add(Box::new(session))).await;
        Ok(answer)
    }

    /// Takes what is left in the pipes, and forgets them. One that is unknown is closed.
    async fn close(&self, exec: &str) -> Result<(), TaskError> {
        let Some(key) = self.lock().keys.remove(exec) else { return Ok(()) };
        let (drained, rest) = oneshot::channel();
        self.io.send(Command::Exited { key, drained }).await;
        let _ = tokio::time::timeout(DRAIN, rest).await;
        self.io.send(Command::Remove { key }).await;
        for path in pipes(&self.directory, exec) {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(TaskError::io("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl LogOrder {
    fn open(self) -> Result<Option<crate::io::Log>, TaskError> {
        let options = options::LogOptions {
            driver: self.driver,
            path: self.path,
            max_size: self.max_size,
            max_files: self.max_files,
            non_blocking: self.non_blocking,
            buffer_size: self.buffer_size,
            extra: self.attributes.into_iter().collect(),
            ..Default::default()
        };
        crate::options::log(options)?.as_ref().map(open_log).transpose()
    }
}

/// Where the three pipes of a process are. The names of execs are ids, so none is like these.
fn pipes(directory: &Path, exec: &str) -> [PathBuf; 3] {
    ["0", "1", "2"].map(|stream| match exec {
        "" => directory.join(stream),
        exec => directory.join(format!("{exec}.{stream}")),
    })
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Makes a named pipe for root and opens it without waiting for its other end.
fn make_pipe(path: &Path, mode: OFlags) -> Result<OwnedFd, TaskError> {
    let user = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(CWD, path, FileType::Fifo, user, 0)
        .map_err(TaskError::errno("make", path))?;
    let flags = mode | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::empty()).map_err(TaskError::errno("open", path))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream as StdStream;

    use super::*;

    /// A keeper on a thread of its own, its control connection and its directory.
    fn keeper() -> (tempfile::TempDir, StdStream, std::thread::JoinHandle<()>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join("ctl")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let flags = Flags { id: "c".to_owned(), ..Flags::default() };
        let directory = dir.path().to_owned();
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(run(&flags, directory, listener))
                .unwrap();
        });
        let control = StdStream::connect(dir.path().join("ctl")).unwrap();
        control.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (dir, control, thread)
    }

    fn line(mut stream: &StdStream) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    fn ask(mut control: &StdStream, order: &str) -> String {
        control.write_all(format!("{order}\n").as_bytes()).unwrap();
        line(control)
    }

    #[test]
    fn output_goes_to_log_and_clients_and_input_to_the_pipe() {
        let (dir, control, thread) = keeper();
        let log = dir.path().join("log");
        let open = format!(
            r#"{{"order":"open","exec":"","terminal":false,"stdin":true,"stdin_once":true,
            "log":{{"driver":"json-file","path":"{}","max_size":0,"max_files":1,
            "non_blocking":false,"buffer_size":0,"attributes":{{}}}}}}"#,
            log.display()
        );
        let answer = ask(&control, &open.replace('\n', " "));
        assert!(answer.contains("/1\"") && !answer.contains("error"), "{answer}");
        // As a foreign shim does it.
        let mut stdin = std::fs::File::open(dir.path().join("0")).unwrap();
        let write = |name| std::fs::File::options().write(true).open(dir.path().join(name));
        let (mut stdout, stderr) = (write("1").unwrap(), write("2").unwrap());

        let mut client = StdStream::connect(dir.path().join("io.sock")).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let hello = b"{\"id\":\"\",\"stdin\":true,\"stdout\":true,\"stderr\":true}\n";
        client.write_all(hello).unwrap();
        assert!(line(&client).contains("ok"));
        let waiting = StdStream::connect(dir.path().join("ctl")).unwrap();
        (&waiting).write_all(b"{\"order\":\"await-input-end\",\"exec\":\"\"}\n").unwrap();
        client.write_all(b"question").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(line(&waiting).contains("stdout"), "the end of the input is told");
        let mut got = String::new();
        stdin.read_to_string(&mut got).unwrap();
        assert_eq!(got, "question");

        stdout.write_all(b"answer\nlast").unwrap();
        drop((stdout, stderr));
        let closed = ask(&control, r#"{"order":"close","exec":""}"#);
        assert!(!closed.contains("error"), "{closed}");
        let mut framed = Vec::new();
        client.read_to_end(&mut framed).unwrap();
        assert_eq!(framed, b"\x01\0\0\0\0\0\0\x0banswer\nlast");
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(text.contains("answer\\n") && text.contains("\"last\""), "{text}");
        assert!(!dir.path().join("1").exists());
        ask(&control, r#"{"order":"finish"}"#);
        thread.join().unwrap();
    }

    #[test]
    fn wrong_orders_are_refused() {
        let (_dir, control, thread) = keeper();
        for (order, want) in [
            ("{}", "order"),
            (r#"{"order":"dance"}"#, "order"),
            (r#"{"order":"started","exec":"x"}"#, "x"),
            (
                r#"{"order":"open","exec":"../x","terminal":false,"stdin":false,"stdin_once":false,"log":null}"#,
                "exec id",
            ),
        ] {
            let answer = ask(&control, order);
            assert!(answer.contains("error") && answer.contains(want), "{order}: {answer}");
        }
        ask(&control, r#"{"order":"finish"}"#);
        thread.join().unwrap();
    }
}

//! The server against the clients that it is for: client-go 0.36, as kubectl, crictl and critest
//! use it. `scripts/streaming/client` builds the program from `tests/client`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use pouch_streaming::{Limits, Request, Server, StreamSet};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use common::{Fake, bind, echo_pod, patience};

/// The client, or a printed reason to skip.
fn client() -> Option<PathBuf> {
    let path = std::env::var_os("POUCH_STREAMING_CLIENT")
        .map_or_else(|| PathBuf::from("/var/cache/pouch-streaming/client"), PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no client-go program at {}: scripts/streaming/client", path.display());
    None
}

const TRANSPORTS: [&[&str]; 2] = [&[], &["-websocket"]];

fn spawn(program: &PathBuf, what: &str, url: &str, words: &[&str]) -> Child {
    Command::new(program)
        .arg(what)
        .args(["-url", url])
        .args(words)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Runs a command's client with some input.
async fn exec(server: &Server, request: Request, input: &[u8], words: &[&[&str]]) -> Output {
    let program = client().unwrap();
    let url = server.issue(request).unwrap();
    let mut child = spawn(&program, "exec", &url, &words.concat());
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    tokio::spawn(async move {
        let _ = stdin.write_all(&input).await;
    });
    tokio::time::timeout(patience(), child.wait_with_output()).await.unwrap().unwrap()
}

const OUTPUTS: StreamSet = StreamSet { stdin: false, stdout: true, stderr: true, tty: false };
const ALL: StreamSet = StreamSet { stdin: true, ..OUTPUTS };
const TERMINAL: StreamSet = StreamSet { stdin: true, stdout: true, stderr: false, tty: true };

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_and_exit_codes_arrive() {
    if client().is_none() {
        return;
    }
    let server = bind(Limits::default()).await;
    for transport in TRANSPORTS {
        for code in [0, 1, 42, 255] {
            let process = Fake::says(&[(1, b"out\n"), (2, b"err\n"), (1, b"more\n")], code);
            let request = Request::exec(OUTPUTS, process.opener(OUTPUTS)).unwrap();
            let words = [transport, &["-stdout", "-stderr"]];
            let output = exec(&server, request, b"", &words).await;
            assert_eq!(output.status.code(), Some(code), "{transport:?}: {output:?}");
            assert_eq!((&*text(&output.stdout), &*text(&output.stderr)), ("out\nmore\n", "err\n"));
        }
        let request = Request::exec(OUTPUTS, || async { Err("no such program".into()) }).unwrap();
        let output = exec(&server, request, b"", &[transport, &["-stdout", "-stderr"]]).await;
        assert_eq!(output.status.code(), Some(125));
        assert!(text(&output.stderr).contains("no such program"), "{output:?}");
    }
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn input_is_echoed_and_its_end_ends_the_process() {
    if client().is_none() {
        return;
    }
    let server = bind(Limits::default()).await;
    let input: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    for transport in TRANSPORTS {
        for request in [
            Request::exec(ALL, Fake::cat(7).opener(ALL)).unwrap(),
            Request::attach(ALL, Fake::cat(7).opener(ALL)).unwrap(),
        ] {
            let attach = format!("{request:?}").contains("Attach");
            let words = [transport, &["-stdin", "-stdout", "-stderr"]];
            let output = exec(&server, request, &input, &words).await;
            // The fake has an exit code for both; attach in the engine has none.
            assert_eq!(output.status.code(), Some(7), "attach {attach}: {}", text(&output.stderr));
            assert!(output.stdout == input, "{transport:?}: {} bytes", output.stdout.len());
        }
    }
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_ends_with_the_process_and_not_with_its_input() {
    let Some(program) = client() else { return };
    let server = bind(Limits::default()).await;
    for transport in TRANSPORTS {
        let process = Fake::says(&[(1, b"out")], 5);
        let request = Request::exec(ALL, process.opener(ALL)).unwrap();
        let url = server.issue(request).unwrap();
        let words = [transport, &["-stdin", "-stdout", "-stderr"]].concat();
        let mut child = spawn(&program, "exec", &url, &words);
        let open = child.stdin.take();
        let output = tokio::time::timeout(patience(), child.wait_with_output());
        let output = output.await.unwrap().unwrap();
        assert_eq!((output.status.code(), &*text(&output.stdout)), (Some(5), "out"));
        drop(open);
    }
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_merges_and_is_resized() {
    if client().is_none() {
        return;
    }
    let server = bind(Limits::default()).await;
    for transport in TRANSPORTS {
        let process = Fake::terminal(2);
        let sizes = process.sizes();
        let request = Request::exec(TERMINAL, process.opener(TERMINAL)).unwrap();
        let words: [&[&str]; 2] =
            [transport, &["-stdin", "-stdout", "-tty", "-sizes", "80x24,132x43"]];
        let output = exec(&server, request, b"typed", &words).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(text(&output.stdout).contains("typed"), "{output:?}");
        assert_eq!(*sizes.lock().unwrap(), [(80, 24), (132, 43)]);
    }
    server.close().await;
}

/// A client that forwards ports of a pod, and where it listens for each.
async fn forward(
    server: &Server,
    transport: &[&str],
    ports: &[&'static str],
) -> (Child, Vec<(u16, &'static str)>) {
    let url = server.issue(echo_pod().await.request()).unwrap();
    let list = ports.join(",");
    let words = [transport, &["-ports", &list]].concat();
    let mut child = spawn(&client().unwrap(), "forward", &url, &words);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut locals = Vec::new();
    for remote in ports {
        let line = tokio::time::timeout(patience(), lines.next_line());
        let line = line.await.unwrap().unwrap().unwrap();
        let (local, there) = line.split_once(' ').unwrap();
        assert_eq!(there, *remote);
        locals.push((local.parse().unwrap(), *remote));
    }
    (child, locals)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_are_forwarded_side_by_side() {
    if client().is_none() {
        return;
    }
    let server = bind(Limits::default()).await;
    for transport in TRANSPORTS {
        let (mut child, locals) = forward(&server, transport, &["80", "443"]).await;
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (local, remote) = locals[number % 2];
            tasks.spawn(async move {
                let mut stream = TcpStream::connect(("127.0.0.1", local)).await.unwrap();
                let question = vec![b'a' + u8::try_from(number).unwrap(); 100_000 * (number + 1)];
                let (mut read, mut write) = stream.split();
                let mut answer = Vec::new();
                let (_, read) = tokio::join!(
                    async {
                        write.write_all(&question).await.unwrap();
                        write.shutdown().await.unwrap();
                    },
                    read.read_to_end(&mut answer)
                );
                read.unwrap();
                // The pod names its port, echoes, and says goodbye after the end of input.
                let expected = [remote.as_bytes(), b"\n", &question, b"bye\n"].concat();
                assert!(answer == expected, "{number}: {} bytes", answer.len());
            });
        }
        while let Some(done) = tokio::time::timeout(patience(), tasks.join_next()).await.unwrap() {
            done.unwrap();
        }
        drop(child.stdin.take());
        let ended = tokio::time::timeout(patience(), child.wait()).await.unwrap().unwrap();
        assert!(ended.success());
    }
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_is_told() {
    if client().is_none() {
        return;
    }
    let server = bind(Limits::default()).await;
    for transport in TRANSPORTS {
        let (child, locals) = forward(&server, transport, &["9"]).await;
        let mut stream = TcpStream::connect(("127.0.0.1", locals[0].0)).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        // Reset or closed, as client-go likes.
        let _ = tokio::time::timeout(Duration::from_secs(20), read).await.unwrap();
        assert!(answer.is_empty());
        // client-go ends the whole session over it, and says why.
        let output = tokio::time::timeout(patience(), child.wait_with_output());
        let output = output.await.unwrap().unwrap();
        assert!(text(&output.stderr).contains("nothing listens on 9"), "{output:?}");
    }
    server.close().await;
}

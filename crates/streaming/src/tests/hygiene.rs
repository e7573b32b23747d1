//! Thousands of clients that break off leave nothing behind.

use std::sync::Arc;

use tokio::io::AsyncReadExt as _;

use super::*;
use crate::spdy::test_client::Client;

const CLIENTS: usize = 3000;
/// Pairs that one client gives up.
const PAIRS: usize = 5000;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Goes as far as `stage` says, and leaves.
async fn break_off(server: &Server, stage: usize, held: Arc<()>) {
    let silent = Fake::new(move |mut socket, _| async move {
        let ended = socket.read_u8().await.map(i32::from);
        drop(held);
        ended
    });
    let url = exec(server, ALL, silent);
    match stage {
        // Never comes, or with something else.
        0 => drop(request(&url, "GET", "").await),
        1 => {
            let mut client = Client::connect(&url, "v4.channel.k8s.io").await.unwrap();
            client.open_type("error").await;
        }
        2 => {
            let mut client = Client::connect(&url, "v4.channel.k8s.io").await.unwrap();
            let mut last = 0;
            for kind in ["error", "stdin", "stdout", "stderr"] {
                last = client.open_type(kind).await;
            }
            client.until(|client| client.streams.contains_key(&last)).await;
        }
        _ => {
            let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n";
            let (socket, head) = request(&url, "GET", headers).await;
            assert_eq!(head.status, 101);
            // Half a message.
            socket.try_write(&[0x82, 0xff, 0, 0, 0, 0]).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_break_off_leave_nothing() {
    let server = Arc::new(bind(Limits::default()).await);
    let held = Arc::new(());
    let before = (descriptors(), server.shared.tracker.len());
    for round in 0..CLIENTS / 50 {
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..50 {
            let (server, held) = (Arc::clone(&server), Arc::clone(&held));
            clients.spawn(async move { break_off(&server, (round + number) % 4, held).await });
        }
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
    }
    let settled = async {
        // Requests whose client never came hold nothing that is not theirs.
        while Arc::strong_count(&held) > 1 || server.shared.tracker.len() > before.1 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(patience(), settled).await.unwrap();
    // Other tests of this program come and go.
    let limit = before.0 + 200;
    assert!(descriptors() < limit, "{} of {limit}", descriptors());
    Arc::into_inner(server).unwrap().close().await;
}

#[tokio::test]
async fn streams_that_are_given_up_leave_nothing() {
    let server = bind(Limits { streams: 64, ..Limits::default() }).await;
    let held = Arc::new(());
    let connect = Arc::clone(&held);
    let request = Request::port_forward(vec![], move |_| {
        let held = Arc::clone(&connect);
        async move {
            let (ours, mut theirs) = tokio::net::UnixStream::pair()?;
            tokio::spawn(async move {
                let _ = theirs.read_u8().await;
                drop(held);
            });
            Ok(Box::new(ours) as Box<dyn crate::Duplex>)
        }
    });
    let url = server.issue(request).unwrap();
    let mut client = Client::connect(&url, "portforward.k8s.io").await.unwrap();
    let before = descriptors();
    for number in 0..PAIRS {
        let request = number.to_string();
        let mut headers = [("streamtype", "error"), ("port", "80"), ("requestid", &request)];
        let error = client.open(&headers).await;
        headers[0].1 = "data";
        // Some lack their other stream, some are reset at once, some after the reply.
        let data = match number % 3 {
            0 => error,
            _ => client.open(&headers).await,
        };
        if number % 3 == 2 {
            client.until(|client| client.streams.contains_key(&data)).await;
        }
        client.reset(error).await;
        client.reset(data).await;
        if number % 20 == 0 {
            // What was said is heard before more is.
            let id = u32::try_from(number * 2 + 1).unwrap();
            client.ping(id).await;
            client.until(|client| client.pings.contains(&id)).await;
        }
        client.streams.clear();
    }
    let settled = async {
        // One is the request's.
        while Arc::strong_count(&held) > 2 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(patience(), settled).await.unwrap();
    assert!(descriptors() < before + 200);
    drop(client);
    server.close().await;
}

#[tokio::test]
async fn damaged_clients_harm_nobody() {
    let server = bind(Limits::default()).await;
    let pod = echo_pod().await;
    let before = server.shared.tracker.len();
    // A walk over all places and all kinds of damage, the same each time.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % u64::try_from(below).unwrap()).unwrap()
    };
    for _ in 0..300 {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let mut script = Client::over(ours);
        for request in ["a", "b"] {
            for kind in ["error", "data"] {
                let headers = [("streamtype", kind), ("port", "80"), ("requestid", request)];
                let id = script.open(&headers).await;
                script.send(id, b"some bytes").await;
            }
        }
        script.settings(1 << 20).await;
        script.window(3, 1 << 20).await;
        script.ping(1).await;
        script.finish(3).await;
        drop(script);
        let mut wire = Vec::new();
        theirs.read_to_end(&mut wire).await.unwrap();
        for _ in 0..=next(4) {
            let at = next(wire.len());
            wire[at] = u8::try_from(next(256)).unwrap();
        }
        let url = server.issue(pod.request()).unwrap();
        let mut client = Client::connect(&url, "portforward.k8s.io").await.unwrap();
        client.write(&wire).await;
    }
    let settled = async {
        while server.shared.tracker.len() > before {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(patience(), settled).await.unwrap();
    let url = server.issue(pod.request()).unwrap();
    let mut client = Client::connect(&url, "portforward.k8s.io").await.unwrap();
    client.open(&[("streamtype", "error"), ("port", "80")]).await;
    let data = client.open(&[("streamtype", "data"), ("port", "80")]).await;
    client.until(|client| client.text(data) == "80\n").await;
    drop(client);
    server.close().await;
}

//! Thousands of clients that break off leave nothing behind.

use std::sync::Arc;

use tokio::io::AsyncReadExt as _;

use super::*;
use crate::spdy::test_client::Client;

const CLIENTS: usize = 3000;

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

//! Port forwarding over SPDY.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;

use super::*;
use crate::Duplex;
use crate::spdy::test_client::Client;

async fn session(server: &Server, pod: &Pod) -> Client<TcpStream> {
    let url = server.issue(pod.request()).unwrap();
    Client::connect(&url, "portforward.k8s.io").await.unwrap()
}

/// A pair of streams: error, data.
async fn pair(client: &mut Client<TcpStream>, port: &str, request: &str) -> (u32, u32) {
    let mut headers = [("streamtype", "error"), ("port", port), ("requestid", request)];
    let error = client.open(&headers).await;
    headers[0].1 = "data";
    (error, client.open(&headers).await)
}

#[tokio::test]
async fn connections_run_side_by_side_and_fail_alone() {
    let server = bind(Limits::default()).await;
    let pod = echo_pod().await;
    let mut client = session(&server, &pod).await;
    let mut pairs = Vec::new();
    for number in 0..50 {
        let port = if number % 5 == 0 { 9 } else { 1000 + number };
        let (error, data) = pair(&mut client, &port.to_string(), &number.to_string()).await;
        pairs.push((port, error, data));
    }
    for &(_, _, data) in &pairs {
        client.send(data, format!("through {data}").as_bytes()).await;
        client.finish(data).await;
    }
    client
        .until(|client| {
            pairs.iter().all(|(_, error, data)| client.over_with(*error) && client.over_with(*data))
        })
        .await;
    for (port, error, data) in pairs {
        if port == 9 {
            assert_eq!(client.text(error), "error forwarding port 9: nothing listens on 9");
            assert!(client.streams[&data].reset && client.data(data).is_empty());
        } else {
            assert_eq!(client.text(error), "");
            assert_eq!(client.text(data), format!("{port}\nthrough {data}bye\n"));
            assert!(client.streams[&data].finished);
        }
    }
    server.close().await;
}

#[tokio::test]
async fn streams_are_paired_by_request_or_by_number() {
    let server = bind(Limits::default()).await;
    let pod = echo_pod().await;
    let mut client = session(&server, &pod).await;
    // Interleaved, the data stream first.
    let data_a = client.open(&[("streamtype", "data"), ("port", "80"), ("requestid", "a")]).await;
    let data_b = client.open(&[("streamtype", "data"), ("port", "81"), ("requestid", "b")]).await;
    client.open(&[("streamtype", "error"), ("port", "81"), ("requestid", "b")]).await;
    client.open(&[("streamtype", "error"), ("port", "80"), ("requestid", "a")]).await;
    // Without a request: the error stream and the next one.
    client.open(&[("streamtype", "error"), ("port", "82")]).await;
    let old = client.open(&[("streamtype", "data"), ("port", "82")]).await;
    client
        .until(|client| {
            [(data_a, "80\n"), (data_b, "81\n"), (old, "82\n")]
                .iter()
                .all(|(id, text)| client.text(*id) == *text)
        })
        .await;
    for (name, headers) in [
        ("no port", &[("streamtype", "data"), ("requestid", "x")][..]),
        ("port 0", &[("streamtype", "data"), ("port", "0"), ("requestid", "x")]),
        ("large port", &[("streamtype", "data"), ("port", "65536"), ("requestid", "x")]),
        ("no type", &[("port", "80"), ("requestid", "x")]),
        ("other type", &[("streamtype", "stdin"), ("port", "80"), ("requestid", "x")]),
    ] {
        let id = client.open(headers).await;
        client.until(|client| client.over_with(id)).await;
        assert!(client.streams[&id].reset && !client.streams[&id].replied, "{name}");
    }
    let first = client.open(&[("streamtype", "data"), ("port", "83"), ("requestid", "y")]).await;
    let twice = client.open(&[("streamtype", "data"), ("port", "83"), ("requestid", "y")]).await;
    client.until(|client| client.over_with(twice)).await;
    client.open(&[("streamtype", "error"), ("port", "83"), ("requestid", "y")]).await;
    client.until(|client| client.text(first) == "83\n").await;
    server.close().await;
}

#[tokio::test]
async fn a_stream_without_its_other_is_told() {
    let limits = Limits { creation: Duration::from_millis(200), ..Limits::default() };
    let server = bind(limits).await;
    let pod = echo_pod().await;
    let mut client = session(&server, &pod).await;
    let error = client.open(&[("streamtype", "error"), ("port", "80"), ("requestid", "a")]).await;
    let data = client.open(&[("streamtype", "data"), ("port", "80"), ("requestid", "b")]).await;
    client.until(|client| client.over_with(error) && client.over_with(data)).await;
    assert_eq!(client.text(error), "(request=a) timed out waiting for streams");
    assert!(pod.connected.lock().unwrap().is_empty());
    // The session goes on.
    let (_, data) = pair(&mut client, "80", "a").await;
    client.until(|client| client.text(data) == "80\n").await;
    server.close().await;
}

#[tokio::test]
async fn a_client_that_gives_up_leaves_nothing_in_the_pod() {
    let server = bind(Limits::default()).await;
    let gone = Arc::new(Notify::new());
    let notify = Arc::clone(&gone);
    let request = Request::port_forward(vec![], move |_| {
        let notify = Arc::clone(&notify);
        async move {
            let (ours, mut theirs) = UnixStream::pair()?;
            tokio::spawn(async move {
                let _ = theirs.write_all(b"hi").await;
                let mut all = Vec::new();
                let _ = theirs.read_to_end(&mut all).await;
                notify.notify_one();
            });
            Ok(Box::new(ours) as Box<dyn Duplex>)
        }
    });
    let url = server.issue(request).unwrap();
    let mut client = Client::connect(&url, "portforward.k8s.io").await.unwrap();
    let (error, data) = pair(&mut client, "80", "0").await;
    client.until(|client| client.data(data) == b"hi").await;
    client.send(data, b"x").await;
    client.reset(data).await;
    tokio::time::timeout(patience(), gone.notified()).await.unwrap();
    client.until(|client| client.over_with(error)).await;
    let (_, data) = pair(&mut client, "80", "1").await;
    client.until(|client| client.data(data) == b"hi").await;
    client.send(data, b"x").await;
    drop(client);
    tokio::time::timeout(patience(), gone.notified()).await.unwrap();
    server.close().await;
}

#[tokio::test]
async fn streams_have_a_cap_and_their_places_come_back() {
    let server = bind(Limits { streams: 10, ..Limits::default() }).await;
    let pod = echo_pod().await;
    let mut client = session(&server, &pod).await;
    for round in 0..20 {
        let mut pairs = Vec::new();
        for number in 0..5 {
            pairs.push(pair(&mut client, "80", &format!("{round}-{number}")).await);
        }
        client.until(|client| pairs.iter().all(|(_, data)| client.text(*data) == "80\n")).await;
        let one_more = client.open(&[("streamtype", "data"), ("port", "80")]).await;
        client.until(|client| client.over_with(one_more)).await;
        assert!(client.streams[&one_more].reset);
        // Half of the clients do not end their sides of the error streams.
        for (error, data) in pairs {
            client.finish(data).await;
            if round % 2 == 0 {
                client.finish(error).await;
            }
            client.until(|client| client.over_with(data) && client.over_with(error)).await;
            assert_eq!(client.text(data), "80\nbye\n");
            if round % 2 == 1 {
                client.until(|client| client.streams[&error].reset).await;
            }
        }
    }
    server.close().await;
}

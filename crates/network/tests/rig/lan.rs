//! A host with a neighbour on a small LAN, each a network namespace of its own; who talks to whom.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pouch_netns::{Ipv6, Netns};

/// The host's address on the LAN.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The neighbour's.
pub(crate) const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest that a test may take.
const HANG: Duration = Duration::from_secs(90);
const SHORT: Duration = Duration::from_millis(700);

/// Runs `body` on a fresh host, with its directory and its neighbour. Skips where that cannot be had.
pub(crate) fn on_lan<F, W>(body: W)
where
    W: FnOnce(PathBuf, Netns) -> F + Send + 'static,
    F: Future<Output = ()>,
{
    if !rustix::process::geteuid().is_root() {
        println!("skipped: making network namespaces needs root");
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().to_owned();
    let host = Netns::create(&dir.join("netns/host"), Ipv6::Disabled).unwrap();
    let neighbour = Netns::create(&dir.join("netns/neighbour"), Ipv6::Disabled).unwrap();
    let at = dir.clone();
    let result = std::thread::spawn(move || {
        host.enter_thread().unwrap();
        lan(&dir.join("netns/neighbour"));
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let body = body(dir, neighbour);
            assert!(tokio::time::timeout(HANG, body).await.is_ok(), "the test hangs");
        });
    })
    .join();
    for path in pouch_netns::list(&at.join("netns")).unwrap() {
        pouch_netns::remove(&path).unwrap();
    }
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn ip(line: &str) -> String {
    run("ip", &line.split(' ').collect::<Vec<_>>())
}

fn lan(neighbour: &Path) {
    ip("link add lan0 type veth peer name eth0");
    ip("addr add 10.99.0.1/24 dev lan0");
    ip("link set lan0 up");
    ip(&format!("link set eth0 netns {}", neighbour.display()));
    ip("route add default via 10.99.0.2");
    inside(&Netns::open(neighbour).unwrap(), || {
        ip("addr add 10.99.0.2/24 dev eth0");
        ip("link set eth0 up");
    });
}

pub(crate) fn inside<T: Send + 'static>(ns: &Netns, f: impl FnOnce() -> T + Send + 'static) -> T {
    ns.run(f).unwrap()
}

pub(crate) fn listen(ns: &Netns, port: u16) -> TcpListener {
    inside(ns, move || TcpListener::bind(("0.0.0.0", port)).unwrap())
}

/// Sends a line to `to` from the calling thread's namespace, and gives what came back: the
/// address that the server saw.
fn exchange(to: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"x")?;
    let mut seen = String::new();
    stream.read_to_string(&mut seen)?;
    Ok(seen)
}

/// A server that tells each client its address, for as long as the process lives.
pub(crate) fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let mut one = [0];
            let _ = stream.read(&mut one);
            let _ = write!(stream, "{}", peer.ip());
        }
    });
}

pub(crate) fn asks(ns: &Netns, to: Ipv4Addr, port: u16) -> std::io::Result<String> {
    inside(ns, move || exchange((to, port).into(), PATIENCE))
}

pub(crate) fn host_asks(to: Ipv4Addr, port: u16) -> std::io::Result<String> {
    exchange((to, port).into(), PATIENCE)
}

/// As [`asks`], for what should fail: does not wait long.
pub(crate) fn refused(ns: &Netns, to: Ipv4Addr, port: u16) -> bool {
    inside(ns, move || exchange((to, port).into(), SHORT)).is_err()
}

pub(crate) fn ping(ns: &Netns, to: Ipv4Addr) -> bool {
    let to = to.to_string();
    inside(ns, move || {
        Command::new("busybox")
            .args(["ping", "-c", "1", "-W", "3", &to])
            .output()
            .is_ok_and(|o| o.status.success())
    })
}

/// A UDP server that tells each client its address.
pub(crate) fn serve_udp(ns: &Netns, port: u16) {
    let socket = inside(ns, move || UdpSocket::bind(("0.0.0.0", port)).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
        }
    });
}

pub(crate) fn udp_exchange(to: Ipv4Addr, port: u16) -> std::io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect((to, port))?;
    socket.send(b"x")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

//! Images come whatever happens on the way: the daemon dies at each step, connections break,
//! clients leave, the disk is full, everybody pulls and removes at once. What was fetched is not
//! fetched again, and nothing is left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pouch_testkit::{
    Archive, Census, Connection, Daemon, Fault, FaultProxy, Outcome, Shelf, busybox, daemon,
    docker_archive, eventually, noise,
};
use pouch_types::failpoint;
use serde_json::json;

use crate::disk_full::{on_a_small_disk, says_what_is_full};

/// A registry beside the daemon that has what is on the shelf and spoils it as told.
pub(crate) fn registry(d: &Daemon, shelf: &Arc<Shelf>) -> FaultProxy {
    d.netns().enter(|| FaultProxy::of(shelf))
}

/// A layer of one file without a pattern.
pub(crate) fn layer(name: &str, size: usize, seed: u64) -> Vec<u8> {
    let mut layer = Archive::new();
    layer.file(name, 0o644, &noise(size, seed));
    layer.finish()
}

/// What is on the disk. Deletions go on behind removals, so that nothing can be said of one moment.
fn files(d: &Daemon) -> Census {
    d.census().only("file")
}

#[track_caller]
pub(crate) fn nothing_left(d: &Daemon, before: &Census, what: &str) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let left = files(d).since(before);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{what} left behind:\n{left}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Sends `docker` words to a daemon that dies of them.
fn dies_of(d: &mut Daemon, point: &str, work: impl FnOnce(&Daemon) -> Outcome) {
    d.stop();
    d.start_again_with("POUCH_FAILPOINT", &format!("{point}:abort"));
    let said = work(d);
    let gone = "the daemon dies";
    assert_ne!(said.code(), 0, "{point} is never reached");
    eventually(gone, || !d.is_running());
    d.start_again();
}

/// What all that comes passes.
const COMING: &[&str] = &[
    "content:synced",
    "content:renamed",
    "layer:staged",
    "layer:synced",
    "layer:renamed",
    "layer:recorded",
    "admit:before-commit",
    "admit:committed",
];
const PULL: &[&str] = &[
    "pull:resolved",
    "pull:blob-begun",
    "pull:blob-nine-tenths",
    "pull:blob-kept",
    "pull:layers-complete",
];
const LOAD: &[&str] = &["load:spooled"];
const COMMIT: &[&str] = &["commit:spooled"];
const REMOVE: &[&str] = &[
    "rmi:before-commit",
    "rmi:committed",
    "layer:forgotten",
    "rmi:layer-removed",
    "rmi:blob-removed",
];

#[test]
fn every_point_of_images_is_in_a_matrix() {
    let mut all = [COMING, PULL, LOAD, COMMIT, REMOVE].concat();
    let mut listed = failpoint::IMAGE.to_vec();
    all.sort_unstable();
    listed.sort_unstable();
    assert_eq!(all, listed);
}

/// Lets the daemon die at each point of what makes the image `name`, and the same must work
/// afterwards: the image runs and goes without a trace. Then dies once more, and now nobody comes
/// back for it: a prune finds all that was left.
fn matrix(d: &mut Daemon, points: &[&[&str]], name: &str, make: impl Fn(&Daemon) -> Outcome) {
    d.restart();
    d.docker(&["run", "--rm", "busybox", "true"]).check();
    let before = files(d);
    for point in &points.concat() {
        println!("--- {point}");
        dies_of(d, point, &make);
        // After the last step it is there, and what is made again is another in its place.
        let done = d.docker(&["rmi", name]).code() == 0;
        assert_eq!(done, *point == "admit:committed", "{point}");
        make(d).check();
        assert_eq!(d.docker(&["run", "--rm", name, "cat", "/made"]).ok(), "so", "{point}");
        d.docker(&["rmi", name]).check();
        nothing_left(d, &before, point);

        dies_of(d, point, &make);
        // What the last step left is an image.
        let _ = d.docker(&["rmi", name]);
        d.docker(&["image", "prune", "-f"]).check();
        nothing_left(d, &before, &format!("{point} and a prune"));
    }
}

/// Layers of a small image that runs.
fn small_layers() -> Vec<Vec<u8>> {
    let mut made = Archive::new();
    made.file("made", 0o644, b"so");
    vec![busybox().to_vec(), layer("noise", 3 << 20, 1), made.finish()]
}

fn small_image(shelf: &mut Shelf, repository: &str) {
    let layers = small_layers();
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    shelf.image(repository, "1", &layers, &json!({"Cmd": ["cat", "/made"]}));
}

#[test]
fn crash_matrix_of_pull() {
    daemon(|d| {
        let mut shelf = Shelf::new();
        small_image(&mut shelf, "team/app");
        let proxy = registry(d, &Arc::new(shelf));
        let name = format!("{}/team/app:1", proxy.host());
        matrix(d, &[PULL, COMING], &name, |d| d.docker(&["pull", &name]));
    });
}

#[test]
fn crash_matrix_of_load() {
    daemon(|d| {
        let mut layer = Archive::busybox();
        layer.file("made", 0o644, b"so");
        let archive = docker_archive("app:1", &layer.finish(), &json!({"Cmd": ["sh"]}));
        matrix(d, &[LOAD, COMING], "app:1", |d| d.docker_with(&["load"], &archive));
    });
}

#[test]
fn crash_matrix_of_commit() {
    daemon(|d| {
        let script = "printf so > /made; head -c 1000000 /dev/urandom > /noise";
        d.docker(&["run", "--name", "box", "busybox", "sh", "-c", script]).check();
        matrix(d, &[COMMIT, COMING], "app:1", |d| d.docker(&["commit", "box", "app:1"]));
        d.docker(&["rm", "box"]).check();
    });
}

#[test]
fn crash_matrix_of_rmi() {
    daemon(|d| {
        let mut shelf = Shelf::new();
        small_image(&mut shelf, "team/app");
        let proxy = registry(d, &Arc::new(shelf));
        let name = format!("{}/team/app:1", proxy.host());
        d.restart();
        d.docker(&["run", "--rm", "busybox", "true"]).check();
        let before = files(d);
        for point in REMOVE {
            println!("--- {point}");
            d.docker(&["pull", &name]).check();
            dies_of(d, point, |d| d.docker(&["rmi", &name]));
            let fetched = proxy.bytes_sent();
            if *point == "rmi:before-commit" {
                d.docker(&["run", "--rm", &name]).check();
            } else {
                d.docker(&["rmi", &name]).fails_with("no such image");
            }
            // Layers that are still there serve the next pull.
            d.docker(&["pull", &name]).check();
            println!("{} bytes fetched again", proxy.bytes_sent() - fetched);
            assert_eq!(d.docker(&["run", "--rm", &name]).ok(), "so", "{point}");
            d.docker(&["rmi", &name]).check();
            nothing_left(d, &before, point);

            d.docker(&["pull", &name]).check();
            dies_of(d, point, |d| d.docker(&["rmi", &name]));
            let _ = d.docker(&["rmi", &name]);
            d.docker(&["image", "prune", "-f"]).check();
            nothing_left(d, &before, &format!("{point} and a prune"));
        }
    });
}

/// Makes all files in a directory of the content store two days old.
fn age(d: &Daemon, directory: &str) -> usize {
    let old = std::time::SystemTime::now() - Duration::from_secs(48 * 3600);
    let files = std::fs::read_dir(d.data_root().join(directory)).unwrap();
    let aged = files.map(|file| {
        let file = std::fs::File::options().write(true).open(file.unwrap().path()).unwrap();
        file.set_modified(old).unwrap();
    });
    aged.count()
}

#[test]
fn what_nobody_came_back_for_goes_after_a_day() {
    daemon(|d| {
        let mut shelf = Shelf::new();
        let layers = [layer("a", 3 << 20, 1), layer("b", 8 << 20, 2)];
        shelf.image("team/app", "1", &[&layers[0], &layers[1]], &json!({}));
        let proxy = registry(d, &Arc::new(shelf));
        let name = format!("{}/team/app:1", proxy.host());
        d.restart();
        let before = files(d);
        // One layer comes whole, of the other comes the half.
        proxy.fault("GET", &digest(&layers[1]), 1, Fault::Stall(4 << 20));
        let mut pull = d.docker_live(&["pull", &name]);
        eventually("one layer is there", || pull.output().contains("Pull complete"));
        eventually("half of the other is there", || proxy.bytes_sent() >= (7 << 20));
        pull.kill();
        d.crash();
        assert!(!files(d).since(&before).is_empty(), "nothing was kept for the next pull");
        d.stop();
        assert_eq!(age(d, "content/ingest"), 1);
        // Blobs of the images that are here are as old, and stay.
        assert!(age(d, "content/blobs/sha256") >= 2);
        d.start_again();
        let left = files(d).since(&before);
        assert!(!left.contains("/content/"), "{left}");
        // The layer's age is not for us to change.
        d.docker(&["image", "prune", "-f"]).check();
        nothing_left(d, &before, "a prune");
        assert_eq!(d.docker(&["run", "--rm", "busybox", "echo", "stays"]).ok(), "stays");
    });
}

#[test]
fn the_last_container_of_a_removed_image_takes_its_layers_along() {
    daemon(|d| {
        let before = files(d);
        let mut layer = Archive::busybox();
        layer.file("made", 0o644, b"so");
        d.import("app:1", &layer.finish(), &["CMD [\"true\"]"]);
        d.docker(&["create", "--name", "box", "app:1"]).check();
        d.docker(&["rmi", "-f", "app:1"]).check();
        d.docker(&["rm", "box"]).check();
        nothing_left(d, &before, "a removed image");
    });
}

fn digest(bytes: &[u8]) -> String {
    pouch_testkit::describe("", bytes)["digest"].as_str().unwrap().to_owned()
}

/// Whether the files of the image are those of its layers; removes it.
fn check_and_remove(d: &Daemon, name: &str, layers: &[Vec<u8>]) {
    d.docker(&["create", "--name", "checked", name, "none"]).check();
    let saved = d.path("export");
    d.docker(&["export", "-o", saved.to_str().unwrap(), "checked"]).check();
    let tar = std::fs::read(&saved).unwrap();
    std::fs::remove_file(saved).unwrap();
    for layer in layers {
        // A header, the file, and the end of the archive.
        let content = &layer[512..layer.len() - 1024];
        // Files begin at a block of the archive.
        let first = tar.chunks(512).position(|block| block == &content[..512]);
        let first = first.expect("the file of the layer") * 512;
        assert!(tar[first..].starts_with(content), "a file is damaged");
    }
    d.docker(&["rm", "checked"]).check();
    d.docker(&["rmi", name]).check();
}

/// The images that are pulled with interruptions: sizes of their layers in MB, and a name.
const LARGE: [(&str, &[usize]); 2] = [("three layers", &[40, 40, 40]), ("one layer", &[120])];

fn large(megabytes: &[usize]) -> (Arc<Shelf>, Vec<Vec<u8>>, u64) {
    let layers: Vec<Vec<u8>> = (1..)
        .zip(megabytes)
        .map(|(number, size)| layer(&format!("noise{number}"), size * 1_000_000, number))
        .collect();
    let mut shelf = Shelf::new();
    let all: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    shelf.image("large", "1", &all, &json!({}));
    let size = layers.iter().map(|layer| layer.len() as u64).sum();
    (Arc::new(shelf), layers, size)
}

#[test]
fn a_daemon_killed_at_nine_tenths_fetches_little_again() {
    daemon(|d| {
        for (what, megabytes) in LARGE {
            let (shelf, layers, size) = large(megabytes);
            let proxy = registry(d, &shelf);
            let name = format!("{}/large:1", proxy.host());
            // A line that is slower than the disk, as most are.
            let slow = Fault::Drip(64 << 10, Duration::from_millis(10));
            proxy.fault("GET", "blobs", usize::MAX, slow);
            let mut pull = d.docker_live(&["pull", &name]);
            eventually("nine tenths are sent", || proxy.bytes_sent() >= size / 10 * 9);
            d.kill9();
            pull.kill();
            proxy.heal();
            // The threads of the proxy see their connections break.
            let mut before = 0;
            eventually("nothing is sent any more", || {
                std::mem::replace(&mut before, proxy.bytes_sent()) == proxy.bytes_sent()
            });
            d.start_again();
            d.docker(&["pull", &name]).check();
            let all = proxy.bytes_sent();
            let again = all.saturating_sub(size);
            println!(
                "{what}: {size} bytes, {before} sent before the kill, {again} again ({:.1} %)",
                100.0 * again as f64 / size as f64
            );
            assert!(again <= size / 10, "{what}: {again} bytes of {size} fetched again");
            check_and_remove(d, &name, &layers);
        }
    });
}

#[test]
fn connections_that_break_every_20_mb_cost_nothing() {
    daemon(|d| {
        for (what, megabytes) in LARGE {
            let (shelf, layers, size) = large(megabytes);
            let proxy = registry(d, &shelf);
            let name = format!("{}/large:1", proxy.host());
            proxy.fault("GET", "blobs", usize::MAX, Fault::Cut(20_000_000));
            d.docker(&["pull", &name]).check();
            let (all, asked) = (proxy.bytes_sent(), proxy.count("GET", "blobs"));
            println!("{what}: {size} bytes, {all} sent in {asked} answers");
            assert!(all <= size / 100 * 105, "{what}: {all} bytes for {size}");
            check_and_remove(d, &name, &layers);
        }
    });
}

#[test]
fn a_busy_registry_is_given_the_time_it_asks_for() {
    daemon(|d| {
        let mut shelf = Shelf::new();
        small_image(&mut shelf, "team/app");
        let proxy = registry(d, &Arc::new(shelf));
        let name = format!("{}/team/app:1", proxy.host());
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let seconds = Fault::Status(429, vec![header("retry-after", "1")]);
        let date = Fault::Status(
            429,
            vec![
                header("date", "Sat, 21 Nov 2026 17:00:00 GMT"),
                header("retry-after", "Sat, 21 Nov 2026 17:00:02 GMT"),
            ],
        );
        proxy.fault("GET", "manifests", 1, seconds.clone());
        proxy.fault("GET", "blobs", 1, date);
        let began = Instant::now();
        d.docker(&["pull", &name]).check();
        assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
        d.docker(&["rmi", &name]).check();

        // Not for ever, and what came until then is kept.
        let third = &digest(&small_layers()[1]);
        let hours = Fault::Status(429, vec![header("retry-after", "7200")]);
        proxy.fault("GET", third, 1, hours);
        d.docker(&["pull", &name]).fails_with("toomanyrequests");
        let fetched = proxy.count("GET", &digest(busybox()));
        d.docker(&["pull", &name]).check();
        assert_eq!(proxy.count("GET", &digest(busybox())), fetched, "fetched again");
        d.docker(&["rmi", &name]).check();
    });
}

#[test]
fn attempts_are_as_many_as_configured() {
    daemon(|d| {
        d.stop();
        std::fs::write(d.path("config.json"), r#"{"max-download-attempts": 2}"#).unwrap();
        d.start_again();
        let mut shelf = Shelf::new();
        small_image(&mut shelf, "team/app");
        let proxy = registry(d, &Arc::new(shelf));
        let name = format!("{}/team/app:1", proxy.host());
        proxy.fault("GET", "manifests", usize::MAX, Fault::Status(503, Vec::new()));
        d.docker(&["pull", &name]).fails_with("503");
        assert_eq!(proxy.count("GET", "manifests"), 2);
    });
}

#[test]
fn ten_clients_fetch_each_layer_once_and_leave_as_they_like() {
    daemon(|d| {
        let mut shelf = Shelf::new();
        let layers: Vec<Vec<u8>> = (1..=5).map(|n| layer(&format!("f{n}"), 6 << 20, n)).collect();
        // Which layers each tag has; the first is everybody's.
        let tags: [(&str, &[usize]); 4] =
            [("a", &[0, 1]), ("b", &[0, 1, 2]), ("c", &[0, 3]), ("d", &[0, 3, 4])];
        for (tag, which) in tags {
            let of: Vec<&[u8]> = which.iter().map(|&n| &layers[n][..]).collect();
            shelf.image("team/app", tag, &of, &json!({}));
            shelf.image("other/name", tag, &of, &json!({"Labels": {"another": tag}}));
        }
        let shelf = Arc::new(shelf);
        let proxy = registry(d, &shelf);
        let slow = || Fault::Drip(64 << 10, Duration::from_millis(20));
        proxy.fault("GET", "blobs", usize::MAX, slow());
        let socket = d.socket();
        let ask = |tag: &str| {
            let path = format!("/images/create?fromImage={}/team/app&tag={tag}", proxy.host());
            Connection::send(&socket, "POST", &path, "text/plain", b"")
        };
        // Each tag has a first client that leaves, so that every layer outlives who began it.
        let leavers: Vec<Connection> = tags.iter().map(|(tag, _)| ask(tag)).collect();
        eventually("it has begun", || proxy.bytes_sent() > 4 << 20);
        let stayers: Vec<Connection> =
            ["a", "b", "c", "d", "a", "d"].iter().map(|tag| ask(tag)).collect();
        std::thread::sleep(Duration::from_millis(300));
        drop(leavers);
        std::thread::sleep(Duration::from_millis(300));
        proxy.heal();
        for stayer in stayers {
            let text = stayer.answer().text();
            assert!(text.contains("Status: "), "{text}");
        }
        for (number, layer) in layers.iter().enumerate() {
            assert_eq!(proxy.count("GET", &digest(layer)), 1, "GETs of layer {number}");
        }
        let size: u64 = layers.iter().map(|layer| layer.len() as u64).sum();
        let sent = proxy.bytes_sent();
        println!("10 clients, 4 tags: {sent} bytes sent for {size} of layers");
        assert!(sent <= size + (1 << 20));

        // By another name and from another registry there is nothing to fetch but documents.
        let second = registry(d, &shelf);
        for (tag, _) in tags {
            d.docker(&["pull", &format!("{}/other/name:{tag}", second.host())]).check();
        }
        assert!(second.bytes_sent() < 1 << 20, "{} bytes", second.bytes_sent());
        for layer in &layers {
            assert_eq!(second.count("GET", &digest(layer)), 0);
        }
    });
}

#[test]
fn a_full_disk_ends_a_pull_and_nothing_else() {
    on_a_small_disk(|d, _| {
        let mut shelf = Shelf::new();
        // More than the disk with blobs and files together, and less with half of it.
        let layers = [layer("a", 50 << 20, 1), layer("b", 50 << 20, 2)];
        shelf.image("large", "1", &[&layers[0], &layers[1]], &json!({}));
        shelf.image("fits", "1", &[&layers[0]], &json!({}));
        let proxy = registry(d, &Arc::new(shelf));
        let script = "trap 'exit 9' TERM; while :; do sleep 0.05; done";
        d.docker(&["run", "-d", "--name", "box", "busybox", "sh", "-c", script]).check();
        let (pid, before) = (d.pid(), files(d));

        let pull = d.docker(&["pull", &format!("{}/large:1", proxy.host())]);
        pull.exits(1);
        says_what_is_full(d, &pull.stderr);
        nothing_left(d, &before, "a pull to a full disk");
        d.docker(&["exec", "box", "true"]).check();

        let mut both = Archive::new();
        both.file("a", 0o644, &noise(50 << 20, 3)).file("b", 0o644, &noise(50 << 20, 4));
        let archive = docker_archive("large:2", &both.finish(), &json!({}));
        let load = d.docker_with(&["load"], &archive);
        load.exits(1);
        says_what_is_full(d, &format!("{}{}", load.stdout, load.stderr));
        nothing_left(d, &before, "a load to a full disk");

        d.docker(&["stop", "-t", "5", "box"]).check();
        assert_eq!(d.inspect("box")["State"]["ExitCode"], 9);
        d.docker(&["rm", "box"]).check();
        let fits = format!("{}/fits:1", proxy.host());
        d.docker(&["pull", &fits]).check();
        assert_eq!(d.pid(), pid);
        check_and_remove(d, &fits, &layers[..1]);
    });
}

#[test]
fn nothing_in_use_goes_while_everybody_pulls_and_removes() {
    const SECONDS: u64 = 20;
    const CLIENTS: usize = 4;
    daemon(|d| {
        let mut shelf = Shelf::new();
        let layers: Vec<Vec<u8>> = (1..=4).map(|n| layer(&format!("f{n}"), 200_000, n)).collect();
        let tags = ["a", "b", "c"];
        for (first, tag) in tags.iter().enumerate() {
            let mut made = Archive::new();
            made.file("made", 0o644, tag.as_bytes());
            let made = made.finish();
            let of = [busybox(), &layers[first][..], &layers[first + 1][..], &made[..]];
            shelf.image("team/app", tag, &of, &json!({"Cmd": ["cat", "/made"]}));
        }
        let proxy = registry(d, &Arc::new(shelf));
        proxy.fault("GET", "blobs", usize::MAX, Fault::Drip(64 << 10, Duration::from_millis(5)));
        d.restart();
        d.docker(&["run", "--rm", "busybox", "true"]).check();
        let before = files(d);
        let name = |tag: &str| format!("{}/team/app:{tag}", proxy.host());
        d.docker(&["create", "--name", "keeper", "busybox"]).check();
        // In use from the beginning, with a name that others take away.
        d.docker(&["run", "-d", "--name", "held", &name("a"), "sh", "-c", "sleep 600"]).check();
        let (mut kills, mut uses) = (0, 0);
        let end = Instant::now() + Duration::from_secs(SECONDS);
        while Instant::now() < end {
            let stop = AtomicBool::new(false);
            uses += std::thread::scope(|scope| {
                let (d, stop, name) = (&*d, &stop, &name);
                let clients: Vec<_> = (0..CLIENTS)
                    .map(|client| scope.spawn(move || churn(d, client, stop, name)))
                    .collect();
                std::thread::sleep(Duration::from_millis(2500));
                stop.store(true, Ordering::SeqCst);
                // The daemon dies under what they are doing.
                d.signal(rustix::process::Signal::KILL);
                clients.into_iter().map(|client| client.join().unwrap()).sum::<u64>()
            });
            kills += 1;
            eventually("the daemon is dead", || !d.is_running());
            d.start_again();
            assert_eq!(d.docker(&["exec", "held", "cat", "/made"]).ok(), "a");
            assert_eq!(d.docker(&["run", "--rm", "busybox", "echo", "in"]).ok(), "in");
        }
        println!("{uses} images used, {kills} daemons died");
        assert!(uses > 0, "no image was ever used");
        d.docker(&["pull", &name("b")]).check();
        d.docker(&["rm", "-f", "held"]).check();
        let ids = d.docker(&["ps", "-aq"]).ok().to_owned();
        for id in ids.split_whitespace() {
            d.docker(&["rm", "-f", id]).check();
        }
        // What is told of the disk is what is there.
        let mut usage = d.get("/system/df").is(200).json();
        let sizes: Vec<i64> = usage["Images"]
            .as_array_mut()
            .unwrap()
            .iter()
            .map(|image| image["Size"].as_i64().unwrap())
            .collect();
        let shared: i64 = usage["LayersSize"].as_i64().unwrap();
        assert!(shared <= sizes.iter().sum::<i64>(), "{usage}");
        d.docker(&["image", "prune", "-f"]).check();
        for tag in tags {
            let _ = d.docker(&["rmi", "-f", &name(tag)]);
        }
        assert_eq!(d.docker(&["images", "-aq"]).ok().lines().count(), 1, "busybox alone");
        let usage = d.get("/system/df").is(200).json();
        assert_eq!(usage["LayersSize"], usage["Images"][0]["Size"]);
        d.docker(&["image", "prune", "-f"]).check();
        nothing_left(d, &before, "the race");
    });
}

/// Pulls, uses, removes and prunes until told to stop; how many images were used. Every refusal is
/// fine but one: an image that is here makes a container, with what was put into it.
fn churn(
    d: &Daemon,
    client: usize,
    stop: &AtomicBool,
    name: &(impl Fn(&str) -> String + Sync),
) -> u64 {
    let tags = ["a", "b", "c"];
    let (mut used, mut step) = (0, client);
    while !stop.load(Ordering::SeqCst) {
        let tag = tags[step % tags.len()];
        let image = name(tag);
        match (client + step) % 4 {
            0 => drop(d.docker(&["rmi", "-f", &image])),
            1 => drop(d.docker(&["image", "prune", "-a", "-f"])),
            _ => {
                let name = format!("box{client}");
                // One may be left from before the daemon died.
                let _ = d.docker(&["rm", "-f", &name]);
                let made = d.docker(&["create", "--name", &name, "--pull", "always", &image]);
                if made.code() == 0 {
                    let copy = d.docker(&["cp", &format!("{name}:/made"), "-"]);
                    if copy.code() == 0 {
                        assert!(copy.stdout.contains(&format!("\0{tag}\0")), "another's file");
                        used += 1;
                    }
                } else if !stop.load(Ordering::SeqCst) {
                    // Removed between pull and create is the only way to fail.
                    made.fails_with("no such image");
                }
                let _ = d.docker(&["rm", "-f", &name]);
            }
        }
        step += 1;
    }
    used
}

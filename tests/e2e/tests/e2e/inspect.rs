//! What is told of containers and of the daemon, in the shapes that clients rely on.

use pouch_testkit::{Host, daemon};

#[test]
fn a_container_says_what_it_was_made_of() {
    daemon(|d| {
        d.docker(&[
            "run",
            "-d",
            "--name",
            "box",
            "-e",
            "A=b",
            "--label",
            "k=v",
            "--hostname",
            "h",
            "--restart",
            "on-failure:3",
            "-m",
            "64m",
            "busybox",
            "sleep",
            "600",
        ])
        .check();
        let c = d.inspect("box");
        assert_eq!(c["Name"], "/box");
        assert_eq!(c["Path"], "sleep");
        assert_eq!(c["Args"], serde_json::json!(["600"]));
        assert_eq!(c["Config"]["Image"], "busybox");
        assert_eq!(c["Config"]["Hostname"], "h");
        assert_eq!(c["Config"]["Labels"]["k"], "v");
        assert_eq!(c["HostConfig"]["Memory"], 64 << 20);
        assert_eq!(c["HostConfig"]["RestartPolicy"]["Name"], "on-failure");
        assert_eq!(c["HostConfig"]["RestartPolicy"]["MaximumRetryCount"], 3);
        assert_eq!(c["State"]["Running"], true);
        assert_eq!(c["Image"].as_str().unwrap().len(), "sha256:".len() + 64);
        assert!(c["NetworkSettings"]["Networks"]["bridge"]["IPAddress"].is_string());
        // Go's zero time and empty lists are seen by clients.
        assert_eq!(c["State"]["FinishedAt"], "0001-01-01T00:00:00Z");
        assert_eq!(c["Mounts"], serde_json::json!([]));
        let format =
            "{{.State.Status}} {{json .Config.Cmd}} {{range .Config.Env}}{{println .}}{{end}}";
        let said = d.docker(&["inspect", "-f", format, "box"]);
        assert!(said.ok().starts_with("running [\"sleep\",\"600\"] "), "{}", said.ok());
    });
}

#[test]
fn the_daemon_describes_itself_to_old_and_new_clients() {
    daemon(|d| {
        let ping = d.get("/_ping");
        assert_eq!(ping.is(200).text(), "OK");
        for header in ["Api-Version", "Ostype", "Server", "Builder-Version", "Cache-Control"] {
            assert!(ping.header(header).is_some(), "no {header} in {}", ping.head);
        }
        let head = d.request("HEAD", "/_ping", b"");
        assert_eq!((head.status, head.body.len()), (200, 0));
        let version = d.get("/version").is(200).json();
        assert_eq!(version["MinAPIVersion"], "1.24");
        let api = version["ApiVersion"].as_str().unwrap().to_owned();
        for path in ["/version", "/v1.24/version", &format!("/v{api}/version")] {
            d.get(path).is(200);
        }
        assert!(d.get("/v1.23/version").is(400).message().contains("too old"));
        assert!(d.get("/v9.99/version").is(400).message().contains("too new"));
        let info = d.get("/info").is(200).json();
        assert_eq!(info["Images"], 1);
        assert_eq!(info["Containers"], 0);
        assert_eq!(info["OSType"], "linux");
        assert_eq!(info["DockerRootDir"], d.data_root().to_str().unwrap());
        assert!(d.docker(&["version"]).ok().contains("Server:"));
        assert!(d.docker(&["info"]).ok().contains("Server Version:"));
        let old = d.docker_command(&["ps"]);
        let mut old = old;
        old.env("DOCKER_API_VERSION", "1.24");
        assert!(old.output().unwrap().status.success());
        assert_eq!(d.get("/swarm").status, 503);
        assert_eq!(d.get("/no/such/page").is(404).message(), "page not found");
    });
}

#[test]
fn networks_are_listed_and_inspected() {
    Host::new().run(|d| {
        let names = d.docker(&["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"]);
        let mut names: Vec<&str> = names.ok().lines().collect();
        names.sort_unstable();
        assert_eq!(names, ["bridge bridge local", "host host local", "none null local"]);
        let id = d.docker(&["run", "-d", "busybox", "sleep", "60"]).ok().to_owned();
        let network = d.get("/networks/bridge").is(200).json();
        assert_eq!(network["IPAM"]["Config"][0]["Subnet"], "172.31.0.0/24");
        let endpoint = &network["Containers"][&id];
        assert!(endpoint["IPv4Address"].as_str().unwrap().starts_with("172.31.0."), "{network}");
        assert_eq!(d.get("/networks/nothing").status, 404);
    });
}

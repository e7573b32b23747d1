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

#[test]
fn options_come_back_as_they_were_spelled() {
    daemon(|d| {
        let words = ["create", "--name", "box", "-v", "vol:/a:rw", "-v", "vol:/b", "-v", "/tmp:/c"];
        let more = ["-v", "/tmp:/d/:ro,rslave", "--tmpfs", "/t:rw,size=1m"];
        let rest = ["--security-opt", "no-new-privileges", "busybox"];
        d.docker(&[&words[..], &more, &rest].concat()).check();
        let c = d.inspect("box");
        let mut binds: Vec<&str> = c["HostConfig"]["Binds"]
            .as_array()
            .unwrap()
            .iter()
            .map(|b| b.as_str().unwrap())
            .collect();
        binds.sort_unstable();
        assert_eq!(binds, ["/tmp:/c", "/tmp:/d/:ro,rslave", "vol:/a:rw", "vol:/b"]);
        assert_eq!(c["HostConfig"]["Tmpfs"]["/t"], "rw,size=1m");
        assert_eq!(c["HostConfig"]["SecurityOpt"], serde_json::json!(["no-new-privileges"]));
        let mode = |destination: &str| {
            let mounts = c["Mounts"].as_array().unwrap();
            let mount = mounts.iter().find(|m| m["Destination"] == destination).unwrap();
            mount["Mode"].as_str().unwrap().to_owned()
        };
        let modes = ["/a", "/b", "/c", "/d"].map(mode);
        assert_eq!(modes, ["rw", "z", "", "ro,rslave"]);
    });
}

#[test]
fn shielded_paths_are_shown_unless_a_container_has_none() {
    daemon(|d| {
        d.docker(&["create", "--name", "plain", "busybox"]).check();
        let open = ["create", "--name", "open", "--security-opt", "systempaths=unconfined"];
        d.docker(&[&open[..], &["busybox"]].concat()).check();
        d.docker(&["create", "--name", "strong", "--privileged", "busybox"]).check();
        let shown = |name: &str, field: &str| d.inspect(name)["HostConfig"][field].clone();
        for (field, path) in [("MaskedPaths", "/proc/kcore"), ("ReadonlyPaths", "/proc/sys")] {
            let plain = shown("plain", field);
            assert!(plain.as_array().unwrap().contains(&path.into()), "{field}: {plain}");
            assert_eq!(shown("open", field), serde_json::json!([]));
            assert_eq!(shown("strong", field), serde_json::Value::Null);
        }
        let dirs = d.inspect("plain")["GraphDriver"]["Data"].clone();
        for name in ["LowerDir", "UpperDir", "WorkDir"] {
            let first = dirs[name].as_str().unwrap().split(':').next().unwrap().to_owned();
            assert!(std::path::Path::new(&first).is_dir(), "{name}: {dirs}");
        }
    });
}

#[test]
fn old_clients_find_the_fields_of_their_version() {
    daemon(|d| {
        let old = d.get("/v1.41/info").is(200).json();
        assert!(old["BridgeNfIptables"].is_boolean() && old["KernelMemory"].is_boolean(), "{old}");
        assert!(old["RuncCommit"]["Expected"].is_string());
        assert!(d.get("/v1.50/info").json()["BridgeNfIptables"].is_null());
        assert_eq!(d.get("/v1.41/images/busybox/json").json()["Container"], "");
        assert_eq!(d.get("/v1.41/system/df").json()["BuilderSize"], 0);
        assert_eq!(d.get("/networks/host").json()["IPAM"]["Config"], serde_json::json!([]));
        let missing = d.post("/containers/create", &serde_json::json!({"Image": "nothing"}));
        assert_eq!(missing.is(404).message(), "No such image: nothing:latest");
        d.docker(&["create", "--name", "box", "-v", "vol:/v", "busybox"]).check();
        let used = d.delete("/volumes/vol");
        let id = d.inspect("box")["Id"].as_str().unwrap().to_owned();
        assert_eq!(used.is(409).message(), format!("remove vol: volume is in use - [{id}]"));
        assert_eq!(d.get("/volumes/none").is(404).message(), "get none: no such volume");
        let load = d.request("POST", "/images/load?platform=%7B%7D", b"");
        assert_eq!(load.is(400).message(), "both OS and Architecture must be provided");
    });
}

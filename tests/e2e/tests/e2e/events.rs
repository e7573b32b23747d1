//! `docker events`.

use pouch_testkit::daemon;
use serde_json::Value;

#[test]
fn a_run_tells_its_story_in_order() {
    daemon(|d| {
        let mut events = d.docker_live(&["events", "--format", "{{.Type}} {{.Action}}"]);
        std::thread::sleep(std::time::Duration::from_millis(400));
        d.docker(&["run", "--rm", "--name", "box", "busybox", "sh", "-c", "exit 3"]).exits(3);
        for wanted in ["container create", "container attach", "container start", "container die"] {
            events.expect(&format!("{wanted}\n"));
        }
        events.expect("container destroy\n");
        let all = events.output();
        assert!(all.contains("network connect\n") && all.contains("network disconnect\n"), "{all}");
    });
}

#[test]
fn the_past_is_told_with_attributes_and_filters() {
    daemon(|d| {
        let began = d.get("/info").json()["SystemTime"].as_str().unwrap().to_owned();
        let words = ["run", "--name", "box", "--label", "k=v", "busybox", "sh", "-c", "exit 3"];
        d.docker(&words).exits(3);
        d.docker(&["create", "--name", "other", "busybox"]).check();
        let said = |filter: &str| {
            let words = ["events", "--since", &began, "--until=-1s", "--format", "{{json .}}"];
            let run = d.docker(&[&words[..], &["--filter", filter]].concat());
            let lines = run.ok().lines().map(|line| serde_json::from_str(line).unwrap());
            lines.collect::<Vec<Value>>()
        };
        let died = &said("event=die")[0];
        assert_eq!(died["Actor"]["Attributes"]["exitCode"], "3");
        assert_eq!(died["Actor"]["Attributes"]["name"], "box");
        assert_eq!(died["Actor"]["Attributes"]["image"], "busybox");
        assert_eq!(died["Actor"]["Attributes"]["k"], "v");
        // What clients before API 1.22 read.
        assert_eq!((&died["status"], &died["from"]), (&"die".into(), &"busybox".into()));
        assert_eq!(died["id"], died["Actor"]["ID"]);
        assert!(
            said("container=other").iter().all(|e| e["Actor"]["Attributes"]["name"] == "other")
        );
        assert!(said("type=image").is_empty());
        assert!(!said("label=k=v").is_empty());
        assert_eq!(d.get("/events?until=0&filters={%22odd%22:[%22x%22]}").status, 400);
    });
}

/// What happened since a moment, of one type or of all. Over the API: the CLI cuts times to seconds.
fn since(d: &pouch_testkit::Daemon, began: &str, kind: &str) -> Vec<Value> {
    let filters = match kind {
        "" => String::new(),
        kind => format!("&filters=%7B%22type%22%3A%5B%22{kind}%22%5D%7D"),
    };
    let answer = d.get(&format!("/events?since={began}&until={}{filters}", now(d)));
    answer.is(200).text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// As `action name`, where there is a name.
fn told(d: &pouch_testkit::Daemon, began: &str, kind: &str) -> Vec<String> {
    let line = |event: Value| {
        let name = event["Actor"]["Attributes"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["Action"].as_str().unwrap()).trim_end().to_owned()
    };
    since(d, began, kind).into_iter().map(line).collect()
}

fn now(d: &pouch_testkit::Daemon) -> String {
    d.get("/info").json()["SystemTime"].as_str().unwrap().to_owned()
}

#[test]
fn the_end_of_an_exec_is_never_told_before_its_start() {
    daemon(|d| {
        d.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]).check();
        let began = now(d);
        let d = &*d;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(move || {
                    for _ in 0..5 {
                        d.docker(&["exec", "box", "true"]).check();
                    }
                });
            }
        });
        let mut stories = std::collections::BTreeMap::<String, Vec<String>>::new();
        for event in since(d, &began, "container") {
            let Some(exec) = event["Actor"]["Attributes"]["execID"].as_str() else { continue };
            let action = event["Action"].as_str().unwrap();
            let action = action.split(':').next().unwrap().to_owned();
            stories.entry(exec.to_owned()).or_default().push(action);
        }
        assert_eq!(stories.len(), 40);
        for story in stories.values() {
            assert_eq!(*story, ["exec_create", "exec_start", "exec_die"]);
        }
    });
}

#[test]
fn what_happens_to_images_is_told() {
    daemon(|d| {
        let began = now(d);
        let busybox = d.get("/images/busybox/json").json()["Id"].as_str().unwrap().to_owned();
        d.import("made:1", pouch_testkit::busybox(), &["LABEL k=v"]);
        let made = d.get("/images/made:1/json").json()["Id"].as_str().unwrap().to_owned();
        d.docker(&["tag", "busybox", "other:2"]).check();
        d.docker(&["save", "-o", d.path("t").to_str().unwrap(), "made:1"]).check();
        d.docker(&["rmi", "other:2"]).check();
        d.docker(&["rmi", "made:1"]).check();
        d.docker(&["load", "-i", d.path("t").to_str().unwrap()]).check();
        d.docker(&["image", "prune", "-f"]).check();
        let wanted = [
            "tag made:1".to_owned(),
            format!("import {made}"),
            "tag other:2".to_owned(),
            format!("save {made}"),
            format!("untag {busybox}"),
            format!("untag {made}"),
            format!("delete {made}"),
            format!("load {made}"),
            "prune".to_owned(),
        ];
        assert_eq!(told(d, &began, "image"), wanted);
        // Found by the labels of the image, as events of containers are.
        let imported = since(d, &began, "image").into_iter().find(|e| e["Action"] == "import");
        assert_eq!(imported.unwrap()["Actor"]["Attributes"]["k"], "v");
    });
}

#[test]
fn what_happens_to_volumes_and_networks_is_told() {
    daemon(|d| {
        let began = now(d);
        d.docker(&["volume", "create", "vol"]).check();
        d.docker(&["run", "--rm", "-v", "vol:/data:ro", "busybox", "true"]).check();
        d.docker(&["volume", "rm", "vol"]).check();
        d.docker(&["volume", "prune", "-f"]).check();
        d.docker(&["container", "prune", "-f"]).check();
        assert_eq!(told(d, &began, "volume"), ["create", "mount", "unmount", "destroy", "prune"]);
        assert_eq!(told(d, &began, "network"), ["connect bridge", "disconnect bridge"]);
        let last = told(d, &began, "container");
        assert_eq!(last.last().map(String::as_str), Some("prune"));
        let mount =
            since(d, &began, "volume").into_iter().find(|e| e["Action"] == "mount").unwrap();
        let said = &mount["Actor"]["Attributes"];
        assert_eq!((&said["destination"], &said["read/write"]), (&"/data".into(), &"false".into()));
        assert_eq!((&said["driver"], &mount["Actor"]["ID"]), (&"local".into(), &"vol".into()));
    });
}

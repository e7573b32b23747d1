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

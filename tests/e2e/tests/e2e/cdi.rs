//! Devices of vendors by their CDI names, from a directory of the daemon's configuration.

use pouch_testkit::{Daemon, daemon};
use serde_json::json;

const NULL: &str = "vendor.com/class=null";

/// Gives the daemon a directory of its own with one vendor's file, and what the file names.
fn vendor(d: &mut Daemon) {
    let dir = d.path("cdi");
    std::fs::create_dir(&dir).unwrap();
    let library = d.path("library");
    std::fs::write(&library, "vendor's code\n").unwrap();
    let hook = d.path("hook");
    let script = format!("#!/bin/sh\ncat > {}\n", d.path("hook-state").display());
    std::fs::write(&hook, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&hook, mode).unwrap();
    let text = format!(
        "cdiVersion: 0.7.0\n\
         kind: vendor.com/class\n\
         containerEdits:\n\
         \x20 env: [VENDOR=common]\n\
         devices:\n\
         - name: 'null'\n\
         \x20 containerEdits:\n\
         \x20   env: [VENDOR_DEVICE=null]\n\
         \x20   additionalGids: [4242]\n\
         \x20   deviceNodes:\n\
         \x20   - {{path: /dev/vendor-null, hostPath: /dev/null, fileMode: 0640}}\n\
         \x20   mounts:\n\
         \x20   - {{hostPath: {}, containerPath: /vendor/lib, options: [ro, bind]}}\n\
         \x20   hooks:\n\
         \x20   - {{hookName: createRuntime, path: {}}}\n",
        library.display(),
        hook.display(),
    );
    std::fs::write(dir.join("vendor.yaml"), text).unwrap();
    d.stop();
    let config = json!({ "cdi-spec-dirs": [dir] });
    std::fs::write(d.path("config.json"), config.to_string()).unwrap();
    d.start_again();
}

#[test]
fn a_device_of_a_vendor_brings_all_that_it_needs() {
    daemon(|d| {
        vendor(d);
        let script = "echo $VENDOR $VENDOR_DEVICE; id -G; cat /vendor/lib; \
                      stat -c '%t %T %a' /dev/vendor-null; \
                      echo gone > /dev/vendor-null && echo written; \
                      echo x 2>&1 > /vendor/lib || echo read-only";
        let run = d.docker(&["run", "--rm", "--device", NULL, "busybox", "sh", "-c", script]);
        let text = run.ok();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "common null");
        assert!(lines[1].split(' ').any(|gid| gid == "4242"), "{text}");
        assert_eq!(lines[2..5], ["vendor's code", "1 3 640", "written"], "{text}");
        assert!(text.ends_with("read-only"), "{text}");
        let state: serde_json::Value =
            serde_json::from_slice(&std::fs::read(d.path("hook-state")).unwrap()).unwrap();
        assert!(state["pid"].as_u64().is_some_and(|pid| pid > 1), "{state}");
        // Without the device there is nothing of it.
        let words = ["run", "--rm", "busybox", "sh", "-c", "ls /dev/vendor-null; echo =$VENDOR"];
        assert_eq!(d.docker(&words).ok(), "=");
    });
}

#[test]
fn devices_survive_restarts_and_are_shown() {
    daemon(|d| {
        vendor(d);
        let script = ["sh", "-c", "echo $VENDOR"];
        let words = ["create", "--name", "box", "--device", NULL, "busybox"];
        d.docker(&[&words[..], &script].concat()).check();
        let requests = &d.inspect("box")["HostConfig"]["DeviceRequests"];
        assert_eq!(requests[0]["Driver"], "cdi");
        assert_eq!(requests[0]["DeviceIDs"], json!([NULL]));
        assert_eq!(d.docker(&["start", "-a", "box"]).ok(), "common");
        // The file is what counts when a container starts.
        let path = d.path("cdi").join("vendor.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("VENDOR=common", "VENDOR=other-now")).unwrap();
        d.restart();
        assert_eq!(d.docker(&["start", "-a", "box"]).ok(), "other-now");
        std::fs::remove_file(&path).unwrap();
        let start = d.docker(&["start", "box"]);
        assert!(start.stderr.contains(&format!("unresolvable CDI devices {NULL}")), "{start:?}");
        let info = d.docker(&["info", "-f", "{{json .CDISpecDirs}}"]);
        assert_eq!(info.ok(), json!([d.path("cdi")]).to_string());
    });
}

#[test]
fn devices_that_cannot_be_had_are_named() {
    daemon(|d| {
        vendor(d);
        std::fs::write(d.path("cdi").join("broken.json"), "{").unwrap();
        let unknown = "vendor.com/class=absent";
        let run = d.docker(&["run", "--rm", "--device", unknown, "busybox", "true"]);
        run.exits(125);
        assert!(run.stderr.contains(&format!("unresolvable CDI devices {unknown}")), "{run:?}");
        assert!(run.stderr.contains("broken.json"), "{run:?}");
        // A bad file hides no other one.
        d.docker(&["run", "--rm", "--device", NULL, "busybox", "true"]).check();
        let run = d.docker(&["run", "--rm", "--gpus", "all", "busybox", "true"]);
        run.exits(125);
        assert!(run.stderr.contains("DeviceRequests"), "{run:?}");
    });
}

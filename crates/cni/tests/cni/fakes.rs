//! Plugins that are scripts: what they are told, and what becomes of those that misbehave.

use std::fs;
use std::time::{Duration, Instant};

use pouch_cni::{
    Attachment, CniConfig, CniError, Deadlines, NativeUse, PluginFailure, Stage, ValidAttachment,
};
use pouch_netns::{Ipv6, Netns};
use pouch_types::{Classified, ErrorKind};
use serde_json::{Value, json};

use crate::rig::{Node, inside, ip, on_node};

const RESULT: &str = r#"cat <<E
{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/x"}],
 "ips":[{"address":"10.9.0.2/24","gateway":"10.9.0.1","interface":0}],"routes":[{"dst":"0.0.0.0/0"}]}
E"#;

fn good(command_of_ok: &str) -> String {
    format!("case $CNI_COMMAND in ADD) {RESULT}\n;; VERSION) {VERSIONS};; {command_of_ok}) ;; esac")
}

const VERSIONS: &str =
    r#"echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}'"#;

fn failure(error: CniError) -> (Stage, PluginFailure) {
    let text = error.to_string();
    match error {
        CniError::Plugin { stage, failure, .. } => (stage, *failure),
        _ => panic!("{text}"),
    }
}

async fn brisk(node: &Node, time: Duration) -> pouch_cni::Cni {
    let deadlines = Deadlines { add: time, del: time, check: time, status: time };
    pouch_cni::Cni::open(CniConfig { deadlines, ..node.config() }).await.unwrap()
}

#[test]
fn plugins_are_told_what_the_specification_says() {
    on_node(|node| async move {
        let env = node.dir.join("env");
        node.fake("one", &format!("env | sort > {}\n{}", env.display(), good("DEL")));
        node.fake("two", &good("DEL|CHECK"));
        node.network(
            "net",
            "0.4.0",
            &json!([{"type": "one", "capabilities": {"mac": true, "dns": false}}, {"type": "two"}]),
        );
        let cni = node.cni(NativeUse::Yes).await;
        let mut pod = node.pod("a");
        inside(&pod.netns, || ip("link set lo down"));
        pod.attachment.capabilities = [
            ("mac".to_owned(), json!("02:00:00:00:00:01")),
            ("dns".to_owned(), json!({"servers": ["1.1.1.1"]})),
        ]
        .into();
        let added = pod.add(&cni).await.unwrap();
        assert_eq!(added.network, "net");
        assert_eq!(added.ips[0].gateway.unwrap().to_string(), "10.9.0.1");
        assert_eq!(added.raw["cniVersion"], "0.4.0");
        assert_eq!(added.raw["ips"][0]["version"], "4", "converted from what 1.0.0 said");
        assert!(inside(&pod.netns, || ip("link show lo")).contains("UP"), "lo is brought up");

        let first = node.told("one", "ADD");
        assert_eq!(first["runtimeConfig"], json!({"mac": "02:00:00:00:00:01"}));
        assert_eq!((&first["name"], &first["cniVersion"]), (&json!("net"), &json!("0.4.0")));
        assert_eq!(first.get("prevResult"), None);
        let second = node.told("two", "ADD");
        assert_eq!(second["prevResult"], added.raw);
        assert_eq!(second.get("runtimeConfig"), None);
        let env = fs::read_to_string(env).unwrap();
        let names: Vec<_> = env.lines().filter_map(|l| l.split_once('=')).map(|l| l.0).collect();
        let ours = |n: &&&str| !matches!(**n, "PWD" | "_" | "SHLVL" | "OLDPWD");
        assert_eq!(
            names.iter().filter(ours).copied().collect::<Vec<_>>(),
            [
                "CNI_ARGS",
                "CNI_COMMAND",
                "CNI_CONTAINERID",
                "CNI_IFNAME",
                "CNI_NETNS",
                "CNI_PATH",
                "PATH"
            ]
        );
        assert!(env.contains("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default\n"));

        let again = pod.add(&cni).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        cni.check(&pod.attachment).await.unwrap();
        assert_eq!(node.told("two", "CHECK")["prevResult"], added.raw);
        cni.del(&pod.attachment).await.unwrap();
        assert_eq!(node.told("one", "DEL")["prevResult"], added.raw);
        assert_eq!(
            node.log(),
            ["one ADD", "two ADD", "one CHECK", "two CHECK", "two DEL", "one DEL"]
                .map(str::to_owned)
        );
    });
}

#[test]
fn a_failure_undoes_the_plugins_before_it_in_reverse() {
    on_node(|node| async move {
        node.fake("one", &good("DEL"));
        node.fake(
            "two",
            r#"[ $CNI_COMMAND = DEL ] && exit
               echo '{"code": 11, "msg": "not now", "details": "later"}'; echo oops >&2; exit 1"#,
        );
        node.network("net", "1.0.0", &json!([{"type": "one"}, {"type": "two"}, {"type": "one"}]));
        let cni = node.cni(NativeUse::Yes).await;
        let pod = node.pod("a");
        let error = pod.add(&cni).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = pouch_types::error::chain(&error);
        for part in ["net", "ADD", "two", "11", "not now; later", "oops"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(node.log(), ["one ADD", "two ADD", "two DEL", "one DEL"].map(str::to_owned));
        assert!(!node.dir.join("cache/results/net-a-eth0").exists());
        assert_eq!(fs::read_dir(node.dir.join("state/attachments")).unwrap().count(), 0);
    });
}

#[test]
fn one_that_hangs_is_killed_with_all_that_it_started() {
    on_node(|node| async move {
        let pids = node.dir.join("pids");
        node.fake(
            "hangs",
            &format!(
                "[ $CNI_COMMAND = DEL ] && exit\n(sleep 1000 & echo $! >> {0}; \
                 setsid sleep 1000 & echo $! >> {0}; wait) &\necho waiting >&2; wait",
                pids.display()
            ),
        );
        node.network("net", "1.0.0", &json!([{"type": "hangs"}]));
        let cni = brisk(&node, Duration::from_millis(700)).await;
        let error = node.pod("a").add(&cni).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
        let (stage, failure) = failure(error);
        assert_eq!(stage, Stage::Add);
        assert!(failure.to_string().contains("waiting"), "{failure}");
        let pids = fs::read_to_string(pids).unwrap();
        assert_eq!(pids.lines().count(), 2);
        for pid in pids.lines() {
            let state = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat"));
            let alive = |pid: &str| state(pid).is_ok_and(|s| !s.contains(") Z"));
            let end = Instant::now() + Duration::from_secs(5);
            while alive(pid) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(!alive(pid), "{pid} lives");
        }
    });
}

#[test]
fn a_child_that_holds_the_pipe_is_not_waited_for() {
    on_node(|node| async move {
        node.fake("leaves", &format!("{RESULT}\nsleep 1000 &"));
        node.fake(
            "escapes",
            &format!("[ $CNI_COMMAND = DEL ] && exit\n{RESULT}\nsetsid sleep 7 &"),
        );
        for plugin in ["leaves", "escapes"] {
            node.network(plugin, "1.0.0", &json!([{"type": plugin}]));
            let cni = brisk(&node, Duration::from_secs(60)).await;
            let mut pod = node.pod(plugin);
            pod.attachment.network = Some(plugin.into());
            let begin = Instant::now();
            assert_eq!(pod.add(&cni).await.unwrap().ips.len(), 1, "{plugin}");
            assert!(begin.elapsed() < Duration::from_secs(6), "{plugin}");
            cni.del(&pod.attachment).await.unwrap();
        }
    });
}

#[test]
fn answers_that_are_none_are_refused_and_told() {
    on_node(|node| async move {
        let cases = [
            ("garbage", "echo hello", "hello"),
            ("crash", "kill -SEGV $$", "signal: 11"),
            ("silent", "exit 3", "exit status: 3"),
            ("words", "echo no such bridge; exit 1", "no such bridge"),
            ("huge", "head -c 3000000 /dev/zero", "1048576 bytes"),
            ("endless", "cat /dev/zero", "1048576 bytes"),
            ("ancient", "echo '{\"cniVersion\":\"0.2.0\"}'", "0.2.0"),
            ("wrong", "echo '{\"ips\": [{\"address\": 5}]}'", "does not parse"),
            ("loud", "head -c 9000000 /dev/zero | tr '\\0' 'x' >&2; exit 1", "xxx"),
        ];
        for (name, script, told) in cases {
            node.fake(name, &format!("[ $CNI_COMMAND = ADD ] || exit 0\n{script}"));
            node.network(name, "1.0.0", &json!([{"type": name}]));
            let cni = node.cni(NativeUse::Yes).await;
            let mut pod = node.pod(name);
            pod.attachment.network = Some(name.into());
            let error = pod.add(&cni).await.unwrap_err();
            let text = pouch_types::error::chain(&error);
            assert!(text.contains(told) && text.contains(name), "{name}: {text}");
            assert!(text.len() < 10_000, "{name}: {}", text.len());
            assert_eq!(node.log().last().unwrap(), &format!("{name} DEL"));
        }
    });
}

#[test]
fn readiness_follows_configuration_plugins_and_their_word() {
    on_node(|node| async move {
        let cni = node.cni(NativeUse::Yes).await;
        let error = cni.status().await.unwrap_err();
        assert!(matches!(error, CniError::NoNetwork { .. }), "{error}");
        node.network("net", "1.1.0", &json!([{"type": "one", "ipam": {"type": "addresses"}}]));
        let told = |error: CniError| pouch_types::error::chain(&error);
        let text = told(cni.status().await.unwrap_err());
        assert!(text.contains("plugin one") && text.contains("it is in none of"), "{text}");
        node.fake("one", &good("STATUS"));
        let text = told(cni.status().await.unwrap_err());
        assert!(text.contains("plugin addresses"), "{text}");
        node.fake("addresses", "");
        let status = cni.status().await.unwrap();
        assert_eq!((status.network.as_str(), status.version.text()), ("net", "1.1.0"));
        cni.status().await.unwrap();
        let versions = node.log().iter().filter(|l| *l == "one VERSION").count();
        assert_eq!(versions, 1, "asked once for each state of the file");

        node.fake(
            "one",
            r#"[ $CNI_COMMAND = STATUS ] && { echo '{"code":50,"msg":"no"}'; exit 1; }
            echo '{"cniVersion":"1.1.0","supportedVersions":["1.1.0"]}'"#,
        );
        let error = cni.status().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(matches!(failure(error), (Stage::Status, PluginFailure::Told { code: 50, .. })));

        node.fake("one", r#"echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}'"#);
        let error = cni.status().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    });
}

#[test]
fn one_attachment_is_worked_on_by_one_and_others_meanwhile() {
    on_node(|node| async move {
        let (busy, twice) = (node.dir.join("busy"), node.dir.join("twice"));
        node.fake(
            "slow",
            &format!(
                "d={}-$CNI_CONTAINERID; mkdir $d || touch {}\n\
                 [ $CNI_COMMAND = ADD ] && {{ touch {}; while [ ! -e {} ]; do sleep 0.05; done; }}\n\
                 rmdir $d\n{}",
                busy.display(),
                twice.display(),
                node.dir.join("at-$CNI_CONTAINERID").display(),
                node.dir.join("go-$CNI_CONTAINERID").display(),
                good("DEL")
            ),
        );
        node.network("net", "1.0.0", &json!([{"type": "slow"}]));
        let cni = node.cni(NativeUse::Yes).await;
        let (a, b) = (node.pod("a"), node.pod("b"));
        let until = async |name: &str| {
            while !node.dir.join(name).exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let go = |name: &str| fs::write(node.dir.join(name), "").unwrap();
        let work = async { tokio::join!(a.add(&cni), b.add(&cni), cni.del(&a.attachment)) };
        let lead = async {
            until("at-a").await;
            until("at-b").await;
            go("go-a");
            go("go-b");
        };
        let ((first, second, del), ()) = tokio::join!(work, lead);
        first.unwrap();
        second.unwrap();
        del.unwrap();
        assert!(!twice.exists(), "two at once on one attachment");
        assert_eq!(node.log().last().unwrap(), "slow DEL");
    });
}

#[test]
fn who_leaves_does_not_cut_a_change_short() {
    on_node(|node| async move {
        let at = node.dir.join("at");
        node.fake("slow", &format!("touch {}; sleep 0.3\n{}", at.display(), good("DEL")));
        node.network("net", "1.0.0", &json!([{"type": "slow"}]));
        let cni = node.cni(NativeUse::Yes).await;
        let pod = node.pod("a");
        {
            let add = pod.add(&cni);
            tokio::pin!(add);
            let started = async {
                while !at.exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::select! { _ = &mut add => panic!("too fast"), () = started => {} }
        }
        // Waits its turn behind the ADD that nobody waits for.
        cni.check(&pod.attachment).await.unwrap();
        assert!(node.dir.join("cache/results/net-a-eth0").exists());
        cni.del(&pod.attachment).await.unwrap();
        assert_eq!(node.log().last().unwrap(), "slow DEL");
    });
}

#[test]
fn del_works_after_a_restart_without_namespace_configuration_or_cache() {
    on_node(|node| async move {
        node.fake("one", &good("DEL"));
        node.network("net", "1.0.0", &json!([{"type": "one", "kept": true}]));
        let (a, b) = (node.pod("a"), node.pod("b"));
        let cni = node.cni(NativeUse::Yes).await;
        a.add(&cni).await.unwrap();
        b.add(&cni).await.unwrap();
        drop(cni);
        fs::remove_file(node.dir.join("net.d/net.conflist")).unwrap();
        fs::remove_dir_all(node.dir.join("cache")).unwrap();
        pouch_netns::remove(a.netns.path()).unwrap();
        let cni = node.cni(NativeUse::Yes).await;
        cni.del(&a.attachment).await.unwrap();
        assert_eq!(node.told("one", "DEL")["kept"], true, "with the configuration of its ADD");
        // Known by libcni's cache alone, as of another runtime.
        let deletes = |node: &Node| node.log().iter().filter(|l| *l == "one DEL").count();
        assert_eq!(deletes(&node), 1);
        cni.del(&a.attachment).await.unwrap();
        assert_eq!(deletes(&node), 1, "nothing is left that anybody could be told of");

        node.network("net", "1.0.0", &json!([{"type": "one", "kept": true}]));
        cni.del(&a.attachment).await.unwrap();
        assert_eq!(deletes(&node), 2, "the plugins may know more than we");
        let gone = Attachment { netns: "/nowhere".into(), ..b.attachment.clone() };
        cni.del(&gone).await.unwrap();
    });
}

#[test]
fn collecting_detaches_ours_and_tells_plugins_of_everybodys() {
    on_node(|node| async move {
        node.fake("one", &good("DEL|GC"));
        node.network("net", "1.1.0", &json!([{"type": "one"}]));
        let cni = node.cni(NativeUse::Yes).await;
        let (a, b) = (node.pod("a"), node.pod("b"));
        a.add(&cni).await.unwrap();
        b.add(&cni).await.unwrap();
        // Another runtime's, in the shared cache.
        let foreign = json!({"kind": "cniCacheV1", "containerId": "c", "config": "", "ifName": "eth0",
            "networkName": "net", "result": {}});
        let path = node.dir.join("cache/results/net-c-eth0");
        fs::write(&path, foreign.to_string()).unwrap();
        let keep = ValidAttachment { id: "a".into(), ifname: "eth0".into() };
        cni.gc(&[keep]).await.unwrap();
        let told = node.told("one", "GC");
        let living: Value = json!([
            {"containerID": "a", "ifname": "eth0"}, {"containerID": "c", "ifname": "eth0"}
        ]);
        assert_eq!(told["cni.dev/valid-attachments"], living);
        assert_eq!(told["cni.dev/attachments"], living);
        assert!(path.exists(), "not ours");
        assert!(!node.dir.join("cache/results/net-b-eth0").exists());
        assert!(node.dir.join("cache/results/net-a-eth0").exists());
    });
}

#[test]
fn networks_are_chosen_by_name_and_changes_are_seen() {
    on_node(|node| async move {
        node.fake("one", &good("DEL"));
        node.network("b", "1.0.0", &json!([{"type": "one"}]));
        let cni = node.cni(NativeUse::Yes).await;
        assert_eq!(cni.status().await.unwrap().network, "b");
        node.network("a", "1.0.0", &json!([{"type": "one"}]));
        assert_eq!(cni.status().await.unwrap().network, "a");
        let mut pod = node.pod("x");
        pod.attachment.network = Some("b".into());
        assert_eq!(pod.add(&cni).await.unwrap().network, "b");
        // DEL finds the network of its ADD, whatever is the default now.
        let unnamed = Attachment { network: None, ..pod.attachment.clone() };
        cni.del(&unnamed).await.unwrap();
        assert_eq!(node.told("one", "DEL")["name"], "b");
        pod.attachment.network = Some("c".into());
        assert_eq!(pod.add(&cni).await.unwrap_err().kind(), ErrorKind::NotFound);
        fs::write(node.dir.join("net.d/0.conf"), "{").unwrap();
        let error = cni.status().await.unwrap_err();
        assert!(pouch_types::error::chain(&error).contains("0.conf"), "{error}");
    });
}

#[test]
fn a_missing_namespace_is_refused_before_any_plugin_runs() {
    on_node(|node| async move {
        node.fake("one", &good("DEL"));
        node.network("net", "1.0.0", &json!([{"type": "one"}]));
        let cni = node.cni(NativeUse::Yes).await;
        let pod = node.pod("a");
        let path = pod.netns.path().to_owned();
        pouch_netns::remove(&path).unwrap();
        assert_eq!(pod.add(&cni).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert!(node.log().is_empty());
        drop(Netns::create(&path, Ipv6::Disabled).unwrap());
        pod.add(&cni).await.unwrap();
        cni.del(&pod.attachment).await.unwrap();
    });
}

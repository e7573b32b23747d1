//! Imports go only downward: the floors of ARCHITECTURE.md, held against `cargo metadata`.

use std::collections::BTreeMap;
use std::process::Command;

/// Floor of each package; within one floor nothing may be imported, except where `SIDEWAYS` says.
const FLOORS: &[(u8, &[&str])] = &[
    (10, &["types"]),
    (11, &["store", "rootfd", "mountfd"]),
    (
        20,
        &[
            "cdi",
            "registry",
            "containerd-grpc",
            "cri-grpc",
            "content",
            "cgroup",
            "heap",
            "netns",
            "sealed-exe",
            "protocol",
            "docker-types",
            "logfile",
        ],
    ),
    (21, &["client", "oci", "runtime"]),
    (30, &["snapshot", "network"]),
    (31, &["containerd", "image", "shim-core", "volume", "cni"]),
    (32, &["containerd-images"]),
    (40, &["engine"]),
    (50, &["api-docker", "metrics", "streaming"]),
    (51, &["api-cri"]),
];

#[test]
fn imports_go_only_downward() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let floors: BTreeMap<String, u8> = FLOORS
        .iter()
        .flat_map(|(floor, crates)| crates.iter().map(|c| (format!("pouch-{c}"), *floor)))
        .collect();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let manifest = package["manifest_path"].as_str().unwrap();
        if !manifest.contains("/crates/") || name == "pouch-testkit" {
            continue;
        }
        let Some(floor) = floors.get(name) else {
            wrong.push(format!("{name} has no floor: add it to ARCHITECTURE.md and to this test"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let below = dependency["name"].as_str().unwrap();
            let shipped = dependency["kind"].as_str() != Some("dev");
            match floors.get(below) {
                Some(other) if shipped && other >= floor => {
                    wrong.push(format!("{name} (floor {floor}) imports {below} (floor {other})"));
                }
                _ => {}
            }
            if shipped && below == "pouch-testkit" {
                wrong.push(format!("{name} ships pouch-testkit"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

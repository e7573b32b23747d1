//! What a file may say, and that no content of one is more than an error.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use pouch_cdi::{Format, parse};
use proptest::prelude::*;

fn json(version: &str, kind: &str, device: &str, edits: &str) -> Result<(), String> {
    let text = format!(
        r#"{{"cdiVersion": "{version}", "kind": "{kind}",
            "devices": [{{"name": "{device}", "containerEdits": {{{edits}}}}}]}}"#
    );
    let result = |format| {
        parse(text.as_bytes(), format).map(|_| ()).map_err(|e| pouch_types::error::chain(&e))
    };
    // JSON is YAML: both readers must agree on what is good.
    assert_eq!(result(Format::Json).is_ok(), result(Format::Yaml).is_ok(), "{text}");
    result(Format::Json)
}

#[test]
fn fields_need_their_versions() {
    for (version, kind, device, edits) in [
        ("1.1.0", "v/c", "a", r#""netDevices": [{"hostInterfaceName": "a", "name": "b"}]"#),
        ("1.1.0", "v/c", "a", r#""intelRdt": {"schemata": ["x"]}"#),
        ("0.7.0", "v/c", "a", r#""intelRdt": {}"#),
        ("0.7.0", "v/c", "a", r#""additionalGids": [1]"#),
        ("0.6.0", "v/c.d", "a", ""),
        ("0.5.0", "v/c", "1", ""),
        ("0.5.0", "v/c", "a", r#""deviceNodes": [{"path": "/a", "hostPath": "/b"}]"#),
        (
            "0.4.0",
            "v/c",
            "a",
            r#""mounts": [{"hostPath": "b", "containerPath": "/c", "type": "x"}]"#,
        ),
        ("0.3.0", "v/c", "a", r#""env": ["A=b"]"#),
    ] {
        json(version, kind, device, edits).unwrap();
        json(&format!("v{version}"), kind, device, edits).unwrap();
        let all = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];
        for older in all.into_iter().filter(|known| *known < version) {
            let error = json(older, kind, device, edits).unwrap_err();
            assert!(error.contains(&format!("needs cdiVersion {version}")), "{error}");
        }
    }
    for bad in ["", "1", "0.2.0", "1.2.0", "1.0.0-rc1", "vv1.0.0"] {
        assert!(json(bad, "v/c", "a", "").unwrap_err().contains("cdiVersion"), "{bad}");
    }
}

#[test]
fn values_that_cannot_be_meant() {
    for edits in [
        r#""env": ["A"]"#,
        r#""env": ["=b"]"#,
        r#""env": ["A=\u0000"]"#,
        r#""deviceNodes": [{}]"#,
        r#""deviceNodes": [{"path": ""}]"#,
        r#""deviceNodes": [{"path": "dev/a"}]"#,
        r#""deviceNodes": [{"path": "/a", "hostPath": "b"}]"#,
        r#""deviceNodes": [{"path": "/a", "type": "d"}]"#,
        r#""deviceNodes": [{"path": "/a", "major": -1}]"#,
        r#""deviceNodes": [{"path": "/a", "minor": 4294967296}]"#,
        r#""deviceNodes": [{"path": "/a", "permissions": "rx"}]"#,
        r#""deviceNodes": [{"path": "/a", "uid": -1}]"#,
        r#""deviceNodes": [{"path": "/a", "colour": "red"}]"#,
        r#""mounts": [{"hostPath": "", "containerPath": "/a"}]"#,
        r#""mounts": [{"hostPath": "/a", "containerPath": "a"}]"#,
        r#""hooks": [{"hookName": "never", "path": "/a"}]"#,
        r#""hooks": [{"hookName": "poststop", "path": "a"}]"#,
        r#""hooks": [{"hookName": "poststop", "path": "/a", "env": ["A"]}]"#,
        r#""hooks": [{"hookName": "poststop", "path": "/a", "timeout": 0}]"#,
        r#""env": [], "env": []"#,
        r#""unknown": {}"#,
        r#""devices": []"#,
    ] {
        assert!(json("1.1.0", "v/c", "a", edits).is_err(), "{edits}");
    }
    for (kind, device) in [("v", "a"), ("v/", "a"), ("v/c/d", "a"), ("v/c", ""), ("v/c", "a b")] {
        assert!(json("1.1.0", kind, device, "").is_err(), "{kind} {device}");
    }
    let none = br#"{"cdiVersion": "1.0.0", "kind": "v/c", "devices": []}"#;
    assert!(parse(none, Format::Json).is_err());
    let twice =
        br#"{"cdiVersion": "1.0.0", "kind": "v/c", "devices": [{"name": "a"}, {"name": "a"}]}"#;
    assert!(parse(twice, Format::Json).unwrap_err().to_string().contains("twice"));
}

#[test]
fn lists_are_capped() {
    let many = vec!["\"A=b\""; 1025].join(",");
    assert!(
        json("1.1.0", "v/c", "a", &format!(r#""env": [{many}]"#)).unwrap_err().contains("1024")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn bytes_are_at_most_an_error(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = parse(&bytes, Format::Json);
        let _ = parse(&bytes, Format::Yaml);
    }

    #[test]
    fn what_looks_like_yaml_is_at_most_an_error(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "cdiVersion: ", "kind: ", "devices:", "- ", "name: ", "\n", "\n  ", "\n    ", "[",
                "]", "{", "}", ",", ": ", "&a ", "*a", "!!str ", "|\n", ">-\n", "\"", "'", "#",
                "---\n", "...\n", "%YAML 1.2\n", "? ", "0x", "-1", "~", "<<: ", "\t", "\u{feff}",
                "\u{85}", "/dev/null", "1.0.0", "v.com/c", "containerEdits:", "deviceNodes:",
            ]),
            0..64,
        ),
    ) {
        let _ = parse(words.concat().as_bytes(), Format::Yaml);
    }

    #[test]
    fn a_damaged_file_is_at_most_an_error(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for (text, format) in [
            (include_bytes!("fixtures/gpu.yaml").to_vec(), Format::Yaml),
            (include_bytes!("fixtures/disk.json").to_vec(), Format::Json),
        ] {
            let mut text = text;
            prop_assert!(parse(&text, format).is_ok());
            let at = at.index(text.len());
            text[at] = byte;
            let _ = parse(&text, format);
            text.truncate(at);
            let _ = parse(&text, format);
        }
    }

    #[test]
    fn a_name_that_is_one_stays_the_same(name in "\\PC{0,24}|[a-z.]{1,5}/[a-z]{1,3}=[a-z0-9:]{1,4}") {
        if let Ok(parsed) = name.parse::<pouch_cdi::DeviceName>() {
            prop_assert_eq!(parsed.to_string(), name);
        }
    }
}

//! What the templates of docker's documentation print, and that no input makes the engine panic.

use proptest::prelude::*;

use super::*;

const CONTAINER: &str = r#"{"Id":"abc","Name":"/web","State":{"Status":"running","Running":true,"ExitCode":0,"Pid":42},
"Config":{"Hostname":"h","Labels":{"b":"2","a":"1","com.example.x":"y"},"Env":["A=1","B=2"],"Cmd":["sh","-c"],"Volumes":null,"OnBuild":null,"Image":"i"},
"HostConfig":{"Binds":null,"PidsLimit":null,"Memory":1048576,"CpuShares":2,"LogConfig":{"Type":"json-file","Config":{}}},
"Mounts":[{"Type":"bind","Source":"/s","Destination":"/d","RW":true},{"Type":"volume","Source":"/v","Destination":"/e","RW":false}],
"NetworkSettings":{"IPAddress":"","Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"::","HostPort":"8080"}],"81/tcp":null},
"Networks":{"n2":{"IPAddress":"10.0.0.3","MacAddress":"aa"},"n1":{"IPAddress":"10.0.0.2","MacAddress":"bb"}}}}"#;

fn run(template: &str) -> Result<String, TemplateError> {
    let value = Value::from_json(CONTAINER.as_bytes()).unwrap();
    Template::parse(template)?.render(&value, Mode::Data)
}

fn check(cases: &[(&str, &str)]) {
    for (template, want) in cases {
        assert_eq!(run(template).as_deref(), Ok(*want), "{template}");
    }
}

#[test]
fn templates_of_the_inspect_documentation() {
    check(&[
        ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "10.0.0.210.0.0.3"),
        ("{{range .NetworkSettings.Networks}}{{.MacAddress}}{{end}}", "bbaa"),
        ("{{.HostConfig.LogConfig.Type}}", "json-file"),
        (
            "{{range $p, $conf := .NetworkSettings.Ports}} {{$p}} -> {{(index $conf 0).HostPort}} {{break}}{{end}}",
            " 80/tcp -> 8080 ",
        ),
        (r#"{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}"#, "8080"),
        ("{{json .State}}", r#"{"Status":"running","Running":true,"ExitCode":0,"Pid":42}"#),
        ("{{.Name}} {{.State.Status}} {{.ID}}", "/web running abc"),
        (r#"{{index .Config.Labels "com.example.x"}}"#, "y"),
        (r#"{{index .Config.Labels "none"}}"#, ""),
        (
            "{{json .Mounts}}",
            r#"[{"Type":"bind","Source":"/s","Destination":"/d","RW":true},{"Type":"volume","Source":"/v","Destination":"/e","RW":false}]"#,
        ),
        ("{{join .Config.Cmd \" \"}}", "sh -c"),
        (r#"{{range .Mounts}}{{if eq .Type "bind"}}{{.Source}}{{end}}{{end}}"#, "/s"),
        ("{{range $i, $e := .Config.Env}}{{if $i}}, {{end}}{{$e}}{{end}}", "A=1, B=2"),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "a=1;b=2;com.example.x=y;"),
        ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
        ("{{with .State}}{{.Pid}}{{end}}", "42"),
        ("{{len .Mounts}}", "2"),
    ]);
}

#[test]
fn values_print_as_go_prints_them() {
    check(&[
        ("{{.Config.Labels}}", "map[a:1 b:2 com.example.x:y]"),
        ("{{.Config.Env}}", "[A=1 B=2]"),
        ("{{.State}}", "{running true 0 42}"),
        ("{{.HostConfig.Binds}} {{.Config.Volumes}} {{.HostConfig.PidsLimit}}", "[] map[] <nil>"),
        ("{{json .HostConfig.Binds}}{{json .Config.Volumes}}", "nullnull"),
        ("{{.Config.Labels.zzz}}", "<no value>"),
        ("{{.HostConfig.CPUShares}}", "2"),
        ("{{1.5}} {{1e3}} {{'a'}} {{0x10}} {{true}}", "1.5 1000 97 16 true"),
        ("{{print 1 2 \"a\" 3}}|{{println \"x\" 1}}|", "1 2a3|x 1\n|"),
    ]);
}

#[test]
fn functions_of_docker_and_go() {
    check(&[
        (r#"{{upper "aé"}} {{lower "AB"}} {{title "ab cd-e"}}"#, "AÉ ab Ab Cd-E"),
        (r#"{{split "a,b" ","}} {{join (split "a,b" ",") "/"}}"#, "[a b] a/b"),
        (r#"{{pad "x" 1 2}}|{{pad "" 1 2}}|{{truncate "abcdef" 3}}"#, " x  ||abc"),
        (r#"{{slice "abcdef" 1 3}} {{slice .Config.Env 1}}"#, "bc [B=2]"),
        (
            r#"{{printf "%-6s|%5.2f|%03d|%x|%q|%v|%%" "ab" 1.234 7 255 "q" .Config.Env}}"#,
            "ab    | 1.23|007|ff|\"q\"|[A=1 B=2]|%",
        ),
        (r#"{{printf "%d %s" "x"}}"#, "%!d(string=x) %!s(MISSING)"),
        (r#"{{printf "x" 1}}"#, "x%!(EXTRA int=1)"),
        (
            r#"{{eq 1 2 1}} {{ne "a" "b"}} {{lt 1 2}} {{ge "b" "a"}} {{and 1 0}} {{or 0 "x"}} {{not 0}}"#,
            "true true true true 0 x true",
        ),
        (r#"{{"abc" | upper | printf "%s-%s" "x"}}"#, "x-ABC"),
        (r#"{{json "<a&b>"}}"#, r#""<a&b>""#),
    ]);
}

#[test]
fn control_flow_variables_and_white_space() {
    check(&[
        ("a {{- \"b\" -}} c", "abc"),
        ("a{{/* x */}}b {{- /* y */ -}} c", "abc"),
        ("{{if false}}1{{else if true}}2{{else}}3{{end}}", "2"),
        ("{{with false}}1{{else with 5}}{{.}}{{end}}", "5"),
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{end}}{{$x}}", "1"),
        ("{{range .HostConfig.Binds}}x{{else}}none{{end}}", "none"),
        ("{{range 3}}{{if eq . 1}}{{continue}}{{end}}{{.}}{{end}}", "02"),
        ("{{range .Mounts}}{{$.Name}}{{end}}", "/web/web"),
        ("{{`raw\n`}}", "raw\n"),
        ("no action", "no action"),
    ]);
}

#[test]
fn errors_name_the_line_and_what_is_wrong() {
    for (template, part) in [
        ("{{.Foo}}", "Foo"),
        ("x\n{{.State.Health.Status}}", "line 2"),
        ("{{", "not closed"),
        ("{{if .x}}", "{{end}}"),
        ("{{end}}", "{{end}}"),
        ("{{nofunc 1}}", "nofunc"),
        ("{{$x}}", "$x"),
        ("{{index .Mounts 9}}", "out of range"),
        ("{{template \"x\"}}", "not supported"),
        ("{{1 | 2}}", "function"),
        ("{{join 1 2}}", "string"),
        ("{{.Stat}}", "did you mean .State"),
    ] {
        let error = run(template).unwrap_err().to_string();
        assert!(error.contains(part), "{template}: {error}");
    }
    let deep = "(".repeat(1000);
    assert!(run(&format!("{{{{{deep}1}}}}")).unwrap_err().to_string().contains("nest"));
    assert!(run(&"{{if true}}".repeat(1000)).unwrap_err().to_string().contains("nest"));
}

#[test]
fn rows_have_labels_and_titles() {
    let row = |labels| Value::Row(Row { columns: vec![("ID", Value::str("1<2"))], labels }.into());
    let template =
        Template::parse(r#"{{.ID}} {{.Label "com.example.my-key"}} {{upper .ID}}"#).unwrap();
    let labels = Labels::Of(vec![("com.example.my-key".to_owned(), "v".to_owned())]);
    assert_eq!(template.render(&row(labels), Mode::Data).unwrap(), "1<2 v 1<2");
    assert_eq!(template.render(&row(Labels::Header), Mode::Header).unwrap(), "1<2 my key 1<2");
    let json = Template::parse("{{json .}}").unwrap();
    assert_eq!(json.render(&row(Labels::None), Mode::Data).unwrap(), r#"{"ID":"1\u003c2"}"#);
    assert!(json.shows_all() && !template.shows_all());
    assert!(template.mentions("ID") && !template.mentions("Size"));
    assert!(
        Template::parse("{{if true}}{{range .A.B}}{{(index .C 0).Size}}{{end}}{{end}}")
            .unwrap()
            .mentions("Size")
    );
}

/// Pieces that make a random text look like a template.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("{{".to_owned()),
        Just("}}".to_owned()),
        Just("{{- ".to_owned()),
        Just(" -}}".to_owned()),
        Just("if ".to_owned()),
        Just("range ".to_owned()),
        Just("with ".to_owned()),
        Just("{{else}}".to_owned()),
        Just("{{end}}".to_owned()),
        Just("$x := ".to_owned()),
        Just("$".to_owned()),
        Just(".State".to_owned()),
        Just(".Mounts".to_owned()),
        Just("printf ".to_owned()),
        Just("index ".to_owned()),
        Just("slice ".to_owned()),
        Just("truncate ".to_owned()),
        Just("|".to_owned()),
        Just("(".to_owned()),
        Just(")".to_owned()),
        Just("\"%*d%-9.3x\"".to_owned()),
        Just("-9223372036854775808 ".to_owned()),
        Just("'\\x41'".to_owned()),
        Just("/*".to_owned()),
        Just("*/".to_owned()),
        Just(" ".to_owned()),
        Just("é€".to_owned()),
        "[ -~]{0,6}",
        "\\PC{0,3}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,80}") {
        let _ = run(&text);
    }

    #[test]
    fn template_like_text_never_panics(pieces in prop::collection::vec(piece(), 0..24)) {
        let _ = run(&pieces.concat());
    }

    #[test]
    fn printf_never_panics(format in "[%*.0-9+#a-zA-Z -]{0,20}", n in any::<i64>(), x in any::<f64>(), s in "\\PC{0,5}") {
        printf::printf(&format, &[Value::Int(n), Value::Float(x), Value::str(s.as_str()), Value::Null]);
        Value::Float(x).to_string();
        general(x, 3);
    }

    #[test]
    fn text_without_actions_is_copied(text in "[^{]{0,60}") {
        prop_assert_eq!(run(&text).unwrap(), text);
    }
}

//! Credentials and search: what our CLI keeps the docker CLI uses, and the other way round.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use pouch_testkit::{
    Access, Daemon, Live, LocalRegistry, Registry, RegistryOptions, busybox, daemon, program,
};
use serde_json::{Value, json};

/// A registry with TLS and a password.
const PRIVATE: &str = "127.0.0.1:5001";

fn private(d: &Daemon) -> Option<Registry> {
    let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let options = RegistryOptions {
        tls: Some((own.cert.pem(), own.signing_key.serialize_pem())),
        access: Access::Password,
        ..RegistryOptions::default()
    };
    Registry::start_at(d, PRIVATE, &options)
}

const LOGIN: [&str; 5] = ["login", "-u", LocalRegistry::USER, "--password-stdin", PRIVATE];

fn config(d: &Daemon) -> PathBuf {
    d.path("home/.docker/config.json")
}

fn read_config(d: &Daemon) -> Value {
    serde_json::from_slice(&std::fs::read(config(d)).unwrap()).unwrap()
}

#[test]
fn each_cli_uses_what_the_other_keeps() {
    daemon(|d| {
        let Some(_registry) = private(d) else { return };
        let name = format!("{PRIVATE}/team/x:1");
        d.import(&name, busybox(), &[]);
        std::fs::create_dir_all(config(d).parent().unwrap()).unwrap();
        let before = json!({"auths": {"other.example": {"auth": "eDp5"}}, "psFormat": "{{.ID}}",
            "HttpHeaders": {"X-Meta": "1"}, "unknown": {"deep": [1, 2.5, null]}});
        std::fs::write(config(d), before.to_string()).unwrap();
        d.pouch(&["push", &name]).fails_with("docker login");
        d.pouch_with(&LOGIN, b"wrong").fails_with("unauthorized");
        assert_eq!(read_config(d), before, "what is not good is not kept");

        let docker = d.docker_with(&LOGIN, LocalRegistry::PASSWORD.as_bytes());
        docker.check();
        let kept_by_docker = read_config(d);
        d.pouch(&["push", &name]).check();
        d.pouch(&["pull", &name]).check();
        d.pouch(&["run", "--rm", "--pull", "always", &name, "true"]).check();
        assert_eq!(d.docker(&["logout", PRIVATE]).ok(), d.pouch(&["logout", PRIVATE]).ok());
        d.pouch(&["pull", &name]).fails_with("docker login");

        std::fs::write(config(d), before.to_string()).unwrap();
        std::fs::set_permissions(config(d), Permissions::from_mode(0o644)).unwrap();
        let pouch = d.pouch_with(&LOGIN, format!("{}\n", LocalRegistry::PASSWORD).as_bytes());
        assert_eq!((pouch.ok(), &pouch.stderr), (docker.ok(), &docker.stderr));
        let mut wanted = before.clone();
        wanted["auths"] = kept_by_docker["auths"].clone();
        assert_eq!(read_config(d), wanted, "what is kept is the same, and all else is as it was");
        let mode = std::fs::metadata(config(d)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        d.docker(&["pull", &name]).check();
        d.docker(&["push", &name]).check();
        // Without flags the known ones are tried.
        let again = d.pouch(&["login", PRIVATE]);
        assert!(again.ok().starts_with("Authenticating with existing credentials..."));
        assert!(again.ok().ends_with("Login Succeeded"));
        let logout = d.pouch(&["logout", PRIVATE]);
        assert_eq!(read_config(d), before);
        assert_eq!(logout.ok(), d.docker(&["logout", PRIVATE]).ok());
        d.docker(&["pull", &name]).fails_with("docker login");
        d.docker(&["rmi", &name]).check();
    });
}

#[test]
fn a_login_that_cannot_be_says_why() {
    daemon(|d| {
        let Some(_registry) = private(d) else { return };
        for (words, why) in [
            (&["login", "--password-stdin", PRIVATE][..], "requires --username"),
            (&["login", "-u", "a", "-p", "b", "--password-stdin", PRIVATE], "cannot specify both"),
            (&["login", PRIVATE], "interactive login"),
            (&["login", "-u", "a", PRIVATE], "interactive login"),
            (&["login", "a", "b"], ""),
        ] {
            for run in [d.docker(words), d.pouch(words)] {
                run.exits(1).fails_with(why);
            }
        }
        let words = ["login", "-u", LocalRegistry::USER, "-p", LocalRegistry::PASSWORD, PRIVATE];
        let pouch = d.pouch(&words);
        assert_eq!(pouch.ok(), "Login Succeeded");
        assert!(pouch.stderr.contains("--password via the CLI is insecure"), "{}", pouch.stderr);
        // Another place for the configuration, which the environment names.
        let elsewhere = d.path("elsewhere");
        let mut login = d.pouch_command(&words);
        assert!(login.env("DOCKER_CONFIG", &elsewhere).output().unwrap().status.success());
        assert!(elsewhere.join("config.json").exists());
        d.docker(&["logout", PRIVATE]).check();
        let name = format!("{PRIVATE}/x:1");
        d.import(&name, busybox(), &[]);
        let auths = std::fs::read_to_string(elsewhere.join("config.json")).unwrap();
        let mut push = d.pouch_command(&["push", &name]);
        let push = push.env("DOCKER_AUTH_CONFIG", auths).output().unwrap();
        assert!(push.status.success(), "{}", String::from_utf8_lossy(&push.stderr));
        d.docker(&["rmi", &name]).check();
    });
}

#[test]
fn a_password_is_not_shown_while_it_is_typed() {
    daemon(|d| {
        let Some(_registry) = private(d) else { return };
        let script = format!("{} login {PRIVATE}; stty -a", program("pouch").display());
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]);
        for (name, value) in d.pouch_command(&[]).get_envs() {
            if let Some(value) = value {
                shell.env(name, value);
            }
        }
        let mut login = Live::terminal(&shell);
        login.expect("Username: ");
        login.send(format!("{}\n", LocalRegistry::USER));
        login.expect("Password: ");
        login.send(format!("{}\n", LocalRegistry::PASSWORD));
        login.expect("Login Succeeded");
        login.expect(" echo ");
        assert_eq!(login.wait(), 0);
        assert!(!login.output().contains(LocalRegistry::PASSWORD), "{}", login.output());
        // A key that ends the question leaves the terminal as it was.
        let mut login = Live::terminal(&shell);
        login.expect("Authenticating with existing credentials");
        login.expect(" echo ");
        d.docker(&["logout", PRIVATE]).check();
        let script = format!("trap : INT; {script}");
        shell = Command::new("sh");
        shell.args(["-c", &script]);
        for (name, value) in d.pouch_command(&[]).get_envs() {
            if let Some(value) = value {
                shell.env(name, value);
            }
        }
        let mut login = Live::terminal(&shell);
        login.expect("Username: ");
        login.send("someone\n");
        login.expect("Password: ");
        login.send("\x03");
        login.expect(" echo ");
    });
}

/// A `docker-credential-test` that keeps each entry in a file of its own.
const HELPER: &str = r#"#!/bin/sh
dir=${0%/*}/kept
mkdir -p "$dir"
echo "$1" >> "$dir/calls"
case $1 in
store)
    entry=$(cat)
    server=$(printf %s "$entry" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/')
    printf %s "$entry" > "$dir/$(printf %s "$server" | tr / _)" ;;
get)
    file=$dir/$(tr / _)
    [ -e "$file" ] || { echo "credentials not found in native keychain"; exit 1; }
    cat "$file" ;;
erase)
    file=$dir/$(tr / _)
    [ -e "$file" ] || { echo "credentials not found in native keychain"; exit 1; }
    rm "$file" ;;
esac
"#;

#[test]
fn helpers_keep_credentials_for_both_clis() {
    daemon(|d| {
        let Some(_registry) = private(d) else { return };
        let name = format!("{PRIVATE}/helped:1");
        d.import(&name, busybox(), &[]);
        let bin = d.path("bin");
        std::fs::create_dir(&bin).unwrap();
        let helper = bin.join("docker-credential-test");
        std::fs::write(&helper, HELPER).unwrap();
        std::fs::set_permissions(&helper, Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let run = |mut command: Command, input: &str| {
            command.env("PATH", &path).stdin(Stdio::piped());
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn().unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&said).into_owned())
        };
        let works = |command: Command, input: &str| {
            let (fine, said) = run(command, input);
            assert!(fine, "{said}");
            said
        };
        let kept = |server: &str| bin.join("kept").join(server);
        std::fs::create_dir_all(config(d).parent().unwrap()).unwrap();
        for setting in [json!({"credsStore": "test"}), json!({"credHelpers": {PRIVATE: "test"}})] {
            std::fs::write(config(d), setting.to_string()).unwrap();
            // docker keeps, pouch uses and forgets.
            works(d.docker_command(&LOGIN), LocalRegistry::PASSWORD);
            assert!(kept(PRIVATE).exists());
            let by_docker = read_config(d);
            works(d.pouch_command(&["push", &name]), "");
            works(d.pouch_command(&["logout", PRIVATE]), "");
            assert!(!kept(PRIVATE).exists());
            let without = read_config(d);
            let (fine, said) = run(d.pouch_command(&["push", &name]), "");
            assert!(!fine && said.contains("docker login"), "{said}");
            // pouch keeps, docker uses and forgets.
            let said = works(d.pouch_command(&LOGIN), LocalRegistry::PASSWORD);
            assert!(!said.contains("unencrypted"), "{said}");
            let entry: Value =
                serde_json::from_slice(&std::fs::read(kept(PRIVATE)).unwrap()).unwrap();
            let wanted = json!({"ServerURL": PRIVATE, "Username": LocalRegistry::USER,
                "Secret": LocalRegistry::PASSWORD});
            assert_eq!(entry, wanted);
            assert_eq!(read_config(d), by_docker);
            assert!(!std::fs::read_to_string(config(d)).unwrap().contains("\"auth\""));
            works(d.docker_command(&["pull", &name]), "");
            works(d.docker_command(&["logout", PRIVATE]), "");
            assert_eq!(read_config(d), without);
            assert!(!kept(PRIVATE).exists());
        }
        // One that is not there is named.
        std::fs::write(config(d), json!({"credsStore": "nosuch"}).to_string()).unwrap();
        let (fine, said) = run(d.pouch_command(&LOGIN), LocalRegistry::PASSWORD);
        assert!(!fine && said.contains("docker-credential-nosuch"), "{said}");
        d.docker(&["rmi", &name]).check();
    });
}

/// A registry of the first protocol that answers one search, and tells what it was asked.
struct Searchable {
    asked: Arc<Mutex<Vec<String>>>,
}

impl Searchable {
    const HOST: &str = "127.0.0.1:5003";

    fn start(d: &Daemon, body: String) -> Self {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&asked);
        d.netns().enter(move || {
            let listener = TcpListener::bind(Self::HOST).unwrap();
            std::thread::spawn(move || {
                for client in listener.incoming() {
                    let Ok(mut client) = client else { return };
                    let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
                    let Some(Ok(first)) = lines.next() else { continue };
                    while let Some(Ok(line)) = lines.next() {
                        if line.is_empty() {
                            break;
                        }
                    }
                    let answer = match &first {
                        line if line.starts_with("GET /v1/search?") => ("200 OK", body.as_str()),
                        line if line.starts_with("GET /v2/ ") => ("200 OK", "{}"),
                        _ => ("404 Not Found", "{}"),
                    };
                    log.lock().unwrap().push(first);
                    let _ = write!(
                        client,
                        "HTTP/1.1 {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
                        answer.0,
                        answer.1.len(),
                        answer.1
                    );
                }
            });
        });
        Self { asked }
    }
}

#[test]
fn a_search_is_the_same_in_both_clis() {
    daemon(|d| {
        let hit = |name: &str, stars: i64, official: bool, description: &str| {
            json!({"name": name, "star_count": stars, "is_official": official,
                "is_automated": true, "is_trusted": true, "description": description})
        };
        let long = "A description that is far too long for its column\nand has lines";
        let results = json!({"num_results": 3, "results": [
            hit("library/redis", 9, true, long), hit("team/redis", 100, false, ""),
            hit("other/redis", 0, false, "täglich größer"), {"name": "bare", "description": null}]});
        let registry = Searchable::start(d, results.to_string());
        let term = format!("{}/red is", Searchable::HOST);
        for words in [
            &["search", &term][..],
            &["search", "--no-trunc", &term],
            &["search", "--limit", "2", &term],
            &["search", "-f", "stars=5", &term],
            &["search", "-f", "is-official=true", &term],
            &["search", "--filter", "is-official=false", "--filter", "stars=50", &term],
            &["search", "-f", "is-automated=true", &term],
            &["search", "--format", "{{.Name}}|{{.StarCount}}|{{.IsOfficial}}", &term],
            &["search", "--format", "table {{.Name}}\t{{.StarCount}}", &term],
            &["search", "--format", "json", &term],
            &["search", "-f", "bogus=1", &term],
            &["search", "-f", "stars=x", &term],
            &["search", "--limit", "101", &term],
            &["search", "https://x/y"],
        ] {
            let (docker, pouch) = (d.docker(words), d.pouch(words));
            assert_eq!((&pouch.stdout, pouch.code()), (&docker.stdout, docker.code()), "{words:?}");
        }
        let asked = registry.asked.lock().unwrap().clone();
        assert!(asked.contains(&"GET /v1/search?q=red+is&n=25 HTTP/1.1".to_owned()), "{asked:?}");
        assert!(asked.contains(&"GET /v1/search?q=red+is&n=2 HTTP/1.1".to_owned()), "{asked:?}");
    });
}

#[test]
fn a_registry_without_a_search_is_looked_through() {
    daemon(|d| {
        let (Some(_open), Some(_private)) =
            (Registry::start_at(d, Registry::HOST, &RegistryOptions::default()), private(d))
        else {
            return;
        };
        for name in ["team/redis", "redis-tools", "postgres"] {
            let name = format!("{}/{name}:1", Registry::HOST);
            d.import(&name, busybox(), &[]);
            d.docker(&["push", &name]).check();
            d.docker(&["rmi", &name]).check();
        }
        let names = |term: &str| {
            let words = ["search", "--format", "{{.Name}}", term];
            let (docker, pouch) = (d.docker(&words), d.pouch(&words));
            assert_eq!(pouch.ok(), docker.ok());
            let mut names: Vec<String> = pouch.ok().lines().map(str::to_owned).collect();
            names.sort();
            names
        };
        let host = Registry::HOST;
        let wanted = [format!("{host}/redis-tools"), format!("{host}/team/redis")];
        assert_eq!(names(&format!("{host}/REDIS")), wanted);
        assert_eq!(names(&format!("{host}/")).len(), 3);
        assert!(names(&format!("{host}/nothing")).is_empty());
        let found = format!("{}:1", wanted[1]);
        d.pouch(&["pull", &found]).check();
        d.docker(&["rmi", &found]).check();
        // Behind a password, and with neither.
        let term = format!("{PRIVATE}/x");
        d.pouch(&["search", &term]).fails_with("may require 'docker login'");
        d.pouch_with(&LOGIN, LocalRegistry::PASSWORD.as_bytes()).check();
        let name = format!("{PRIVATE}/text:1");
        d.import(&name, busybox(), &[]);
        d.docker(&["push", &name]).check();
        d.docker(&["rmi", &name]).check();
        assert_eq!(names(&term), [format!("{PRIVATE}/text")]);
        let _bare = Searchable::start(d, "a page for people".to_owned());
        let term = format!("{}/x", Searchable::HOST);
        d.pouch(&["search", &term]).fails_with("cannot be searched");
    });
}

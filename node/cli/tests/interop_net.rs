//! `net lab` and `net check` in networks made for them, and what the command line does where UDP is blocked. Needs root, `ip` and
//! `nft`; not Node.js.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)] // tests

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use cumulet_net_lab::{Lab, Namespace, Services, Topology};
use serde_json::{Value, json};
use support::{User, interrupt, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_cumulet");

/// Says why not; fails where nothing may be skipped.
fn can_run() -> bool {
    let Some(missing) = cumulet_net_lab::missing() else {
        return true;
    };
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!ci, "nothing is skipped in CI, but {missing}");
    eprintln!("skipped: {missing}; hint: {}", missing.hint());
    false
}

fn lab(text: &str) -> Lab {
    Lab::up(Topology::parse(text, 1).unwrap()).unwrap()
}

fn net(args: &[&str]) -> (Value, i32, String) {
    let output = Command::new(PROGRAM)
        .arg("net")
        .args(args)
        .arg("--json")
        .output()
        .unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    let report = stdout
        .lines()
        .next()
        .map_or(Value::Null, |line| serde_json::from_str(line).unwrap());
    (report, output.status.code().unwrap(), stderr)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn our_own_peers_meet_directly_or_at_the_relay_and_the_report_says_which() {
    if !can_run() {
        return;
    }
    for (topology, way) in [
        ("port-restricted:full-cone", "direct"),
        ("symmetric:symmetric", "relayed"),
        ("port-restricted", "local"),
    ] {
        let (report, code, stderr) = net(&["lab", "--topology", topology]);
        assert_eq!(
            (code, &report["way"]),
            (0, &json!(way)),
            "{topology}: {report} {stderr}"
        );
        assert_eq!(report["measured"]["bytes"], 65_536);
        let direct = report["clientReceived"]["peer"].as_u64().unwrap();
        assert_eq!(direct > 65_536, way != "relayed", "{topology}: {report}");
    }
    let (report, code, stderr) = net(&["lab", "--topology", "symmetric:symmetric", "--no-relay"]);
    assert_eq!((code, &report["connected"]), (1, &json!(false)), "{report}");
    assert!(stderr.contains("hole"), "{stderr}");
}

#[test]
fn any_two_programs_are_run_and_their_connection_is_seen_in_the_packets() {
    if !can_run() {
        return;
    }
    let read = "exec 3<>/dev/tcp/45.64.1.2/7000 && read -r line <&3 && echo $line";
    let listen = "sleep 600";
    // The client never gets a line, for nobody listens: it ends with a failure.
    let client = format!("bash -c '{read}'");
    let args = [
        "lab",
        "--topology",
        "port-restricted:open",
        "--server",
        listen,
        "--client",
        &client,
    ];
    let (report, code, stderr) = net(&args);
    assert_eq!(
        (code, &report["connected"]),
        (1, &json!(false)),
        "{report} {stderr}"
    );
    let ours = format!("{PROGRAM} net check --bootstrap $CUMULET_BOOTSTRAP --relay $CUMULET_RELAY");
    let args = [
        "lab",
        "--topology",
        "port-restricted:open",
        "--server",
        listen,
        "--client",
        &ours,
        "--until",
        "NAT        consistent",
    ];
    let (report, code, stderr) = net(&args);
    assert_eq!(
        (code, &report["connected"]),
        (0, &json!(true)),
        "{report} {stderr}"
    );
    assert!(report["clientReceived"]["services"].as_u64().unwrap() > 0);
}

#[test]
fn simulated_peers_find_each_other_connect_and_come_and_go() {
    if !can_run() {
        return;
    }
    let args = [
        "lab",
        "--topology",
        "open:port-restricted",
        "--peers",
        "10",
        "--peers-at",
        "open:symmetric",
        "--churn",
        "10",
        "--seconds",
        "12",
        "--seed",
        "5",
    ];
    let (report, code, stderr) = net(&args);
    assert_eq!((code, &report["seed"]), (0, &json!(5)), "{report} {stderr}");
    assert!(stderr.contains("seed 5: 10 simulated peers are in"), "{stderr}");
    let peers = &report["peers"];
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{report}"));
    // One of ten goes a second, for twelve seconds.
    let (came, left) = (number(&peers["came"]), number(&peers["left"]));
    assert!(left >= 5 && came > 10, "{peers}");
    assert!((1..left).contains(&number(&peers["goodbyes"])), "{peers}");
    assert_eq!(peers["failed"], 0);
    let lookups = &peers["lookups"];
    let [asked, answered, found] = ["asked", "answered", "found"].map(|name| number(&lookups[name]));
    assert!(asked >= answered && answered >= found && found > 0, "{peers}");
    let links = &peers["connections"];
    assert!(
        number(&links["dialled"]) > 0 && number(&links["accepted"]) > 0,
        "{peers}"
    );
    // Nobody else joined the topic.
    assert_eq!(links["withOthers"], 0, "{peers}");
    let first = &peers["firstConnectionMs"];
    let [min, median, p99] = ["min", "median", "p99"].map(|name| number(&first[name]));
    assert!(min <= median && median <= p99, "{peers}");
    assert!(number(&peers["carried"]["sent"]) > 0 && number(&peers["used"]["cpuMs"]) > 0);
    // The two that are measured are there as ever.
    assert_eq!(report["measured"]["bytes"], 65_536);
    assert!(report["clientUsed"].is_null(), "{report}");
}

#[test]
fn the_load_of_many_clients_is_on_the_program_that_announces_the_topic() {
    if !can_run() {
        return;
    }
    let (writer, reader) = (User::new(), User::new());
    writer.ok(&["core", "create", "diary"]);
    writer.ok_fed(&["core", "append", "diary"], b"dear");
    let info = writer.json(&["core", "info", "diary"]);
    let [key, topic] = ["key", "discoveryKey"].map(|name| info[name].as_str().unwrap());
    let serve = format!("{PROGRAM} core serve diary --store {}", writer.store().display());
    let read = format!("{PROGRAM} core cat {key} --store {}", reader.store().display());
    let args = [
        "lab",
        "--topology",
        "full-cone:open",
        "--server",
        &serve,
        "--client",
        &read,
        "--peers",
        "6",
        "--peers-as",
        "clients",
        "--topic",
        topic,
        "--seconds",
        "10",
    ];
    let (report, code, stderr) = net(&args);
    assert_eq!(
        (code, &report["connected"]),
        (0, &json!(true)),
        "{report} {stderr}"
    );
    assert!(stderr.contains("client: dear"), "{stderr}");
    let links = &report["peers"]["connections"];
    // Clients alone announce nothing, so all that they have is with the server.
    assert!(links["dialled"].as_u64().unwrap() >= 6, "{report}");
    assert_eq!(
        (&links["accepted"], &links["withOthers"]),
        (&json!(0), &links["dialled"]),
        "{report}"
    );
    // The client may end before it is looked at.
    assert!(
        report["serverUsed"]["rssBytes"].as_u64().unwrap() > 1 << 20,
        "{report}"
    );
    assert!(
        report["serverReceived"]["simulated"].as_u64().unwrap() > 0,
        "{report}"
    );
}

#[test]
fn an_interrupted_run_leaves_no_namespace() {
    if !can_run() {
        return;
    }
    let args = [
        "net",
        "lab",
        "--topology",
        "open:open",
        "--peers",
        "4",
        "--seconds",
        "600",
    ];
    let mut child = Command::new(PROGRAM)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let prefix = format!("{}{}n", cumulet_net_lab::PREFIX, child.id());
    let namespaces = || {
        let entries = std::fs::read_dir("/run/netns").unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(&prefix)).count()
    };
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = said.next().unwrap().unwrap();
    assert!(line.contains("4 simulated peers are in"), "{line}");
    // The internet, two programs, and four open peers at one host.
    assert_eq!(namespaces(), 4);
    assert_eq!(interrupt(&mut child), Some(130));
    assert_eq!(namespaces(), 0);
}

#[test]
fn wrong_topologies_are_refused_and_all_kinds_are_listed() {
    let user = User::new();
    let said = user.fails(&["net", "lab", "--topology", "opne:open"], 2);
    assert!(said.contains("symmetric") && said.contains("hint: "), "{said}");
    let said = user.fails(&["net", "lab", "--topology", "open:open:open"], 2);
    assert!(said.contains("3 sites"), "{said}");
    for (wrong, told) in [
        (&["--peers", "0"][..], "1 to 2000"),
        (&["--peers", "2001"], "1 to 2000"),
        (
            &["--peers", "4", "--peers-at", "udp-blocked"],
            "behind udp-blocked",
        ),
        (&["--peers", "4", "--peers-at", "opne"], "no kind of network"),
        (&["--peers", "4", "--topic", "abc"], "64 hex digits"),
        (&["--peers", "4", "--churn", "0"], "--churn"),
        (&["--churn", "4"], "--peers"),
    ] {
        let args = [&["net", "lab", "--topology", "open:open"], wrong].concat();
        let said = user.fails(&args, 2);
        assert!(said.contains(told), "{wrong:?}: {said}");
    }
    let names: Vec<_> = user.lines(&["net", "lab", "--list"]);
    for kind in ["open", "campus", "udp-blocked", "satellite"] {
        assert!(names.iter().any(|line| line["name"] == kind), "{kind}");
    }
}

#[test]
fn a_time_server_without_a_port_is_refused_before_anything_is_asked() {
    let said = User::new().fails(&["net", "check", "--ntp", "pool.ntp.org"], 2);
    assert!(
        said.contains("--ntp") && said.contains("hint: pool.ntp.org:123"),
        "{said}"
    );
}

fn check(host: &Namespace, args: &[&str]) -> (Value, Output) {
    let mut command = host.command(PROGRAM);
    command.args(["net", "check", "--json"]).args(args);
    let output = command.output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap();
    (report, output)
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_the_nat_and_ends_with_1_only_where_something_is_wrong() {
    if !can_run() {
        return;
    }
    let lab = lab("open:port-restricted:symmetric:udp-blocked");
    let services = Services::start(&lab).await.unwrap();
    let bootstrap = Services::bootstrap().join(",");
    let relay = hex::encode(services.relay_key());
    let args = ["--bootstrap", &bootstrap, "--relay", &relay];
    for (site, nat) in ["open", "consistent", "random"].into_iter().enumerate() {
        let (report, output) = check(&lab.host(site, 0), &args);
        assert_eq!(report["nat"], nat, "{report}");
        assert_eq!(report["seenHost"], lab.public_address(site).to_string());
        assert_eq!(report["reachableAt"].is_null(), nat != "open", "{report}");
        assert_eq!(report["relay"]["reachable"], true, "{report}");
        assert_eq!(report["problems"], json!([]), "{report}");
        assert_eq!(output.status.code(), Some(0));
    }
    let (report, output) = check(&lab.host(3, 0), &args);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(
        report["problems"][0]
            .as_str()
            .unwrap()
            .contains("no bootstrap node answers"),
        "{report}"
    );
    assert!(report["advice"].to_string().contains("--peer"), "{report}");

    let dead = format!("{bootstrap},45.32.0.1:9");
    let absent = "0".repeat(64);
    let (report, output) = check(&lab.host(0, 0), &["--bootstrap", &dead, "--relay", &absent]);
    assert_eq!(output.status.code(), Some(1));
    let answers: Vec<_> = report["bootstrap"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| &node["answers"])
        .collect();
    assert_eq!(answers, [&json!(true), &json!(true), &json!(true), &json!(false)]);
    assert_eq!(report["problems"].as_array().unwrap().len(), 2, "{report}");
}

/// A command of a user at a place.
fn at(place: &Namespace, user: &User, args: &[&str]) -> Command {
    let mut command = place.command(PROGRAM);
    command
        .args(args)
        .env("CUMULET_STORE", user.store())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Ends with the test, also when it fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns once it serves.
fn serving(place: &Namespace, user: &User, args: &[&str]) -> Running {
    let mut child = at(place, user, args).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("public key"), "{args:?}: {line}");
    Running(child)
}

#[test]
fn where_udp_is_blocked_two_peers_sync_through_the_cloud() {
    if !can_run() {
        return;
    }
    let lab = lab("udp-blocked:udp-blocked");
    let (cloud, writer, reader) = (User::new(), User::new(), User::new());
    writer.ok(&["core", "create", "diary"]);
    writer.ok_fed(&["core", "append", "diary"], b"dear");
    let key = writer.json(&["core", "info", "diary"])["key"]
        .as_str()
        .unwrap()
        .to_owned();
    // The cloud knows the core from earlier; what is new has to come through the network.
    let mut before = writer.serve(&["core", "serve", "--listen", "127.0.0.1:0", "--no-announce"]);
    let peer = before.listen();
    assert_eq!(cloud.ok(&["core", "cat", &key, "--peer", &peer]), "dear");
    assert_eq!(before.interrupt(), Some(130));
    writer.ok_fed(&["core", "append", "diary"], b" diary");
    let address = format!("{}:4977", Topology::service_address(0));
    let _cloud = serving(
        &lab.internet(),
        &cloud,
        &[
            "core",
            "serve",
            &key,
            "--follow",
            "--listen",
            &address,
            "--no-announce",
        ],
    );
    let serve = [
        "core",
        "serve",
        "diary",
        "--listen",
        "127.0.0.1:0",
        "--no-announce",
        "--peer",
        &address,
    ];
    let writing = serving(&lab.host(0, 0), &writer, &serve);
    let read = |reader: &User| {
        let args = ["core", "cat", &key, "--peer", &address, "--timeout", "2"];
        text(&at(&lab.host(1, 0), reader, &args).output().unwrap().stdout)
    };
    until("the cloud has it", || read(&reader) == "dear diary");
    drop(writing);
    // The cloud alone is left.
    assert_eq!(read(&User::new()), "dear diary");
    let traffic = lab.traffic(1, 0).unwrap();
    assert_eq!(
        traffic.sites.values().sum::<u64>(),
        0,
        "nothing went directly: {traffic:?}"
    );
    assert!(traffic.services > 0);
}

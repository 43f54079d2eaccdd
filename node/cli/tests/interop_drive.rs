//! Drives between the command line and the JavaScript packages, over TCP on loopback.
//!
//! Without Node these tests are skipped with a printed reason; under `CI=true` they fail instead.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)] // tests

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::{User, noise};

fn interop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop/data")
}

/// Whether Node and the packages are there; installs the packages once if they are missing.
fn is_ready() -> bool {
    static READY: OnceLock<bool> = OnceLock::new();
    *READY.get_or_init(|| {
        let run = |program: &str, args: &[&str]| {
            let status = Command::new(program).args(args).current_dir(interop()).status();
            status.is_ok_and(|status| status.success())
        };
        let installed = || interop().join("node_modules/corestore/package.json").exists();
        let ready =
            run("node", &["--version"]) && (installed() || run("npm", &["ci", "--no-audit", "--no-fund"]));
        if !ready {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "Node or its packages are missing"
            );
            eprintln!("skipped: Node or its packages are missing");
        }
        ready
    })
}

/// What the JavaScript packages read of a drive that is served on an address.
fn javascript_reads(address: &str, key: &str, encryption_key: Option<&str>) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js/read_drive.js");
    let (_, port) = address.rsplit_once(':').unwrap();
    let output = Command::new("node")
        .arg(script)
        .args([port, key])
        .args(encryption_key)
        .current_dir(interop())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A drive that the JavaScript packages serve; ends when dropped.
struct JavascriptDrive {
    child: Child,
    said: Value,
}

impl JavascriptDrive {
    fn start(seed: &str) -> Self {
        let mut child = Command::new("node")
            .args(["archives.js", "serve-drive", seed])
            .current_dir(interop())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let said = serde_json::from_str(&line).unwrap();
        Self { child, said }
    }
}

impl Drop for JavascriptDrive {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[test]
fn javascript_reads_a_drive_that_the_command_line_wrote_byte_for_byte() {
    if !is_ready() {
        return;
    }
    let user = User::new();
    let big = noise(7, 2_000_001);
    user.ok_fed(&["drive", "put", "d", "/big.bin", "--executable"], &big);
    user.ok_fed(
        &["drive", "put", "d", "/a/ü b.txt", "--metadata", r#"{"n":[1]}"#],
        b"text",
    );
    user.ok_fed(&["drive", "put", "d", "/empty"], b"");
    user.ok_fed(&["drive", "put", "d", "/gone"], b"x");
    user.ok(&["drive", "del", "d", "/gone"]);
    user.ok(&["drive", "symlink", "d", "/link", "a/ü b.txt"]);
    let info = user.json(&["drive", "info", "d"]);
    let mut server = user.serve(&["drive", "serve", "--listen", "127.0.0.1:0", "--no-announce"]);
    let seen = javascript_reads(&server.listen(), info["key"].as_str().unwrap(), None);
    assert_eq!(seen["version"], info["version"]);
    let file = |bytes: &[u8], executable: bool, metadata: Value| json!({"sha256": sha256(bytes), "executable": executable, "linkname": null, "metadata": metadata});
    assert_eq!(
        seen["files"],
        json!({
            "/big.bin": file(&big, true, Value::Null),
            "/a/ü b.txt": file(b"text", false, json!({"n": [1]})),
            "/empty": file(b"", false, Value::Null),
            "/link": {"sha256": null, "executable": false, "linkname": "a/ü b.txt", "metadata": null},
        })
    );
    assert_eq!(server.interrupt(), Some(130));
}

#[test]
fn javascript_reads_an_encrypted_drive_with_the_key() {
    if !is_ready() {
        return;
    }
    let user = User::new();
    user.ok(&["keygen", "key"]);
    let big = noise(8, 300_000);
    let put = ["drive", "put", "d", "/x", "--encryption-key-file", "key"];
    user.ok_fed(&put, &big);
    let info = user.json(&["drive", "info", "d", "--encryption-key-file", "key"]);
    let secret = std::fs::read_to_string(user.path("key")).unwrap();
    let server = user.serve(&["drive", "serve", "--listen", "127.0.0.1:0", "--no-announce"]);
    let key = info["key"].as_str().unwrap();
    let seen = javascript_reads(&server.listen(), key, Some(secret.trim()));
    assert_eq!(seen["files"]["/x"]["sha256"], sha256(&big));
}

#[test]
fn the_command_line_reads_a_drive_of_javascript_byte_for_byte() {
    if !is_ready() {
        return;
    }
    let (user, drive) = (User::new(), JavascriptDrive::start("11"));
    let peer = format!("127.0.0.1:{}", drive.said["port"]);
    let key = drive.said["key"].as_str().unwrap().to_owned();
    let listed = user.lines(&["drive", "ls", &key, "--recursive", "--peer", &peer]);
    let files = drive.said["files"].as_array().unwrap();
    assert_eq!(listed.len(), files.len());
    let mut compared = 0;
    for (ours, theirs) in listed.iter().zip(files) {
        assert_eq!(ours["path"], theirs["key"]);
        assert_eq!(ours["seq"], theirs["seq"]);
        assert_eq!(ours["linkname"], theirs["linkname"]);
        assert_eq!(ours["metadata"], theirs["metadata"]);
        assert_eq!(ours["executable"], theirs["executable"]);
        let Some(wanted) = theirs["sha256"].as_str() else {
            continue;
        };
        let bytes = user.bytes(&[
            "drive",
            "cat",
            &key,
            ours["path"].as_str().unwrap(),
            "--peer",
            &peer,
        ]);
        assert_eq!(sha256(&bytes), wanted, "{ours}");
        compared += 1;
    }
    assert!(compared > 5, "{compared}");
    drop(drive);
    // All of it is here now, and sound.
    let verified = user.json(&["drive", "verify", &key]);
    assert_eq!(
        (&verified["files"], &verified["incompleteFiles"]),
        (&json!(listed.len()), &json!(0)),
        "{verified}"
    );
}

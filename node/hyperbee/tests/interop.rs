//! Against the real JavaScript package. Needs Node.js and `npm ci` in `interop/data`.

#![allow(clippy::unwrap_used, clippy::panic)]

mod scripts;

use std::process::Command;

use scripts::{assert_writes, list};
use serde_json::Value;

#[test]
fn random_scripts_write_the_same_blocks_as_the_js_package() {
    let seed = std::env::var("CUMULET_SEED").unwrap_or_else(|_| "1".to_owned());
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../interop/data");
    let output = Command::new("node")
        .args(["archives.js", "bees", &seed, "25"])
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let cases = list(&answer["cases"]);
    assert_eq!(cases.len(), 25);
    for case in cases {
        assert_writes(case);
    }
}

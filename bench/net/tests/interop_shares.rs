//! Real streams share a line of a lab. Needs root, `ip`, `nft` and the packages of `interop/udx`.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const RIVALS: [&str; 3] = ["CUBIC", "Reno", "libudx"];

/// Whether the test can run here; says why not, and fails where nothing may be skipped.
fn can_run() -> bool {
    let packages = Path::new(ROOT).join("interop/udx/node_modules");
    let reason = match cumulet_net_lab::missing() {
        Some(missing) => format!("{missing}; hint: {}", missing.hint()),
        None if !packages.is_dir() => "no packages in interop/udx; hint: run `npm ci` there".to_owned(),
        None => return true,
    };
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!ci, "nothing is skipped in CI, but {reason}");
    eprintln!("skipped: {reason}");
    false
}

#[test]
fn ours_and_each_rival_deliver_over_one_bottleneck_and_fill_no_more_than_it_carries() {
    if !can_run() {
        return;
    }
    let row = ["--row", "shares, 10 Mbit/s, 40 ms, queue 4"];
    let output = Command::new(env!("CARGO_BIN_EXE_cumulet-bench-net"))
        .args([
            "compare",
            "--json",
            "--rounds",
            "1",
            "--share-seconds",
            "1",
            "2",
            "--repository",
            ROOT,
        ])
        .args(row)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let table: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = table["rows"].as_array().unwrap();
    let value = |name: &str| {
        let row = rows
            .iter()
            .find(|row| row["name"].as_str().unwrap().starts_with(name));
        row.and_then(|row| row["ours"][0].as_f64()).unwrap()
    };
    for rival in RIVALS {
        let share = value(&format!("{rival}'s share"));
        assert!(share > 0.0 && share < 1.0, "{rival} got {share}");
        let both = value(&format!("both with {rival}"));
        assert!(both > 0.0 && both < 11.0, "{both} Mbit/s with {rival}");
    }
}

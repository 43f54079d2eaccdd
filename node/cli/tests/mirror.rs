//! `drive mirror` in both directions: what a folder and a drive have afterwards, and what is refused.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)] // tests

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};
use support::{User, files_below, noise};

/// A folder with a large file, an executable one, a link and folders.
fn photos(user: &User) -> Vec<u8> {
    let root = user.path("photos");
    fs::create_dir_all(root.join("2024/märz")).unwrap();
    let big = noise(3, 700_000);
    fs::write(root.join("2024/film.bin"), &big).unwrap();
    fs::write(root.join("2024/märz/a b.txt"), "text").unwrap();
    fs::write(root.join("run.sh"), "#!/bin/sh").unwrap();
    fs::set_permissions(root.join("run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink("2024/film.bin", root.join("newest")).unwrap();
    symlink("/etc/passwd", root.join("outside")).unwrap();
    big
}

fn actions(lines: &[Value]) -> Vec<(String, String)> {
    let text = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
    let steps = lines.iter().filter(|line| line.get("path").is_some());
    steps
        .map(|line| (text(line, "path"), text(line, "action")))
        .collect()
}

fn counts(lines: &[Value]) -> Value {
    let last = lines.last().unwrap();
    json!([
        last["added"],
        last["changed"],
        last["removed"],
        last["equal"],
        last["skipped"]
    ])
}

fn same_folders(a: &Path, b: &Path) {
    let names = |root: &Path| -> Vec<_> {
        let mut names: Vec<_> = files_below(root)
            .iter()
            .map(|file| file.strip_prefix(root).unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(a), names(b));
    for name in names(a) {
        assert!(
            fs::read(a.join(&name)).unwrap() == fs::read(b.join(&name)).unwrap(),
            "{}",
            name.display()
        );
        let mode = |root: &Path| fs::metadata(root.join(&name)).unwrap().permissions().mode() & 0o100;
        assert_eq!(mode(a), mode(b), "{}", name.display());
    }
}

#[test]
fn a_folder_goes_into_a_drive_and_comes_back_as_it_was() {
    let user = User::new();
    photos(&user);
    let put = user.lines(&["drive", "mirror", "./photos", "d"]);
    assert_eq!(
        counts(&put),
        json!([4, 0, 0, 0, 1]),
        "the link that leads out is skipped"
    );
    assert!(actions(&put).contains(&("/outside".to_owned(), "skipped".to_owned())));
    fs::remove_file(user.path("photos/outside")).unwrap();
    let got = user.lines(&["drive", "mirror", "d", "./back"]);
    assert_eq!(counts(&got), json!([4, 0, 0, 0, 0]));
    same_folders(&user.path("photos"), &user.path("back"));
    assert_eq!(
        fs::read_link(user.path("back/newest")).unwrap(),
        Path::new("2024/film.bin")
    );
    // A second time there is nothing to do, in either direction.
    for args in [
        ["drive", "mirror", "./photos", "d"],
        ["drive", "mirror", "d", "./back"],
    ] {
        assert_eq!(counts(&user.lines(&args)), json!([0, 0, 0, 4, 0]));
    }
    assert!(
        user.ok(&["drive", "mirror", "d", "./back"])
            .starts_with("0 added, 0 changed, 0 removed, 4 equal")
    );
}

#[test]
fn only_what_changed_is_written_and_only_with_prune_is_anything_removed() {
    let user = User::new();
    photos(&user);
    user.ok(&["drive", "mirror", "./photos", "d", "--quiet"]);
    let version = user.json(&["drive", "info", "d"])["version"].to_string();
    fs::write(user.path("photos/run.sh"), "#!/bin/true").unwrap();
    fs::remove_file(user.path("photos/2024/märz/a b.txt")).unwrap();
    let dry = user.ok(&[
        "drive",
        "mirror",
        "./photos",
        "d",
        "--prune",
        "--dry-run",
        "--quiet",
    ]);
    assert!(
        dry.contains("~ /run.sh\n") && dry.contains("- /2024/märz/a b.txt\n"),
        "{dry}"
    );
    assert!(dry.contains("would be: 0 added, 1 changed, 1 removed"), "{dry}");
    assert_eq!(user.json(&["drive", "info", "d"])["version"].to_string(), version);
    let kept = user.lines(&["drive", "mirror", "./photos", "d"]);
    assert_eq!(counts(&kept), json!([0, 1, 0, 2, 1]));
    let pruned = user.lines(&["drive", "mirror", "./photos", "d", "--prune"]);
    assert_eq!(counts(&pruned), json!([0, 0, 1, 3, 1]));
    // The older version comes back whole; what the user has beside it stays, or not.
    user.file("photos/mine", "mine");
    user.ok(&["drive", "mirror", "d", "./photos", "--version", &version]);
    assert_eq!(fs::read(user.path("photos/2024/märz/a b.txt")).unwrap(), b"text");
    assert_eq!(fs::read(user.path("photos/run.sh")).unwrap(), b"#!/bin/sh");
    assert!(user.path("photos/mine").exists());
    user.ok(&[
        "drive",
        "mirror",
        "d",
        "./photos",
        "--version",
        &version,
        "--prune",
    ]);
    assert!(!user.path("photos/mine").exists());
}

#[test]
fn a_part_of_a_drive_is_mirrored_by_folder_and_by_pattern() {
    let user = User::new();
    let big = photos(&user);
    user.ok(&[
        "drive", "mirror", "./photos", "d", "--folder", "/in", "--links", "skip", "--quiet",
    ]);
    let key = user.json(&["drive", "info", "d"])["link"]
        .as_str()
        .unwrap()
        .to_owned();
    user.ok(&[
        "drive",
        "mirror",
        &format!("{key}/in/2024"),
        "./a",
        "--exclude",
        "**/*.txt",
    ]);
    assert_eq!(files_below(&user.path("a")), [user.path("a/film.bin")]);
    assert_eq!(fs::read(user.path("a/film.bin")).unwrap(), big);
    user.ok(&["drive", "mirror", "d", "./b", "--include", "**/*.txt"]);
    assert_eq!(
        files_below(&user.path("b")),
        [user.path("b/in/2024/märz/a b.txt")]
    );
}

#[test]
fn a_drive_of_a_peer_is_mirrored_with_the_blocks_that_it_needs() {
    let (writer, reader) = (User::new(), User::new());
    photos(&writer);
    fs::remove_file(writer.path("photos/outside")).unwrap();
    writer.ok(&["drive", "mirror", "./photos", "d"]);
    let key = writer.json(&["drive", "info", "d"])["key"]
        .as_str()
        .unwrap()
        .to_owned();
    let server = writer.serve(&["drive", "serve", "--listen", "127.0.0.1:0", "--no-announce"]);
    reader.ok(&["drive", "mirror", &key, "./got", "--peer", &server.listen()]);
    same_folders(&writer.path("photos"), &reader.path("got"));
    drop(server);
    // It is held now: the folder can be made again without anybody.
    reader.ok(&["drive", "mirror", &key, "./again", "--offline"]);
    same_folders(&writer.path("photos"), &reader.path("again"));
}

#[test]
fn sides_that_make_no_sense_are_refused_with_a_hint_and_nothing_is_made() {
    let user = User::new();
    photos(&user);
    user.ok(&["bee", "put", "b", "k", "v"]);
    assert!(
        user.fails(&["drive", "mirror", "photos", "d"], 2)
            .contains("begins with /, ./ or ../")
    );
    user.fails(&["drive", "mirror", "./photos", "./d"], 2);
    user.fails(&["drive", "mirror", "./photos/run.sh", "d"], 2);
    user.fails(
        &["drive", "mirror", "./photos", "d", "--include", "a[", "--quiet"],
        2,
    );
    user.fails(&["drive", "mirror", "./photos", "d", "--version", "1"], 2);
    user.fails(&["drive", "mirror", "./missing", "d"], 3);
    user.fails(&["drive", "mirror", "./photos", "d", "--dry-run"], 3);
    user.fails(&["drive", "mirror", "d", "./x"], 3);
    assert!(
        user.fails(&["drive", "mirror", "./photos", "b"], 1)
            .contains("b is a bee")
    );
    let names: Vec<Value> = user.lines(&["core", "ls"]);
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(!user.path("x").exists());
}

//! Folders into drives and back.

#![cfg(all(feature = "mirror", unix))]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use bytes::Bytes;
use cumulet_hyperbee::{BeeWriter, MemoryBlocks, WriteOptions};
use cumulet_hyperdrive::mirror::{
    Action, Compare, Links, MirrorOptions, PART_PREFIX, Skipped, Step, Summary, export, import,
};
use cumulet_hyperdrive::plan::Selection;
use cumulet_hyperdrive::{Drive, DriveWriter, FileOptions};
use proptest::collection::btree_map;
use proptest::prelude::*;

type Writer = DriveWriter<MemoryBlocks, MemoryBlocks>;

fn writer() -> Writer {
    DriveWriter::new(MemoryBlocks::default(), MemoryBlocks::default())
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn put_local(root: &Path, name: &str, data: &[u8]) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, data).unwrap();
}

fn take(root: &Path, writer: &mut Writer, options: &MirrorOptions) -> (Summary, Vec<Step>) {
    let mut steps = Vec::new();
    let summary = run(import(root, writer, options, &mut |step| {
        steps.push(step.clone());
    }))
    .unwrap();
    (summary, steps)
}

fn give(drive: &Drive<MemoryBlocks>, root: &Path, options: &MirrorOptions) -> (Summary, Vec<Step>) {
    let mut steps = Vec::new();
    let summary = run(export(drive, root, options, &mut |step| steps.push(step.clone()))).unwrap();
    (summary, steps)
}

fn action(steps: &[Step], path: &str) -> Action {
    steps
        .iter()
        .find(|step| step.path == path)
        .unwrap_or_else(|| panic!("no step for {path}"))
        .action
}

/// All files and links below a folder: bytes or target, and the executable flag.
fn local_files(root: &Path) -> BTreeMap<String, (Vec<u8>, bool)> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .as_bytes()
                    .to_vec();
                files.insert(name, (target, false));
            } else {
                let executable = metadata.permissions().mode() & 0o100 != 0;
                files.insert(name, (fs::read(&path).unwrap(), executable));
            }
        }
    }
    files
}

fn prune() -> MirrorOptions {
    MirrorOptions {
        prune: true,
        ..MirrorOptions::default()
    }
}

fn large() -> Vec<u8> {
    (0..300_001_u32).map(|at| (at % 251) as u8).collect()
}

#[test]
fn a_folder_through_a_drive_is_the_same_folder_and_a_second_run_writes_nothing() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = from.path();
    for name in [
        "a",
        "a.txt",
        "a-b",
        "folder/x",
        "folder.d/x",
        "folder/deep/er/ü n",
    ] {
        put_local(from, name, name.as_bytes());
    }
    put_local(from, "empty", b"");
    put_local(from, "exactly", &large()[..65_536]);
    put_local(from, "large.bin", &large());
    fs::set_permissions(from.join("a-b"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../large.bin", from.join("folder/link")).unwrap();
    let mut writer = writer();
    let (summary, _) = take(from, &mut writer, &prune());
    assert_eq!((summary.added, summary.skipped, summary.removed), (10, 0, 0));
    let (again, _) = take(from, &mut writer, &prune());
    assert_eq!(
        (again.equal, again.added + again.changed, again.bytes),
        (10, 0, 0)
    );
    let version = writer.version();

    let to = to.path();
    put_local(to, "old/file", b"goes");
    put_local(to, "large.bin", b"other");
    let (summary, steps) = give(&writer.drive(), to, &prune());
    assert_eq!((summary.added, summary.changed, summary.removed), (9, 1, 1));
    assert_eq!(action(&steps, "/large.bin"), Action::Change);
    assert_eq!(local_files(to), local_files(from));
    assert!(!to.join("old").exists(), "an emptied folder stayed");
    let (again, _) = give(&writer.drive(), to, &prune());
    assert_eq!(
        (again.equal, again.added + again.changed + again.removed),
        (10, 0)
    );

    // A change of the same length, of the flag alone, and a removal.
    put_local(to, "a", b"b");
    fs::set_permissions(to.join("a-b"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(to.join("empty")).unwrap();
    let (_, steps) = take(to, &mut writer, &prune());
    assert_eq!(action(&steps, "/a"), Action::Change);
    assert_eq!(action(&steps, "/a-b"), Action::Describe);
    assert_eq!(action(&steps, "/empty"), Action::Remove);
    let summary = take(
        to,
        &mut writer,
        &MirrorOptions {
            compare: Compare::Size,
            ..prune()
        },
    )
    .0;
    assert_eq!(summary.equal, 9);
    // Earlier versions are as they were.
    let old = writer.drive().checkout(version);
    assert_eq!(run(old.get("/a", 10)).unwrap().unwrap(), b"a");
}

#[test]
fn a_dry_run_tells_the_same_and_does_nothing() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put_local(from.path(), "new", b"1");
    put_local(from.path(), "changed", &large());
    let mut writer = writer();
    run(writer.put("/changed", b"before", FileOptions::default())).unwrap();
    run(writer.put("/gone", b"before", FileOptions::default())).unwrap();
    let dry = MirrorOptions {
        dry_run: true,
        ..prune()
    };
    let version = writer.version();
    let (_, told) = take(from.path(), &mut writer, &dry);
    assert_eq!(writer.version(), version);
    let (_, done) = take(from.path(), &mut writer, &prune());
    assert_eq!(told, done);

    put_local(to.path(), "changed", b"x");
    put_local(to.path(), "extra", b"x");
    let before = local_files(to.path());
    let (_, told) = give(&writer.drive(), to.path(), &dry);
    assert_eq!(local_files(to.path()), before);
    let (_, done) = give(&writer.drive(), to.path(), &prune());
    assert_eq!(told, done);
    let missing = to.path().join("not/there");
    assert_eq!(give(&writer.drive(), &missing, &dry).0.added, 2);
    assert!(!missing.exists());
}

#[test]
fn files_that_are_not_selected_are_left_alone_on_both_sides() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put_local(from.path(), "keep.txt", b"1");
    put_local(from.path(), "skip.log", b"1");
    put_local(to.path(), "other.log", b"1");
    let mut writer = writer();
    run(writer.put("/in/old.log", b"1", FileOptions::default())).unwrap();
    run(writer.put("/in/old.txt", b"1", FileOptions::default())).unwrap();
    run(writer.put("/outside", b"1", FileOptions::default())).unwrap();
    let options = MirrorOptions {
        folder: "/in".to_owned(),
        selection: Selection::new::<&str>(&[], &["**/*.log"]).unwrap(),
        ..prune()
    };
    let (summary, steps) = take(from.path(), &mut writer, &options);
    assert_eq!((summary.added, summary.removed, steps.len()), (1, 1, 2));
    assert_eq!(action(&steps, "/in/old.txt"), Action::Remove);
    let (summary, _) = give(&writer.drive(), to.path(), &options);
    assert_eq!((summary.added, summary.removed), (1, 0));
    assert_eq!(
        local_files(to.path()).into_keys().collect::<Vec<_>>(),
        ["keep.txt", "other.log"]
    );
}

/// A drive with keys as they are given, as only a hostile writer makes them.
fn raw_drive(keys: &[(&str, Option<&str>)]) -> Drive<MemoryBlocks> {
    let blobs = MemoryBlocks::new([Bytes::from_static(b"evil")]);
    let mut bee = BeeWriter::new(MemoryBlocks::default(), WriteOptions::default());
    for (key, link) in keys {
        let value = match link {
            Some(target) => format!(r#"{{"executable":false,"linkname":"{target}","blob":null,"metadata":null}}"#),
            None => r#"{"executable":false,"linkname":null,"blob":{"blockOffset":0,"byteOffset":0,"blockLength":1,"byteLength":4},"metadata":null}"#.to_owned(),
        };
        run(bee.put(format!("files\0{key}"), Some(value.as_bytes()))).unwrap();
    }
    Drive::new(bee.bee(), blobs)
}

#[test]
fn nothing_of_a_hostile_drive_gets_out_of_its_folder() {
    let outer = tempfile::tempdir().unwrap();
    let victim = outer.path().join("victim");
    fs::create_dir(&victim).unwrap();
    let root = outer.path().join("root");
    fs::create_dir(&root).unwrap();
    symlink("../victim", root.join("door")).unwrap();
    let drive = raw_drive(&[
        ("/../victim/a", None),
        ("/x/../../victim/b", None),
        ("//victim/c", None),
        ("/a\\\\..\\\\b", None),
        ("/dot/./d", None),
        ("/door/e", None),
        ("/up", Some("..")),
        ("/up/f", None),
        ("/out", Some("../victim")),
        ("/sneak/l", Some("n/../../../victim")),
        ("/abs", Some("/etc/passwd")),
        ("/link", Some("real")),
        ("/link/g", None),
        ("/real/h", None),
    ]);
    let (summary, steps) = give(&drive, &root, &MirrorOptions::default());
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
    let mut made: Vec<_> = local_files(&root).into_keys().collect();
    made.retain(|name| name != "door");
    // An absolute link means the drive's own root.
    assert_eq!(made, ["abs", "link", "real/h", "up/f"]);
    assert_eq!(fs::read_link(root.join("abs")).unwrap(), Path::new("etc/passwd"));
    for (path, reason) in [
        ("/../victim/a", Skipped::Name),
        ("//victim/c", Skipped::Name),
        ("/door/e", Skipped::Conflict),
        ("/up", Skipped::Link),
        ("/sneak/l", Skipped::Link),
    ] {
        assert_eq!(action(&steps, path), Action::Skip(reason), "{path}");
    }
    assert_eq!(action(&steps, "/link/g"), Action::Skip(Skipped::Conflict));
    // `/up` was not made as a link, so the file below it went into a folder of that name.
    assert_eq!(action(&steps, "/up/f"), Action::Add);
    assert!(summary.skipped >= 8);
    // Nor does pruning follow a link out.
    fs::write(victim.join("mine"), "x").unwrap();
    give(&raw_drive(&[("/door/e", None)]), &root, &prune());
    assert!(victim.join("mine").exists());
}

#[test]
fn links_are_kept_inside_left_out_or_kept_anyway() {
    let root = tempfile::tempdir().unwrap();
    symlink("/etc/hostname", root.path().join("out")).unwrap();
    symlink("there", root.path().join("in")).unwrap();
    for (links, added) in [(Links::Inside, 1), (Links::Any, 2), (Links::Skip, 0)] {
        let mut writer = writer();
        let options = MirrorOptions {
            links,
            ..MirrorOptions::default()
        };
        assert_eq!(
            take(root.path(), &mut writer, &options).0.added,
            added,
            "{links:?}"
        );
    }
}

#[test]
fn an_export_that_fails_half_way_leaves_no_half_file_and_is_resumed() {
    let root = tempfile::tempdir().unwrap();
    let mut writer = writer();
    run(writer.put("/a", b"small", FileOptions::default())).unwrap();
    run(writer.put("/b", &large(), FileOptions::default())).unwrap();
    let drive = writer.drive();
    // The blob core as it is while its end has not arrived.
    let blobs = drive.blobs.core().to_vec();
    let partial = Drive::new(&drive_bee(&writer), MemoryBlocks::new(blobs[..3].to_vec()));
    put_local(root.path(), "b", b"before");
    let failed = run(export(
        &partial,
        root.path(),
        &MirrorOptions::default(),
        &mut |_| {},
    ));
    assert!(failed.is_err());
    assert_eq!(fs::read(root.path().join("b")).unwrap(), b"before");
    assert_eq!(
        local_files(root.path()).len(),
        if root.path().join("a").exists() { 2 } else { 1 }
    );
    // What a crash leaves behind is removed by the next one that prunes, and never taken for a file.
    put_local(root.path(), &format!("{PART_PREFIX}9-9"), b"half");
    let (_, steps) = take(root.path(), &mut self::writer(), &MirrorOptions::default());
    assert!(steps.iter().all(|step| !step.path.contains(PART_PREFIX)));
    give(&drive, root.path(), &prune());
    assert_eq!(
        local_files(root.path()).into_keys().collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert!(fs::read(root.path().join("b")).unwrap() == large());
}

fn drive_bee(writer: &Writer) -> cumulet_hyperbee::Bee<MemoryBlocks> {
    cumulet_hyperbee::Bee::new(writer.drive().files.bee().blocks().clone())
}

#[test]
fn names_that_a_drive_can_not_have_are_told_and_left_out() {
    use std::os::unix::ffi::OsStrExt;
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("back\\slash"), "x").unwrap();
    fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"\xff")), "x").unwrap();
    fs::write(root.path().join("fine"), "x").unwrap();
    let (summary, _) = take(root.path(), &mut writer(), &MirrorOptions::default());
    assert_eq!((summary.added, summary.skipped), (1, 2));
}

fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop_oneof![Just("a"), Just("a.b"), Just("a-"), Just("b"), Just("a0")],
        1..4,
    )
    .prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_was_there_a_pruning_mirror_makes_both_sides_equal(
        source in btree_map(name(), 0_u8..3, 0..12),
        before in btree_map(name(), 0_u8..3, 0..12),
        batch_files in 1_usize..5,
    ) {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let fill = |root: &Path, files: &BTreeMap<String, u8>| {
            for (name, value) in files {
                // A file cannot be a folder too.
                let path = root.join(name);
                if fs::create_dir_all(path.parent().unwrap()).is_ok() && !path.is_dir() {
                    fs::write(&path, vec![*value; usize::from(*value)]).unwrap();
                }
            }
        };
        fill(from.path(), &source);
        fill(to.path(), &before);
        let mut writer = writer();
        let options = MirrorOptions { batch_files, ..prune() };
        take(to.path(), &mut writer, &options);
        take(from.path(), &mut writer, &options);
        let (summary, _) = give(&writer.drive(), to.path(), &options);
        prop_assert_eq!(summary.skipped, 0);
        prop_assert_eq!(local_files(to.path()), local_files(from.path()));
    }
}

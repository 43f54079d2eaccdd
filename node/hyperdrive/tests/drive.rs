//! Folders, links, plans and parts of files, of honest drives and of others.

#![allow(clippy::unwrap_used, clippy::panic, clippy::single_range_in_vec_init)]

use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cumulet_hyperbee::{AppendBlocks, BeeWriter, Blocks, BlocksError, ErrorKind, MemoryBlocks, WriteOptions};
use cumulet_hyperdrive::blobs::{MapEntry, encode_map};
use cumulet_hyperdrive::plan::{Plan, Selection, blocks_for};
use cumulet_hyperdrive::{BlobError, BlobPointer, Blobs, Drive, DriveError, DriveWriter, FileOptions};
use futures::executor::block_on;
use proptest::collection::vec;
use proptest::prelude::*;

type Writer = DriveWriter<MemoryBlocks, MemoryBlocks>;

fn writer(block_size: usize) -> Writer {
    DriveWriter::with_block_size(MemoryBlocks::default(), MemoryBlocks::default(), block_size)
}

fn put(writer: &mut Writer, name: &str, data: &[u8]) {
    block_on(writer.put(name, data, FileOptions::default())).unwrap();
}

/// Remembers which blocks were read.
#[derive(Debug, Clone, Default)]
struct Watched {
    blocks: MemoryBlocks,
    read: Arc<Mutex<Vec<u64>>>,
}

impl Watched {
    fn take(&self) -> Vec<u64> {
        std::mem::take(&mut self.read.lock().unwrap())
    }
}

impl Blocks for Watched {
    fn length(&self) -> u64 {
        self.blocks.length()
    }
    async fn get(&self, index: u64) -> Result<Bytes, BlocksError> {
        self.read.lock().unwrap().push(index);
        self.blocks.get(index).await
    }
    async fn seek(&self, byte_offset: u64) -> Result<(u64, u64), BlocksError> {
        self.blocks.seek(byte_offset).await
    }
}

fn expand(ranges: &[Range<u64>]) -> Vec<u64> {
    ranges.iter().cloned().flatten().collect()
}

async fn read_part<B: Blocks>(
    blobs: &Blobs<B>,
    pointer: &BlobPointer,
    part: Range<u64>,
) -> Result<Vec<u8>, BlobError> {
    blobs.read_part(pointer, part).await?.to_vec(1 << 20).await
}

#[test]
fn byte_0_is_found_behind_empty_blocks() {
    let core = MemoryBlocks::default();
    for block in ["", "a", "b"] {
        block_on(core.append(vec![Bytes::from(block)])).unwrap();
    }
    let pointer = BlobPointer {
        block_length: 3,
        byte_length: 2,
        ..BlobPointer::default()
    };
    let blobs = Blobs::new(core);
    assert_eq!(block_on(blobs.blocks_of(&pointer, 0..1)).unwrap(), [0..2]);
    assert_eq!(block_on(blobs.blocks_of(&pointer, 1..2)).unwrap(), [2..3]);
    assert_eq!(block_on(read_part(&blobs, &pointer, 0..1)).unwrap(), b"a");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Blobs whose blocks have any sizes (as JS streams write them), empty ones among them.
    #[test]
    fn a_part_is_exact_and_touches_exactly_the_blocks_announced(
        sizes in vec(vec(0_usize..9, 0..8), 1..6),
        which in any::<prop::sample::Index>(),
        cut in (0_usize..50, 0_usize..50),
    ) {
        let core = MemoryBlocks::default();
        let mut written = Vec::new();
        for (number, sizes) in sizes.iter().enumerate() {
            let (block_offset, byte_offset) = (core.length(), core.byte_length());
            let data: Vec<u8> = (0..sizes.iter().sum()).map(|at: usize| (at * 31 + number * 7) as u8).collect();
            let mut at = 0;
            for &size in sizes {
                block_on(core.append(vec![Bytes::copy_from_slice(&data[at..at + size])])).unwrap();
                at += size;
            }
            let (block_length, byte_length) = (sizes.len() as u64, data.len() as u64);
            written.push((BlobPointer { block_offset, byte_offset, block_length, byte_length, block_map: false }, data));
        }
        let (pointer, data) = which.get(&written);
        let at = |cut: usize| cut.min(data.len()) as u64;
        let (start, end) = (at(cut.0).min(at(cut.1)), at(cut.0).max(at(cut.1)));
        let core = Watched { blocks: core, ..Watched::default() };
        let blobs = Blobs::new(core.clone());
        let part = block_on(read_part(&blobs, pointer, start..end)).unwrap();
        prop_assert_eq!(&part[..], &data[start as usize..end as usize]);
        let read = core.take();
        prop_assert_eq!(&read, &expand(&block_on(blobs.blocks_of(pointer, start..end)).unwrap()));
        prop_assert!(core.take().is_empty(), "finding the blocks reads none of them");
        prop_assert!(start < end || read.is_empty());
    }

    #[test]
    fn a_folder_shows_each_name_once_whatever_lies_below(
        names in vec(vec(prop::sample::select(vec!["a", "a.txt", "a!", "a0", "b", "ab"]), 1..4), 1..30),
        folder in vec(prop::sample::select(vec!["a", "b", "a."]), 0..2),
        limit in 0_usize..12,
    ) {
        let mut writer = writer(16);
        for name in &names {
            put(&mut writer, &name.join("/"), b"x");
        }
        let mut expected = std::collections::BTreeMap::<&str, (bool, bool)>::new();
        for name in names.iter().filter(|name| name.len() > folder.len() && name.starts_with(&folder)) {
            let item = expected.entry(name[folder.len()]).or_default();
            if name.len() == folder.len() + 1 { item.0 = true } else { item.1 = true }
        }
        let files = writer.drive().files;
        let shown = block_on(files.folder(&folder.join("/"), 100)).unwrap();
        prop_assert!(!shown.truncated);
        let items: Vec<_> =
            shown.items.iter().map(|(name, item)| (name.as_str(), (item.file.is_some(), item.is_folder))).collect();
        prop_assert_eq!(items, expected.into_iter().collect::<Vec<_>>());
        let some = block_on(files.folder(&folder.join("/"), limit)).unwrap();
        prop_assert!(some.items.len() <= limit);
        prop_assert!(some.truncated || some.items.len() == shown.items.len());
    }

    #[test]
    fn any_pointer_gives_bytes_or_an_error_and_ends(
        numbers in vec(prop_oneof![0_u64..40, Just((1 << 53) - 1), any::<u64>()], 4),
        block_map in any::<bool>(),
        blocks in vec(vec(any::<u8>(), 0..12), 0..12),
    ) {
        let blobs = Blobs::new(MemoryBlocks::new(blocks.into_iter().map(Bytes::from)));
        let [block_offset, byte_offset, block_length, byte_length] = numbers.try_into().unwrap();
        let pointer = BlobPointer { block_offset, byte_offset, block_length, byte_length, block_map };
        let _ = block_on(async { blobs.read(&pointer).await?.to_vec(1000).await });
        let _ = block_on(read_part(&blobs, &pointer, 3..9));
        let _ = block_on(blobs.blocks_of(&pointer, 3..9));
        let _ = block_on(blocks_for(&blobs, [pointer]));
    }
}

#[test]
fn pointers_that_their_blocks_contradict_are_damaged() {
    let blobs = Blobs::new(MemoryBlocks::new(["0123", "4567", "89"].map(Bytes::from)));
    let honest = BlobPointer {
        block_offset: 1,
        byte_offset: 4,
        block_length: 2,
        byte_length: 6,
        block_map: false,
    };
    assert_eq!(block_on(read_part(&blobs, &honest, 3..6)).unwrap(), b"789");
    let lies = [
        (
            BlobPointer {
                byte_offset: 0,
                ..honest
            },
            3..6,
        ),
        (
            BlobPointer {
                byte_length: 7,
                ..honest
            },
            0..7,
        ),
        (
            BlobPointer {
                byte_length: 7,
                block_length: 1,
                ..honest
            },
            5..7,
        ),
        (
            BlobPointer {
                block_map: true,
                ..honest
            },
            0..1,
        ),
        (
            BlobPointer {
                block_map: true,
                block_length: 65,
                ..honest
            },
            0..1,
        ),
    ];
    for (pointer, part) in lies {
        let error = block_on(read_part(&blobs, &pointer, part)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{pointer:?} {error}");
    }
    let beyond = BlobPointer {
        block_offset: 2,
        byte_offset: 8,
        block_length: 2,
        byte_length: 9,
        ..honest
    };
    let error = block_on(read_part(&blobs, &beyond, 0..9)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let error = block_on(read_part(&blobs, &honest, 3..7)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[test]
fn a_map_that_lies_about_a_block_or_adds_up_too_far_is_damaged() {
    let entry = |index, byte_length| MapEntry { index, byte_length };
    let read = |entries: &[MapEntry]| {
        let core = MemoryBlocks::new([Bytes::from("0123"), encode_map(entries).into()]);
        let pointer = BlobPointer {
            block_offset: 1,
            byte_offset: 4,
            block_length: 1,
            byte_length: 4,
            block_map: true,
        };
        block_on(async { Blobs::new(core).read(&pointer).await?.to_vec(100).await })
    };
    assert_eq!(read(&[entry(0, 4), entry(0, 4)]).unwrap(), b"01230123");
    let huge = (1 << 53) - 1;
    for lie in [vec![entry(0, 5)], vec![entry(0, huge), entry(0, huge)]] {
        assert_eq!(read(&lie).unwrap_err().kind(), ErrorKind::Damaged);
    }
    assert_eq!(read(&[entry(7, 4)]).unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn an_empty_mapped_blob_is_empty() {
    // JS writes it for an empty file with dedup, and can't read it back itself.
    let blobs = Blobs::new(MemoryBlocks::default());
    let pointer = BlobPointer {
        block_map: true,
        ..BlobPointer::default()
    };
    assert_eq!(block_on(blobs.byte_length(&pointer)).unwrap(), 0);
    assert_eq!(block_on(read_part(&blobs, &pointer, 0..0)).unwrap(), b"");
    assert!(block_on(read_part(&blobs, &pointer, 0..1)).is_err());
}

#[test]
fn links_are_followed_sixteen_times_and_circles_end() {
    let mut writer = writer(16);
    put(&mut writer, "/0", b"end");
    for hop in 1..=17 {
        block_on(writer.symlink(&format!("/{hop}"), &format!("/{}", hop - 1))).unwrap();
    }
    block_on(writer.symlink("/x", "/y")).unwrap();
    block_on(writer.symlink("/y", "../x")).unwrap();
    block_on(writer.symlink("/out", "../../..")).unwrap();
    block_on(writer.symlink("/nowhere", "/none")).unwrap();
    let drive = writer.drive();
    assert_eq!(block_on(drive.get("/16", 100)).unwrap().unwrap(), b"end");
    for circle in ["/17", "/x"] {
        let error = block_on(drive.files.follow(circle)).unwrap_err();
        assert!(matches!(error, DriveError::TooManyLinks { .. }), "{error}");
    }
    assert!(matches!(
        block_on(drive.files.follow("/out")),
        Err(DriveError::Path(_))
    ));
    assert!(block_on(drive.files.follow("/nowhere")).unwrap().is_none());
    assert!(matches!(
        block_on(drive.read(&block_on(drive.files.entry("/x")).unwrap().unwrap(), None)),
        Err(DriveError::NotAFile { .. })
    ));
}

#[test]
fn a_selection_is_planned_to_the_block() {
    let mut writer = writer(4);
    put(&mut writer, "/raw/1.bin", b"0123456789");
    put(&mut writer, "/quicklooks/a.png", b"01234");
    put(&mut writer, "/quicklooks/deep/b.png", b"0");
    put(&mut writer, "/quicklooks/deep/b.tmp", b"0");
    put(&mut writer, "/readme", b"");
    let drive = writer.drive();
    let plan = |include: &[&str], exclude: &[&str]| {
        block_on(drive.plan(&Selection::new(include, exclude).unwrap())).unwrap()
    };
    assert_eq!(
        plan(&[], &[]),
        Plan {
            blocks: vec![0..7],
            files: 5,
            bytes: 17,
            unreadable: 0
        }
    );
    let all_but_raw = plan(&[], &["raw/**"]);
    assert_eq!((all_but_raw.blocks, all_but_raw.files), (vec![3..7], 4));
    assert_eq!(plan(&["quicklooks/**"], &["**/*.tmp"]).blocks, vec![3..6]);
    assert_eq!(plan(&["/quicklooks/*"], &[]).blocks, vec![3..5]);
    assert_eq!(
        plan(&["quicklooks/**/*.{tmp,bin}", "raw/?.bin"], &[]).blocks,
        vec![0..3, 6..7]
    );
    assert_eq!(plan(&["Raw/**"], &[]), Plan::default());
    let mut clamped = plan(&[], &[]);
    clamped.clamp(5);
    assert_eq!(
        (clamped.blocks.as_slice(), clamped.block_count()),
        (&[0..5][..], 5)
    );
    assert!(Selection::new(&["a{"], &[]).is_err());
}

#[test]
fn a_plan_counts_what_it_cannot_read_and_goes_on() {
    let db = MemoryBlocks::default();
    let mut bee = BeeWriter::new(db.clone(), WriteOptions::default());
    let values: [(&[u8], &str); 6] = [
        (b"/a", "not json"),
        (
            b"/b",
            r#"{"blob":{"blockOffset":0,"byteOffset":0,"blockLength":1,"byteLength":3}}"#,
        ),
        (
            b"/c",
            r#"{"blob":{"blockOffset":1,"byteOffset":3,"blockLength":1,"byteLength":3,"blockMap":true}}"#,
        ),
        (
            b"/d",
            r#"{"blob":{"blockOffset":9,"byteOffset":3,"blockLength":70,"byteLength":3,"blockMap":true}}"#,
        ),
        (b"/e\xff", "{}"),
        (b"/f/../../x", "{}"),
    ];
    for (name, value) in values {
        block_on(bee.put([b"files\0", name].concat(), Some(value.as_bytes()))).unwrap();
    }
    let map = encode_map(&[MapEntry {
        index: 5,
        byte_length: 8,
    }]);
    let drive = Drive::new(bee.bee(), MemoryBlocks::new([Bytes::from("abc"), map.into()]));
    let plan = block_on(drive.plan(&Selection::default())).unwrap();
    assert_eq!(
        plan,
        Plan {
            blocks: vec![0..2, 5..6, 9..79],
            files: 3,
            bytes: 11,
            unreadable: 2
        }
    );
    // Names that can't be asked for are not shown.
    let root = block_on(drive.files.folder("/", 100)).unwrap();
    assert_eq!(root.items.keys().collect::<Vec<_>>(), ["b", "c", "d", "f"]);
    assert!(block_on(drive.files.folder("/f", 100)).unwrap().is_empty());
}

//! Real processes on a real disk, killed while they write.
//!
//! The child is this test binary again, told by [`CHILD`] where to write. It says on its standard output what it is about
//! to do and what a flush acknowledged; the parent ends it with SIGKILL and holds what is on the disk against that.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use cumulet_hypercore::core::WriteError;
use cumulet_hypercore::storage::Limits;

use crate::life::{DiskCore, open, scratch, verify};
use crate::random::Random;

/// Environment variable that makes the test binary the child: the directory to write to.
const CHILD: &str = "CUMULET_CRASH_CHILD";
/// Environment variable with the child's seed.
const CHILD_SEED: &str = "CUMULET_CRASH_CHILD_SEED";

/// Seals often enough that a kill finds it at it.
const LIMITS: Limits = Limits {
    seal_bytes: 16 << 10,
    spill_bytes: 64 << 10,
    spill_min_bytes: 4 << 10,
    seal_nodes: 64,
    dead_bytes: 16 << 10,
    direct_bytes: 4 << 10,
};

/// A block tells where it belongs, so that one that lies elsewhere is noticed.
fn block(fork: u64, index: u64) -> Bytes {
    let length = Random(fork << 32 | index).below(3000) as usize;
    let mut bytes = format!("{fork}/{index}/").into_bytes();
    bytes.resize(bytes.len() + length, (index % 251) as u8);
    bytes.into()
}

fn fork_of(block: &[u8]) -> u64 {
    let text: Vec<u8> = block.iter().copied().take_while(|byte| *byte != b'/').collect();
    String::from_utf8(text).unwrap().parse().unwrap()
}

/// Appends, truncates and clears until it is killed or the disk refuses.
fn write_on(core: &mut DiskCore, random: &mut Random) -> Result<(), WriteError> {
    loop {
        match random.below(20) {
            0 if core.length() > 10 => {
                let length = core.length() - random.below(core.length() / 2);
                println!("truncating {} {length}", core.fork() + 1);
                core.truncate(length, None)?;
            }
            1 if core.length() > 10 => {
                let start = random.below(core.length());
                println!("clearing {start} {}", start + 5);
                core.clear(start..start + 5)?;
            }
            _ => {
                let (fork, length) = (core.fork(), core.length());
                let end = length + 1 + random.below(12);
                core.append_batch((length..end).map(|index| block(fork, index)).collect())?;
            }
        }
        if random.below(3) > 0 {
            core.flush()?;
            println!("flushed {} {}", core.fork(), core.length());
        }
    }
}

#[test]
#[ignore = "the child of the tests beside it"]
fn child() {
    let Some(directory) = std::env::var_os(CHILD) else {
        panic!("{CHILD} says where to write; the tests beside this one set it");
    };
    let limits = if std::env::var_os("CUMULET_CRASH_CHILD_NEVER_SEALS").is_some() {
        Limits::default()
    } else {
        LIMITS
    };
    let seed = std::env::var(CHILD_SEED).unwrap().parse().unwrap();
    let mut core = open(Path::new(&directory), limits, None).unwrap();
    println!("opened {} {}", core.fork(), core.length());
    let error = write_on(&mut core, &mut Random(seed)).unwrap_err();
    println!("refused {error:?}");
}

fn spawn(mut command: Command, directory: &Path, seed: u64) -> Child {
    command
        .args(["--exact", "process::child", "--ignored", "--nocapture"])
        .env(CHILD, directory)
        .env(CHILD_SEED, seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What the child said, as far as it matters afterwards.
#[derive(Debug, Default)]
struct Said {
    opened: bool,
    /// Fork and length of the last flush.
    flushed: (u64, u64),
    /// Fork and length of truncations begun after it.
    truncating: Vec<(u64, u64)>,
    /// Blocks whose clearing was begun, ever.
    cleared: Vec<(u64, u64)>,
    refused: bool,
    flushes: u64,
}

impl Said {
    fn take(&mut self, line: &str) {
        let mut words = line.split(' ');
        let verb = words.next().unwrap_or_default();
        let mut number = || {
            words
                .next()
                .and_then(|word| word.parse::<u64>().ok())
                .unwrap_or_default()
        };
        match verb {
            "opened" => self.opened = true,
            "refused" => self.refused = true,
            "truncating" => self.truncating.push((number(), number())),
            "clearing" => self.cleared.push((number(), number())),
            "flushed" => {
                self.flushed = (number(), number());
                self.truncating.clear();
                self.flushes += 1;
            }
            _ => {}
        }
    }
}

/// Holds what is on the disk against what was said.
fn hold_against(said: &Said, directory: &Path, limits: Limits, what: &str) {
    let core = open(directory, limits, None).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let (fork, length) = said.flushed;
    let kept = said
        .truncating
        .iter()
        .filter(|(other, _)| *other <= core.fork())
        .map(|(_, length)| *length)
        .fold(length, u64::min);
    assert!(
        core.fork() == fork || said.truncating.iter().any(|(other, _)| *other == core.fork()),
        "{what}: fork {} was neither flushed nor begun: {said:?}",
        core.fork()
    );
    assert!(
        core.length() >= kept,
        "{what}: {} blocks, {kept} were acknowledged: {said:?}",
        core.length()
    );
    for index in 0..core.length() {
        match core.get(index).unwrap() {
            Some(found) => {
                let written_at = fork_of(&found);
                assert!(written_at <= core.fork(), "{what}: block {index}");
                assert_eq!(found, block(written_at, index), "{what}: block {index}");
            }
            None => assert!(
                said.cleared
                    .iter()
                    .any(|(start, end)| (*start..*end).contains(&index)),
                "{what}: block {index} is gone"
            ),
        }
    }
    verify(&core, what);
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}"))
    })
}

#[test]
fn a_process_killed_at_any_moment_loses_nothing_that_it_acknowledged() {
    let rounds = number("CUMULET_CRASH_ROUNDS", 12);
    let seed = number("CUMULET_CRASH_SEED", 1);
    let mut random = Random(seed);
    let directory = scratch();
    let mut said = Said::default();
    for round in 0..rounds {
        let what = format!("seed {seed}, round {round}");
        let mut child = spawn(
            Command::new(std::env::current_exe().unwrap()),
            directory.path(),
            random.next(),
        );
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Every fourth is killed while it opens, the others after some flushes; the pause moves the kill to any place
        // between two lines and proves nothing.
        let until = said.flushes + if round % 4 == 3 { 0 } else { 1 + random.below(40) };
        said.opened = round % 4 == 3;
        while said.flushes < until || !said.opened {
            let line = lines
                .next()
                .unwrap_or_else(|| panic!("{what}: the child ended by itself: {said:?}"))
                .unwrap();
            said.take(&line);
        }
        std::thread::sleep(Duration::from_micros(random.below(3000)));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            said.take(&line.unwrap());
        }
        assert!(!said.refused, "{what}: {said:?}");
        hold_against(&said, directory.path(), LIMITS, &what);
    }
    assert!(said.flushes > 0);
}

#[test]
fn a_process_whose_files_may_not_grow_refuses_and_keeps_what_it_acknowledged() {
    // The shell makes the signal of a file that is too large an error of the write, which a full disk is as well.
    const KIBIBYTES_ALLOWED: u32 = 300;
    let directory = scratch();
    let mut shell = Command::new("sh");
    let blocks = KIBIBYTES_ALLOWED * 2;
    shell
        .args([
            "-c",
            &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""),
        ])
        .arg(std::env::current_exe().unwrap())
        .env("CUMULET_CRASH_CHILD_NEVER_SEALS", "1");
    let mut child = spawn(shell, directory.path(), 7);
    let mut said = Said::default();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        said.take(&line.unwrap());
    }
    assert!(child.wait().unwrap().success());
    assert!(said.refused && said.flushes > 3, "{said:?}");
    hold_against(&said, directory.path(), Limits::default(), "files may not grow");
    let mut core = open(directory.path(), Limits::default(), None).unwrap();
    let (fork, length) = (core.fork(), core.length());
    core.append(block(fork, length)).unwrap();
    core.flush().unwrap();
    drop(core);
    let core = open(directory.path(), Limits::default(), None).unwrap();
    assert_eq!(core.length(), length + 1);
    verify(&core, "written on");
}

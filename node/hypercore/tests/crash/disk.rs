//! A model of a disk: which bytes and names a loss of power may leave, after a sequence of file operations.
//!
//! It promises what POSIX does and no more: a file's bytes are safe when the file was synced, a name when its directory
//! was, and until then each write may be there, be missing or be there in part, in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cumulet_hypercore::storage::FileOperation;

use crate::random::Random;

/// Disks write whole sectors.
const SECTOR_BYTES: u64 = 512;

/// What is lost of that which was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing: the process ended, not the machine.
    Nothing,
    /// All of it.
    Everything,
    /// The bytes; names are as they were.
    Bytes,
    /// The names; bytes of files that are still found are as they were.
    Names,
    /// The bytes, but lengths are as they were: zeros.
    Zeros,
    /// Some of it, by a seed.
    Some(u64),
}

/// Every kind of loss, with a few seeds.
pub(crate) fn losses(seed: u64) -> impl Iterator<Item = Loss> {
    let fixed = [
        Loss::Nothing,
        Loss::Everything,
        Loss::Bytes,
        Loss::Names,
        Loss::Zeros,
    ];
    fixed
        .into_iter()
        .chain((0..2).map(move |i| Loss::Some(seed.wrapping_mul(31) + i)))
}

#[derive(Clone)]
enum Change {
    Write(u64, Bytes),
    Cut(u64),
}

#[derive(Default)]
struct Content {
    synced: Vec<u8>,
    pending: Vec<Change>,
}

impl Content {
    fn after(&self, loss: Loss, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for change in &self.pending {
            let change = match loss {
                Loss::Nothing | Loss::Names => change.clone(),
                Loss::Everything | Loss::Bytes => continue,
                Loss::Zeros => match change {
                    Change::Write(offset, data) => {
                        // Only what makes the file longer: the rest of it keeps its synced bytes.
                        let end = offset + data.len() as u64;
                        if end > bytes.len() as u64 {
                            bytes.resize(end as usize, 0);
                        }
                        continue;
                    }
                    Change::Cut(length) => Change::Cut(*length),
                },
                Loss::Some(_) => match (random.below(4), change) {
                    (0, _) => continue,
                    (1, Change::Write(offset, data)) => {
                        let sectors = data.len() as u64 / SECTOR_BYTES;
                        let keep =
                            (SECTOR_BYTES * random.below(sectors + 1)).saturating_sub(offset % SECTOR_BYTES);
                        let keep = (keep as usize).min(data.len());
                        Change::Write(*offset, data.slice(..keep))
                    }
                    (_, change) => change.clone(),
                },
            };
            apply(&mut bytes, &change);
        }
        bytes
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, data) => {
            let (start, end) = (*offset as usize, *offset as usize + data.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(data);
        }
        Change::Cut(length) => bytes.resize(*length as usize, 0),
    }
}

#[derive(Clone)]
enum Naming {
    Add(PathBuf, usize),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Naming {
    fn directory(&self) -> Option<&Path> {
        match self {
            Self::Add(path, _) | Self::Remove(path) | Self::Rename(path, _) => path.parent(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Add(path, file) => {
                names.insert(path.clone(), *file);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

/// Files under a directory that is there already.
pub(crate) struct Disk {
    root: PathBuf,
    files: Vec<Content>,
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
    pending: Vec<Naming>,
    synced_directories: BTreeSet<PathBuf>,
}

impl Disk {
    /// An empty one.
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            files: Vec::new(),
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            pending: Vec::new(),
            synced_directories: BTreeSet::new(),
        }
    }

    /// One that has nothing to lose: what lies there now is synced.
    pub(crate) fn of(root: &Path) -> Self {
        let mut disk = Self::new(root);
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    disk.synced_names.insert(path.clone(), disk.files.len());
                    disk.files.push(Content {
                        synced: fs::read(&path).unwrap(),
                        pending: Vec::new(),
                    });
                }
            }
            disk.synced_directories.insert(folder);
        }
        disk.names = disk.synced_names.clone();
        disk
    }

    fn file(&mut self, path: &Path) -> &mut Content {
        let file = *self
            .names
            .get(path)
            .unwrap_or_else(|| panic!("{} is not there", path.display()));
        &mut self.files[file]
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.pending.push(naming);
    }

    pub(crate) fn take(&mut self, operation: &FileOperation) {
        match operation {
            FileOperation::Create { path } if self.names.contains_key(path) => {
                self.file(path).pending.push(Change::Cut(0));
            }
            FileOperation::Create { path } => {
                self.files.push(Content::default());
                self.name(Naming::Add(path.clone(), self.files.len() - 1));
            }
            FileOperation::Write { path, offset, bytes } => {
                self.file(path)
                    .pending
                    .push(Change::Write(*offset, bytes.clone()));
            }
            FileOperation::Cut { path, length } => self.file(path).pending.push(Change::Cut(*length)),
            FileOperation::Sync { path } => {
                let file = self.file(path);
                file.synced = file.after(Loss::Nothing, &mut Random(0));
                file.pending.clear();
            }
            FileOperation::Rename { from, to } => self.name(Naming::Rename(from.clone(), to.clone())),
            FileOperation::Remove { path } if self.names.contains_key(path) => {
                self.name(Naming::Remove(path.clone()));
            }
            FileOperation::Remove { .. } => {}
            FileOperation::SyncDirectory { path } => {
                self.synced_directories.insert(path.clone());
                let pending = std::mem::take(&mut self.pending);
                for naming in pending {
                    if naming.directory() == Some(path) {
                        naming.apply(&mut self.synced_names);
                    } else {
                        self.pending.push(naming);
                    }
                }
            }
        }
    }

    /// Whether the directories above a file are found after a loss of power: each one's own directory was synced.
    fn is_reachable(&self, path: &Path) -> bool {
        path.ancestors()
            .skip(1)
            .take_while(|directory| *directory != self.root)
            .all(|directory| {
                directory
                    .parent()
                    .is_some_and(|above| self.synced_directories.contains(above))
            })
    }

    /// Makes, in another directory, what is there after the loss.
    pub(crate) fn make(&self, loss: Loss, root: &Path) {
        let mut random = Random(match loss {
            Loss::Some(seed) => seed,
            _ => 0,
        });
        let mut names = match loss {
            Loss::Nothing | Loss::Bytes | Loss::Zeros => self.names.clone(),
            Loss::Everything | Loss::Names | Loss::Some(_) => self.synced_names.clone(),
        };
        if let Loss::Some(_) = loss {
            // Journals keep the order of names.
            let kept = random.below(self.pending.len() as u64 + 1) as usize;
            for naming in &self.pending[..kept] {
                naming.apply(&mut names);
            }
        }
        for (path, file) in &names {
            if matches!(loss, Loss::Everything | Loss::Names) && !self.is_reachable(path) {
                continue;
            }
            let path = root.join(path.strip_prefix(&self.root).unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, self.files[*file].after(loss, &mut random)).unwrap();
        }
    }
}

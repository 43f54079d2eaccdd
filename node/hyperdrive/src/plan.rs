//! Which blocks a selection of files needs.

use std::ops::Range;

use cumulet_hyperbee::{Blocks, ErrorKind};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::blobs::{BlobPointer, Blobs, merge};
use crate::drive::{Drive, DriveError};

/// Most ranges kept before they are joined: bounds the memory of a plan over a drive of many files.
const MAX_LOOSE_RANGES: usize = 1 << 16;

/// Which files are wanted, by globs over their names without the leading slash: `*` and `?` stay inside a folder, `**`
/// crosses folders, `{a,b}` and `[a-z]` choose.
#[derive(Debug, Clone)]
pub struct Selection {
    include: Option<GlobSet>,
    exclude: GlobSet,
}

/// A pattern that is not a glob.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the pattern {pattern}: {reason}")]
pub struct PatternError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Default for Selection {
    /// Everything.
    fn default() -> Self {
        Self {
            include: None,
            exclude: GlobSet::empty(),
        }
    }
}

impl Selection {
    /// Files that match one of `include`, or any file if that is empty, and none of `exclude`.
    pub fn new<S: AsRef<str>>(include: &[S], exclude: &[S]) -> Result<Self, PatternError> {
        let include = if include.is_empty() {
            None
        } else {
            Some(globs(include)?)
        };
        Ok(Self {
            include,
            exclude: globs(exclude)?,
        })
    }

    /// Whether every file is wanted.
    pub fn is_everything(&self) -> bool {
        self.include.is_none() && self.exclude.is_empty()
    }

    /// Whether a file is wanted, by its name with or without the leading slash.
    pub fn contains(&self, path: &str) -> bool {
        let path = path.strip_prefix('/').unwrap_or(path);
        self.include.as_ref().is_none_or(|include| include.is_match(path)) && !self.exclude.is_match(path)
    }
}

fn globs<S: AsRef<str>>(patterns: &[S]) -> Result<GlobSet, PatternError> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let text = pattern.as_ref();
        let glob = GlobBuilder::new(text.strip_prefix('/').unwrap_or(text))
            .literal_separator(true)
            .build();
        set.add(glob.map_err(|error| PatternError {
            pattern: text.to_owned(),
            reason: error.kind().to_string(),
        })?);
    }
    set.build().map_err(|error| PatternError {
        pattern: error.glob().unwrap_or_default().to_owned(),
        reason: error.kind().to_string(),
    })
}

/// What to fetch from the blob core.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Blocks, ascending, disjoint and not touching.
    pub blocks: Vec<Range<u64>>,
    /// Files in it.
    pub files: u64,
    /// Bytes of those files; blocks that several share count for each.
    pub bytes: u64,
    /// Files whose entry or map can't be read, now or ever.
    pub unreadable: u64,
}

impl Plan {
    /// Number of blocks.
    pub fn block_count(&self) -> u64 {
        self.blocks
            .iter()
            .fold(0, |sum, range| sum.saturating_add(range.end - range.start))
    }

    /// Leaves out blocks at and beyond `length`: entries may claim blocks that their core will never have.
    pub fn clamp(&mut self, length: u64) {
        self.blocks.retain_mut(|range| {
            range.end = range.end.min(length);
            range.start < range.end
        });
    }

    fn add(&mut self, blocks: impl IntoIterator<Item = Range<u64>>) {
        self.blocks
            .extend(blocks.into_iter().filter(|range| range.start < range.end));
        if self.blocks.len() >= MAX_LOOSE_RANGES {
            self.join();
        }
    }

    pub(crate) fn join(&mut self) {
        self.blocks.sort_unstable_by_key(|range| range.start);
        self.blocks = merge(std::mem::take(&mut self.blocks).into_iter());
    }
}

/// The blocks of these blobs. Reads the maps of mapped ones; a blob whose map is damaged or not to be had is counted as
/// unreadable.
pub async fn blocks_for<B: Blocks>(
    blobs: &Blobs<B>,
    pointers: impl IntoIterator<Item = BlobPointer>,
) -> Result<Plan, DriveError> {
    let mut plan = Plan::default();
    for pointer in pointers {
        add_blob(&mut plan, blobs, &pointer).await?;
    }
    plan.join();
    Ok(plan)
}

pub(crate) async fn add_blob<B: Blocks>(
    plan: &mut Plan,
    blobs: &Blobs<B>,
    pointer: &BlobPointer,
) -> Result<(), DriveError> {
    plan.add([pointer.blocks()]);
    plan.files += 1;
    if !pointer.block_map {
        plan.bytes = plan.bytes.saturating_add(pointer.byte_length);
        return Ok(());
    }
    match blobs.map(pointer).await {
        Ok(map) => {
            plan.bytes = map
                .iter()
                .fold(plan.bytes, |sum, entry| sum.saturating_add(entry.byte_length));
            plan.add(map.iter().map(|entry| entry.index..entry.index.saturating_add(1)));
        }
        Err(error) if error.kind() == ErrorKind::Failed => return Err(error.into()),
        Err(_) => plan.unreadable += 1,
    }
    Ok(())
}

impl<D: Blocks, B: Blocks> Drive<D, B> {
    /// What to fetch for the selected files of this version.
    pub async fn plan(&self, selection: &Selection) -> Result<Plan, DriveError> {
        let mut plan = Plan::default();
        let mut list = self.files.list("/")?;
        loop {
            let file = match list.next().await {
                Ok(Some(file)) => file,
                Ok(None) => break,
                Err(DriveError::Entry { .. }) => {
                    plan.unreadable += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(blob) = file.entry.blob.filter(|_| selection.contains(&file.path)) {
                add_blob(&mut plan, &self.blobs, &blob).await?;
            }
        }
        plan.join();
        Ok(plan)
    }
}

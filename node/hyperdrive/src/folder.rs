//! What lies directly in a folder.
//!
//! Found by jumping: one look-up per name, so a folder of ten subfolders with a million files each costs ten. Unlike the
//! JS package, a file `a` does not hide `a.txt`: JS goes on behind everything that sorts before `a0`.

use std::collections::BTreeMap;

use cumulet_hyperbee::{Blocks, Range};

use crate::drive::{DriveError, File, Files};
use crate::entry::FileEntry;
use crate::path;

/// One name in a folder.
#[derive(Debug, Clone, Default)]
pub struct FolderItem {
    /// The entry of that name, with the block of the bee that holds it.
    pub file: Option<(u64, FileEntry)>,
    /// Whether files lie below it. A name may be a file and a folder.
    pub is_folder: bool,
}

/// The names in a folder.
#[derive(Debug, Clone, Default)]
pub struct Folder {
    /// By last part of the path, in byte order.
    pub items: BTreeMap<String, FolderItem>,
    /// Whether there are more than were asked for.
    pub truncated: bool,
}

impl Folder {
    /// Whether nothing lies in it: drives have no empty folders, so it does not exist.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

impl<D: Blocks> Files<D> {
    /// The first `limit` names in a folder. Names that can't be asked for (not UTF-8, `..`, with a backslash) and entries
    /// that can't be read are left out.
    pub async fn folder(&self, name: &str, limit: usize) -> Result<Folder, DriveError> {
        let prefix = format!("{}/", path::normalize_folder(name)?);
        let end = Range::all().lt(format!("{}0", prefix.trim_end_matches('/')));
        let view = self.bee().snapshot();
        let mut folder = Folder::default();
        let mut range = end.clone().gt(&prefix);
        // Skipped names count too, or a hostile drive could keep this going through its whole length.
        for _ in 0..=limit {
            let Some(entry) = view.peek(range).await? else {
                return Ok(folder);
            };
            let rest = entry.key.get(prefix.len()..).unwrap_or_default();
            let slash = rest.iter().position(|&byte| byte == b'/');
            let name = rest.get(..slash.unwrap_or(rest.len())).unwrap_or_default();
            range = match slash {
                Some(_) => end.clone().gte([prefix.as_bytes(), name, b"0"].concat()),
                None => end.clone().gt(&entry.key),
            };
            if folder.items.len() == limit {
                break;
            }
            let Some(name) = std::str::from_utf8(name).ok().filter(|name| is_plain(name)) else {
                continue;
            };
            if slash.is_some() {
                folder.items.entry(name.to_owned()).or_default().is_folder = true;
            } else if let Ok(decoded) = FileEntry::decode(entry.value.as_deref()) {
                folder.items.entry(name.to_owned()).or_default().file = Some((entry.seq, decoded));
            }
        }
        folder.truncated = true;
        Ok(folder)
    }

    /// Whether any file lies below a folder.
    pub async fn is_folder(&self, name: &str) -> Result<bool, DriveError> {
        let folder = path::normalize_folder(name)?;
        let below = Range::all().gt(format!("{folder}/")).lt(format!("{folder}0"));
        Ok(self.bee().peek(below).await?.is_some())
    }
}

/// Whether a part of a path stays itself when the path is normalised.
pub(crate) fn is_plain(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains('\\')
}

impl FolderItem {
    /// The item as a file of the folder `path`, if it is one.
    pub fn as_file(&self, path: String) -> Option<File> {
        self.file.clone().map(|(seq, entry)| File { path, seq, entry })
    }
}

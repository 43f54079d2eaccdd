//! The value of a file's entry in the bee: JSON text.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::blobs::BlobPointer;

/// Most bytes of an entry's JSON that are read. An entry is some 150 bytes and its user's metadata.
const MAX_JSON_BYTES: usize = 1 << 20;

/// What a drive says about one name. A file has a blob, a link a target; an entry may have neither or both.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FileEntry {
    /// Whether the file is meant to be run.
    #[serde(deserialize_with = "null_is_default")]
    pub executable: bool,
    /// Target of a symbolic link, as it was written: not normalised.
    pub linkname: Option<String>,
    /// Where the bytes are.
    pub blob: Option<BlobPointer>,
    /// Whatever the writer put beside it, as JSON.
    pub metadata: Option<Box<RawValue>>,
}

/// An entry whose JSON can't be used.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// No value at all.
    #[error("the entry has no value")]
    Missing,
    /// More JSON than an entry may have.
    #[error("the entry has {bytes} bytes of JSON, more than {MAX_JSON_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not JSON, or of another shape.
    #[error("the entry is not the JSON of a file")]
    Json(#[from] serde_json::Error),
    /// Numbers that no blob can have.
    #[error("the entry's blob lies outside of any core")]
    Blob,
}

impl FileEntry {
    /// Reads an entry's value. Missing fields and null count as none, unknown ones are skipped.
    pub fn decode(value: Option<&[u8]>) -> Result<Self, EntryError> {
        let json = value.ok_or(EntryError::Missing)?;
        if json.len() > MAX_JSON_BYTES {
            return Err(EntryError::TooLong { bytes: json.len() });
        }
        let entry: Self = serde_json::from_slice(json)?;
        if entry.blob.is_some_and(|blob| !blob.is_possible()) {
            return Err(EntryError::Blob);
        }
        Ok(entry)
    }

    /// The value's bytes, with the fields in the order that JS writes them.
    pub fn encode(&self) -> Result<Vec<u8>, EntryError> {
        Ok(serde_json::to_vec(self)?)
    }
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_null_or_unknown_does_not_hinder_reading() {
        for json in [
            "{}",
            r#"{"executable":null,"linkname":null,"blob":null,"metadata":null,"later":[1]}"#,
        ] {
            let entry = FileEntry::decode(Some(json.as_bytes())).unwrap();
            assert!(!entry.executable && entry.linkname.is_none() && entry.blob.is_none());
            assert!(entry.metadata.is_none());
        }
    }

    #[test]
    fn impossible_entries_are_errors() {
        assert!(matches!(FileEntry::decode(None), Err(EntryError::Missing)));
        for json in [
            "",
            "null",
            "[]x",
            "\"x\"",
            r#"{"blob":{"blockOffset":-1}}"#,
            r#"{"blob":{}}"#,
        ] {
            assert!(
                matches!(FileEntry::decode(Some(json.as_bytes())), Err(EntryError::Json(_))),
                "{json}"
            );
        }
        let far =
            r#"{"blob":{"blockOffset":9007199254740991,"byteOffset":0,"blockLength":1,"byteLength":1}}"#;
        assert!(matches!(
            FileEntry::decode(Some(far.as_bytes())),
            Err(EntryError::Blob)
        ));
        let long = format!("{{\"metadata\":\"{}\"}}", "x".repeat(MAX_JSON_BYTES));
        assert!(matches!(
            FileEntry::decode(Some(long.as_bytes())),
            Err(EntryError::TooLong { .. })
        ));
    }

    #[test]
    fn metadata_is_kept_as_it_was_written() {
        let json = r#"{"executable":true,"linkname":"../x\n","blob":null,"metadata":{"z":1.50,"a":[9007199254740993]}}"#;
        let entry = FileEntry::decode(Some(json.as_bytes())).unwrap();
        assert_eq!(entry.encode().unwrap(), json.as_bytes());
    }
}

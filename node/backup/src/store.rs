//! The narrow interface to an object store, and its two kinds: a directory ([`mod@file`]) and S3 ([`s3`]).
//!
//! Invariants that every store keeps, and that the conformance suite (`tests/conformance.rs`) checks on both:
//! - an object is there whole or not at all;
//! - an object is never overwritten: [`ObjectStore::put_if_absent`] either makes it or leaves the old one alone;
//! - after a put returned, the object survives a crash of the machine that keeps the store;
//! - [`ObjectStore::list`] gives names in ascending byte order.
//!
//! Stores know nothing of cores, keys or formats: names and bytes only.

pub mod file;
mod open;
pub mod s3;

use std::ops::Range;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::error::{ErrorKind, Hint};

pub use open::{S3Access, open};

/// Largest object that is read or written, in bytes. A segment is at most 8 MiB, or one block of at most 16 MiB, and
/// a head names 8 MiB of blocks in about 50 bytes; so this bounds a core to some 10 TiB, and a hostile store to this
/// much memory for one object.
pub const MAX_OBJECT_BYTES: usize = 64 * 1024 * 1024;
/// Longest object name in bytes, without the store's own prefix. S3 allows 1024 with the prefix.
pub const MAX_NAME_BYTES: usize = 512;
/// Most objects in one page of a listing: what S3 gives at most.
pub const PAGE_OBJECTS: usize = 1000;

/// What [`ObjectStore::put_if_absent`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is new.
    Created,
    /// An object of that name was there already and was left as it is.
    AlreadyThere,
}

/// What a store can do, as found by a probe and not by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// "Make this object unless it is there" is one step. Without it the store is asked first and written then, so that of two
    /// writers at once both may write. Every name is made from the content's hash, so both write the same bytes.
    pub conditional_writes: bool,
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// One page of a listing: at most [`PAGE_OBJECTS`] objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Objects in ascending byte order of their names.
    pub objects: Vec<ObjectInfo>,
    /// There is more after the last of these.
    pub more: bool,
}

/// A step on one object that failed, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("failed to {verb} {object}: {reason}")]
pub struct StoreError {
    /// What was tried: `read`, `write`, `list`, `delete`, `probe`.
    pub verb: &'static str,
    /// The object's name, or the prefix of a listing.
    pub object: String,
    /// Plain words, no secrets.
    pub reason: String,
    /// How to go on.
    pub kind: ErrorKind,
    /// What a person can do.
    pub hint: Option<Hint>,
    /// The error below, if there is one.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    fn new(verb: &'static str, object: &str, kind: ErrorKind, reason: impl Into<String>) -> Self {
        Self {
            verb,
            object: object.to_owned(),
            reason: reason.into(),
            kind,
            hint: None,
            source: None,
        }
    }

    fn hint(mut self, hint: Hint) -> Self {
        self.hint = Some(hint);
        self
    }
}

/// The answer of a store, later.
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Named, immutable objects. Names are `/`-separated parts of `a-z 0-9 . - _`, see [`check_name`].
pub trait ObjectStore: Send + Sync + 'static {
    /// Where the objects are, for people: a URL without secrets.
    fn location(&self) -> String;
    /// What the store can do. Asks the store the first time, and remembers the answer.
    fn capabilities(&self) -> StoreFuture<'_, Capabilities>;
    /// Makes the object unless it is there. It is whole and durable when this returns.
    fn put_if_absent<'a>(&'a self, name: &'a str, bytes: Bytes) -> StoreFuture<'a, Put>;
    /// The whole object, `None` if there is none.
    fn get<'a>(&'a self, name: &'a str) -> StoreFuture<'a, Option<Bytes>>;
    /// The bytes of the range that exist (none past the object's end), `None` if there is no such object.
    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> StoreFuture<'a, Option<Bytes>>;
    /// One page of the objects whose names start with `prefix` (any prefix, not only whole parts) and sort after `after`
    /// (any string, `""` for the first page): so a caller can go on after a restart, or skip what it does not want.
    fn list<'a>(&'a self, prefix: &'a str, after: &'a str) -> StoreFuture<'a, Page>;
    /// Removes the object; removing what is not there is no error.
    fn delete<'a>(&'a self, name: &'a str) -> StoreFuture<'a, ()>;
}

/// All objects below a prefix, page after page; at most `limit`, beyond which it is an error of kind `Invalid`.
pub async fn list_all(
    store: &dyn ObjectStore,
    prefix: &str,
    limit: usize,
) -> Result<Vec<ObjectInfo>, StoreError> {
    let mut objects: Vec<ObjectInfo> = Vec::new();
    loop {
        let after = objects
            .last()
            .map_or("", |object| object.name.as_str())
            .to_owned();
        let page = store.list(prefix, &after).await?;
        objects.extend(page.objects);
        if objects.len() > limit {
            let reason = format!("there are more than {limit} objects");
            return Err(StoreError::new("list", prefix, ErrorKind::Invalid, reason));
        }
        if !page.more {
            return Ok(objects);
        }
    }
}

/// Refuses names that a store could take for something else: empty, hidden, upward or overlong ones.
///
/// # Errors
/// Kind `Invalid`: a mistake of the caller or, in a listing, an object that is not ours.
pub fn check_name(verb: &'static str, name: &str) -> Result<(), StoreError> {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain);
    if name.len() <= MAX_NAME_BYTES && name.split('/').all(part) {
        return Ok(());
    }
    Err(StoreError::new(
        verb,
        name,
        ErrorKind::Invalid,
        "not a name that a backup uses",
    ))
}

fn check_size(name: &str, size: usize) -> Result<(), StoreError> {
    if size <= MAX_OBJECT_BYTES {
        return Ok(());
    }
    let reason = format!("{size} bytes are more than the {MAX_OBJECT_BYTES} of the largest object");
    Err(StoreError::new("write", name, ErrorKind::Invalid, reason))
}

fn too_large(name: &str) -> StoreError {
    let reason = format!("it is larger than {MAX_OBJECT_BYTES} bytes, so it is not an object of a backup");
    StoreError::new("read", name, ErrorKind::Damaged, reason)
}

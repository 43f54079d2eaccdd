//! Where a drive's file bytes are: the key of its blob core.

use cumulet_hyperbee::message::{Header, PROTOCOL};
use cumulet_hypercore::crypto::{self, Key};
use cumulet_hypercore::manifest::{Manifest, Signer};

/// Why the blob core can't be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// Block 0 is of something else.
    #[error("the core is not a Hyperbee")]
    NotABee,
    /// Neither derived nor named: an ordinary bee, or a drive older than version 13 with a damaged header.
    #[error("the header names no content core, and the manifest's version has none derived")]
    NoContent,
    /// The header names a key of fewer than 32 bytes.
    #[error("the header's content key is too short")]
    ShortKey,
}

/// A blob core: its key, and the manifest if it was derived (a written drive names it alone).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Key of the blob core.
    pub key: Key,
    /// Its manifest: the same signers, under other namespaces.
    pub manifest: Option<Manifest>,
}

/// The blob core of a drive with this header, key and manifest.
///
/// Drives of today say nothing in the header; the blob core's manifest is the bee's, with namespaces derived from its key.
/// Older drives name the key in the header. A compat core (manifest version 0) has no derived one.
pub fn content(header: &Header, db_key: &Key, manifest: &Manifest) -> Result<Content, ContentError> {
    if header.protocol != PROTOCOL {
        return Err(ContentError::NotABee);
    }
    if let Some(feed) = header
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.content_feed.as_ref())
    {
        let key = feed.first_chunk::<32>().ok_or(ContentError::ShortKey)?;
        return Ok(Content {
            key: *key,
            manifest: None,
        });
    }
    let manifest = content_manifest(db_key, manifest).ok_or(ContentError::NoContent)?;
    Ok(Content {
        key: manifest.key(),
        manifest: Some(manifest),
    })
}

/// The manifest derived for the blob core of a bee; none for manifest version 0.
pub fn content_manifest(db_key: &Key, manifest: &Manifest) -> Option<Manifest> {
    if manifest.version < 1 {
        return None;
    }
    let blobs = crypto::namespace("hyperdrive", 0);
    let signers = manifest.signers.iter().map(|signer| Signer {
        namespace: crypto::hash(&[&blobs, db_key, &signer.namespace]),
        public_key: signer.public_key,
    });
    Some(Manifest {
        version: manifest.version,
        allow_patch: manifest.allow_patch,
        quorum: manifest.quorum,
        signers: signers.collect(),
        prologue: None,
        linked: None,
        user_data: None,
    })
}

/// Whether a bee with this header is a drive: one written today has metadata, a plain bee has none.
pub fn is_drive(header: &Header) -> bool {
    header.protocol == PROTOCOL && header.metadata.is_some()
}

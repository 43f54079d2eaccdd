//! What a cloud keeps, kept in the store: so that a node with nothing but the content key learns it again.
//!
//! A pin is one archive's key with a specification (JSON that this crate does not look into). Each wish makes a new object
//! `v1/pins/<id>/<version>-<hash>`, where `<id>` is a keyed hash of the archive's key: the provider can't even compare it with
//! public discovery keys. The highest version wins, of two with the same version the one with the larger hash; so two
//! replicas that write at once both leave an object, and everybody agrees on the winner. Unpinning is a version too.
//!
//! What a blind peer keeps for apps is kept in the same way, below a folder of its own (`v1/blind-peers/<id>/`).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cumulet_encoding::{DecodeError, Reader, Writer};
use cumulet_hypercore::crypto::Key;

use crate::error::ErrorKind;
use crate::names::{BLIND_PEERS, PINS};
use crate::restore::{Damaged, explain};
use crate::retry::Patience;
use crate::sealing::{ContentKey, Kind, OpenError, content_hash, open, seal};
use crate::store::{ObjectStore, StoreError, list_all};

const VERSION: u64 = 1;
/// Largest specification in bytes: a pin's JSON is a few hundred.
pub const MAX_SPEC_BYTES: usize = 64 * 1024;
/// Most objects below `v1/pins/` that are listed.
const MAX_PIN_OBJECTS: usize = 1_000_000;
/// Versions of one archive that are written again until they are the newest; each loss means that somebody else wrote at
/// the same moment.
const MAX_TRIES: u32 = 8;

/// One archive that a cloud keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The archive's key.
    pub key: Key,
    /// What is kept of it, as JSON; `None`: it is no longer kept.
    pub spec: Option<String>,
}

/// All pins of a store, and what could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PinList {
    /// The newest version of each archive that is still kept.
    pub pins: Vec<Pin>,
    /// Objects that were refused. The version before one stands in for it.
    pub damaged: Vec<Damaged>,
}

/// Why pins could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are pins, and all of them were encrypted under another content key.
    #[error("the pins in the store were encrypted under another content key")]
    OtherKey,
    /// The specification is too long.
    #[error("a pin's specification has {0} bytes, more than {MAX_SPEC_BYTES}")]
    TooLarge(usize),
    /// Others wrote the same archive's pin again and again.
    #[error("other nodes keep changing the same pin")]
    Busy,
}

impl PinError {
    /// How to go on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind,
            Self::OtherKey | Self::TooLarge(_) => ErrorKind::Invalid,
            Self::Busy => ErrorKind::Conflict,
        }
    }
}

/// The pins of one cloud in its store, or of one blind peer.
#[derive(Clone)]
pub struct Pins {
    store: Arc<dyn ObjectStore>,
    key: ContentKey,
    patience: Patience,
    /// With the slash.
    folder: String,
}

/// Version and hash in the name of a pin object: larger wins.
type Rank = (u64, [u8; 8]);

impl Pins {
    /// The pins that are encrypted under this key.
    pub fn new(store: Arc<dyn ObjectStore>, key: ContentKey, patience: Patience) -> Self {
        let folder = PINS.to_owned();
        Self {
            store,
            key,
            patience,
            folder,
        }
    }

    /// What the blind peer with this public key keeps.
    #[must_use]
    pub fn of_blind_peer(self, public_key: &Key) -> Self {
        let id = self.key.derive(b"cumulet/backup/v1/blind-peer-id", &[public_key]);
        let folder = format!("{BLIND_PEERS}{}/", hex::encode(id));
        Self { folder, ..self }
    }

    /// Makes this the archive's newest pin. Does nothing if it is that already.
    pub async fn put(&self, pin: &Pin) -> Result<(), PinError> {
        if let Some(spec) = pin.spec.as_ref().filter(|spec| spec.len() > MAX_SPEC_BYTES) {
            return Err(PinError::TooLarge(spec.len()));
        }
        let directory = self.directory(&pin.key);
        for _ in 0..MAX_TRIES {
            let ranks = self.ranks(&directory).await?;
            let newest = match ranks.last() {
                Some(rank) => self.read(&directory, rank).await?.ok(),
                None => None,
            };
            if newest.as_ref() == Some(pin) {
                return Ok(());
            }
            let version = ranks.last().map_or(1, |(version, _)| version.saturating_add(1));
            let bytes = self.seal(&directory, pin);
            let name = object(&directory, &(version, content_hash(&bytes)));
            self.patience
                .wait(|| self.store.put_if_absent(&name, bytes.clone()))
                .await?;
            // Somebody may have written the same version at the same moment, and rank higher: then look again.
        }
        Err(PinError::Busy)
    }

    /// The newest pin of every archive that is kept.
    pub async fn list(&self) -> Result<PinList, PinError> {
        let listed = self
            .patience
            .wait(|| list_all(self.store.as_ref(), &self.folder, MAX_PIN_OBJECTS))
            .await?;
        let mut archives: BTreeMap<&str, Vec<Rank>> = BTreeMap::new();
        for info in &listed {
            if let Some((directory, rank)) = parse(&self.folder, &info.name) {
                archives.entry(directory).or_default().push(rank);
            }
        }
        let mut list = PinList::default();
        let mut other_keys = 0;
        for (directory, mut ranks) in archives {
            ranks.sort_unstable();
            for rank in ranks.iter().rev() {
                match self.read(directory, rank).await? {
                    Ok(pin) => {
                        list.pins.extend(pin.spec.is_some().then_some(pin));
                        break;
                    }
                    Err(error) => {
                        other_keys += usize::from(matches!(error, ReadError::Open(OpenError::OtherKey)));
                        list.damaged.push(Damaged {
                            object: object(directory, rank),
                            reason: explain(&error),
                        });
                    }
                }
            }
        }
        if other_keys > 0 && other_keys == list.damaged.len() && list.pins.is_empty() {
            return Err(PinError::OtherKey);
        }
        Ok(list)
    }

    /// Of an archive's pins, with the slash.
    fn directory(&self, key: &Key) -> String {
        let id = self.key.derive(b"cumulet/backup/v1/pin-id", &[key]);
        format!("{}{}/", self.folder, hex::encode(id))
    }

    async fn ranks(&self, directory: &str) -> Result<Vec<Rank>, StoreError> {
        let listed = self
            .patience
            .wait(|| list_all(self.store.as_ref(), directory, MAX_PIN_OBJECTS))
            .await?;
        let mut ranks: Vec<Rank> = listed
            .iter()
            .filter_map(|info| parse(&self.folder, &info.name))
            .map(|(_, rank)| rank)
            .collect();
        ranks.sort_unstable();
        Ok(ranks)
    }

    fn seal(&self, directory: &str, pin: &Pin) -> Bytes {
        let mut writer = Writer::new();
        writer.uint(VERSION).fixed(&pin.key).bool(pin.spec.is_some());
        if let Some(spec) = &pin.spec {
            writer.buffer(spec.as_bytes());
        }
        seal(&self.key, Kind::Pin, directory.as_bytes(), writer.as_slice())
    }

    async fn read(&self, directory: &str, rank: &Rank) -> Result<Result<Pin, ReadError>, StoreError> {
        let name = object(directory, rank);
        let bytes = match self.patience.wait(|| self.store.get(&name)).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Err(ReadError::Gone)),
            Err(error) if error.kind == ErrorKind::Damaged => return Ok(Err(ReadError::Gone)),
            Err(error) => return Err(error),
        };
        Ok(self.open(directory, rank, &bytes))
    }

    fn open(&self, directory: &str, rank: &Rank, bytes: &[u8]) -> Result<Pin, ReadError> {
        let content = open(&self.key, Kind::Pin, directory.as_bytes(), bytes)?;
        let mut reader = Reader::new(&content);
        let version = reader.uint()?;
        if version != VERSION {
            return Err(ReadError::NewerVersion(version));
        }
        let key = reader.fixed()?;
        let spec = if reader.bool()? {
            Some(String::from_utf8_lossy(reader.buffer()?).into_owned())
        } else {
            None
        };
        if self.directory(&key) == directory && content_hash(bytes) == rank.1 {
            Ok(Pin { key, spec })
        } else {
            Err(ReadError::OtherPin)
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("it is gone, or too large")]
    Gone,
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("its content can't be read")]
    Decode(#[from] DecodeError),
    #[error("its content version {0} is newer than this program")]
    NewerVersion(u64),
    #[error("it is not the pin that its name says")]
    OtherPin,
}

fn object(directory: &str, (version, hash): &Rank) -> String {
    format!("{directory}{version:016}-{}", hex::encode(hash))
}

/// The directory of an archive's pins, with the slash, and the rank; `None` for names that are not written like that.
fn parse<'a>(folder: &str, name: &'a str) -> Option<(&'a str, Rank)> {
    let slash = name.rfind('/')?;
    let (directory, file) = name.split_at(slash + 1);
    let (version, text) = file.split_once('-')?;
    let mut hash = [0; 8];
    hex::decode_to_slice(text, &mut hash).ok()?;
    let rank = (version.parse().ok()?, hash);
    (directory.starts_with(folder) && object(directory, &rank) == name).then_some((directory, rank))
}

//! Heads in one ordered table that all cores share, as JavaScript keeps them in one RocksDB.
//!
//! Keys are core (4 bytes), kind (1) and index (8), big endian. Blocks are held from the first on without a gap here, so a
//! head says which blocks are held; a product would need pages of a bitfield on top.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use bytes::Bytes;
use cumulet_encoding::{Reader, Writer};
use cumulet_hypercore::storage::{Changes, Head};
use fjall::{KeyspaceCreateOptions, PersistMode};
use redb::{Durability, ReadableDatabase, TableDefinition};

use crate::Store;

const MANIFEST: u8 = 0;
const HEAD: u8 = 1;
const NODE: u8 = 2;
const BLOCK: u8 = 3;

fn key(core: u32, kind: u8, index: u64) -> [u8; 13] {
    let mut key = [0; 13];
    key[..4].copy_from_slice(&core.to_be_bytes());
    key[4] = kind;
    key[5..].copy_from_slice(&index.to_be_bytes());
    key
}

/// What redb and fjall have in common.
pub(crate) trait Table {
    fn put(&self, pairs: Vec<([u8; 13], Bytes)>) -> Result<()>;
    fn get(&self, key: &[u8; 13]) -> Result<Option<Bytes>>;
    fn sync(&self) -> Result<()>;
}

pub(crate) struct Redb(redb::Database);

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("heads");

impl Redb {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let database = redb::Database::builder()
            .set_cache_size(64 << 20)
            .create(dir.join("heads.redb"))?;
        let write = database.begin_write()?;
        write.open_table(TABLE)?;
        write.commit()?;
        Ok(Self(database))
    }
}

impl Table for Redb {
    fn put(&self, pairs: Vec<([u8; 13], Bytes)>) -> Result<()> {
        let mut write = self.0.begin_write()?;
        write.set_durability(Durability::None)?;
        {
            let mut table = write.open_table(TABLE)?;
            for (key, value) in pairs {
                table.insert(&key[..], &value[..])?;
            }
        }
        Ok(write.commit()?)
    }

    fn get(&self, key: &[u8; 13]) -> Result<Option<Bytes>> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        Ok(table
            .get(&key[..])?
            .map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn sync(&self) -> Result<()> {
        // A durable commit takes those before it along.
        Ok(self.0.begin_write()?.commit()?)
    }
}

pub(crate) struct Fjall {
    database: fjall::Database,
    heads: fjall::Keyspace,
}

impl Fjall {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let database = fjall::Database::builder(dir).cache_size(64 << 20).open()?;
        let heads = database.keyspace("heads", KeyspaceCreateOptions::default)?;
        Ok(Self { database, heads })
    }
}

impl Table for Fjall {
    fn put(&self, pairs: Vec<([u8; 13], Bytes)>) -> Result<()> {
        let mut batch = self.database.batch();
        for (key, value) in pairs {
            batch.insert(&self.heads, &key[..], &value[..]);
        }
        Ok(batch.commit()?)
    }

    fn get(&self, key: &[u8; 13]) -> Result<Option<Bytes>> {
        let value = self.heads.get(key)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }
}

pub(crate) struct TableStore<T> {
    table: T,
    heads: HashMap<u32, Head>,
}

impl<T: Table> TableStore<T> {
    pub(crate) fn open(table: T) -> Self {
        Self {
            table,
            heads: HashMap::new(),
        }
    }
}

fn decode_head(bytes: &[u8]) -> Result<Head> {
    let mut reader = Reader::new(bytes);
    let (fork, length) = (reader.u64()?, reader.u64()?);
    Ok(Head {
        fork,
        length,
        signature: Some(Bytes::copy_from_slice(reader.rest())),
    })
}

impl<T: Table> Store for TableStore<T> {
    fn open_core(&mut self, core: u32) -> Result<u64> {
        let head = self.table.get(&key(core, HEAD, 0))?;
        let head = head.map_or(Ok(Head::default()), |bytes| decode_head(&bytes))?;
        // As a core does: the manifest, and the roots of the tree.
        self.table.get(&key(core, MANIFEST, 0))?;
        for root in cumulet_hypercore::flat_tree::roots(head.length) {
            self.table
                .get(&key(core, NODE, root))?
                .context("a root is missing")?;
        }
        let length = head.length;
        self.heads.insert(core, head);
        Ok(length)
    }

    fn apply(&mut self, core: u32, changes: Changes) -> Result<()> {
        let mut pairs = Vec::with_capacity(changes.nodes.len() + changes.blocks.len() + 2);
        if let Some(manifest) = changes.manifest {
            pairs.push((key(core, MANIFEST, 0), manifest.to_bytes().into()));
        }
        for node in changes.nodes {
            let mut value = Writer::with_capacity(40);
            value.u64(node.size).fixed(&node.hash);
            pairs.push((key(core, NODE, node.index), value.into_vec().into()));
        }
        for (index, block) in changes.blocks {
            pairs.push((key(core, BLOCK, index), block));
        }
        if let Some(head) = changes.head {
            let mut value = Writer::with_capacity(96);
            let signature = head.signature.as_deref().unwrap_or_default();
            value.u64(head.fork).u64(head.length).raw(signature);
            pairs.push((key(core, HEAD, 0), value.into_vec().into()));
            self.heads.insert(core, head);
        }
        self.table.put(pairs)
    }

    fn sync(&mut self, _cores: &[u32]) -> Result<()> {
        self.table.sync()
    }

    fn block(&self, core: u32, index: u64) -> Result<Option<Bytes>> {
        self.table.get(&key(core, BLOCK, index))
    }

    fn node(&self, core: u32, index: u64) -> Result<Option<(u64, [u8; 32])>> {
        let Some(value) = self.table.get(&key(core, NODE, index))? else {
            return Ok(None);
        };
        let mut reader = Reader::new(&value);
        Ok(Some((reader.u64()?, reader.fixed()?)))
    }
}

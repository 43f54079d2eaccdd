//! Our own log per core, as the product uses it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::Bytes;
use cumulet_hypercore::storage::{Changes, DiskOptions, DiskStorage, Storage};

use crate::Store;

pub(crate) struct Plain {
    dir: PathBuf,
    options: DiskOptions,
    cores: HashMap<u32, DiskStorage>,
}

impl Plain {
    pub(crate) fn open(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            options: DiskOptions::default(),
            cores: HashMap::new(),
        }
    }

    fn core(&self, core: u32) -> Result<&DiskStorage> {
        self.cores.get(&core).context("the core is not open")
    }
}

impl Store for Plain {
    fn open_core(&mut self, core: u32) -> Result<u64> {
        let mut name = [0; 32];
        name[..4].copy_from_slice(&core.to_le_bytes());
        let dir = self
            .dir
            .join(format!("{:02x}", core & 255))
            .join(core.to_string());
        let storage = DiskStorage::open(&dir, name, self.options.clone())?;
        let length = storage.head().length;
        self.cores.insert(core, storage);
        Ok(length)
    }

    fn apply(&mut self, core: u32, changes: Changes) -> Result<()> {
        let storage = self.cores.get_mut(&core).context("the core is not open")?;
        Ok(storage.apply(changes)?)
    }

    /// As in a corestore: each core's log is synced on a thread, all at the same time.
    fn sync(&mut self, cores: &[u32]) -> Result<()> {
        if let [core] = cores {
            let storage = self.cores.get_mut(core).context("the core is not open")?;
            return Ok(storage.flush()?);
        }
        std::thread::scope(|scope| {
            let cores = self.cores.iter_mut().filter(|(core, _)| cores.contains(core));
            let syncs: Vec<_> = cores
                .map(|(_, storage)| scope.spawn(move || storage.flush()))
                .collect();
            for sync in syncs {
                sync.join().map_err(|_| anyhow::anyhow!("a sync panicked"))??;
            }
            Ok(())
        })
    }

    fn block(&self, core: u32, index: u64) -> Result<Option<Bytes>> {
        Ok(self.core(core)?.block(index)?)
    }

    fn node(&self, core: u32, index: u64) -> Result<Option<(u64, [u8; 32])>> {
        let node = self.core(core)?.node(index)?;
        Ok(node.map(|node| (node.size, node.hash)))
    }
}

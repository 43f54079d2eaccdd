//! Backup and restore of the cores of a [`Corestore`](cumulet_hypercore::corestore::Corestore), while they replicate.

use std::time::Duration;

use cumulet_hypercore::core::Core;
use cumulet_hypercore::corestore::{CoreHandle, CorestoreError};
use cumulet_hypercore::crypto::Key;
use cumulet_hypercore::storage::Storage;
use futures::future::BoxFuture;
use tokio::runtime::Handle;

use crate::core::SharedCore;
use crate::plan::ChangeMark;
use crate::source::CoreError;

/// How long a backup waits for a core's newest length to be durable: some hundred times what a sync takes.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads and changes wait for the core's lock, so they must be called where a thread may block, inside of a runtime: as
/// the drivers of this crate do.
impl SharedCore for CoreHandle {
    type Storage = Box<dyn Storage>;

    fn key(&self) -> Key {
        *CoreHandle::key(self)
    }

    fn mark(&self) -> ChangeMark {
        let durable = *self.watch_durable().borrow();
        ChangeMark {
            fork: durable.fork,
            length: durable.length,
            changes: durable.generation,
        }
    }

    fn changed(&self) -> Option<BoxFuture<'static, ()>> {
        let mut durable = self.watch_durable();
        Some(Box::pin(async move {
            // Its sender lives as long as the core, which we have.
            if durable.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }))
    }

    fn read<R>(&self, look: impl FnOnce(&Core<Box<dyn Storage>>) -> R) -> R {
        Handle::current().block_on(self.with_core(look))
    }

    fn change<R>(
        &self,
        change: impl FnOnce(&mut Core<Box<dyn Storage>>) -> Result<R, CoreError>,
    ) -> Result<R, CoreError> {
        let changed = CoreHandle::change(self, |core| Ok::<_, CorestoreError>(change(core)));
        Handle::current().block_on(changed)?
    }

    fn until_durable(&self, fork: u64, length: u64) -> Result<(), CoreError> {
        let mut durable = self.watch_durable();
        let reached = durable.wait_for(|durable| (durable.fork, durable.length) >= (fork, length));
        Handle::current().block_on(tokio::time::timeout(DURABLE_TIMEOUT, reached))??;
        Ok(())
    }
}

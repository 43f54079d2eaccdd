//! What an application keeps beside a core, under names of its own. It stays here: no peer is sent it and nobody signs it.

use bytes::Bytes;

use super::{Core, WriteError};
use crate::storage::{Changes, Storage};

/// Longest name, in bytes.
pub const MAX_USER_DATA_NAME_BYTES: usize = 1024;
/// Most bytes of names and values together: all of it is in memory and is written again when the log is.
pub const MAX_USER_DATA_BYTES: usize = 1 << 20;

impl<S: Storage> Core<S> {
    /// What was kept under this name.
    pub fn user_data(&self, name: &str) -> Option<Bytes> {
        self.storage.user_data().get(name).cloned()
    }

    /// Keeps a value under a name, or forgets what was kept under it. As with blocks, it is durable after [`Core::flush`].
    ///
    /// # Errors
    /// [`WriteError::UserData`] above [`MAX_USER_DATA_NAME_BYTES`] or [`MAX_USER_DATA_BYTES`], [`WriteError::Storage`].
    pub fn set_user_data(&mut self, name: &str, value: Option<Bytes>) -> Result<(), WriteError> {
        let held = self.storage.user_data();
        if held.get(name) == value.as_ref() {
            return Ok(());
        }
        let others = held.iter().filter(|(other, _)| *other != name);
        let others: usize = others.map(|(name, value)| name.len() + value.len()).sum();
        let bytes = value.as_ref().map_or(0, |value| name.len() + value.len());
        if name.len() > MAX_USER_DATA_NAME_BYTES || others + bytes > MAX_USER_DATA_BYTES {
            return Err(WriteError::UserData);
        }
        self.storage.apply(Changes {
            user_data: vec![(name.to_owned(), value)],
            ..Changes::default()
        })?;
        Ok(())
    }
}

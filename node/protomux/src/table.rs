//! Which ids and names are in use, in both directions.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::mux::ChannelId;

/// A channel's name. An absent id and an empty one are the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    pub(crate) protocol: String,
    pub(crate) id: Bytes,
}

/// A channel that we opened and have not closed.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) name: Arc<Name>,
    pub(crate) local_id: u64,
    /// None until the remote's Open is known.
    pub(crate) remote_id: Option<u64>,
}

/// An Open of the remote that nobody has answered yet.
#[derive(Debug)]
pub(crate) struct Unclaimed {
    pub(crate) remote_id: u64,
    pub(crate) name: Arc<Name>,
    pub(crate) handshake: Bytes,
    pub(crate) messages: Vec<(u64, Bytes)>,
    pub(crate) charged_bytes: usize,
}

#[derive(Debug)]
pub(crate) enum RemoteSlot {
    Free,
    /// In a box, since most slots are open: they are the memory of a connection that has many channels.
    Unclaimed(Box<Unclaimed>),
    Open(ChannelId),
}

#[derive(Debug)]
pub(crate) enum LocalSlot {
    Free,
    Open(ChannelId),
    /// Closed before the remote's Open came; reserved until it comes, or a Reject.
    Closing(Arc<Name>),
}

/// What an Open of the remote meets.
#[derive(Debug)]
pub(crate) enum Pairing {
    Open(ChannelId),
    /// We had opened the name and closed it meanwhile: both Opens are gone.
    Closed,
    Unclaimed,
}

#[derive(Debug, Default)]
struct Peers {
    opened: Option<ChannelId>,
    incoming: VecDeque<u64>,
    outgoing: VecDeque<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) channels: HashMap<ChannelId, Channel>,
    local: Vec<LocalSlot>,
    free: Vec<u64>,
    remote: Vec<RemoteSlot>,
    names: HashMap<Arc<Name>, Box<Peers>>,
    next_channel: u64,
}

impl Table {
    pub(crate) fn opened(&self, name: &Name) -> Option<ChannelId> {
        self.names.get(name).and_then(|peers| peers.opened)
    }

    /// A new local channel, paired with the first unclaimed Open of its name if there is one.
    pub(crate) fn insert(&mut self, name: Arc<Name>) -> (ChannelId, u64, Option<Box<Unclaimed>>) {
        let channel = ChannelId(self.next_channel);
        self.next_channel += 1;
        // Last freed first, as JavaScript does, so that ids stay small.
        let local_id = self.free.pop().unwrap_or_else(|| {
            self.local.push(LocalSlot::Free);
            self.local.len() as u64
        });
        self.set_local(local_id, LocalSlot::Open(channel));
        let peers = self.names.entry(name.clone()).or_default();
        peers.opened = Some(channel);
        let remote_id = peers.incoming.pop_front();
        if remote_id.is_none() {
            peers.outgoing.push_back(local_id);
        }
        let unclaimed = remote_id.and_then(|id| match self.replace_remote(id, RemoteSlot::Open(channel)) {
            Some(RemoteSlot::Unclaimed(unclaimed)) => Some(unclaimed),
            _ => None,
        });
        self.channels.insert(
            channel,
            Channel {
                name,
                local_id,
                remote_id,
            },
        );
        (channel, local_id, unclaimed)
    }

    /// Removes an open channel and frees its ids as far as the remote knows them; `None` if it is not open.
    pub(crate) fn close(&mut self, channel: ChannelId) -> Option<Channel> {
        let closed = self.channels.remove(&channel)?;
        if let Some(peers) = self.names.get_mut(&closed.name) {
            peers.opened = None;
        }
        if let Some(remote_id) = closed.remote_id {
            self.replace_remote(remote_id, RemoteSlot::Free);
            self.free_local(closed.local_id);
        } else {
            self.set_local(closed.local_id, LocalSlot::Closing(closed.name.clone()));
        }
        self.forget_if_unused(&closed.name);
        Some(closed)
    }

    /// Whether an Open of the remote may use `remote_id`: the lowest unused number, or one that is free again.
    pub(crate) fn may_open(&self, remote_id: u64) -> bool {
        match self.remote_slot(remote_id) {
            Some(slot) => matches!(slot, RemoteSlot::Free),
            None => remote_id == self.remote.len() as u64 + 1,
        }
    }

    /// Matches an Open of the remote with our first unanswered one of its name.
    pub(crate) fn pair_outgoing(&mut self, remote_id: u64, name: &Name) -> Pairing {
        self.grow_remote(remote_id);
        let outgoing = self
            .names
            .get_mut(name)
            .and_then(|peers| peers.outgoing.pop_front());
        let Some(local_id) = outgoing else {
            return Pairing::Unclaimed;
        };
        let open = match self.local.get(index(local_id)) {
            Some(LocalSlot::Open(channel)) => Some(*channel),
            _ => None,
        };
        if let Some(channel) = open {
            self.replace_remote(remote_id, RemoteSlot::Open(channel));
            if let Some(paired) = self.channels.get_mut(&channel) {
                paired.remote_id = Some(remote_id);
            }
        } else {
            self.free_local(local_id);
            self.forget_if_unused(name);
        }
        open.map_or(Pairing::Closed, Pairing::Open)
    }

    pub(crate) fn insert_unclaimed(&mut self, remote_id: u64, unclaimed: Box<Unclaimed>) {
        self.names
            .entry(unclaimed.name.clone())
            .or_default()
            .incoming
            .push_back(remote_id);
        self.grow_remote(remote_id);
        self.replace_remote(remote_id, RemoteSlot::Unclaimed(unclaimed));
    }

    pub(crate) fn remove_unclaimed(&mut self, remote_id: u64) -> Option<Box<Unclaimed>> {
        if !matches!(self.remote_slot(remote_id), Some(RemoteSlot::Unclaimed(_))) {
            return None;
        }
        let Some(RemoteSlot::Unclaimed(unclaimed)) = self.replace_remote(remote_id, RemoteSlot::Free) else {
            return None;
        };
        if let Some(peers) = self.names.get_mut(&unclaimed.name) {
            peers.incoming.retain(|id| *id != remote_id);
        }
        self.forget_if_unused(&unclaimed.name);
        Some(unclaimed)
    }

    /// The remote refused our Open `local_id`. `Err` if there is no such Open; `Ok(None)` if we had closed it already.
    pub(crate) fn reject(&mut self, local_id: u64) -> Result<Option<ChannelId>, ()> {
        let (name, channel) = match self.local.get(index(local_id)) {
            Some(LocalSlot::Closing(name)) => (name.clone(), None),
            Some(LocalSlot::Open(channel)) => {
                let open = self
                    .channels
                    .get(channel)
                    .filter(|open| open.remote_id.is_none())
                    .ok_or(())?;
                (open.name.clone(), Some(*channel))
            }
            _ => return Err(()),
        };
        if let Some(channel) = channel {
            self.channels.remove(&channel);
        }
        if let Some(peers) = self.names.get_mut(&name) {
            peers.outgoing.retain(|id| *id != local_id);
            if channel.is_some() {
                peers.opened = None;
            }
        }
        self.free_local(local_id);
        self.forget_if_unused(&name);
        Ok(channel)
    }

    pub(crate) fn remote_slot(&self, remote_id: u64) -> Option<&RemoteSlot> {
        self.remote.get(index(remote_id))
    }

    pub(crate) fn unclaimed_mut(&mut self, remote_id: u64) -> Option<&mut Unclaimed> {
        match self.remote.get_mut(index(remote_id)) {
            Some(RemoteSlot::Unclaimed(unclaimed)) => Some(unclaimed.as_mut()),
            _ => None,
        }
    }

    fn grow_remote(&mut self, remote_id: u64) {
        if remote_id == self.remote.len() as u64 + 1 {
            self.remote.push(RemoteSlot::Free);
        }
    }

    fn replace_remote(&mut self, remote_id: u64, slot: RemoteSlot) -> Option<RemoteSlot> {
        self.remote
            .get_mut(index(remote_id))
            .map(|old| std::mem::replace(old, slot))
    }

    fn set_local(&mut self, local_id: u64, slot: LocalSlot) {
        if let Some(old) = self.local.get_mut(index(local_id)) {
            *old = slot;
        }
    }

    fn free_local(&mut self, local_id: u64) {
        self.set_local(local_id, LocalSlot::Free);
        self.free.push(local_id);
    }

    fn forget_if_unused(&mut self, name: &Name) {
        let unused =
            |peers: &Peers| peers.opened.is_none() && peers.incoming.is_empty() && peers.outgoing.is_empty();
        if self.names.get(name).is_some_and(|peers| unused(peers)) {
            self.names.remove(name);
        }
    }
}

/// Ids count from 1; 0 gives an index that is in no table.
fn index(id: u64) -> usize {
    usize::try_from(id).map_or(usize::MAX, |id| id.wrapping_sub(1))
}

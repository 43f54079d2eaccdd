//! The multiplexer: frames in, events out; messages in, frames out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use cumulet_encoding::{DecodeError, Reader};

use crate::output::{Output, SendError, encode_id, encode_open};
use crate::table::{Name, Pairing, RemoteSlot, Table, Unclaimed};
use crate::{MAX_BUFFERED_BYTES, MAX_NAME_BYTES, MAX_UNCLAIMED_OPENS};

const CONTROL: u64 = 0;
const BATCH: u64 = 0;
const OPEN: u64 = 1;
const REJECT: u64 = 2;
const CLOSE: u64 = 3;

/// What each kept message is charged besides its bytes, as in JavaScript.
const MESSAGE_CHARGE_BYTES: usize = 512;

/// One channel of one mux; never used again after the channel has closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(pub(crate) u64);

/// An Open of the remote that waits for [`Mux::accept`] or [`Mux::reject`]. Each must be answered: see [`Mux::wants_input`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    remote_id: u64,
    serial: u64,
    /// The protocol's name.
    pub protocol: String,
    /// The id; empty if there is none.
    pub id: Bytes,
    /// What the remote says in its Open; it is repeated in [`Event::Opened`].
    pub handshake: Bytes,
}

/// What a mux has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The remote opened a channel that we have not: answer it.
    Requested(Box<Request>),
    /// Both sides have opened the channel.
    Opened {
        /// The channel.
        channel: ChannelId,
        /// The handshake bytes of the remote's Open.
        handshake: Bytes,
    },
    /// A message on an opened channel.
    Message {
        /// The channel.
        channel: ChannelId,
        /// The message's type; may be one that the channel's protocol does not know, to be ignored.
        kind: u64,
        /// The message; shares the frame's memory.
        payload: Bytes,
    },
    /// The remote closed the channel, or rejected our Open.
    Closed {
        /// The channel; it is gone.
        channel: ChannelId,
        /// Whether it had never been opened by the remote.
        rejected: bool,
    },
}

/// The remote broke the protocol: the whole stream is to be given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MuxError {
    /// A frame does not decode.
    #[error("failed to decode frame")]
    Decode(#[from] DecodeError),
    /// An Open used an id that is taken, 0, or further than one above the highest.
    #[error("failed to take the remote's open: its id is not free")]
    OpenId,
    /// A Reject of something that we have not opened.
    #[error("failed to take the remote's reject: nothing of that id was opened")]
    RejectId,
}

/// Why a channel was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A channel of this name is open.
    #[error("failed to open channel: one of this name is open")]
    AlreadyOpen,
    /// The remote has taken its Open back, or the request has been answered.
    #[error("failed to accept channel: the request is gone")]
    Gone,
    /// The handshake does not fit a frame.
    #[error(transparent)]
    TooLong(#[from] SendError),
}

/// A frame being decoded. A frame that is no batch has one item.
struct Input {
    frame: Bytes,
    at: usize,
    /// The channel of the next items; `None` for a frame that is no batch.
    batch_channel: Option<u64>,
    corked: bool,
}

/// One side of a protomux.
#[derive(Default)]
pub struct Mux {
    table: Table,
    output: Output,
    input: VecDeque<Input>,
    events: VecDeque<Event>,
    unclaimed: usize,
    buffered_bytes: usize,
    next_serial: u64,
    serials: HashMap<u64, u64>,
}

impl Mux {
    /// A mux without channels.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the next frame should be given to [`receive`](Self::receive): false while the last one is not polled to its end
    /// or too much waits for requests to be answered.
    pub fn wants_input(&self) -> bool {
        self.input.is_empty() && self.events.is_empty() && !self.is_full()
    }

    /// Takes one message of the transport. Empty ones are keep-alives.
    pub fn receive(&mut self, frame: Bytes) {
        if !frame.is_empty() {
            self.input.push_back(Input {
                frame,
                at: 0,
                batch_channel: None,
                corked: false,
            });
        }
    }

    /// The next event of the received frames.
    ///
    /// # Errors
    /// Any [`MuxError`]: give up the stream, all channels are dead.
    pub fn poll_event(&mut self) -> Result<Option<Event>, MuxError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.is_full() {
                return Ok(None);
            }
            let Some((channel, item)) = self.next_item()? else {
                return Ok(None);
            };
            self.on_item(channel, &item)?;
        }
    }

    /// Opens a channel, or joins the first one of this name that the remote has opened. Messages may be sent at once.
    ///
    /// # Errors
    /// [`OpenError::AlreadyOpen`] if a channel of this name is open.
    pub fn open(&mut self, protocol: &str, id: &[u8], handshake: &[u8]) -> Result<ChannelId, OpenError> {
        let name = Name {
            protocol: protocol.to_owned(),
            id: Bytes::copy_from_slice(id),
        };
        if self.table.opened(&name).is_some() {
            return Err(OpenError::AlreadyOpen);
        }
        let (channel, local_id, unclaimed) = self.table.insert(Arc::new(name));
        if let Err(error) =
            self.output
                .push(CONTROL, OPEN, &[&encode_open(local_id, protocol, id, handshake)])
        {
            self.table.close(channel);
            return Err(error.into());
        }
        if let Some(unclaimed) = unclaimed {
            self.discharge(&unclaimed);
            self.events.push_back(Event::Opened {
                channel,
                handshake: unclaimed.handshake,
            });
            let messages = unclaimed.messages.into_iter();
            self.events.extend(messages.map(|(kind, payload)| Event::Message {
                channel,
                kind,
                payload,
            }));
        }
        Ok(channel)
    }

    /// Opens the channel that `request` asks for.
    ///
    /// # Errors
    /// [`OpenError::Gone`] if there is nothing left to accept; the others of [`open`](Self::open).
    pub fn accept(&mut self, request: &Request, handshake: &[u8]) -> Result<ChannelId, OpenError> {
        if self.is_pending(request) {
            self.open(&request.protocol, &request.id, handshake)
        } else {
            Err(OpenError::Gone)
        }
    }

    /// Refuses `request`, if it is still there.
    pub fn reject(&mut self, request: &Request) {
        if self.is_pending(request) {
            self.reject_remote(request.remote_id);
        }
    }

    /// Closes a channel; a channel that is closed already is left alone.
    pub fn close(&mut self, channel: ChannelId) {
        if let Some(closed) = self.table.close(channel) {
            self.send_control(CLOSE, closed.local_id);
            // Nothing of a closed channel is delivered any more.
            self.events.retain(|event| match event {
                Event::Opened { channel: of, .. } | Event::Message { channel: of, .. } => *of != channel,
                Event::Requested(_) | Event::Closed { .. } => true,
            });
        }
    }

    /// Sends a message. On a closed channel it goes nowhere.
    ///
    /// # Errors
    /// [`SendError`] if it is larger than a frame.
    pub fn send(&mut self, channel: ChannelId, kind: u64, payload: &[u8]) -> Result<(), SendError> {
        self.send_parts(channel, kind, &[payload])
    }

    /// Like [`send`](Self::send), for a payload that lies in several places.
    ///
    /// # Errors
    /// [`SendError`] if it is larger than a frame.
    pub fn send_parts(&mut self, channel: ChannelId, kind: u64, parts: &[&[u8]]) -> Result<(), SendError> {
        match self.table.channels.get(&channel) {
            Some(open) => self.output.push(open.local_id, kind, parts),
            None => Ok(()),
        }
    }

    /// Gathers what is sent until [`uncork`](Self::uncork) into one frame. Nests.
    pub fn cork(&mut self) {
        self.output.cork();
    }

    /// Ends one [`cork`](Self::cork); the outermost writes the batch.
    pub fn uncork(&mut self) {
        self.output.uncork();
    }

    /// Writes what has been gathered so far, corked or not. A driver that stops in the middle of a received batch, whose answers
    /// are gathered, must not leave them lying.
    pub fn flush(&mut self) {
        self.output.flush_batch();
    }

    /// The next frame for the transport.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.output.pop()
    }

    /// Bytes of frames that wait for [`poll_transmit`](Self::poll_transmit), corked ones included.
    pub fn queued_bytes(&self) -> usize {
        self.output.queued_bytes()
    }

    /// The open channels, paired or not, in no order.
    pub fn channels(&self) -> impl Iterator<Item = ChannelId> {
        self.table.channels.keys().copied()
    }

    fn is_full(&self) -> bool {
        self.unclaimed >= MAX_UNCLAIMED_OPENS || self.buffered_bytes > MAX_BUFFERED_BYTES
    }

    fn is_pending(&self, request: &Request) -> bool {
        self.serials.get(&request.remote_id) == Some(&request.serial)
    }

    /// The next item: its channel, and its type with payload.
    fn next_item(&mut self) -> Result<Option<(u64, Bytes)>, MuxError> {
        loop {
            let Some(input) = self.input.front_mut() else {
                return Ok(None);
            };
            if input.batch_channel.is_none() {
                let mut reader = Reader::new(&input.frame);
                let channel = reader.uint()?;
                let is_batch = channel == CONTROL && Reader::new(reader.clone().rest()).uint()? == BATCH;
                if !is_batch {
                    let item = input.frame.slice_ref(reader.rest());
                    self.input.pop_front();
                    return Ok(Some((channel, item)));
                }
                reader.uint()?;
                input.batch_channel = Some(reader.uint()?);
                input.at = input.frame.len() - reader.remaining();
            }
            if input.at >= input.frame.len() {
                let corked = input.corked;
                self.input.pop_front();
                if corked {
                    self.output.uncork();
                }
                continue;
            }
            if let Some(found) = self.next_batch_item()? {
                return Ok(Some(found));
            }
        }
    }

    fn next_batch_item(&mut self) -> Result<Option<(u64, Bytes)>, MuxError> {
        let Some(input) = self.input.front_mut() else {
            return Ok(None);
        };
        let mut reader = Reader::new(&input.frame[input.at..]);
        let length = reader.uint()?;
        if length == 0 {
            input.batch_channel = Some(reader.uint()?);
            input.at = input.frame.len() - reader.remaining();
            return Ok(None);
        }
        // A length beyond the frame's end is clamped to it.
        let length =
            usize::try_from(length).map_or(reader.remaining(), |length| length.min(reader.remaining()));
        let start = input.frame.len() - reader.remaining();
        let item = input.frame.slice(start..start + length);
        input.at = start + length;
        let channel = input.batch_channel.unwrap_or(CONTROL);
        if input.at < input.frame.len() && !input.corked {
            // Several messages: answers to them are gathered too.
            input.corked = true;
            self.output.cork();
        }
        Ok(Some((channel, item)))
    }

    fn on_item(&mut self, channel: u64, item: &Bytes) -> Result<(), MuxError> {
        let mut reader = Reader::new(item);
        let kind = reader.uint()?;
        let payload = item.slice_ref(reader.rest());
        if channel == CONTROL {
            return self.on_control(kind, &payload);
        }
        match self.table.remote_slot(channel) {
            Some(RemoteSlot::Open(channel)) => {
                self.events.push_back(Event::Message {
                    channel: *channel,
                    kind,
                    payload,
                });
            }
            Some(RemoteSlot::Unclaimed(_)) => {
                let charge = MESSAGE_CHARGE_BYTES + payload.len();
                if let Some(unclaimed) = self.table.unclaimed_mut(channel) {
                    // A copy: a slice would keep the whole frame alive, uncounted.
                    unclaimed.messages.push((kind, Bytes::copy_from_slice(&payload)));
                    unclaimed.charged_bytes += charge;
                    self.buffered_bytes += charge;
                }
            }
            // May have crossed our Close.
            Some(RemoteSlot::Free) | None => {}
        }
        Ok(())
    }

    fn on_control(&mut self, kind: u64, payload: &Bytes) -> Result<(), MuxError> {
        match kind {
            OPEN => self.on_open(payload)?,
            REJECT => {
                let local_id = Reader::new(payload).uint()?;
                let rejected = self.table.reject(local_id).map_err(|()| MuxError::RejectId)?;
                self.events.extend(rejected.map(|channel| Event::Closed {
                    channel,
                    rejected: true,
                }));
            }
            CLOSE => {
                let remote_id = Reader::new(payload).uint()?;
                match self.table.remote_slot(remote_id) {
                    Some(RemoteSlot::Open(channel)) => {
                        let channel = *channel;
                        self.table.close(channel);
                        self.events.push_back(Event::Closed {
                            channel,
                            rejected: false,
                        });
                    }
                    // Taken back before we answered; the remote waits for the Reject before it uses the id again.
                    Some(RemoteSlot::Unclaimed(_)) => self.reject_remote(remote_id),
                    Some(RemoteSlot::Free) | None => {}
                }
            }
            // A batch in a batch is not a thing that JavaScript writes; other types are for the future.
            _ => {}
        }
        Ok(())
    }

    fn on_open(&mut self, payload: &Bytes) -> Result<(), MuxError> {
        let mut reader = Reader::new(payload);
        let remote_id = reader.uint()?;
        let protocol = reader.string()?.into_owned();
        let id = reader.buffer()?;
        let handshake = reader.rest();
        if remote_id == CONTROL || !self.table.may_open(remote_id) {
            return Err(MuxError::OpenId);
        }
        let too_long = protocol.len() > MAX_NAME_BYTES || id.len() > MAX_NAME_BYTES;
        let name = Name {
            protocol,
            id: Bytes::copy_from_slice(id),
        };
        match self.table.pair_outgoing(remote_id, &name) {
            Pairing::Open(channel) => {
                let handshake = Bytes::copy_from_slice(handshake);
                self.events.push_back(Event::Opened { channel, handshake });
                return Ok(());
            }
            Pairing::Closed => return Ok(()),
            Pairing::Unclaimed => {}
        }
        if too_long || handshake.len() > MAX_BUFFERED_BYTES {
            self.send_control(REJECT, remote_id);
            return Ok(());
        }
        let handshake = Bytes::copy_from_slice(handshake);
        let charged_bytes = name.protocol.len() + name.id.len() + handshake.len();
        let serial = self.next_serial;
        self.next_serial += 1;
        self.serials.insert(remote_id, serial);
        self.unclaimed += 1;
        self.buffered_bytes += charged_bytes;
        self.events.push_back(Event::Requested(Box::new(Request {
            remote_id,
            serial,
            protocol: name.protocol.clone(),
            id: name.id.clone(),
            handshake: handshake.clone(),
        })));
        let unclaimed = Unclaimed {
            remote_id,
            name: Arc::new(name),
            handshake,
            messages: Vec::new(),
            charged_bytes,
        };
        self.table.insert_unclaimed(remote_id, Box::new(unclaimed));
        Ok(())
    }

    fn reject_remote(&mut self, remote_id: u64) {
        if let Some(unclaimed) = self.table.remove_unclaimed(remote_id) {
            self.discharge(&unclaimed);
            self.send_control(REJECT, remote_id);
        }
    }

    fn discharge(&mut self, unclaimed: &Unclaimed) {
        self.serials.remove(&unclaimed.remote_id);
        self.unclaimed = self.unclaimed.saturating_sub(1);
        self.buffered_bytes = self.buffered_bytes.saturating_sub(unclaimed.charged_bytes);
    }

    fn send_control(&mut self, kind: u64, id: u64) {
        // An id never passes the frame limit.
        let _ = self.output.push(CONTROL, kind, &[&encode_id(id)]);
    }
}

impl std::fmt::Debug for Mux {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mux")
            .field("channels", &self.table.channels.len())
            .field("unclaimed", &self.unclaimed)
            .field("queued_bytes", &self.queued_bytes())
            .finish_non_exhaustive()
    }
}

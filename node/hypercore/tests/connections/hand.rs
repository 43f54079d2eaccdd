//! A peer whose every message a test writes, made from a secret stream and a mux.

use cumulet_hypercore::corestore::Corestore;
use cumulet_hypercore::crypto::{Key, capability, discovery_key};
use cumulet_hypercore::messages::{Handshake, Message, PROTOCOL};
use cumulet_protomux::{ChannelId, Event as MuxEvent, Mux};
use cumulet_secret_stream::noise::KeyPair;
use cumulet_secret_stream::{Event as StreamEvent, SecretStream, Seeds};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::pair::{PATIENCE, Wires, random};

/// A peer whose every message the test writes.
pub(crate) struct Hand {
    pub(crate) io: DuplexStream,
    pub(crate) stream: SecretStream,
    pub(crate) mux: Mux,
}

impl Hand {
    pub(crate) async fn connect(wires: &Wires, store: &Corestore) -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        wires.run(store, theirs, false);
        let seeds = Seeds {
            ephemeral: random(),
            header: random(),
        };
        let stream = SecretStream::xx(true, KeyPair::from_seed(random()), &seeds).unwrap();
        let mut hand = Self {
            io: ours,
            stream,
            mux: Mux::new(),
        };
        while hand.stream.session().is_none() {
            hand.exchange().await;
            assert!(!matches!(
                hand.stream.poll_event().unwrap(),
                Some(StreamEvent::Message(_))
            ));
        }
        hand
    }

    /// Writes what is to be written, then reads once. False at the end of the stream.
    pub(crate) async fn exchange(&mut self) -> bool {
        self.write().await;
        self.stream.receive_buffer().reserve(1 << 16);
        let read = tokio::time::timeout(PATIENCE, self.io.read_buf(self.stream.receive_buffer())).await;
        read.unwrap().unwrap() > 0
    }

    pub(crate) async fn write(&mut self) {
        self.mux.flush();
        while self.stream.session().is_some()
            && let Some(frame) = self.mux.poll_transmit()
        {
            self.stream.send(&frame).unwrap();
        }
        let output = self.stream.take_output();
        // A peer that was dropped finds out when it reads.
        let _ = self.io.write_all(&output).await;
    }

    /// The next event; none at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<MuxEvent> {
        loop {
            if let Some(event) = self.mux.poll_event().unwrap() {
                return Some(event);
            }
            match self.stream.poll_event().unwrap() {
                Some(StreamEvent::Message(frame)) => self.mux.receive(frame),
                Some(_) => {}
                None if self.exchange().await => {}
                None => return None,
            }
        }
    }

    pub(crate) fn capability(&self, key: &Key) -> [u8; 32] {
        capability(key, &self.stream.session().unwrap().handshake_hash, true)
    }

    pub(crate) fn open(&mut self, id: &[u8], capability: [u8; 32]) -> ChannelId {
        self.mux
            .open(
                PROTOCOL,
                id,
                &Handshake {
                    seeks: true,
                    capability,
                }
                .encode(),
            )
            .unwrap()
    }

    /// Opens a core's channel as an honest peer does.
    pub(crate) async fn open_core(&mut self, key: &Key) -> ChannelId {
        let capability = self.capability(key);
        let channel = self.open(&discovery_key(key), capability);
        while !matches!(self.next().await.unwrap(), MuxEvent::Opened { .. }) {}
        channel
    }

    pub(crate) fn say(&mut self, channel: ChannelId, message: &Message) {
        self.mux.send(channel, message.kind(), &message.encode()).unwrap();
    }

    pub(crate) async fn hear(&mut self) -> Option<Message> {
        match self.next().await? {
            MuxEvent::Message { kind, payload, .. } => Some(Message::decode(kind, &payload).unwrap()),
            MuxEvent::Closed { .. } => None,
            other => panic!("{other:?}"),
        }
    }
}

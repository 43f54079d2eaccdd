//! Streams, channels and handshakes: honest pairs in any order of things, and strangers that say anything.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use cumulet_protomux::{ChannelId, Event as MuxEvent, Mux, Request};
use cumulet_secret_stream::noise::{Handshake, KeyPair};
use cumulet_secret_stream::{Event, HEADER_BYTES, KEEP_ALIVE, SecretStream, Seeds};
use cumulet_udx::packet::{Flags, Header, Packet};
use cumulet_udx::stream::{Config, Path, SocketId, Stream};

/// What one side of two muxes does.
#[derive(Debug, Arbitrary)]
enum Act {
    Open(u8),
    Answer {
        accept: bool,
    },
    Close(u8),
    Send {
        channel: u8,
        kind: u8,
    },
    Cork,
    Uncork,
    Flush,
    /// The other side gets the next frame.
    Deliver,
}

#[derive(Default)]
struct Side {
    mux: Mux,
    open: Vec<ChannelId>,
    requests: Vec<Request>,
    wire: VecDeque<Bytes>,
    corked: usize,
    sent: u64,
    /// Number of the last message that arrived, by channel.
    heard: HashMap<ChannelId, u64>,
}

impl Side {
    fn act(&mut self, act: &Act, other: &mut Self) {
        match act {
            Act::Open(name) => {
                let protocol = ["a", "b", "c"][usize::from(name % 3)];
                self.open.extend(self.mux.open(protocol, &[name / 128], &[*name]));
            }
            Act::Answer { accept } => {
                if let Some(request) = self.requests.pop() {
                    if *accept {
                        self.open.extend(self.mux.accept(&request, b"yes"));
                    } else {
                        self.mux.reject(&request);
                    }
                }
            }
            Act::Close(number) => {
                if !self.open.is_empty() {
                    let channel = self.open.swap_remove(usize::from(*number) % self.open.len());
                    self.mux.close(channel);
                    self.heard.remove(&channel);
                }
            }
            Act::Send { channel, kind } => {
                if !self.open.is_empty() {
                    self.sent += 1;
                    let channel = self.open[usize::from(*channel) % self.open.len()];
                    let payload = self.sent.to_le_bytes();
                    self.mux
                        .send(channel, (*kind).into(), &payload)
                        .expect("eight bytes fit");
                }
            }
            Act::Cork => {
                self.corked += 1;
                self.mux.cork();
            }
            Act::Uncork => {
                if self.corked > 0 {
                    self.corked -= 1;
                    self.mux.uncork();
                }
            }
            Act::Flush => self.mux.flush(),
            Act::Deliver => {
                if other.mux.wants_input()
                    && let Some(frame) = self.wire.pop_front()
                {
                    other.mux.receive(frame);
                }
            }
        }
        other.poll();
        self.poll();
        while let Some(frame) = self.mux.poll_transmit() {
            self.wire.push_back(frame);
        }
        while let Some(frame) = other.mux.poll_transmit() {
            other.wire.push_back(frame);
        }
    }

    fn poll(&mut self) {
        while let Some(event) = self.mux.poll_event().expect("an honest peer breaks nothing") {
            match event {
                MuxEvent::Requested(request) => self.requests.push(*request),
                MuxEvent::Opened { channel, .. } => assert!(self.open.contains(&channel)),
                MuxEvent::Message { channel, payload, .. } => {
                    assert!(
                        self.open.contains(&channel),
                        "a message of a channel that is not open"
                    );
                    let number = u64::from_le_bytes(payload[..].try_into().expect("as it was sent"));
                    let before = self.heard.insert(channel, number).unwrap_or_default();
                    assert!(number > before, "messages of a channel keep their order");
                }
                MuxEvent::Closed { channel, .. } => {
                    self.open.retain(|open| *open != channel);
                    self.heard.remove(&channel);
                }
            }
        }
    }
}

/// The first byte chooses between two honest muxes and one with a stranger.
pub fn protomux(data: &[u8]) {
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    let mut input = Unstructured::new(rest);
    let _ = if how & 1 == 0 {
        honest_muxes(&mut input)
    } else {
        strange_frames(&mut input)
    };
}

fn honest_muxes(input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let (mut a, mut b) = (Side::default(), Side::default());
    while !input.is_empty() {
        let (first, act): (bool, Act) = input.arbitrary()?;
        if first {
            a.act(&act, &mut b);
        } else {
            b.act(&act, &mut a);
        }
    }
    Ok(())
}

fn strange_frames(input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut mux = Mux::new();
    let mut open: Vec<ChannelId> = mux.open("a", &[], &[]).into_iter().collect();
    while !input.is_empty() {
        let length = usize::from(input.arbitrary::<u8>()?);
        mux.receive(Bytes::copy_from_slice(input.bytes(input.len().min(length))?));
        loop {
            match mux.poll_event() {
                Ok(Some(MuxEvent::Requested(request))) => {
                    if input.arbitrary().unwrap_or(true) {
                        open.extend(mux.accept(&request, &[]));
                    } else {
                        mux.reject(&request);
                    }
                }
                Ok(Some(MuxEvent::Message { channel, kind: 1, .. })) => mux.close(channel),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return Ok(()),
            }
        }
        while mux.poll_transmit().is_some() {}
    }
    Ok(())
}

fn secret_pair() -> [SecretStream; 2] {
    let side = |initiator, n: u8| {
        let seeds = Seeds {
            ephemeral: [n; 32],
            header: [n; HEADER_BYTES],
        };
        SecretStream::xx(initiator, KeyPair::from_seed([n + 1; 32]), &seeds).expect("valid keys")
    };
    [side(true, 10), side(false, 20)]
}

#[derive(Debug, Arbitrary)]
enum Carried {
    Send {
        from: bool,
        length: u16,
    },
    /// Bytes on their way arrive, in pieces.
    Carry {
        from: bool,
        bytes: u16,
    },
    /// One byte on its way is changed.
    Flip {
        from: bool,
        at: u16,
        bits: u8,
    },
    /// Bytes that the other side did not send arrive.
    Insert {
        from: bool,
        length: u8,
    },
    Time,
}

/// Two streams over a wire that changes what it carries: whatever arrives was sent, in this order.
pub fn secret_stream(data: &[u8]) {
    let _ = try_secret_stream(&mut Unstructured::new(data));
}

fn try_secret_stream(input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let mut sides = secret_pair();
    let mut wires = [Vec::new(), Vec::new()];
    let mut sent = [VecDeque::new(), VecDeque::new()];
    let mut dead = [false, false];
    let mut now = Instant::now();
    for side in &mut sides {
        side.set_keep_alive(KEEP_ALIVE);
    }
    while !input.is_empty() && dead != [true, true] {
        match input.arbitrary()? {
            Carried::Send { from, length } => {
                let from = usize::from(from);
                let message = vec![sent[from].len() as u8; length.into()];
                if sides[from].send(&message).is_ok() && !message.is_empty() {
                    sent[from].push_back(message);
                }
            }
            Carried::Carry { from, bytes } => {
                let from = usize::from(from);
                let count = usize::from(bytes).min(wires[from].len());
                let bytes: Vec<u8> = wires[from].drain(..count).collect();
                sides[1 - from].receive(&bytes);
            }
            Carried::Flip { from, at, bits } => {
                let wire = &mut wires[usize::from(from)];
                if !wire.is_empty() {
                    let at = usize::from(at) % wire.len();
                    wire[at] ^= bits;
                }
            }
            Carried::Insert { from, length } => {
                let bytes = input.bytes(input.len().min(length.into()))?;
                wires[usize::from(from)].extend_from_slice(bytes);
            }
            Carried::Time => {
                now += KEEP_ALIVE;
                for (side, dead) in sides.iter_mut().zip(&mut dead) {
                    *dead |= side.handle_timeout(now).is_err();
                }
            }
        }
        for at in 0..2 {
            let bytes = sides[at].take_output();
            wires[at].extend_from_slice(&bytes);
            loop {
                match sides[at].poll_event() {
                    Ok(Some(Event::Message(message))) if message.is_empty() => {}
                    Ok(Some(Event::Message(message))) => {
                        assert_eq!(
                            sent[1 - at].pop_front().as_deref(),
                            Some(&message[..]),
                            "nobody sent this"
                        );
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => {
                        dead[at] = true;
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Handshakes of both patterns; each message is the true one or anything.
pub fn noise(data: &[u8]) {
    let _ = try_noise(&mut Unstructured::new(data));
}

fn try_noise(input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let keys = [KeyPair::from_seed([1; 32]), KeyPair::from_seed([2; 32])];
    let remote = *keys[1].public_key();
    let [first, second] = keys;
    let (mut initiator, mut responder) = if input.arbitrary()? {
        (
            Handshake::xx(true, first, [3; 32], b"prologue"),
            Handshake::xx(false, second, [4; 32], b"prologue"),
        )
    } else {
        (
            Handshake::ik_initiator(first, [3; 32], remote, b"prologue"),
            Handshake::ik_responder(second, [4; 32], b"prologue"),
        )
    };
    let mut changed = false;
    for _ in 0..4 {
        let (from, to) = if initiator.is_my_turn() {
            (&mut initiator, &mut responder)
        } else {
            (&mut responder, &mut initiator)
        };
        if !from.is_my_turn() {
            break;
        }
        let length = usize::from(input.arbitrary::<u8>()?);
        let payload = vec![7; length];
        let Ok(mut message) = from.write(&payload) else {
            break;
        };
        match input.arbitrary::<u8>()? % 4 {
            0 => {
                let length = usize::from(input.arbitrary::<u16>()? % 300);
                message = input.bytes(input.len().min(length))?.to_vec();
                changed = true;
            }
            1 => {
                let at = input.choose_index(message.len())?;
                let bits = input.arbitrary::<u8>()?;
                message[at] ^= bits;
                changed |= bits != 0;
            }
            _ => {}
        }
        match to.read(&message) {
            Ok(read) => assert!(changed || read == payload),
            Err(_) => {
                assert!(changed, "the true message is refused");
                break;
            }
        }
    }
    let finished = initiator.is_finished() && responder.is_finished();
    if let (true, Ok(a), Ok(b)) = (finished, initiator.finish(), responder.finish()) {
        assert!(
            !changed || a.handshake_hash != b.handshake_hash,
            "a changed handshake ended well"
        );
    }
    Ok(())
}

/// A stream of UDX that gets any packets.
pub fn udx_stream(data: &[u8]) {
    let _ = try_udx_stream(&mut Unstructured::new(data));
}

#[derive(Debug, Arbitrary)]
struct Arriving {
    flags: u8,
    data_offset: u8,
    window: u16,
    seq: i8,
    ack: i8,
    far: u8,
    wait_millis: u16,
    body: u8,
    write: u16,
    read: bool,
}

fn try_udx_stream(input: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    const WINDOW: u32 = 20_000;
    let config = Config {
        receive_window: WINDOW,
        ..Config::new(1)
    };
    let mut stream = Stream::new(config, 0);
    let path = Path {
        socket: SocketId(0),
        address: SocketAddr::from(([127, 0, 0, 1], 9)),
    };
    stream.connect(0, path, 2);
    let (mut now, mut out, mut buffer) = (0, Vec::new(), vec![0; 4096]);
    while !input.is_empty() {
        let arriving: Arriving = input.arbitrary()?;
        let distance = |near: i8, bit: u8| {
            let shift = if arriving.far & bit == 0 { 0 } else { 24 };
            i32::from(near).wrapping_shl(shift).cast_unsigned()
        };
        let header = Header {
            flags: Flags(arriving.flags & 63),
            data_offset: if arriving.far & 4 == 0 {
                0
            } else {
                arriving.data_offset
            },
            stream_id: 1,
            window: u32::from(arriving.window),
            seq: distance(arriving.seq, 1),
            ack: distance(arriving.ack, 2),
        };
        let mut datagram = header.encode().to_vec();
        datagram.extend_from_slice(input.bytes(input.len().min(arriving.body.into()))?);
        if stream.memory() < 1 << 20 {
            stream.write(&vec![1; (arriving.write % 3000).into()]);
        }
        if let Ok(packet) = Packet::decode(&datagram) {
            stream.receive(now, &packet, datagram.len());
        }
        let mut packets = 0;
        while let Some(transmit) = stream.poll_transmit(now, &mut out) {
            assert!(transmit.len <= 1472);
            out.clear();
            packets += 1;
            assert!(packets < 10_000, "it never stops sending");
        }
        now += u64::from(arriving.wait_millis) * 1000;
        stream.on_timeout(now);
        assert!(
            stream.poll_timeout().is_none_or(|at| at > now),
            "a timer that is always due"
        );
        if arriving.read {
            while stream.read(&mut buffer) > 0 {}
        }
    }
    Ok(())
}

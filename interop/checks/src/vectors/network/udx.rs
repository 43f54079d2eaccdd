//! `udx.json`: packets captured from libudx, packets built by the layout, and datagrams that are none.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use cumulet_udx::packet::{DecodeError, Flags, Header, Packet};
use cumulet_udx::stream::{Config, Path, SocketId, Stream};
use cumulet_vectors::{Checker, Fields, Reason, ensure, hexed, keep, unhex, unknown};
use serde_json::{Value, json};

/// The captured packets of one stream follow each other: what it sends depends on what it did before.
pub(crate) fn checker() -> Checker {
    let mut replays: HashMap<u64, Replay> = HashMap::new();
    Box::new(move |case| match case.text("kind")? {
        "not-udx" => {
            let refused = Packet::decode(&case.bytes("hex")?) == Err(DecodeError::NotUdx);
            ensure(refused, "is taken for a packet")?;
            let mut ours = keep(case, &["kind", "name", "hex"]);
            ours["decoded"] = Value::Null;
            Ok(ours)
        }
        "synthetic" => {
            let mut ours = keep(case, &["kind"]);
            add_packet(case.at("decoded")?, &case.bytes("hex")?, &mut ours)?;
            Ok(ours)
        }
        "captured" => {
            let stream = case.at("stream")?;
            let replay = match replays.entry(stream.uint("local_id")?) {
                std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::hash_map::Entry::Vacant(entry) => entry.insert(Replay::new(stream)?),
            };
            let sent = replay.play(case)?;
            let mut ours = keep(case, &["kind", "what", "written", "written_len", "injected"]);
            ours["stream"] = keep(stream, &["local_id", "remote_id", "initial_seq", "initial_ack"]);
            add_packet(case.at("decoded")?, &case.bytes("hex")?, &mut ours)?;
            ensure(
                sent == case.bytes("hex")?,
                &format!("sends {} instead of hex", hex::encode(&sent)),
            )?;
            Ok(ours)
        }
        kind => unknown("kind", kind),
    })
}

/// Names of the flags, by the bits of the type byte.
const FLAGS: [(Flags, &str); 6] = [
    (Flags::DATA, "DATA"),
    (Flags::END, "END"),
    (Flags::SACK, "SACK"),
    (Flags::MESSAGE, "MESSAGE"),
    (Flags::DESTROY, "DESTROY"),
    (Flags::HEARTBEAT, "HEARTBEAT"),
];

/// Adds `decoded` (from the recorded bytes) and `hex` (from the recorded fields).
fn add_packet(fields: &Value, datagram: &[u8], ours: &mut Value) -> Result<(), Reason> {
    let packet = Packet::decode(datagram)?;
    let header = packet.header;
    let sacks: Vec<_> = packet.sacks.iter().collect();
    let flags: Vec<&str> = (FLAGS.iter())
        .filter_map(|(bit, name)| header.flags.has(*bit).then_some(*name))
        .collect();
    ours["decoded"] = json!({
        "magic": datagram[0], "version": datagram[1], "type": header.flags.0, "flags": flags,
        "data_offset": header.data_offset, "stream_id": header.stream_id, "rwnd": header.window, "seq": header.seq,
        "ack": header.ack, "sacks": sacks, "payload": hexed(packet.payload),
    });
    let number = |name| Ok::<u32, Reason>(fields.uint(name)?.try_into()?);
    let described = Header {
        flags: Flags(fields.uint("type")?.try_into()?),
        data_offset: fields.uint("data_offset")?.try_into()?,
        stream_id: number("stream_id")?,
        window: number("rwnd")?,
        seq: number("seq")?,
        ack: number("ack")?,
    };
    let mut encoded = described.encode().to_vec();
    for pair in fields.list("sacks")? {
        let [start, end] = cumulet_vectors::items(pair)? else {
            return Err(Reason::new("sacks are not pairs"));
        };
        for edge in [start, end] {
            let edge = edge
                .as_u64()
                .ok_or_else(|| Reason::new("sacks are not numbers"))?;
            encoded.extend(u32::try_from(edge)?.to_le_bytes());
        }
    }
    if !described.flags.has(Flags::SACK) {
        encoded.resize(encoded.len() + usize::from(described.data_offset), 0);
    }
    encoded.extend(fields.bytes("payload")?);
    ours["hex"] = hexed(encoded);
    Ok(())
}

struct Replay {
    stream: Stream,
    /// Microseconds.
    now: u64,
}

impl Replay {
    fn new(ids: &Value) -> Result<Self, Reason> {
        let number = |name| Ok::<u32, Reason>(ids.uint(name)?.try_into()?);
        let config = Config {
            initial_seq: number("initial_seq")?,
            initial_ack: number("initial_ack")?,
            keep_alive: Some(Duration::from_millis(300)),
            ..Config::new(number("local_id")?)
        };
        let mut stream = Stream::new(config, 0);
        let path = Path {
            socket: SocketId(1),
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
        };
        ensure(
            stream.connect(0, path, number("remote_id")?),
            "the stream can't be connected",
        )?;
        Ok(Self { stream, now: 0 })
    }

    /// Everything that leaves now, packet by packet.
    fn sent(&mut self) -> Vec<Vec<u8>> {
        let (mut packets, mut buffer) = (Vec::new(), Vec::new());
        while self.stream.poll_transmit(self.now, &mut buffer).is_some() {
            packets.push(std::mem::take(&mut buffer));
        }
        packets
    }

    fn play(&mut self, case: &Value) -> Result<Vec<u8>, Reason> {
        self.now += 1_000;
        let what = case.text("what")?;
        let mut packets = match what {
            "first write" => {
                self.stream.write(&case.bytes("written")?);
                self.sent()
            }
            "unreliable message" => {
                let taken = self.stream.send_message(case.bytes("written")?.into());
                ensure(taken, "the message is not taken")?;
                self.sent()
            }
            "keepalive probe" => {
                self.now += 300_000;
                self.stream.on_timeout(self.now);
                self.sent()
            }
            "destroy" => {
                self.stream.destroy();
                self.sent()
            }
            what if what.starts_with("MTU probe") => {
                // The recorded packet carries the first bytes of what was written.
                let datagram = case.bytes("hex")?;
                let mut all = Packet::decode(&datagram)?.payload.to_vec();
                all.resize(case.uint("written_len")?.try_into()?, 0);
                self.stream.write(&all);
                let mut packets = self.sent();
                packets.truncate(1);
                packets
            }
            what if what.starts_with("ack of ")
                || what.starts_with("SACK ")
                || what.starts_with("reply to ") =>
            {
                let mut answers = Vec::new();
                for datagram in case.list("injected")? {
                    let datagram = unhex(datagram)?;
                    self.stream
                        .receive(self.now, &Packet::decode(&datagram)?, datagram.len());
                    answers = self.sent();
                }
                answers
            }
            what => return unknown("event", what),
        };
        match (packets.pop(), packets.is_empty()) {
            (Some(packet), true) => Ok(packet),
            (_, _) => Err(Reason::new(format!("{what}: not one packet is sent"))),
        }
    }
}

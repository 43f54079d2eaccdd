//! The shared vectors: packets captured from libudx, packets built by the layout, and datagrams that are none.

use std::{collections::BTreeMap, net::SocketAddr, path::Path as FilePath, time::Duration};

use cumulet_udx::{
    packet::{DecodeError, Flags, Header, Packet},
    stream::{Config, Path, SocketId, Stream},
};
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    kind: String,
    #[serde(default)]
    what: String,
    hex: String,
    decoded: Option<Decoded>,
    stream: Option<StreamIds>,
    written: Option<String>,
    written_len: Option<usize>,
    #[serde(default)]
    injected: Vec<String>,
}

#[derive(Deserialize)]
struct Decoded {
    magic: u8,
    version: u8,
    r#type: u8,
    data_offset: u8,
    stream_id: u32,
    rwnd: u32,
    seq: u32,
    ack: u32,
    sacks: Vec<(u32, u32)>,
    payload: String,
}

#[derive(Deserialize, Clone, Copy)]
struct StreamIds {
    local_id: u32,
    remote_id: u32,
    initial_seq: u32,
    initial_ack: u32,
}

fn cases() -> Vec<Case> {
    let path = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/network/udx.json");
    let file: File =
        serde_json::from_slice(&std::fs::read(path).expect("vector file")).expect("vector format");
    assert_eq!(file.cases.len(), 92);
    file.cases
}

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex).expect("hex")
}

#[test]
fn every_packet_decodes_as_the_vectors_say_and_encodes_to_the_same_bytes() {
    let mut checked = 0;
    for case in cases() {
        let datagram = bytes(&case.hex);
        let Some(expected) = case.decoded else { continue };
        let packet = Packet::decode(&datagram).expect("a packet");
        let header = packet.header;
        assert_eq!((datagram[0], datagram[1]), (expected.magic, expected.version));
        let fields = Header {
            flags: Flags(expected.r#type),
            data_offset: expected.data_offset,
            stream_id: expected.stream_id,
            window: expected.rwnd,
            seq: expected.seq,
            ack: expected.ack,
        };
        assert_eq!(header, fields, "{}", case.hex);
        assert_eq!(
            packet.sacks.iter().collect::<Vec<_>>(),
            expected.sacks,
            "{}",
            case.hex
        );
        assert_eq!(packet.payload, bytes(&expected.payload), "{}", case.hex);

        let mut encoded = header.encode().to_vec();
        for (start, end) in packet.sacks.iter() {
            encoded.extend(start.to_le_bytes());
            encoded.extend(end.to_le_bytes());
        }
        if !header.flags.has(Flags::SACK) {
            encoded.resize(encoded.len() + usize::from(header.data_offset), 0);
        }
        encoded.extend_from_slice(packet.payload);
        assert_eq!(encoded, datagram);
        checked += 1;
    }
    assert_eq!(checked, 88);
}

#[test]
fn what_is_no_packet_is_left_to_others() {
    let foreign: Vec<_> = cases()
        .into_iter()
        .filter(|case| case.kind == "not-udx")
        .collect();
    assert_eq!(foreign.len(), 4);
    for case in foreign {
        assert_eq!(
            Packet::decode(&bytes(&case.hex)),
            Err(DecodeError::NotUdx),
            "{}",
            case.hex
        );
    }
}

struct Replay {
    stream: Stream,
    now: u64,
}

impl Replay {
    fn new(ids: StreamIds) -> Self {
        let config = Config {
            initial_seq: ids.initial_seq,
            initial_ack: ids.initial_ack,
            keep_alive: Some(Duration::from_millis(300)),
            ..Config::new(ids.local_id)
        };
        let mut stream = Stream::new(config, 0);
        let path = Path {
            socket: SocketId(1),
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
        };
        assert!(stream.connect(0, path, ids.remote_id));
        Self { stream, now: 0 }
    }

    fn inject(&mut self, datagram: &[u8]) {
        let packet = Packet::decode(datagram).expect("a packet");
        self.stream.receive(self.now, &packet, datagram.len());
    }

    /// Everything that leaves now, packet by packet.
    fn sent(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut buffer = Vec::new();
        while let Some(transmit) = self.stream.poll_transmit(self.now, &mut buffer) {
            assert_eq!(transmit.len, buffer.len());
            packets.push(std::mem::take(&mut buffer));
        }
        packets
    }

    fn play(&mut self, case: &Case) -> Vec<u8> {
        self.now += 1_000;
        let packets = match case.what.as_str() {
            "first write" => {
                self.stream
                    .write(&bytes(case.written.as_deref().expect("written")));
                self.sent()
            }
            "unreliable message" => {
                let message = bytes(case.written.as_deref().expect("written"));
                assert!(self.stream.send_message(message.into()));
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
                let written = &Packet::decode(&bytes(&case.hex))
                    .expect("a packet")
                    .payload
                    .to_vec();
                let mut all = written.clone();
                all.resize(case.written_len.expect("length"), 0);
                self.stream.write(&all);
                let packets = self.sent();
                assert_eq!(packets.len(), 3);
                return packets[0].clone();
            }
            _ => {
                let mut answers = Vec::new();
                for datagram in &case.injected {
                    self.inject(&bytes(datagram));
                    answers = self.sent();
                }
                answers
            }
        };
        assert_eq!(packets.len(), 1, "{}", case.what);
        packets[0].clone()
    }
}

#[test]
fn a_stream_sends_the_very_packets_that_libudx_sent() {
    let mut replays = BTreeMap::new();
    let mut played = 0;
    for case in cases() {
        let Some(ids) = case.stream else { continue };
        let replay = replays.entry(ids.local_id).or_insert_with(|| Replay::new(ids));
        assert_eq!(
            hex::encode(replay.play(&case)),
            case.hex,
            "{} of stream {}",
            case.what,
            ids.local_id
        );
        played += 1;
    }
    assert_eq!((replays.len(), played), (6, 48));
}

//! What strangers can send: nothing of it may panic, hang, or take memory.

use std::net::SocketAddr;

use cumulet_udx::{
    packet::{Flags, Header, Packet},
    stream::{Config, Path, SocketId, Stream},
};
use proptest::prelude::*;

fn stream(receive_window: u32) -> Stream {
    let mut stream = Stream::new(
        Config {
            receive_window,
            ..Config::new(1)
        },
        0,
    );
    stream.connect(
        0,
        Path {
            socket: SocketId(0),
            address: SocketAddr::from(([127, 0, 0, 1], 9)),
        },
        2,
    );
    stream
}

/// A header with plausible numbers: near the start, where checks have edges.
fn header() -> impl Strategy<Value = Header> {
    let number = prop_oneof![0u32..100, Just(u32::MAX), any::<u32>()];
    (
        0u8..64,
        any::<u8>(),
        number.clone(),
        number,
        prop_oneof![Just(0u32), Just(1), any::<u32>()],
    )
        .prop_map(|(flags, data_offset, seq, ack, window)| Header {
            flags: Flags(flags & !Flags::DESTROY.0),
            data_offset: if data_offset < 200 { 0 } else { data_offset },
            stream_id: 1,
            window,
            seq,
            ack,
        })
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..1600)) {
        if let Ok(packet) = Packet::decode(&bytes) {
            prop_assert!(packet.payload.len() <= bytes.len() - 20);
            prop_assert!(packet.sacks.iter().count() <= bytes.len() / 8);
        }
    }

    #[test]
    fn arbitrary_bytes_after_a_good_start_never_panic_the_decoder(
        mut bytes in prop::collection::vec(any::<u8>(), 20..1600), flags in 0u8..64,
    ) {
        bytes[..3].copy_from_slice(&[0xff, 1, flags]);
        let blocks = Packet::decode(&bytes).map_or(0, |packet| packet.sacks.iter().count());
        prop_assert!(blocks <= bytes.len() / 8);
    }

    #[test]
    fn arbitrary_packets_neither_break_a_stream_nor_fill_its_memory(
        packets in prop::collection::vec((header(), prop::collection::vec(any::<u8>(), 0..200), 0u64..3_000_000), 1..200),
        writes in prop::collection::vec(0usize..5000, 0..20),
    ) {
        let window = 20_000;
        let mut stream = stream(window);
        let (mut now, mut out) = (0, Vec::new());
        for (n, (header, body, wait)) in packets.iter().enumerate() {
            if let Some(len) = writes.get(n) {
                stream.write(&vec![7; *len]);
            }
            let mut datagram = header.encode().to_vec();
            datagram.extend_from_slice(body);
            if let Ok(packet) = Packet::decode(&datagram) {
                stream.receive(now, &packet, datagram.len());
            }
            while let Some(transmit) = stream.poll_transmit(now, &mut out) {
                prop_assert!(transmit.len <= 1472);
                out.clear();
            }
            now += wait;
            stream.on_timeout(now);
            prop_assert!(stream.poll_timeout().is_none_or(|at| at > now), "a timer that is always due");
            prop_assert!(stream.memory() <= 6 * window as usize + 100_000 + 1400);
        }
    }
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_changes_nothing() {
    let mut stream = stream(1000);
    stream.write(b"hello");
    let mut out = Vec::new();
    assert!(stream.poll_transmit(0, &mut out).is_some());
    for ack in [2, 1000, 1 << 30] {
        let header = Header {
            stream_id: 1,
            ack,
            window: 5,
            ..Header::default()
        }
        .encode();
        stream.receive(1, &Packet::decode(&header).expect("packet"), 20);
    }
    assert_eq!(stream.estimates().in_flight, 1);
}

#[test]
fn a_peer_that_acknowledges_only_selectively_can_not_make_us_remember_without_end() {
    let mut stream = stream(1000);
    let mut out = Vec::new();
    let mut sent = 0u32;
    for round in 0..200_000u64 {
        stream.write(&[1]);
        let now = round * 10;
        stream.on_timeout(now);
        while stream.poll_transmit(now, &mut out).is_some() {
            if out[2] == Flags::DATA.0 {
                sent = sent.max(u32::from_le_bytes([out[12], out[13], out[14], out[15]]) + 1);
            }
            out.clear();
        }
        if sent > 1 {
            let mut ack = Header {
                flags: Flags::SACK,
                stream_id: 1,
                window: u32::MAX,
                seq: round as u32,
                ..Header::default()
            }
            .encode()
            .to_vec();
            ack.extend(1u32.to_le_bytes());
            ack.extend(sent.to_le_bytes());
            stream.receive(now + 5, &Packet::decode(&ack).expect("packet"), ack.len());
        }
    }
    assert!(sent > 1000, "the stream went on for a while: {sent}");
    assert!(sent <= 32_768 + 1, "{sent} packets outstanding");
}

//! Laws of the packet.
#![allow(clippy::unwrap_used)]

use cumulet_udx::packet::{Flags, HEADER_LEN, Header, Packet, rewrite_stream_id, stream_id};
use proptest::prelude::*;

prop_compose! {
    fn header()(
        flags: u8, stream_id: u32, window: u32, seq: u32, ack: u32,
    ) -> Header {
        Header { flags: Flags(flags), data_offset: 0, stream_id, window, seq, ack }
    }
}

proptest! {
    #[test]
    fn a_packet_decodes_to_what_was_encoded(
        mut header in header(), padding in 0u8..200, payload in proptest::collection::vec(any::<u8>(), 0..1200),
    ) {
        header.data_offset = padding;
        let mut datagram = header.encode().to_vec();
        datagram.resize(HEADER_LEN + usize::from(padding), 0);
        datagram.extend_from_slice(&payload);
        let packet = Packet::decode(&datagram).unwrap();
        prop_assert_eq!(packet.header, header);
        if header.flags.has(Flags::DATA.with(Flags::MESSAGE)) {
            prop_assert_eq!(packet.payload, &payload[..]);
        } else {
            prop_assert!(packet.payload.is_empty());
        }
        prop_assert_eq!(stream_id(&datagram), Some(header.stream_id));
    }

    #[test]
    fn selective_blocks_of_a_pure_acknowledgement_come_back(
        mut header in header(), blocks in proptest::collection::vec(any::<(u32, u32)>(), 1..50),
    ) {
        header.flags = Flags::SACK;
        let mut datagram = header.encode().to_vec();
        for (start, end) in &blocks {
            datagram.extend_from_slice(&start.to_le_bytes());
            datagram.extend_from_slice(&end.to_le_bytes());
        }
        let packet = Packet::decode(&datagram).unwrap();
        prop_assert_eq!(packet.sacks.iter().collect::<Vec<_>>(), blocks);
    }

    #[test]
    fn any_bytes_are_a_packet_or_an_error_and_a_relay_changes_nothing_but_the_id(mut bytes: Vec<u8>, id: u32) {
        let before = Packet::decode(&bytes).map(|packet| packet.header);
        rewrite_stream_id(&mut bytes, id);
        let after = Packet::decode(&bytes).map(|packet| packet.header);
        prop_assert_eq!(before.map(|header| Header { stream_id: id, ..header }), after);
    }
}

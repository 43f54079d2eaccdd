//! Laws of the stream: any cut of its bytes gives the same messages, and no changed bit gives any.
#![allow(clippy::unwrap_used)]

use cumulet_secret_stream::noise::KeyPair;
use cumulet_secret_stream::{Event, HEADER_BYTES, SecretStream, Seeds, StreamError};
use proptest::prelude::*;

/// What both sides of an XX handshake send before the first message, with frames and headers.
const HANDSHAKE_BYTES: usize = 319;

fn pair() -> [SecretStream; 2] {
    let side = |initiator, n: u8| {
        let seeds = Seeds {
            ephemeral: [n; 32],
            header: [n; HEADER_BYTES],
        };
        SecretStream::xx(initiator, KeyPair::from_seed([n + 1; 32]), &seeds).unwrap()
    };
    [side(true, 10), side(false, 20)]
}

/// Both sides when each has heard the other's header.
fn open() -> [SecretStream; 2] {
    let mut sides = pair();
    let mut connected = 0;
    while connected < 2 {
        for from in 0..2 {
            let bytes = sides[from].take_output();
            sides[1 - from].receive(&bytes);
            while let Some(event) = sides[1 - from].poll_event().unwrap() {
                connected += usize::from(event == Event::Connected);
            }
        }
    }
    sides
}

fn messages(stream: &mut SecretStream, into: &mut Vec<Vec<u8>>) -> Result<(), StreamError> {
    while let Some(event) = stream.poll_event()? {
        if let Event::Message(message) = event {
            into.push(message.to_vec());
        }
    }
    Ok(())
}

/// Gives bytes in pieces of these lengths, and then the rest.
fn in_pieces(
    stream: &mut SecretStream,
    mut bytes: &[u8],
    pieces: &[usize],
) -> (Vec<Vec<u8>>, Result<(), StreamError>) {
    let mut heard = Vec::new();
    for piece in pieces.iter().copied().chain([usize::MAX]) {
        let (now, later) = bytes.split_at(piece.min(bytes.len()));
        bytes = later;
        stream.receive(now);
        if let Err(error) = messages(stream, &mut heard) {
            return (heard, Err(error));
        }
    }
    (heard, Ok(()))
}

fn bodies() -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_cut_of_the_bytes_gives_the_same_messages(
        sent in bodies(), pieces in proptest::collection::vec(0usize..200, 0..40),
    ) {
        let [mut a, mut b] = open();
        for message in &sent {
            a.send(message).unwrap();
        }
        let (heard, result) = in_pieces(&mut b, &a.take_output(), &pieces);
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(heard, sent);
    }

    #[test]
    fn a_changed_bit_gives_what_came_before_it_and_nothing_after(
        sent in bodies(), at in any::<prop::sample::Index>(), bit in 0u8..8,
        pieces in proptest::collection::vec(0usize..200, 0..20),
    ) {
        let [mut a, mut b] = open();
        let mut ends = Vec::new();
        let mut bytes = Vec::new();
        for message in &sent {
            a.send(message).unwrap();
            bytes.extend_from_slice(&a.take_output());
            ends.push(bytes.len());
        }
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let whole = ends.iter().filter(|end| **end <= at).count();
        let (heard, _) = in_pieces(&mut b, &bytes, &pieces);
        prop_assert_eq!(&heard, &sent[..whole]);
        // A length that became larger waits for its bytes; whatever they are, they are refused.
        b.receive(&vec![0; 1 << 16]);
        let mut more = Vec::new();
        while messages(&mut b, &mut more).is_ok() && b.buffered_input() < 1 << 25 {
            b.receive(&vec![0; 1 << 20]);
        }
        prop_assert!(more.is_empty());
        prop_assert!(b.poll_event().is_err());
    }

    #[test]
    fn a_changed_bit_in_the_handshake_leaves_no_stream_that_carries_messages_both_ways(
        at in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let mut sides = pair();
        // Bytes of the honest handshake: three messages with their frames, and two headers.
        let position = at.index(HANDSHAKE_BYTES);
        let mut carried = 0;
        let mut heard = [0, 0];
        for round in 0..6 {
            for from in 0..2 {
                if round == 4 {
                    // Nothing proves a header right but the message behind it.
                    let _ = sides[from].send(b"hello");
                }
                let mut bytes = sides[from].take_output().to_vec();
                if (carried..carried + bytes.len()).contains(&position) {
                    bytes[position - carried] ^= 1 << bit;
                }
                carried += bytes.len();
                let to = 1 - from;
                sides[to].receive(&bytes);
                while let Ok(Some(event)) = sides[to].poll_event() {
                    heard[to] += usize::from(matches!(event, Event::Message(_)));
                }
            }
        }
        prop_assert!(heard != [1, 1], "byte {position} of {carried}");
    }

    #[test]
    fn an_unchanged_handshake_has_the_length_that_the_test_before_changes(_once in Just(())) {
        let mut sides = pair();
        let mut carried = 0;
        for _ in 0..6 {
            for from in 0..2 {
                let bytes = sides[from].take_output();
                carried += bytes.len();
                sides[1 - from].receive(&bytes);
                while sides[1 - from].poll_event().unwrap().is_some() {}
            }
        }
        prop_assert_eq!(carried, HANDSHAKE_BYTES);
    }
}

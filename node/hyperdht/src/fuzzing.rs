//! What the fuzzer calls: every decoder of this crate, each with its encoder. Built with `--cfg fuzzing` and for tests.

use std::fmt::Debug;

use bytes::Bytes;
use cumulet_encoding::DecodeError;

use crate::messages::{
    Announce, Handshake, HolepunchMessage, HolepunchPayload, LookupReply, MutablePut, MutableRecord,
    NoisePayload, PeerRecord,
};
use crate::rpc::message as datagram;

/// Number of decoders that the first byte chooses from.
const DECODERS: u8 = 10;

/// First byte of the Noise payloads that we write.
const NOISE_PAYLOAD_VERSION: u8 = 1;

/// What decodes comes back from its own encoding.
fn comes_back<T: PartialEq + Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    encode: impl Fn(&T) -> Bytes,
) {
    if let Ok(value) = decode(bytes) {
        assert_eq!(decode(&encode(&value)), Ok(value));
    }
}

/// The first byte chooses a decoder for the rest.
///
/// # Panics
/// When a decoder panics, or when what it decoded does not come back from its own encoding.
pub fn message(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    match kind % DECODERS {
        0 => comes_back(rest, Handshake::decode, Handshake::encode),
        1 => comes_back(rest, HolepunchMessage::decode, HolepunchMessage::encode),
        2 => comes_back(rest, HolepunchPayload::decode, |value| value.encode().into()),
        3 => comes_back(rest, PeerRecord::decode, PeerRecord::encode),
        4 => drop(LookupReply::decode(rest)),
        5 => comes_back(rest, Announce::decode, Announce::encode),
        6 => comes_back(rest, MutablePut::decode, MutablePut::encode),
        7 => comes_back(rest, MutableRecord::decode, MutableRecord::encode),
        // Of another version nothing but the version is read, and only ours is written.
        8 if rest.first() != Some(&NOISE_PAYLOAD_VERSION) => drop(NoisePayload::decode(rest)),
        8 => comes_back(rest, NoisePayload::decode, |value| value.encode().into()),
        _ => {
            let decoded = datagram::decode(rest);
            let again = match &decoded {
                Some(datagram::Message::Request(request)) => Some(request.encode()),
                Some(datagram::Message::Response(response)) => Some(response.encode()),
                None => None,
            };
            if let Some(bytes) = again {
                assert_eq!(datagram::decode(&bytes), decoded);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::recorded::{bytes, cases};

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic_and_what_decodes_comes_back(data: Vec<u8>) {
            message(&data);
        }

        #[test]
        fn messages_of_javascript_with_changed_bytes_make_no_decoder_panic(
            case: prop::sample::Index, kind in 0..DECODERS, changes: Vec<(prop::sample::Index, u8)>,
        ) {
            let cases = cases("hyperdht-messages");
            let mut data = vec![kind];
            data.extend_from_slice(&bytes(&case.get(&cases)["hex"]));
            for (at, bits) in changes.into_iter().take(3) {
                if data.len() > 1 {
                    let at = 1 + at.index(data.len() - 1);
                    data[at] ^= bits;
                }
            }
            message(&data);
        }
    }
}

//! Bytes of strangers into values, and back.

use bytes::Bytes;
use cumulet_encoding::{Reader, Writer};
use cumulet_hyperbee::extension;
use cumulet_hyperbee::message::{Header as BeeHeader, Node as BeeNode};
use cumulet_hypercore::key;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::messages::{Handshake, Message};
use cumulet_hypercore::segment::{self, ContentCipher};
use cumulet_hypercore::verifier::Envelope;
use cumulet_hyperdrive::entry::FileEntry;
use cumulet_hyperdrive::{blobs, path};
use cumulet_udx::packet::{HEADER_LEN, Packet};

/// The first byte chooses a codec, the rest is read with it until it ends or fails.
pub fn encoding(data: &[u8]) {
    let Some((codec, rest)) = data.split_first() else {
        return;
    };
    let mut reader = Reader::new(rest);
    let mut before = reader.remaining() + 1;
    while reader.remaining() < before && !reader.is_empty() {
        before = reader.remaining();
        let read = match codec % 14 {
            0 => reader.uint().map(|value| {
                let mut writer = Writer::new();
                writer.uint(value);
                assert_eq!(Reader::new(writer.as_slice()).uint(), Ok(value));
            }),
            1 => reader.int().map(|value| {
                let mut writer = Writer::new();
                writer.int(value);
                assert_eq!(Reader::new(writer.as_slice()).int(), Ok(value));
            }),
            2 => reader.buffer().map(|value| assert!(value.len() <= rest.len())),
            3 => reader.optional_buffer().map(drop),
            4 => reader.string().map(drop),
            5 => reader.bool().map(drop),
            6 => reader.words().map(|words| assert!(words.len() <= rest.len() / 4)),
            7 => reader
                .frame()
                .map(|frame| assert!(frame.remaining() <= rest.len())),
            8 => reader.array_len(2).map(|items| assert!(items <= rest.len() / 2)),
            9 => reader.uint_of(3).map(drop),
            10 => reader.uint_of(7).map(drop),
            11 => reader.u64().map(drop),
            12 => reader.u64_any().map(drop),
            _ => reader.fixed::<32>().map(drop),
        };
        if read.is_err() {
            return;
        }
    }
}

/// The first byte is the kind of the message.
pub fn hypercore_message(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    if *kind == u8::MAX {
        if let Ok(handshake) = Handshake::decode(rest) {
            assert_eq!(Handshake::decode(&handshake.encode()), Ok(handshake));
        }
        return;
    }
    let kind = u64::from(kind % 12);
    if let Ok(message) = Message::decode(kind, &Bytes::copy_from_slice(rest)) {
        assert_eq!(message.kind(), kind);
        let again = Message::decode(kind, &message.encode().into());
        assert_eq!(again, Ok(message));
    }
}

/// Manifests, and the envelopes of signatures.
pub fn manifest(data: &[u8]) {
    if let Ok(manifest) = Manifest::decode(&mut Reader::new(data)) {
        let bytes = manifest.to_bytes();
        assert_eq!(
            Manifest::decode(&mut Reader::new(&bytes)),
            Ok(manifest.clone()),
            "a manifest comes back"
        );
        let _ = manifest.check();
        assert!(manifest.belongs_to(&manifest.key()));
    }
    if let Ok(envelope) = Envelope::decode(data) {
        assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope));
    }
    let _ = Envelope::decode_v0(data);
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(parsed) = key::parse(text)
    {
        assert_eq!(key::parse(&key::to_hex(&parsed)), Ok(parsed));
        assert_eq!(key::parse(&key::to_z32(&parsed)), Ok(parsed));
    }
}

/// Segment files, with and without encryption: what opens encodes to the same bytes.
pub fn segment(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let Ok(header) = segment::Header::decode(&bytes) else {
        return;
    };
    let cipher = header.encrypted.then(|| ContentCipher::new(&[3; 32]));
    if let Ok(decoded) = segment::decode(&bytes, &header.place, cipher.as_ref())
        && let Ok(encoded) = segment::encode(&header.place, cipher.as_ref(), &decoded.blocks)
    {
        assert_eq!(encoded.bytes, bytes);
        assert_eq!(encoded.root, decoded.root);
    }
}

/// UDX packets.
pub fn udx_packet(data: &[u8]) {
    if let Ok(packet) = Packet::decode(data) {
        assert!(packet.payload.len() + HEADER_LEN <= data.len());
        assert!(packet.sacks.iter().count() <= data.len() / 8);
        let mut again = packet.header.encode().to_vec();
        again.extend_from_slice(&data[HEADER_LEN..]);
        assert_eq!(Packet::decode(&again), Ok(packet));
    }
}

/// Everything that nodes of the DHT send to each other.
pub fn dht_message(data: &[u8]) {
    #[cfg(fuzzing)]
    cumulet_hyperdht::fuzzing::message(data);
    #[cfg(not(fuzzing))]
    let _ = data;
}

/// Blocks of a bee, and its extension messages.
pub fn hyperbee_block(data: &[u8]) {
    let block = Bytes::copy_from_slice(data);
    if let Ok(header) = BeeHeader::decode(&block) {
        assert_eq!(BeeHeader::decode(&header.encode()).ok(), Some(header));
    }
    if let Ok(node) = BeeNode::decode(&block) {
        assert_eq!(BeeNode::decode(&node.encode()).ok(), Some(node));
    }
    if let Ok(Some(message)) = extension::Message::decode(&block) {
        assert_eq!(
            extension::Message::decode(&message.encode()).ok(),
            Some(Some(message))
        );
    }
}

/// Entries, block maps, links and paths of a drive.
pub fn hyperdrive_entry(data: &[u8]) {
    if let Ok(entry) = FileEntry::decode(Some(data))
        && let Ok(encoded) = entry.encode()
    {
        let again = FileEntry::decode(Some(&encoded)).expect("an encoded entry decodes");
        assert_eq!(again.linkname, entry.linkname);
        assert_eq!(again.executable, entry.executable);
        assert_eq!(again.blob.is_some(), entry.blob.is_some());
    }
    let mut map = Vec::new();
    if blobs::decode_map(data, &mut map).is_ok() {
        let mut again = Vec::new();
        assert!(blobs::decode_map(&blobs::encode_map(&map), &mut again).is_ok());
        assert_eq!(map, again);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(normal) = path::normalize(text) {
            assert_eq!(path::normalize(&normal).ok(), Some(normal));
        }
        let _ = path::normalize_folder(text);
        let _ = path::resolve("/folder/file", text);
        let _ = text.parse::<cumulet_hyperdrive::link::Link>();
    }
}

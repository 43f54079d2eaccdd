//! The segment format: what goes in comes out, nothing else does, and the bytes stay what they are.

use bytes::Bytes;
use cumulet_hypercore::segment::{ContentCipher, Place, SegmentError, SegmentId, decode, encode};

fn place(level: u32, index: u64) -> Place {
    Place {
        discovery_key: [7; 32],
        fork: 3,
        id: SegmentId { level, index },
    }
}

fn blocks(count: usize) -> Vec<Bytes> {
    (0..count)
        .map(|i| Bytes::from(vec![i as u8; i * 5 % 17]))
        .collect()
}

fn ciphers() -> [Option<ContentCipher>; 2] {
    [None, Some(ContentCipher::new(&[9; 32]))]
}

#[test]
fn blocks_come_out_as_they_went_in() {
    for cipher in ciphers() {
        for level in 0..6 {
            let (place, blocks) = (place(level, 5), blocks(1 << level));
            let encoded = encode(&place, cipher.as_ref(), &blocks).unwrap();
            let decoded = decode(&encoded.bytes, &place, cipher.as_ref()).unwrap();
            assert_eq!(decoded.blocks, blocks);
            assert_eq!(decoded.root, encoded.root);
            assert_eq!(decoded.nodes.len(), (2 << level) - 1);
        }
    }
}

#[test]
fn every_changed_byte_is_refused() {
    for cipher in ciphers() {
        let place = place(2, 1);
        let encoded = encode(&place, cipher.as_ref(), &blocks(4)).unwrap().bytes;
        for position in 0..encoded.len() {
            let mut changed = encoded.to_vec();
            changed[position] ^= 0x10;
            let result = decode(&changed.into(), &place, cipher.as_ref());
            assert!(result.is_err(), "byte {position} of {}", encoded.len());
        }
    }
}

#[test]
fn every_torn_or_lengthened_file_is_refused() {
    let place = place(2, 1);
    let encoded = encode(&place, None, &blocks(4)).unwrap().bytes;
    for length in 0..encoded.len() {
        assert!(
            decode(&encoded.slice(..length), &place, None).is_err(),
            "{length}"
        );
    }
    let longer = [encoded.as_ref(), &[0]].concat();
    assert!(matches!(
        decode(&longer.into(), &place, None),
        Err(SegmentError::Torn { .. })
    ));
}

#[test]
fn a_good_segment_of_another_place_is_refused() {
    let encoded = encode(&place(1, 1), None, &blocks(2)).unwrap().bytes;
    let mut other_fork = place(1, 1);
    other_fork.fork = 4;
    for wrong in [place(1, 0), other_fork] {
        assert_eq!(
            decode(&encoded, &wrong, None).unwrap_err(),
            SegmentError::WrongPlace
        );
    }
}

#[test]
fn another_content_key_opens_nothing_and_says_so() {
    let [_, cipher] = ciphers();
    let encoded = encode(&place(1, 1), cipher.as_ref(), &blocks(2)).unwrap().bytes;
    let other = ContentCipher::new(&[8; 32]);
    let error = decode(&encoded, &place(1, 1), Some(&other)).unwrap_err();
    assert_eq!(error, SegmentError::DoesNotOpen { index: 2 });
    assert!(matches!(
        decode(&encoded, &place(1, 1), None),
        Err(SegmentError::WrongCipher { .. })
    ));
}

#[test]
fn an_encrypted_segment_shows_nothing_of_its_blocks() {
    let [_, cipher] = ciphers();
    let block = Bytes::from_static(b"a sentence that nobody else should read");
    let encoded = encode(&place(0, 1), cipher.as_ref(), std::slice::from_ref(&block))
        .unwrap()
        .bytes;
    assert!(
        !encoded
            .windows(8)
            .any(|window| block.windows(8).any(|words| words == window))
    );
}

#[test]
fn the_bytes_are_those_of_the_golden_files() {
    for (name, cipher) in ["segment-v1-plain.bin", "segment-v1-sealed.bin"]
        .iter()
        .zip(ciphers())
    {
        let encoded = encode(&place(3, 2), cipher.as_ref(), &blocks(8)).unwrap().bytes;
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(name);
        if std::env::var_os("CUMULET_WRITE_GOLDEN").is_some() {
            std::fs::write(&path, &encoded).unwrap();
        }
        assert_eq!(
            encoded,
            std::fs::read(&path).unwrap(),
            "{name}: a changed format needs a new version"
        );
    }
}

//! How people write a core's key: 64 hex digits, 52 letters of z-base-32, or a link.
//!
//! Links are `pear://`, `hyper://` and `dat://` with either form as host; what follows the host (a path) is left to
//! the caller. JS refuses `hyper://`; we take it, because years of published links use it.

use crate::crypto::Key;

const ALPHABET: &[u8; 32] = b"ybndrfg8ejkmcpqxot1uwisza345h769";
const SCHEMES: [&str; 3] = ["pear://", "hyper://", "dat://"];

/// The text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to read the key: expected 64 hex digits, 52 letters of z-base-32, or a pear://, hyper:// or dat:// link"
)]
pub struct ParseKeyError;

/// Reads a key in any of the accepted forms; a path after a link's host is ignored.
pub fn parse(text: &str) -> Result<Key, ParseKeyError> {
    let host = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme));
    let text = host.map_or(text, |rest| {
        rest.split(['/', '?', '#']).next().unwrap_or_default()
    });
    match text.len() {
        64 => from_hex(text.as_bytes()),
        52 => from_z32(text.as_bytes()),
        _ => None,
    }
    .ok_or(ParseKeyError)
}

/// The key as 64 lower-case hex digits.
pub fn to_hex(key: &Key) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    key.iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| DIGITS[usize::from(digit)] as char)
        .collect()
}

/// The key as 52 letters of z-base-32 (hypercore-id-encoding's form).
pub fn to_z32(key: &Key) -> String {
    let mut text = String::with_capacity(52);
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in key {
        bits = (bits << 8) | u32::from(*byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            text.push(ALPHABET[(bits >> held & 31) as usize] as char);
        }
        bits &= (1 << held) - 1;
    }
    text.push(ALPHABET[(bits << (5 - held) & 31) as usize] as char);
    text
}

fn from_hex(digits: &[u8]) -> Option<Key> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let mut key = [0; 32];
    for (byte, [high, low]) in key.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(key)
}

fn from_z32(letters: &[u8]) -> Option<Key> {
    let mut key = [0; 32];
    let (mut bits, mut held, mut at) = (0u32, 0u32, 0usize);
    for letter in letters {
        let value = ALPHABET
            .iter()
            .position(|known| known == &letter.to_ascii_lowercase())?;
        bits = (bits << 5) | value as u32;
        held += 5;
        if held >= 8 {
            held -= 8;
            *key.get_mut(at)? = (bits >> held) as u8;
            at += 1;
        }
        bits &= (1 << held) - 1;
    }
    // 52 letters carry four bits more than 32 bytes; a writer leaves them zero.
    (bits == 0).then_some(key)
}

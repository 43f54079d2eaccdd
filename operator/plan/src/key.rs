//! An archive's key in the forms that people write.

use data_encoding::{Encoding, HEXLOWER, HEXLOWER_PERMISSIVE, Specification};
use std::fmt;

/// The 32-byte key of an archive. Shown as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArchiveKey([u8; 32]);

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "failed to parse the key: it must be 64 hex digits or 52 characters of z-base-32, alone or after hyper://, pear:// or dat://"
)]
pub struct ParseKeyError;

impl ArchiveKey {
    /// Reads 64 hex digits or 52 characters of z-base-32, alone or after `hyper://`, `pear://` or `dat://`,
    /// with at most one slash at the end.
    pub fn parse(text: &str) -> Result<Self, ParseKeyError> {
        let bare = ["hyper://", "pear://", "dat://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme))
            .unwrap_or(text);
        let bare = bare.strip_suffix('/').unwrap_or(bare);
        let bytes = match bare.len() {
            64 => HEXLOWER_PERMISSIVE.decode(bare.as_bytes()).ok(),
            52 => z_base_32().and_then(|encoding| encoding.decode(bare.as_bytes()).ok()),
            _ => None,
        };
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or(ParseKeyError)
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// z-base-32 as the z32 package of npm writes it: most significant bit first, no padding.
fn z_base_32() -> Option<Encoding> {
    let mut specification = Specification::new();
    specification.symbols.push_str("ybndrfg8ejkmcpqxot1uwisza345h769");
    specification.encoding().ok()
}

impl fmt::Display for ArchiveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ArchiveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    /// What the npm package z32 1.1.0 encodes those bytes to.
    const Z32: &str = "yyyoryarywdyqnyjbefoadeqbhebnrounoktcfaadrpbs8y7daxo";

    #[test]
    fn all_forms_of_one_key_are_the_same_key() {
        let key = ArchiveKey::parse(HEX).unwrap();
        for text in [
            HEX.to_uppercase(),
            Z32.to_owned(),
            format!("hyper://{HEX}"),
            format!("hyper://{HEX}/"),
            format!("pear://{Z32}"),
            format!("dat://{HEX}"),
        ] {
            assert_eq!(ArchiveKey::parse(&text), Ok(key), "{text}");
        }
        assert_eq!(key.to_string(), HEX);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let trailing_bits = format!("{}b", "y".repeat(51));
        for text in [
            "",
            "hyper://",
            &HEX[1..],
            &format!("http://{HEX}"),
            &format!("{HEX}//"),
            &"l".repeat(52),
            &trailing_bits,
            &"é".repeat(32),
        ] {
            assert_eq!(ArchiveKey::parse(text), Err(ParseKeyError), "{text}");
        }
    }
}

//! What a request's path names.

use std::borrow::Cow;

use cumulet_hypercore::crypto::Key;
use cumulet_hypercore::key;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Longest name of an archive, in bytes: that of a Kubernetes object.
const MAX_NAME_BYTES: usize = 253;

/// All but what RFC 3986 calls unreserved, and the slash.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// The first part of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ArchiveName {
    /// A key.
    Key(Key),
    /// Anything else.
    Name(String),
}

/// A request's path, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address<'a> {
    pub(super) archive: ArchiveName,
    /// The first part as it was written: what addresses of the same archive begin with.
    pub(super) prefix: &'a str,
    /// What follows it, decoded once: none for `/<archive>` without a slash.
    pub(super) tail: Option<Cow<'a, [u8]>>,
}

impl<'a> Address<'a> {
    /// Takes a path apart; none if it names no archive.
    pub(super) fn parse(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix('/')?;
        let (prefix, tail) = path
            .split_once('/')
            .map_or((path, None), |(prefix, tail)| (prefix, Some(tail)));
        let name = percent_decode_str(prefix).decode_utf8().ok()?;
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return None;
        }
        // Links are a key too, but not here: `hyper:` would end at the next slash.
        let bare = matches!(name.len(), 52 | 64)
            .then(|| key::parse(&name).ok())
            .flatten();
        let archive = bare.map_or_else(|| ArchiveName::Name(name.into_owned()), ArchiveName::Key);
        Some(Self {
            archive,
            prefix,
            tail: tail.map(|tail| percent_decode_str(tail).into()),
        })
    }

    /// The address of a drive's path, which begins with `/`.
    pub(super) fn of(&self, path: &str) -> String {
        format!("/{}{}", self.prefix, encode(path))
    }
}

/// A drive's path, or a part of it, as it is written in an address.
pub(super) fn encode(path: &str) -> String {
    utf8_percent_encode(path, PATH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(path: &str) -> Option<String> {
        Address::parse(path)
            .unwrap()
            .tail
            .map(|tail| String::from_utf8_lossy(&tail).into_owned())
    }

    #[test]
    fn both_forms_of_a_key_are_the_key_and_all_else_is_a_name() {
        let (hex, z32) = (key::to_hex(&[7; 32]), key::to_z32(&[7; 32]));
        for form in [
            hex.as_str(),
            &z32,
            &hex.to_uppercase(),
            &z32.replacen('y', "%79", 1),
        ] {
            let path = format!("/{form}/x");
            assert_eq!(
                Address::parse(&path).unwrap().archive,
                ArchiveName::Key([7; 32]),
                "{form}"
            );
        }
        for name in ["notes", &hex[1..], &hex.replace('0', "x"), "hyper:"] {
            let path = format!("/{name}");
            assert_eq!(
                Address::parse(&path).unwrap().archive,
                ArchiveName::Name(name.to_owned())
            );
        }
        for none in [
            "",
            "/",
            "//evil.example/x",
            "x/y",
            "/%ff/x",
            &format!("/{}", "n".repeat(254)),
        ] {
            assert_eq!(Address::parse(none), None, "{none}");
        }
    }

    #[test]
    fn the_rest_is_decoded_exactly_once() {
        assert_eq!(tail("/n"), None);
        assert_eq!(tail("/n/").as_deref(), Some(""));
        assert_eq!(tail("/n/a%20b/%C3%BC+c").as_deref(), Some("a b/ü+c"));
        assert_eq!(tail("/n/%2561").as_deref(), Some("%61"));
        assert_eq!(tail("/n/%zz%").as_deref(), Some("%zz%"));
        assert_eq!(encode("/a b/ü?#\"<%61"), "/a%20b/%C3%BC%3F%23%22%3C%2561");
    }
}

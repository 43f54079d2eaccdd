//! Preconditions and byte ranges (RFC 9110, sections 13 and 14).

use std::ops::Range;

use axum::http::{HeaderMap, header};
use cumulet_hypercore::crypto;
use headers::{ETag, HeaderMapExt, IfMatch, IfNoneMatch, IfRange};

/// A tag made of everything that the bytes of an answer depend on.
pub(super) fn etag(parts: &[&[u8]]) -> ETag {
    // Lengths keep neighbouring parts apart.
    let lengths: Vec<[u8; 8]> = parts
        .iter()
        .map(|part| (part.len() as u64).to_le_bytes())
        .collect();
    let all: Vec<&[u8]> = parts
        .iter()
        .zip(&lengths)
        .flat_map(|(part, length)| [length.as_slice(), part])
        .collect();
    let digest = crypto::hash(&all);
    let tag = format!("\"{}\"", hex::encode(digest.get(..16).unwrap_or(&digest)));
    tag.parse()
        .unwrap_or_else(|_| unreachable!("hex digits in quotes are a tag"))
}

/// What the preconditions ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precondition {
    Proceed,
    /// 412
    Failed,
    /// 304
    NotModified,
}

pub(super) fn precondition(headers: &HeaderMap, etag: &ETag) -> Precondition {
    if headers
        .typed_get::<IfMatch>()
        .is_some_and(|wanted| !wanted.precondition_passes(etag))
    {
        return Precondition::Failed;
    }
    if headers
        .typed_get::<IfNoneMatch>()
        .is_some_and(|known| !known.precondition_passes(etag))
    {
        return Precondition::NotModified;
    }
    Precondition::Proceed
}

/// Which bytes to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// 200
    Whole,
    /// 206
    Bytes(Range<u64>),
    /// 416
    Unsatisfiable,
}

/// The part of `length` bytes that a GET asks for. Several ranges at once, other units and nonsense are ignored, as the
/// RFC allows; so is a range whose `If-Range` names another tag.
pub(super) fn part(headers: &HeaderMap, etag: &ETag, length: u64) -> Part {
    let mut values = headers.get_all(header::RANGE).iter();
    let (Some(range), None) = (values.next(), values.next()) else {
        return Part::Whole;
    };
    if headers.contains_key(header::IF_RANGE) {
        let known = headers.typed_get::<IfRange>();
        if known.is_none_or(|known| known.is_modified(Some(etag), None)) {
            return Part::Whole;
        }
    }
    range
        .to_str()
        .ok()
        .and_then(|range| parse(range, length))
        .unwrap_or(Part::Whole)
}

/// One range of RFC 9110, section 14.1.2; none if it is to be ignored.
fn parse(range: &str, length: u64) -> Option<Part> {
    let (unit, range) = range.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than fit are still a number, and beyond every end.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    if first.is_empty() {
        return Some(match number(last)? {
            0 => Part::Unsatisfiable,
            // A range of no bytes can't be written in Content-Range.
            _ if length == 0 => Part::Whole,
            suffix => Part::Bytes(length.saturating_sub(suffix)..length),
        });
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    Some(if first >= length {
        Part::Unsatisfiable
    } else {
        Part::Bytes(first..last.saturating_add(1).min(length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_cut_out_and_all_that_is_not_one_is_ignored() {
        for (range, expected) in [
            ("bytes=0-0", Part::Bytes(0..1)),
            ("bytes=2-4", Part::Bytes(2..5)),
            ("Bytes = 2-", Part::Bytes(2..10)),
            ("bytes=9-99999999999999999999999", Part::Bytes(9..10)),
            ("bytes=-3", Part::Bytes(7..10)),
            ("bytes=-30", Part::Bytes(0..10)),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=18446744073709551615-", Part::Unsatisfiable),
        ] {
            assert_eq!(parse(range, 10), Some(expected), "{range}");
        }
        for ignored in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=4-2",
            "bytes=0-1,3-4",
            "bytes=a-b",
            "bytes=+1-2",
            "items=0-1",
        ] {
            assert_eq!(parse(ignored, 10), None, "{ignored}");
        }
        assert_eq!(parse("bytes=0-", 0), Some(Part::Unsatisfiable));
        assert_eq!(parse("bytes=-5", 0), Some(Part::Whole));
    }

    #[test]
    fn tags_differ_when_any_part_differs() {
        let tags = [
            etag(&[b"a", b"bc"]),
            etag(&[b"ab", b"c"]),
            etag(&[b"abc"]),
            etag(&[b"a", b"bc", b""]),
        ];
        for (at, tag) in tags.iter().enumerate() {
            assert!(!tags[..at].contains(tag));
        }
        assert_eq!(etag(&[b"a", b"bc"]), tags[0]);
    }
}

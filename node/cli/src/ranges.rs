//! Ranges as people write them: `3..7`, `3..`, `..7`, or one number alone.

use std::ops::Range;
use std::str::FromStr;

/// A range whose end may be left open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    start: u64,
    end: Option<u64>,
}

/// The text is not a range.
#[derive(Debug, thiserror::Error)]
#[error("expected START..END, START.., ..END or one number, with START not above END")]
pub(crate) struct ParseSpanError;

impl FromStr for Span {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, ParseSpanError> {
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| ParseSpanError);
        let Some((start, end)) = text.split_once("..") else {
            let only = number(text)?;
            let end = only.checked_add(1).ok_or(ParseSpanError)?;
            return Ok(Self {
                start: only,
                end: Some(end),
            });
        };
        let start = if start.is_empty() { 0 } else { number(start)? };
        let end = if end.is_empty() { None } else { Some(number(end)?) };
        if end.is_some_and(|end| end < start) {
            return Err(ParseSpanError);
        }
        Ok(Self { start, end })
    }
}

impl Span {
    /// Everything.
    pub(crate) const ALL: Self = Self { start: 0, end: None };

    /// The range in something of this length; an open end is its end. None if it reaches beyond.
    pub(crate) fn within(self, length: u64) -> Option<Range<u64>> {
        let range = self.start..self.end.unwrap_or_else(|| length.max(self.start));
        (range.end <= length).then_some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_with_open_ends_and_refused_backwards_or_beyond_the_end() {
        let within = |text: &str| text.parse::<Span>().unwrap().within(10);
        assert_eq!(within("3..7"), Some(3..7));
        assert_eq!(within("3.."), Some(3..10));
        assert_eq!(within("..7"), Some(0..7));
        assert_eq!(within(".."), Some(0..10));
        assert_eq!(within("9"), Some(9..10));
        assert_eq!(within("10.."), Some(10..10));
        assert_eq!(within("10"), None);
        assert_eq!(within("11.."), None);
        for text in ["", "7..3", "a..b", "-1", "1..2..3", "18446744073709551615"] {
            assert!(text.parse::<Span>().is_err(), "{text:?}");
        }
    }
}

//! What an error asks for: the coarse kind that drives backoff, HTTP status, metric label and condition reason.

use std::fmt;

/// How to go on after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// It may pass: try again later.
    Retry,
    /// It stays until somebody changes the configuration or the request.
    Invalid,
    /// Bytes are not what they should be: refuse them, use another copy.
    Damaged,
    /// Two truths that exclude each other: somebody has to decide.
    Conflict,
    /// The other end was shut down on purpose.
    Closed,
}

impl ErrorKind {
    /// A short lower-case word, for metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Invalid => "invalid",
            Self::Damaged => "damaged",
            Self::Conflict => "conflict",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a person can do about an error: a sentence, without secrets.
pub type Hint = &'static str;

//! Kubernetes quantities of bytes, parsed so that they can be compared.
//!
//! The grammar is that of `k8s.io/apimachinery/pkg/api/resource`: a decimal number and a suffix (`Ki`…`Ei`,
//! `n`…`E`, or an exponent). Sizes are rounded up to whole bytes, as Kubernetes rounds a storage request.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// A size above zero as its owner wrote it, beside its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    text: String,
    bytes: u128,
}

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to parse the size {text:?}: it must be a quantity above zero, such as 10Gi")]
pub struct ParseSizeError {
    /// What was read.
    pub text: String,
}

impl Size {
    /// Parses a quantity above zero.
    pub fn parse(text: &str) -> Result<Self, ParseSizeError> {
        match bytes(text) {
            Some(bytes) if bytes > 0 => Ok(Self {
                text: text.to_owned(),
                bytes,
            }),
            _ => Err(ParseSizeError {
                text: text.to_owned(),
            }),
        }
    }

    /// The value in bytes, rounded up.
    pub fn bytes(&self) -> u128 {
        self.bytes
    }

    /// The quantity as Kubernetes takes it, spelled as it was read.
    pub fn quantity(&self) -> Quantity {
        Quantity(self.text.clone())
    }
}

/// Largest number of digits read; more cannot be a size of anything.
const MAX_DIGITS: usize = 24;

fn bytes(text: &str) -> Option<u128> {
    let number_len = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_len);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() == 0
        || whole.len() + fraction.len() > MAX_DIGITS
        || fraction.contains('.')
    {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let mut divisor = 10u128.checked_pow(fraction.len().try_into().ok()?)?;
    let multiplier = match binary(suffix) {
        Some(power) => 1u128 << (10 * power),
        None => match decimal(suffix)? {
            power @ 0.. => 10u128.checked_pow(power.unsigned_abs())?,
            power => {
                divisor = divisor.checked_mul(10u128.checked_pow(power.unsigned_abs())?)?;
                1
            }
        },
    };
    Some(digits.checked_mul(multiplier)?.div_ceil(divisor))
}

fn binary(suffix: &str) -> Option<u32> {
    ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]
        .iter()
        .position(|s| *s == suffix)
        .and_then(|at| u32::try_from(at + 1).ok())
}

fn decimal(suffix: &str) -> Option<i32> {
    const POWERS: [(&str, i32); 10] = [
        ("n", -9),
        ("u", -6),
        ("m", -3),
        ("", 0),
        ("k", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("P", 15),
        ("E", 18),
    ];
    POWERS
        .iter()
        .find(|(name, _)| *name == suffix)
        .map(|(_, power)| *power)
        .or_else(|| suffix.strip_prefix(['e', 'E'])?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suffix_has_its_value() {
        for (text, bytes) in [
            ("1", 1),
            ("10Gi", 10 << 30),
            ("1.5Gi", 3 << 29),
            ("1G", 1_000_000_000),
            ("1500m", 2),
            ("2e3", 2000),
            ("2E3", 2000),
            (".5Ki", 512),
            ("1n", 1),
            ("3Ei", 3 << 60),
        ] {
            assert_eq!(Size::parse(text).map(|size| size.bytes()), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_without_a_panic() {
        for text in [
            "",
            "Gi",
            "-1",
            "0",
            "1 Gi",
            "1..2",
            "1gi",
            "9e99",
            &"9".repeat(40),
            "1e-99999999999",
            "é",
        ] {
            assert!(Size::parse(text).is_err(), "{text}");
        }
    }
}

//! Reading the cases of vector files, and saying where a case differs from what we make of its inputs.
//!
//! A case is checked by **rebuilding** it: the checker takes the case's inputs, lets the product compute everything else,
//! and returns the whole case again. It passes if the rebuilt case is equal to the recorded one. So every field of a
//! case is either an input that the result depends on, or compared; a field that no checker knows makes the two unequal.
//!
//! The crate lies below the protocol crates, so that one of them can rebuild cases about its private parts (behind a
//! feature of its own). It knows no format.

use std::fmt;

use serde_json::{Map, Value};

/// Why a case could not be rebuilt.
#[derive(Debug)]
pub struct Reason(String);

impl Reason {
    /// With these words.
    pub fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// `Reason` itself is no `Error`, so that any error becomes one by `?`.
impl<E: std::error::Error> From<E> for Reason {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// A rebuilt case.
pub type Rebuilt = Result<Value, Reason>;

/// What rebuilds the cases of one file, one after the other; some formats carry state from case to case.
pub type Checker = Box<dyn FnMut(&Value) -> Rebuilt>;

/// Fails with words if a fact that no field states does not hold.
pub fn ensure(holds: bool, words: &str) -> Result<(), Reason> {
    if holds { Ok(()) } else { Err(Reason::new(words)) }
}

/// The reason of a case whose `kind` (or other discriminant) is not known.
pub fn unknown<T>(what: &str, name: &str) -> Result<T, Reason> {
    Err(Reason::new(format!("unknown {what} {name:?}")))
}

/// Typed reading of a JSON object's fields. Errors name the field.
pub trait Fields {
    /// The field; an error if it is absent.
    fn at(&self, name: &str) -> Result<&Value, Reason>;

    /// A string.
    fn text(&self, name: &str) -> Result<&str, Reason> {
        self.at(name)?
            .as_str()
            .ok_or_else(|| Reason::new(format!("{name} is not text")))
    }

    /// An unsigned integer.
    fn uint(&self, name: &str) -> Result<u64, Reason> {
        self.at(name)?
            .as_u64()
            .ok_or_else(|| Reason::new(format!("{name} is not an unsigned integer")))
    }

    /// A boolean.
    fn flag(&self, name: &str) -> Result<bool, Reason> {
        self.at(name)?
            .as_bool()
            .ok_or_else(|| Reason::new(format!("{name} is not a boolean")))
    }

    /// A list.
    fn list(&self, name: &str) -> Result<&[Value], Reason> {
        items(self.at(name)?).map_err(|_| Reason::new(format!("{name} is not a list")))
    }

    /// Bytes written as hex.
    fn bytes(&self, name: &str) -> Result<Vec<u8>, Reason> {
        unhex(self.at(name)?).map_err(|reason| Reason::new(format!("{name}: {reason}")))
    }

    /// N bytes written as hex.
    fn fixed<const N: usize>(&self, name: &str) -> Result<[u8; N], Reason> {
        fixed(self.at(name)?).map_err(|reason| Reason::new(format!("{name}: {reason}")))
    }

    /// The field if it is there and not null.
    fn given(&self, name: &str) -> Option<&Value> {
        self.at(name).ok().filter(|value| !value.is_null())
    }

    /// Bytes, or none for null.
    fn optional_bytes(&self, name: &str) -> Result<Option<Vec<u8>>, Reason> {
        self.given(name).map(|_| self.bytes(name)).transpose()
    }

    /// N bytes, or none for null.
    fn optional_fixed<const N: usize>(&self, name: &str) -> Result<Option<[u8; N]>, Reason> {
        self.given(name).map(|_| self.fixed(name)).transpose()
    }
}

impl Fields for Value {
    fn at(&self, name: &str) -> Result<&Value, Reason> {
        self.get(name)
            .ok_or_else(|| Reason::new(format!("field {name} is missing")))
    }
}

/// The items of a list.
pub fn items(value: &Value) -> Result<&[Value], Reason> {
    value
        .as_array()
        .map(Vec::as_slice)
        .ok_or_else(|| Reason::new("not a list"))
}

/// Bytes of a hex string.
pub fn unhex(value: &Value) -> Result<Vec<u8>, Reason> {
    let text = value.as_str().ok_or_else(|| Reason::new("not hex"))?;
    Ok(hex::decode(text)?)
}

/// N bytes of a hex string.
pub fn fixed<const N: usize>(value: &Value) -> Result<[u8; N], Reason> {
    let bytes = unhex(value)?;
    bytes
        .try_into()
        .map_err(|bytes: Vec<u8>| Reason::new(format!("{} bytes instead of {N}", bytes.len())))
}

/// Bytes as vectors write them.
pub fn hexed(bytes: impl AsRef<[u8]>) -> Value {
    hex::encode(bytes).into()
}

/// Optional bytes as vectors write them.
pub fn hexed_or_null(bytes: Option<impl AsRef<[u8]>>) -> Value {
    bytes.map_or(Value::Null, hexed)
}

/// A case with these of its fields: inputs, and what is only informative. Absent ones stay absent.
pub fn keep(case: &Value, names: &[&str]) -> Value {
    let kept = names
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), case.get(name)?.clone())));
    Value::Object(kept.collect::<Map<_, _>>())
}

/// The first place where two values differ, in words; none if they are equal.
pub fn difference(recorded: &Value, ours: &Value) -> Option<String> {
    differ(recorded, ours, &mut String::new())
}

fn differ(recorded: &Value, ours: &Value, path: &mut String) -> Option<String> {
    let descend = |path: &mut String, step: &str, a: &Value, b: &Value| {
        let length = path.len();
        path.push_str(step);
        let found = differ(a, b, path);
        path.truncate(length);
        found
    };
    match (recorded, ours) {
        (Value::Object(a), Value::Object(b)) => {
            for (name, value) in a {
                let step = format!("/{name}");
                let Some(other) = b.get(name) else {
                    return Some(format!("unknown field {path}{step}"));
                };
                if let Some(found) = descend(path, &step, value, other) {
                    return Some(found);
                }
            }
            let missing = b.keys().find(|name| !a.contains_key(*name))?;
            Some(format!("field {path}/{missing} is missing"))
        }
        (Value::Array(a), Value::Array(b)) => {
            for (index, (value, other)) in a.iter().zip(b).enumerate() {
                if let Some(found) = descend(path, &format!("/{index}"), value, other) {
                    return Some(found);
                }
            }
            (a.len() != b.len()).then(|| format!("{path} has {} items, ours {}", a.len(), b.len()))
        }
        _ => (recorded != ours).then(|| format!("{path} is {}, ours {}", brief(recorded), brief(ours))),
    }
}

/// Longest value shown in full in a failure.
const SHOWN_CHARS: usize = 72;

fn brief(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN_CHARS {
        return text;
    }
    let start: String = text.chars().take(SHOWN_CHARS).collect();
    format!("{start}… ({} characters)", text.chars().count())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_difference_names_its_place_and_an_extra_or_lacking_field_is_one() {
        let recorded = json!({"a": [1, {"b": "00"}], "c": null});
        assert_eq!(difference(&recorded, &recorded), None);
        let said = |ours: Value| difference(&recorded, &ours).unwrap_or_default();
        assert_eq!(
            said(json!({"a": [1, {"b": "01"}], "c": null})),
            "/a/1/b is \"00\", ours \"01\""
        );
        assert_eq!(said(json!({"a": [1, {"b": "00"}]})), "unknown field /c");
        assert_eq!(said(json!({"a": [1], "c": null})), "/a has 2 items, ours 1");
        assert_eq!(
            said(json!({"a": [1, {"b": "00", "d": 1}], "c": null})),
            "field /a/1/d is missing"
        );
    }

    #[test]
    fn fields_of_another_shape_are_errors_that_name_them() {
        let case = json!({"a": "0", "b": 1});
        assert!(
            case.bytes("a")
                .is_err_and(|reason| reason.to_string().starts_with("a: "))
        );
        assert!(
            case.text("b")
                .is_err_and(|reason| reason.to_string() == "b is not text")
        );
        assert!(
            case.fixed::<2>("c")
                .is_err_and(|reason| reason.to_string() == "field c is missing")
        );
    }
}

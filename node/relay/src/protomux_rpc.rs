//! Requests and responses over a Protomux channel (npm `protomux-rpc` 1.10).
//!
//! Message 0 is a request, message 1 its response. A request of id 0 is an event and gets none. Values are the methods'
//! own encodings.

use bytes::Bytes;
use cumulet_encoding::{DecodeError, Reader};

use crate::{encoded, flag, given};

/// The protocol's name in Protomux.
pub const PROTOCOL: &str = "protomux-rpc";

/// Message 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The sender's number; 0 wants no response.
    pub id: u64,
    /// The method's name.
    pub method: String,
    /// The method's request.
    pub value: Bytes,
}

impl Request {
    /// Reads a request.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        Ok(Self {
            id: reader.uint()?,
            method: reader.string()?.into_owned(),
            value: Bytes::copy_from_slice(reader.rest()),
        })
    }

    /// The request's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|writer| {
            writer.uint(self.id).string(&self.method).raw(&self.value);
        })
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteError {
    /// In words. JavaScript begins them with the code, and takes it off again.
    pub message: String,
    /// `UNKNOWN_METHOD`, `REQUEST_ERROR`, `DECODE_ERROR` or `ENCODE_ERROR`.
    pub code: Option<String>,
    /// What lies behind it.
    pub cause: Option<Cause>,
}

/// What lies behind a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// In words.
    pub message: String,
    /// Its code; an empty one on the wire is none.
    pub code: Option<String>,
    /// More words.
    pub context: Option<String>,
}

/// Message 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The request's number.
    pub id: u64,
    /// The method's response, or why there is none.
    pub result: Result<Bytes, RemoteError>,
}

const ERROR: u64 = 1;
const CODE: u64 = 2;
const CAUSE: u64 = 4;
const CONTEXT: u64 = 8;

impl Response {
    /// Reads a response.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let flags = u64::from(reader.u8()?);
        let id = reader.uint()?;
        if flags & ERROR == 0 {
            let value = Bytes::copy_from_slice(reader.rest());
            return Ok(Self {
                id,
                result: Ok(value),
            });
        }
        let text = |reader: &mut Reader<'_>| reader.string().map(std::borrow::Cow::into_owned);
        let message = text(&mut reader)?;
        let code = given(flags & CODE != 0, || text(&mut reader))?;
        let cause = given(flags & CAUSE != 0, || {
            Ok(Cause {
                message: text(&mut reader)?,
                code: Some(text(&mut reader)?).filter(|code| !code.is_empty()),
                context: given(flags & CONTEXT != 0, || text(&mut reader))?,
            })
        })?;
        Ok(Self {
            id,
            result: Err(RemoteError { message, code, cause }),
        })
    }

    /// The response's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|writer| {
            let error = match &self.result {
                Ok(value) => {
                    writer.u8(0).uint(self.id).raw(value);
                    return;
                }
                Err(error) => error,
            };
            let has_context = error.cause.as_ref().is_some_and(|cause| cause.context.is_some());
            let flags = ERROR
                | flag(error.code.is_some(), CODE)
                | flag(error.cause.is_some(), CAUSE)
                | flag(has_context, CONTEXT);
            writer.u8(flags as u8).uint(self.id).string(&error.message);
            if let Some(code) = &error.code {
                writer.string(code);
            }
            if let Some(cause) = &error.cause {
                writer
                    .string(&cause.message)
                    .string(cause.code.as_deref().unwrap_or_default());
                if let Some(context) = &cause.context {
                    writer.string(context);
                }
            }
        })
    }
}

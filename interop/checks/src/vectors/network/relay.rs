//! `blind-relay.json`, `blind-peer.json`, `dht-relay.json` and `protomux-rpc.json`.

use bytes::Bytes;
use cumulet_relay::blind_relay::{self, Pair, Unpair};
use cumulet_relay::protomux_rpc::{Cause, RemoteError, Request, Response};
use cumulet_vectors::{Checker, Fields, Reason, Rebuilt, ensure, hexed, keep, unknown};
use serde_json::{Value, json};

pub(crate) use super::blind_peer::rebuild as blind_peer;
pub(crate) use super::dht_relay::checker as dht_relay;

/// The head names the protocol and the order of its messages.
pub(crate) fn blind_relay(head: &Value) -> Result<Checker, Reason> {
    let ours = json!({"protocol": blind_relay::PROTOCOL, "messages": ["pair", "unpair"]});
    ensure(*head.at("protomux")? == ours, "protomux is another protocol")?;
    Ok(Box::new(|case| {
        let (input, hex) = (case.at("input")?, case.bytes("hex")?);
        let mut ours = keep(case, &["kind"]);
        match case.text("kind")? {
            "pair" => {
                let made = Pair {
                    is_initiator: input.flag("isInitiator")?,
                    token: input.fixed("token")?,
                    id: input.uint("id")?,
                    seq: input.uint("seq")?,
                };
                let read = Pair::decode(&hex)?;
                let (token, is_initiator) = (hexed(read.token), read.is_initiator);
                ours["decoded"] =
                    json!({"isInitiator": is_initiator, "token": token, "id": read.id, "seq": read.seq});
                ours["input"] = ours["decoded"].clone();
                ours["hex"] = hexed(made.encode());
            }
            "unpair" => {
                ours["input"] = json!({"token": hexed(Unpair::decode(&hex)?.token)});
                ours["hex"] = hexed(
                    Unpair {
                        token: input.fixed("token")?,
                    }
                    .encode(),
                );
            }
            kind => return unknown("kind", kind),
        }
        Ok(ours)
    }))
}

/// Bodies of the two messages.
pub(crate) fn protomux_rpc(case: &Value) -> Rebuilt {
    let (input, hex) = (case.at("input")?, case.bytes("hex")?);
    let mut ours = keep(case, &["kind"]);
    match case.text("kind")? {
        "request" => {
            let value = Bytes::from(input.bytes("value")?);
            let made = Request {
                id: input.uint("id")?,
                method: input.text("method")?.to_owned(),
                value,
            };
            let read = Request::decode(&hex)?;
            ours["input"] = json!({"id": read.id, "method": read.method, "value": hexed(read.value)});
            ours["hex"] = hexed(made.encode());
        }
        "response" => {
            let made = Response {
                id: input.uint("id")?,
                result: Ok(input.bytes("value")?.into()),
            };
            let read = Response::decode(&hex)?;
            let value = read.result.map_err(|_| Reason::new("decodes to an error"))?;
            ours["input"] = json!({"id": read.id, "error": null, "value": hexed(value)});
            ours["hex"] = hexed(made.encode());
        }
        "response-error" => {
            let read = Response::decode(&hex)?;
            let error = read
                .result
                .err()
                .ok_or_else(|| Reason::new("decodes to no error"))?;
            let cause = error
                .cause
                .as_ref()
                .map(|cause| json!({"message": cause.message, "code": cause.code, "context": cause.context}));
            // JavaScript writes the code before the words.
            let words = error
                .code
                .as_ref()
                .and_then(|code| error.message.strip_prefix(&format!("{code}: ")));
            let words = words.unwrap_or(&error.message);
            let is_prefixed = input.text("message")? != words;
            let message = if is_prefixed {
                error.message.as_str()
            } else {
                words
            };
            ours["input"] = json!({"id": read.id, "message": message, "code": error.code, "cause": cause});
            ours["hex"] = hexed(failure(input)?.encode());
        }
        kind => return unknown("kind", kind),
    }
    Ok(ours)
}

fn failure(input: &Value) -> Result<Response, Reason> {
    let text = |fields: &Value, name: &str| -> Result<Option<String>, Reason> {
        fields
            .given(name)
            .map(|_| fields.text(name).map(str::to_owned))
            .transpose()
    };
    let cause = |fields: &Value| -> Result<Cause, Reason> {
        let message = fields.text("message")?.to_owned();
        Ok(Cause {
            message,
            code: text(fields, "code")?,
            context: text(fields, "context")?,
        })
    };
    let error = RemoteError {
        message: input.text("message")?.to_owned(),
        code: text(input, "code")?,
        cause: input.given("cause").map(cause).transpose()?,
    };
    Ok(Response {
        id: input.uint("id")?,
        result: Err(error),
    })
}

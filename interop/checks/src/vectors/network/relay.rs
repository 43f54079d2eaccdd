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
            let reason = error
                .cause
                .as_ref()
                .map(|cause| json!({"message": cause.message, "code": cause.code, "context": cause.context}));
            // JavaScript's words begin with the code, which is not sent twice.
            let message = match &error.code {
                Some(code) if has_code(input)? => format!("{code}: {}", error.message),
                _ => error.message.clone(),
            };
            ours["input"] = json!({"id": read.id, "message": message, "code": error.code, "cause": reason});
            ours["hex"] = hexed(failure(input)?.encode());
        }
        kind => return unknown("kind", kind),
    }
    Ok(ours)
}

/// Whether the words begin with the code.
fn has_code(input: &Value) -> Result<bool, Reason> {
    let code = input.at("code")?.as_str();
    Ok(code.is_some_and(|code| {
        let message = input["message"].as_str();
        message.is_some_and(|message| message.starts_with(&format!("{code}: ")))
    }))
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
    let (code, message) = (text(input, "code")?, input.text("message")?);
    let prefix = code.as_ref().map(|code| format!("{code}: ")).unwrap_or_default();
    let error = RemoteError {
        message: message.strip_prefix(&prefix).unwrap_or(message).to_owned(),
        code,
        cause: input.given("cause").map(cause).transpose()?,
    };
    Ok(Response {
        id: input.uint("id")?,
        result: Err(error),
    })
}

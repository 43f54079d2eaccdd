//! `router.json`: which way a message goes next.

use std::net::SocketAddrV4;

use bytes::Bytes;
use cumulet_vectors::{Fields, Reason, Rebuilt, ensure, hexed, keep, unknown};
use serde_json::{Value, json};

use super::messages::{handshake, handshake_shape, holepunch, holepunch_shape};
use super::{address, written};
use crate::messages::{Handshake, HolepunchMessage, mode};
use crate::node::router::{ReplyPath, Role, Route, route_handshake, route_holepunch};

/// What the recorded server handler was called with and answered.
struct Served {
    /// In the vectors' shape.
    called_with: Value,
    /// What the server's answer is sent as, and to whom.
    action: Value,
}

pub(super) fn rebuild(case: &Value) -> Rebuilt {
    let from = address(case.at("from")?)?;
    let role = match case.text("role")? {
        "server" => Role::Server,
        "relay" => Role::Relay(address(case.at("relay_known")?)?),
        "unknown" => Role::Unknown,
        other => return unknown("role", other),
    };
    let is_handshake = match case.text("kind")? {
        "handshake" => true,
        "holepunch" => false,
        kind => return unknown("kind", kind),
    };
    let (described, value) = (case.at("message")?, case.bytes("value_hex")?);
    let (route, message, encoded) = if is_handshake {
        let read = Handshake::decode(&value)?;
        (
            route_handshake(role, from, &read),
            handshake_shape(&read),
            handshake(described)?.encode(),
        )
    } else {
        let read = HolepunchMessage::decode(&value)?;
        (
            route_holepunch(role, from, &read),
            holepunch_shape(&read),
            holepunch(described)?.encode(),
        )
    };
    let mut ours = keep(case, &["kind", "role", "relay_known", "target", "server_reply"]);
    ours["from"] = written(from);
    ours["message"] = message;
    ours["value_hex"] = hexed(encoded);
    ours["server_handler_called_with"] = Value::Null;
    let shape = |value: &Bytes| -> Rebuilt {
        Ok(if is_handshake {
            handshake_shape(&Handshake::decode(value)?)
        } else {
            holepunch_shape(&HolepunchMessage::decode(value)?)
        })
    };
    ours["actions"] = match &route {
        Route::Drop => json!([]),
        Route::CloserNodes => json!([reply(from, true, &Value::Null)]),
        Route::Relay { to, value } => json!([relay(*to, &shape(value)?)]),
        Route::Respond { to, value } => json!([reply(*to, false, &shape(value)?)]),
        Route::Serve {
            payload,
            peer_address,
            reply: path,
        } => {
            let served = serve(case, from, is_handshake, payload, *peer_address, *path)?;
            ours["server_handler_called_with"] = served.called_with;
            json!([served.action])
        }
    };
    if role == Role::Server && is_handshake && route == Route::Drop {
        spared(case, &mut ours)?;
    }
    Ok(ours)
}

/// JS lets the server answer whatever comes, also when it then can't tell whom the answer is for. We spare ourselves the
/// handshake: a difference that no peer can see, but for answers that its relay would drop.
fn spared(case: &Value, ours: &mut Value) -> Result<(), Reason> {
    let message = case.at("message")?;
    let lacks_way_back = message.given("peerAddress").is_none() || message.given("relayAddress").is_none();
    let is_relayed = [mode::FROM_RELAY, mode::FROM_SECOND_RELAY].contains(&message.uint("mode")?);
    ensure(
        case.list("actions")?.is_empty() || (is_relayed && lacks_way_back),
        "is dropped, should be served",
    )?;
    ours["server_handler_called_with"] =
        json!({"noise": message["noise"], "peerAddress": message["peerAddress"]});
    ours["actions"] = case.at("actions")?.clone();
    Ok(())
}

fn reply(to: SocketAddrV4, closer_nodes: bool, value: &Value) -> Value {
    json!({"act": "reply", "to": written(to), "closer_nodes": closer_nodes, "token": false, "value": value})
}

fn relay(to: SocketAddrV4, value: &Value) -> Value {
    json!({"act": "relay_request_same_tid", "to": written(to), "value": value})
}

fn serve(
    case: &Value,
    from: SocketAddrV4,
    is_handshake: bool,
    payload: &Bytes,
    peer_address: Option<SocketAddrV4>,
    path: ReplyPath,
) -> Result<Served, Reason> {
    let answer = case.at("server_reply")?;
    let peer = peer_address.map(written);
    let value = |mode: u64, client: Option<SocketAddrV4>| {
        let client = client.map(written);
        if is_handshake {
            json!({"mode": mode, "noise": answer, "peerAddress": client, "relayAddress": null})
        } else {
            // Only the client needs an id, to find the server's slot.
            json!({"mode": mode, "id": 0, "payload": answer, "peerAddress": client})
        }
    };
    let called_with = if is_handshake {
        json!({"noise": hexed(payload), "peerAddress": peer})
    } else {
        json!({"id": case["message"]["id"], "payload": hexed(payload), "peerAddress": peer})
    };
    let action = match path {
        ReplyPath::Direct => reply(from, false, &value(mode::REPLY, None)),
        ReplyPath::Through { relay: to, client } => relay(to, &value(mode::FROM_SERVER, Some(client))),
    };
    Ok(Served { called_with, action })
}

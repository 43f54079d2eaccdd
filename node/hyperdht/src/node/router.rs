//! Which way a handshake or hole punch message goes next (npm `hyperdht` `lib/router.js`).
//!
//! Every node does this for others, and keeps nothing about it: the way back is written in the message.

use std::net::SocketAddrV4;

use bytes::Bytes;

use crate::messages::{Handshake, HolepunchMessage, mode};

/// What this node is to the target of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The target listens here.
    Server,
    /// The target announced itself here, from this address.
    Relay(SocketAddrV4),
    Unknown,
}

/// Where to send the server's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyPath {
    /// Answer the request itself.
    Direct,
    /// A FROM_SERVER request, same transaction id, to this relay for that client.
    Through {
        relay: SocketAddrV4,
        client: SocketAddrV4,
    },
}

/// What to do with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Drop,
    /// Answer without value: closer nodes only.
    CloserNodes,
    /// Pass on as a request with the same transaction id.
    Relay {
        to: SocketAddrV4,
        value: Bytes,
    },
    /// Answer somebody else's request: the client's.
    Respond {
        to: SocketAddrV4,
        value: Bytes,
    },
    /// It is for the server here.
    Serve {
        payload: Bytes,
        peer_address: Option<SocketAddrV4>,
        reply: ReplyPath,
    },
}

/// Routes a PEER_HANDSHAKE that came from `from`.
pub(crate) fn route_handshake(role: Role, from: SocketAddrV4, message: &Handshake) -> Route {
    let Some(noise) = message.noise.clone() else {
        return Route::Drop;
    };
    let peer_address = message.peer_address;
    let encode = |mode, peer, relay| {
        let noise = Some(noise.clone());
        Handshake {
            mode,
            noise,
            peer_address: peer,
            relay_address: relay,
        }
        .encode()
    };
    match (role, message.mode) {
        (Role::Server, way) => {
            let reply = match (way, peer_address, message.relay_address) {
                (mode::FROM_CLIENT, ..) => ReplyPath::Direct,
                (mode::FROM_RELAY, Some(client), _) => ReplyPath::Through { relay: from, client },
                (mode::FROM_SECOND_RELAY, Some(client), Some(relay)) => ReplyPath::Through { relay, client },
                _ => return Route::Drop,
            };
            Route::Serve {
                payload: noise,
                peer_address,
                reply,
            }
        }
        (role, mode::FROM_CLIENT) => {
            let known = if let Role::Relay(relay) = role {
                Some(relay)
            } else {
                None
            };
            match message.relay_address.or(known) {
                Some(to) => Route::Relay {
                    to,
                    value: encode(mode::FROM_RELAY, Some(from), None),
                },
                None => Route::CloserNodes,
            }
        }
        (Role::Relay(to), mode::FROM_RELAY) => Route::Relay {
            to,
            value: encode(mode::FROM_SECOND_RELAY, peer_address, Some(from)),
        },
        (_, mode::FROM_SERVER) => match peer_address {
            Some(to) => Route::Respond {
                to,
                value: encode(mode::REPLY, Some(from), None),
            },
            None => Route::Drop,
        },
        _ => Route::Drop,
    }
}

/// Routes a PEER_HOLEPUNCH that came from `from`.
pub(crate) fn route_holepunch(role: Role, from: SocketAddrV4, message: &HolepunchMessage) -> Route {
    let encode = |mode, peer| {
        let payload = message.payload.clone();
        HolepunchMessage {
            mode,
            id: message.id,
            payload,
            peer_address: Some(peer),
        }
        .encode()
    };
    match (message.mode, message.peer_address, role) {
        (mode::FROM_CLIENT, Some(to), _) | (mode::FROM_CLIENT, None, Role::Relay(to)) => Route::Relay {
            to,
            value: encode(mode::FROM_RELAY, from),
        },
        (mode::FROM_RELAY, Some(client), Role::Server) => match message.payload.clone() {
            Some(payload) => {
                let reply = ReplyPath::Through { relay: from, client };
                Route::Serve {
                    payload,
                    peer_address: Some(client),
                    reply,
                }
            }
            None => Route::Drop,
        },
        (mode::FROM_SERVER, to, _) => Route::Respond {
            to: to.unwrap_or(from),
            value: encode(mode::REPLY, from),
        },
        _ => Route::Drop,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::recorded::{bytes, cases, optional_address};

    fn written(address: SocketAddrV4) -> Value {
        json!({ "host": address.ip().to_string(), "port": address.port() })
    }

    /// The actions of a route in the vectors' words, without the values.
    fn actions(route: &Route) -> Vec<(&'static str, Option<Value>)> {
        match route {
            Route::Drop => vec![],
            Route::Relay { to, .. } => vec![("relay_request_same_tid", Some(written(*to)))],
            Route::Respond { to, .. } => vec![("reply", Some(written(*to)))],
            Route::CloserNodes
            | Route::Serve {
                reply: ReplyPath::Direct,
                ..
            } => vec![("reply", None)],
            Route::Serve {
                reply: ReplyPath::Through { relay, .. },
                ..
            } => {
                vec![("relay_request_same_tid", Some(written(*relay)))]
            }
        }
    }

    fn expected_value(kind: &str, value: &Value) -> Bytes {
        let address = |name: &str| optional_address(&value[name]);
        let data = |name: &str| (!value[name].is_null()).then(|| bytes(&value[name]));
        let mode = value["mode"].as_u64().unwrap();
        if kind == "handshake" {
            let (peer_address, relay_address) = (address("peerAddress"), address("relayAddress"));
            Handshake {
                mode,
                noise: data("noise"),
                peer_address,
                relay_address,
            }
            .encode()
        } else {
            let id = value["id"].as_u64().unwrap();
            HolepunchMessage {
                mode,
                id,
                payload: data("payload"),
                peer_address: address("peerAddress"),
            }
            .encode()
        }
    }

    #[test]
    fn every_message_goes_where_js_sends_it() {
        for case in cases("router") {
            let from = optional_address(&case["from"]).unwrap();
            let role = match case["role"].as_str().unwrap() {
                "server" => Role::Server,
                "relay" => Role::Relay(optional_address(&case["relay_known"]).unwrap()),
                _ => Role::Unknown,
            };
            let kind = case["kind"].as_str().unwrap();
            let value = bytes(&case["value_hex"]);
            let route = if kind == "handshake" {
                route_handshake(role, from, &Handshake::decode(&value).unwrap())
            } else {
                route_holepunch(role, from, &HolepunchMessage::decode(&value).unwrap())
            };
            let relayed = [mode::FROM_RELAY, mode::FROM_SECOND_RELAY].map(Value::from);
            if role == Role::Server
                && case["message"]["peerAddress"].is_null()
                && relayed.contains(&case["message"]["mode"])
            {
                // JS answers to a relay that then can not tell whom it is for; we spare ourselves the handshake.
                assert_eq!(route, Route::Drop, "{case}");
                continue;
            }
            let wanted = case["actions"].as_array().unwrap();
            let got = actions(&route);
            assert_eq!(got.len(), wanted.len(), "{case}\n{route:?}");
            for ((act, to), want) in got.iter().zip(wanted) {
                assert_eq!(*act, want["act"].as_str().unwrap(), "{case}");
                assert!(
                    to.is_none() || *to == Some(want["to"].clone()),
                    "{case}\n{route:?}"
                );
                if let Route::Relay { value, .. } | Route::Respond { value, .. } = &route {
                    assert_eq!(*value, expected_value(kind, &want["value"]), "{case}");
                }
            }
        }
    }
}

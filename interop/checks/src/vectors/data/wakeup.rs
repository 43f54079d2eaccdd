//! `wakeup.json`: the hints about which cores of a group have news.

use cumulet_hypercore::crypto::discovery_key;
use cumulet_relay::wakeup::{self, CoreHint, Handshake, Message};
use cumulet_vectors::{Fields, Reason, Rebuilt, ensure, hexed, hexed_or_null, items, keep, unknown};
use serde_json::{Value, json};

pub(crate) fn rebuild(case: &Value) -> Rebuilt {
    match case.text("kind")? {
        "wakeup-capability" => {
            let (key, hash) = (
                case.fixed("autobaseKeyOrCapability")?,
                case.fixed("handshakeHash")?,
            );
            let mut ours = keep(case, &["kind", "autobaseKeyOrCapability", "handshakeHash"]);
            ours["channelId"] = hexed(discovery_key(&key));
            ours["initiator"] = hexed(wakeup::capability(&key, &hash, true));
            ours["responder"] = hexed(wakeup::capability(&key, &hash, false));
            Ok(ours)
        }
        "wakeup-handshake" => {
            let value = case.at("value")?;
            let made = Handshake {
                version: value.uint("version")?,
                capability: value.fixed("capability")?,
                active: value.flag("active")?,
            };
            let read = Handshake::decode(&case.bytes("hex")?)?;
            let mut ours = keep(case, &["kind"]);
            ours["value"] = json!({
                "version": read.version, "capability": hexed(read.capability), "active": read.active,
            });
            ours["hex"] = hexed(made.encode());
            Ok(ours)
        }
        "wakeup-lookup" => message(case, 0),
        "wakeup-announce" => message(case, 1),
        "wakeup-info" => message(case, 2),
        kind => unknown("kind", kind),
    }
}

fn message(case: &Value, number: u64) -> Rebuilt {
    let value = case.at("value")?;
    let made = match number {
        0 => Message::Lookup {
            hash: value.optional_fixed("hash")?,
        },
        1 => {
            let hint = |hint: &Value| {
                Ok(CoreHint {
                    key: hint.fixed("key")?,
                    length: hint.uint("length")?,
                })
            };
            Message::Announce(items(value)?.iter().map(hint).collect::<Result<_, Reason>>()?)
        }
        _ => Message::Info {
            active: value.flag("active")?,
        },
    };
    let read = Message::decode(number, &case.bytes("hex")?)?;
    ensure(made.number() == number, "another message")?;
    let mut ours = keep(case, &["kind"]);
    ours["type"] = number.into();
    ours["value"] = match read {
        Message::Lookup { hash } => json!({"hash": hexed_or_null(hash)}),
        Message::Announce(hints) => (hints.iter())
            .map(|hint| json!({"key": hexed(hint.key), "length": hint.length}))
            .collect(),
        Message::Info { active } => json!({"active": active}),
    };
    ours["hex"] = hexed(made.encode());
    Ok(ours)
}

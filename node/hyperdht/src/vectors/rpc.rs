//! Files about dht-rpc: ids, datagrams, tokens and the routing table.

use std::time::Instant;

use bytes::Bytes;
use cumulet_vectors::{Fields, Reason, Rebuilt, ensure, fixed, hexed, hexed_or_null, keep, unknown};
use serde_json::{Value, json};

use super::{address, addresses, optional_address, written_all};
use crate::address::{encode, node_id};
use crate::rpc::message::{Message, Request, Response, decode};
use crate::rpc::table::{Inserted, K, Node, Table};
use crate::rpc::token::{ROTATION, Tokens};

pub(super) fn id(case: &Value) -> Rebuilt {
    let address = address(case)?;
    let mut ours = keep(case, &["host", "port"]);
    ours["encoded"] = hexed(encode(address));
    ours["id"] = hexed(node_id(address));
    Ok(ours)
}

/// Names of commands: those of dht-rpc itself, and those of the layer above.
const INTERNAL: [&str; 5] = ["PING", "PING_NAT", "FIND_NODE", "DOWN_HINT", "DELAYED_PING"];
const COMMANDS: [&str; 11] = [
    "PEER_HANDSHAKE",
    "PEER_HOLEPUNCH",
    "FIND_PEER",
    "LOOKUP",
    "ANNOUNCE",
    "UNANNOUNCE",
    "MUTABLE_PUT",
    "MUTABLE_GET",
    "IMMUTABLE_PUT",
    "IMMUTABLE_GET",
    "PLUGIN",
];

pub(super) fn request(case: &Value) -> Rebuilt {
    let sender = case.at("sender")?;
    let is_ephemeral = sender.flag("ephemeral")?;
    let own = optional_address(sender, "address")?.map(node_id);
    ensure(
        is_ephemeral || own.is_some(),
        "a persistent sender has no address",
    )?;
    let made = Request {
        tid: case.uint("tid")?.try_into()?,
        to: address(case.at("to")?)?,
        id: own.filter(|_| !is_ephemeral),
        token: case.optional_fixed("token")?,
        internal: case.flag("internal")?,
        command: case.uint("command")?,
        target: case.optional_fixed("target")?,
        value: case.optional_bytes("value")?.map(Bytes::from),
    };
    let Some(Message::Request(read)) = decode(&case.bytes("hex")?) else {
        return Err(Reason::new("hex is no request"));
    };
    let names = if read.internal {
        &INTERNAL[..]
    } else {
        &COMMANDS[..]
    };
    let name = usize::try_from(read.command)
        .ok()
        .and_then(|command| names.get(command));
    let mut ours = keep(case, &["name"]);
    ours["command_name"] = name.copied().into();
    ours["internal"] = read.internal.into();
    ours["command"] = read.command.into();
    ours["tid"] = read.tid.into();
    ours["to"] = super::written(read.to);
    ours["sender"] = keep(sender, &["ephemeral", "address"]);
    if let Some(address) = optional_address(sender, "address")? {
        ours["sender"]["address"] = super::written(address);
    }
    ours["sender"]["id"] = hexed_or_null(read.id);
    ours["token"] = hexed_or_null(read.token);
    ours["target"] = hexed_or_null(read.target);
    ours["value"] = hexed_or_null(read.value);
    ours["hex"] = hexed(made.encode());
    Ok(ours)
}

fn secrets(case: &Value) -> Result<[crate::Hash; 2], Reason> {
    match case.list("secrets")? {
        [old, current] => Ok([fixed(old)?, fixed(current)?]),
        _ => Err(Reason::new("secrets are not two")),
    }
}

pub(super) fn response(case: &Value) -> Rebuilt {
    let Some(Message::Request(asked)) = decode(&case.bytes("request_hex")?) else {
        return Err(Reason::new("request_hex is no request"));
    };
    let responder = case.at("responder")?;
    let own = node_id(address(responder.at("address")?)?);
    let to = address(case.at("to")?)?;
    // Only a persistent node tells its id, and only from its server socket, whose address the id is made of.
    let tells_id = match case.text("responder_socket")? {
        "server" => !responder.flag("ephemeral")?,
        "client" => false,
        other => return unknown("socket", other),
    };
    let tokens = Tokens::new(secrets(case)?, Instant::now());
    let made = Response {
        tid: asked.tid,
        to,
        id: tells_id.then_some(own),
        token: case.given("token").map(|_| tokens.create(*to.ip())),
        closer_nodes: addresses(case, "closer_nodes")?,
        error: case.uint("error")?,
        value: case.optional_bytes("value")?.map(Bytes::from),
    };
    let Some(Message::Response(read)) = decode(&case.bytes("hex")?) else {
        return Err(Reason::new("hex is no response"));
    };
    ensure(
        read.id.is_none_or(|id| id == own),
        "the reply tells another id than the responder's",
    )?;
    let mut ours = keep(case, &["name", "request_hex", "responder_socket", "secrets"]);
    ours["tid"] = read.tid.into();
    ours["to"] = super::written(read.to);
    ours["responder"] = keep(responder, &["ephemeral"]);
    ours["responder"]["address"] = super::written(address(responder.at("address")?)?);
    ours["responder"]["id_in_reply"] = hexed_or_null(read.id);
    ours["token"] = hexed_or_null(made.token);
    ours["error"] = read.error.into();
    ours["value"] = hexed_or_null(read.value);
    ours["closer_nodes"] = written_all(&read.closer_nodes);
    ours["hex"] = hexed(made.encode());
    Ok(ours)
}

pub(super) fn tokens(case: &Value) -> Rebuilt {
    let host = case.text("host")?.parse()?;
    let [old, current] = secrets(case)?;
    let now = Instant::now();
    let mut tokens = Tokens::new([old, current], now);
    let (of_old, of_current) = (Tokens::new([old, old], now).create(host), tokens.create(host));
    ensure(
        tokens.is_valid(host, &of_old) && tokens.is_valid(host, &of_current),
        "a token is not valid",
    )?;
    tokens.advance(now + ROTATION);
    let mut ours = keep(case, &["host", "secrets"]);
    ours["token_secret0"] = hexed(of_old);
    ours["token_secret1"] = hexed(of_current);
    ours["secrets_after_rotation"] = tokens.secrets().iter().map(hexed).collect();
    ours["reply_token_after_rotation"] = hexed(tokens.create(host));
    tokens.advance(now + 2 * ROTATION);
    ensure(
        !tokens.is_valid(host, &of_current),
        "a token lives longer than two rotations",
    )?;
    Ok(ours)
}

pub(super) fn table(case: &Value) -> Rebuilt {
    let mut table = Table::new(case.fixed("self_id")?);
    let nodes = addresses(case, "nodes_in_order")?;
    let accepted: Vec<bool> = (nodes.iter())
        .map(|node| table.insert(Node::new(node_id(*node), *node, 1)) == Inserted::Added)
        .collect();
    let closest: Vec<_> = (table.closest(&case.fixed("target")?, K).iter())
        .map(|node| node.address)
        .collect();
    let mut ours = keep(case, &["self_id", "target"]);
    ours["nodes_in_order"] = written_all(&nodes);
    ours["k"] = K.into();
    ours["accepted"] = json!(accepted);
    ours["closest"] = written_all(&closest);
    Ok(ours)
}

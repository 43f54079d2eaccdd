//! `protomux.json` of the network plane: the frames of one short conversation.

use cumulet_protomux::Mux;
use cumulet_vectors::{Fields, Reason, Rebuilt, hexed, keep, unhex};
use serde_json::{Value, json};

pub(crate) fn rebuild(case: &Value) -> Rebuilt {
    let open = case.at("open")?;
    let payloads = case
        .list("payloads")?
        .iter()
        .map(unhex)
        .collect::<Result<Vec<_>, _>>()?;
    let [p0, p1, p2, p3] = &payloads[..] else {
        return Err(Reason::new("payloads are not four"));
    };
    let id = open.optional_bytes("id")?.unwrap_or_default();
    let handshake = open.optional_bytes("handshake_raw")?.unwrap_or_default();
    let mut mux = Mux::new();
    let mut writes = Vec::new();
    let mut wrote = |mux: &mut Mux, what: &str| {
        let frames: Vec<u8> = std::iter::from_fn(|| mux.poll_transmit()).flatten().collect();
        writes.push(json!({"what": what, "hex": hexed(frames)}));
    };
    let first = mux.open(open.text("protocol")?, &id, &handshake)?;
    wrote(&mut mux, "open channel 1");
    let second = mux.open("second", &[], &[])?;
    wrote(&mut mux, "open channel 2 (protocol second)");
    mux.send(first, 0, p0)?;
    wrote(&mut mux, "channel 1 message 0 = payload 0");
    mux.send(first, 1, p1)?;
    wrote(&mut mux, "channel 1 message 1 = payload 1");
    mux.cork();
    mux.send(first, 0, p2)?;
    mux.send(first, 1, p0)?;
    mux.send(second, 0, p3)?;
    mux.uncork();
    wrote(
        &mut mux,
        "batch: ch1 m0 payload2, ch1 m1 payload0, ch2 m0 payload3",
    );
    mux.close(first);
    wrote(&mut mux, "close channel 1");
    let mut ours = keep(case, &["name", "payloads"]);
    ours["open"] = keep(open, &["protocol", "id", "handshake_raw"]);
    ours["writes"] = writes.into();
    Ok(ours)
}

//! Rebuilding the recorded cases of the rules by which peers are dialled and doubles resolved. For conformance tests; see
//! the crate `cumulet-vectors` for what rebuilding means.

use cumulet_vectors::{Fields, Rebuilt, hexed, keep, unknown};
use serde_json::{Value, json};

use crate::peers::{Backoff, Peer, backoff, keep_new};

/// Rebuilds a case of `hyperswarm-rules.json`.
pub fn rules(case: &Value) -> Rebuilt {
    match case.text("kind")? {
        "duplicate" => duplicate(case),
        "peer" => peer(case),
        kind => unknown("kind", kind),
    }
}

fn duplicate(case: &Value) -> Rebuilt {
    let (own, remote) = (case.fixed("own_public_key")?, case.fixed("remote_public_key")?);
    let (read, written) = (
        case.uint("existing_bytes_read")?,
        case.uint("existing_bytes_written")?,
    );
    let is_initiator = case.flag("new_connection_is_initiator")?;
    // JS keeps the existing connection alive at once, to learn whether it lives; our streams do so by themselves.
    let actions = if keep_new(&own, &remote, read > 0 && written > 0, is_initiator) {
        json!(["destroy existing", "admit new after existing closed"])
    } else {
        json!(["keepalive on existing", "destroy new"])
    };
    Ok(json!({
        "kind": "duplicate", "own_public_key": hexed(own), "remote_public_key": hexed(remote),
        "existing_bytes_read": read, "existing_bytes_written": written, "new_connection_is_initiator": is_initiator,
        "actions": actions,
    }))
}

fn peer(case: &Value) -> Rebuilt {
    let attempts = u32::try_from(case.uint("attempts")?)?;
    let (proven, explicit, banned) = (case.flag("proven")?, case.flag("explicit")?, case.flag("banned")?);
    let letter = (!banned).then(|| backoff(attempts, proven, explicit)).flatten();
    let mut peer = Peer::new();
    (peer.attempts, peer.proven, peer.banned, peer.explicit) = (attempts, proven, banned, explicit);
    let may_queue = peer.enqueue();
    let mut ours = keep(case, &["kind", "attempts", "proven", "explicit", "banned"]);
    ours["retry_timer"] = letter
        .map(|wait| match wait {
            Backoff::Short => "S",
            Backoff::Medium => "M",
            Backoff::Long => "L",
            Backoff::Last => "X",
        })
        .into();
    ours["may_queue"] = may_queue.into();
    // JS computes none where it gives up at once.
    ours["priority"] = case.given("priority").map(|_| peer.priority()).into();
    ours["attempts_after"] = peer.attempts.into();
    Ok(ours)
}

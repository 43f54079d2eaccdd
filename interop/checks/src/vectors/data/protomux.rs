//! `protomux.json`: what a mux writes, and what it makes of the frames it receives.

use std::collections::HashMap;

use bytes::Bytes;
use cumulet_encoding::Reader;
use cumulet_protomux::{ChannelId, Event, Mux, MuxError};
use cumulet_vectors::{Fields, Reason, Rebuilt, hexed, keep, unhex};
use serde_json::{Value, json};

pub(crate) fn rebuild(case: &Value) -> Rebuilt {
    let kind = case.text("kind")?;
    if kind.starts_with("send/") {
        sent(case)
    } else if kind.starts_with("recv/") {
        received(case)
    } else {
        cumulet_vectors::unknown("kind", kind)
    }
}

fn frames(mux: &mut Mux) -> Vec<Value> {
    std::iter::from_fn(|| mux.poll_transmit()).map(hexed).collect()
}

/// Does again what the recorded frames say, and returns what our mux writes for it.
fn sent(case: &Value) -> Rebuilt {
    let (mut mux, mut channels) = (Mux::new(), HashMap::new());
    for frame in case.list("frames")? {
        let frame = unhex(frame)?;
        let mut reader = Reader::new(&frame);
        if !frame.starts_with(&[0, 0]) {
            let channel = reader.uint()?;
            perform(&mut mux, &mut channels, channel, reader.rest())?;
            continue;
        }
        reader.take(2)?;
        let mut channel = reader.uint()?;
        mux.cork();
        while !reader.is_empty() {
            let item = reader.buffer()?;
            if item.is_empty() {
                channel = reader.uint()?;
            } else {
                perform(&mut mux, &mut channels, channel, item)?;
            }
        }
        mux.uncork();
    }
    let mut ours = keep(case, &["kind", "tag"]);
    ours["frames"] = frames(&mut mux).into();
    Ok(ours)
}

/// Performs one control or channel message.
fn perform(
    mux: &mut Mux,
    channels: &mut HashMap<u64, ChannelId>,
    channel: u64,
    item: &[u8],
) -> Result<(), Reason> {
    let mut reader = Reader::new(item);
    let kind = reader.uint()?;
    let known = |channels: &HashMap<u64, ChannelId>, id: u64| {
        channels
            .get(&id)
            .copied()
            .ok_or_else(|| Reason::new("a frame is about a channel that is not open"))
    };
    match (channel, kind) {
        (0, 1) => {
            let local_id = reader.uint()?;
            let protocol = reader.string()?.into_owned();
            let id = reader.buffer()?;
            channels.insert(local_id, mux.open(&protocol, id, reader.rest())?);
        }
        (0, 3) => mux.close(known(channels, reader.uint()?)?),
        (0, other) => return Err(Reason::new(format!("a sender has no control message {other}"))),
        _ => mux.send(known(channels, channel)?, kind, reader.rest())?,
    }
    Ok(())
}

fn optional(fields: &Value, name: &str) -> Result<Bytes, Reason> {
    Ok(fields.optional_bytes(name)?.unwrap_or_default().into())
}

struct Side<'a> {
    mux: Mux,
    setup: &'a Value,
    names: HashMap<ChannelId, (String, u64)>,
    events: Vec<Value>,
}

impl Side<'_> {
    fn open(&mut self, protocol: &str, spec: &Value) -> Result<ChannelId, Reason> {
        let channel = self
            .mux
            .open(protocol, &optional(spec, "id")?, &optional(spec, "handshake")?)?;
        self.names
            .insert(channel, (protocol.to_owned(), spec.uint("messages")?));
        Ok(channel)
    }

    fn name(&self, channel: ChannelId) -> (String, u64) {
        self.names.get(&channel).cloned().unwrap_or_default()
    }

    fn closed(&mut self, channel: ChannelId, remote: bool) {
        let name = self.name(channel).0;
        self.events
            .push(json!({"ev": "close", "channel": name, "remote": remote}));
    }

    fn requested(&mut self, request: &cumulet_protomux::Request) -> Result<(), Reason> {
        let pairs = self.setup["pair"].as_array().map_or(&[][..], Vec::as_slice);
        let mut handler = None;
        for pair in pairs {
            let is_any = pair.at("id")?.is_null();
            if pair.text("protocol")? == request.protocol && (is_any || optional(pair, "id")? == request.id) {
                handler = Some(pair);
                break;
            }
        }
        let Some(pair) = handler else {
            self.mux.reject(request);
            return Ok(());
        };
        self.events
            .push(json!({"ev": "pair", "channel": request.protocol}));
        match pair.given("answer") {
            None => self.mux.reject(request),
            Some(answer) => {
                self.open(&request.protocol, answer)?;
            }
        }
        Ok(())
    }

    /// Takes all events; false if the mux fails.
    fn poll(&mut self) -> Result<bool, Reason> {
        loop {
            let event: Result<Option<Event>, MuxError> = self.mux.poll_event();
            match event {
                Err(_) => return Ok(false),
                Ok(None) => return Ok(true),
                Ok(Some(Event::Requested(request))) => self.requested(&request)?,
                Ok(Some(Event::Opened { channel, handshake })) => {
                    let name = self.name(channel).0;
                    self.events
                        .push(json!({"ev": "open", "channel": name, "handshake": hexed(handshake)}));
                }
                Ok(Some(Event::Message {
                    channel,
                    kind,
                    payload,
                })) => {
                    let (name, kinds) = self.name(channel);
                    if kind < kinds {
                        let event = json!({"ev": "message", "channel": name, "type": kind, "payload": hexed(payload)});
                        self.events.push(event);
                    }
                }
                Ok(Some(Event::Closed { channel, .. })) => self.closed(channel, true),
            }
        }
    }
}

/// The fields of a setup that [`received`] goes by.
fn known_setup(setup: &Value) -> Value {
    let spec = |spec: &Value| keep(spec, &["protocol", "id", "handshake", "messages"]);
    let pair = |pair: &Value| {
        let mut ours = keep(pair, &["protocol", "id", "answer"]);
        if let Some(answer) = pair.given("answer") {
            ours["answer"] = spec(answer);
        }
        ours
    };
    let mut ours = json!({});
    for name in ["open", "pair"] {
        if let Some(specs) = setup[name].as_array() {
            ours[name] = specs
                .iter()
                .map(|given| if name == "open" { spec(given) } else { pair(given) })
                .collect();
        }
    }
    ours
}

fn received(case: &Value) -> Rebuilt {
    let setup = case.at("setup")?;
    let mut side = Side {
        mux: Mux::new(),
        setup,
        names: HashMap::new(),
        events: vec![],
    };
    let mut opened = vec![];
    for spec in setup["open"].as_array().map_or(&[][..], Vec::as_slice) {
        opened.push(side.open(spec.text("protocol")?, spec)?);
    }
    let mut out = frames(&mut side.mux);
    let before_input = out.len();
    let mut failed = false;
    for input in case.list("in")? {
        if let Some(index) = input["closeLocal"].as_u64() {
            let channel = opened.get(usize::try_from(index)?).copied();
            let channel = channel.ok_or_else(|| Reason::new("closeLocal names no open channel"))?;
            side.mux.close(channel);
            side.closed(channel, false);
        } else {
            side.mux.receive(unhex(input)?.into());
            failed |= !side.poll()?;
        }
        out.extend(frames(&mut side.mux));
    }
    if failed {
        for channel in side.mux.channels().collect::<Vec<_>>() {
            side.closed(channel, true);
        }
    }
    let mut ours = keep(case, &["kind", "tag", "in", "error"]);
    ours["setup"] = known_setup(setup);
    ours["events"] = side.events.into();
    ours["out"] = out.into();
    ours["outBeforeInput"] = before_input.into();
    ours["destroyed"] = failed.into();
    Ok(ours)
}

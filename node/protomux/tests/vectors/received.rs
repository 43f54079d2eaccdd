//! What a mux makes of the frames that JavaScript was fed: the same events and answers.

use cumulet_protomux::{ChannelId, Event, Mux, MuxError};
use serde_json::{Value, json};
use std::collections::HashMap;

use crate::{bytes, cases, frames};

struct Side<'a> {
    mux: Mux,
    setup: &'a Value,
    open: Vec<ChannelId>,
    names: HashMap<ChannelId, (String, u64)>,
    events: Vec<Value>,
}

impl Side<'_> {
    fn open(&mut self, protocol: &str, spec: &Value) -> ChannelId {
        let channel = self
            .mux
            .open(protocol, &bytes(&spec["id"]), &bytes(&spec["handshake"]))
            .unwrap();
        self.names
            .insert(channel, (protocol.to_owned(), spec["messages"].as_u64().unwrap()));
        channel
    }

    fn poll(&mut self) -> Result<(), MuxError> {
        while let Some(event) = self.mux.poll_event()? {
            match event {
                Event::Requested(request) => {
                    let pairs = self.setup["pair"].as_array().map_or(&[][..], Vec::as_slice);
                    let matches = |pair: &&Value| {
                        pair["protocol"] == request.protocol
                            && (pair["id"].is_null() || bytes(&pair["id"]) == request.id)
                    };
                    let Some(pair) = pairs.iter().find(matches) else {
                        self.mux.reject(&request);
                        continue;
                    };
                    self.events
                        .push(json!({"ev": "pair", "channel": request.protocol}));
                    if pair["answer"].is_null() {
                        self.mux.reject(&request);
                    } else {
                        self.open(&request.protocol, &pair["answer"]);
                    }
                }
                Event::Opened { channel, handshake } => {
                    let name = &self.names[&channel].0;
                    self.events
                        .push(json!({"ev": "open", "channel": name, "handshake": hex::encode(handshake)}));
                }
                Event::Message {
                    channel,
                    kind,
                    payload,
                } => {
                    let (name, kinds) = &self.names[&channel];
                    if kind < *kinds {
                        let payload = hex::encode(payload);
                        let event =
                            json!({"ev": "message", "channel": name, "type": kind, "payload": payload});
                        self.events.push(event);
                    }
                }
                Event::Closed { channel, .. } => self.closed(channel, true),
            }
        }
        Ok(())
    }

    fn closed(&mut self, channel: ChannelId, remote: bool) {
        self.events
            .push(json!({"ev": "close", "channel": self.names[&channel].0, "remote": remote}));
    }
}

#[test]
fn received_frames_cause_the_events_and_answers_that_they_cause_in_javascript() {
    let cases = cases("recv/");
    assert_eq!(cases.len(), 45);
    for case in &cases {
        let tag = case["tag"].as_str().unwrap();
        let mut side = Side {
            mux: Mux::new(),
            setup: &case["setup"],
            open: vec![],
            names: HashMap::new(),
            events: vec![],
        };
        for spec in case["setup"]["open"].as_array().unwrap_or(&vec![]) {
            let channel = side.open(spec["protocol"].as_str().unwrap(), spec);
            side.open.push(channel);
        }
        let mut out = frames(&mut side.mux);
        assert_eq!(
            out.len() as u64,
            case["outBeforeInput"].as_u64().unwrap(),
            "{tag}"
        );
        let mut failed = false;
        for input in case["in"].as_array().unwrap() {
            if let Some(index) = input["closeLocal"].as_u64() {
                let channel = side.open[index as usize];
                side.mux.close(channel);
                side.closed(channel, false);
            } else {
                side.mux.receive(bytes(input));
                failed |= side.poll().is_err();
            }
            out.extend(frames(&mut side.mux));
        }
        if failed {
            let open: Vec<_> = side.mux.channels().collect();
            for channel in open {
                side.closed(channel, true);
            }
        }
        assert_eq!(failed, case["destroyed"].as_bool().unwrap(), "{tag}");
        let expected: Vec<&str> = case["out"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f.as_str().unwrap())
            .collect();
        assert_eq!(out, expected, "{tag}");
        assert_eq!(Value::from(side.events), case["events"], "{tag}");
    }
}

//! What a mux writes, compared with JavaScript's frames by doing again what they say.

use cumulet_encoding::Reader;
use cumulet_protomux::{ChannelId, Mux};
use std::collections::HashMap;

use crate::{bytes, cases, frames};

/// Performs one control or channel message on `mux`.
fn perform(mux: &mut Mux, channels: &mut HashMap<u64, ChannelId>, channel: u64, item: &[u8]) {
    let mut reader = Reader::new(item);
    let kind = reader.uint().unwrap();
    match (channel, kind) {
        (0, 1) => {
            let local_id = reader.uint().unwrap();
            let protocol = reader.string().unwrap().into_owned();
            let id = reader.buffer().unwrap();
            channels.insert(local_id, mux.open(&protocol, id, reader.rest()).unwrap());
        }
        (0, 3) => mux.close(channels[&reader.uint().unwrap()]),
        (0, other) => panic!("a sender's vector has no control message {other}"),
        _ => mux.send(channels[&channel], kind, reader.rest()).unwrap(),
    }
}

#[test]
fn opens_messages_batches_and_closes_are_written_as_javascript_writes_them() {
    let cases = cases("send/");
    assert_eq!(cases.len(), 21);
    for case in &cases {
        let expected: Vec<String> = case["frames"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f.as_str().unwrap().into())
            .collect();
        let (mut mux, mut channels) = (Mux::new(), HashMap::new());
        for frame in case["frames"].as_array().unwrap() {
            let frame = bytes(frame);
            let mut reader = Reader::new(&frame);
            if !frame.starts_with(&[0, 0]) {
                let channel = reader.uint().unwrap();
                perform(&mut mux, &mut channels, channel, reader.rest());
                continue;
            }
            reader.take(2).unwrap();
            let mut channel = reader.uint().unwrap();
            mux.cork();
            mux.cork();
            while !reader.is_empty() {
                let item = reader.buffer().unwrap();
                if item.is_empty() {
                    channel = reader.uint().unwrap();
                } else {
                    perform(&mut mux, &mut channels, channel, item);
                }
            }
            mux.uncork();
            let before_the_outer_uncork = mux.queued_bytes();
            mux.uncork();
            assert_eq!(mux.queued_bytes(), before_the_outer_uncork);
        }
        assert_eq!(frames(&mut mux), expected, "{}", case["tag"]);
    }
}

#[test]
fn a_cork_without_a_message_writes_nothing() {
    let mut mux = Mux::new();
    mux.cork();
    mux.uncork();
    assert_eq!(mux.poll_transmit(), None);
}

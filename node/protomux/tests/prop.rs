//! Laws of the multiplexer: however its messages are gathered into frames, the other side hears the same.
#![allow(clippy::unwrap_used)]

use cumulet_protomux::{ChannelId, Event, Mux};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Act {
    /// On which channel, of which kind.
    Send(usize, u64, Vec<u8>),
    Cork,
    Uncork,
    Flush,
}

fn act() -> impl Strategy<Value = Act> {
    let payload = proptest::collection::vec(any::<u8>(), 0..60);
    prop_oneof![
        6 => (0usize..3, 0u64..300, payload).prop_map(|(channel, kind, payload)| Act::Send(channel, kind, payload)),
        1 => Just(Act::Cork),
        1 => Just(Act::Uncork),
        1 => Just(Act::Flush),
    ]
}

type Heard = Vec<(usize, u64, Vec<u8>)>;

/// Two muxes with three channels open between them, and the channels of each.
fn pair() -> ([Mux; 2], [Vec<ChannelId>; 2]) {
    let mut muxes = [Mux::new(), Mux::new()];
    let names = ["a", "b", "c"];
    let mut channels: [Vec<ChannelId>; 2] = Default::default();
    for (mux, channels) in muxes.iter_mut().zip(&mut channels) {
        for name in names {
            channels.push(mux.open(name, b"id", &[]).unwrap());
        }
    }
    for from in 0..2 {
        while let Some(frame) = muxes[from].poll_transmit() {
            muxes[1 - from].receive(frame);
            while muxes[1 - from].poll_event().unwrap().is_some() {}
        }
    }
    (muxes, channels)
}

fn run(acts: &[Act], corks: bool) -> (Heard, usize) {
    let ([mut a, mut b], [ours, theirs]) = pair();
    let mut corked = 0;
    for act in acts {
        match act {
            Act::Send(channel, kind, payload) => a.send(ours[*channel], *kind, payload).unwrap(),
            Act::Cork if corks => {
                a.cork();
                corked += 1;
            }
            Act::Uncork if corked > 0 => {
                a.uncork();
                corked -= 1;
            }
            Act::Flush if corks => a.flush(),
            _ => {}
        }
    }
    for _ in 0..corked {
        a.uncork();
    }
    let (mut heard, mut frames) = (Vec::new(), 0);
    while let Some(frame) = a.poll_transmit() {
        frames += 1;
        b.receive(frame);
        while let Some(event) = b.poll_event().unwrap() {
            if let Event::Message {
                channel,
                kind,
                payload,
            } = event
            {
                let channel = theirs.iter().position(|open| *open == channel).unwrap();
                heard.push((channel, kind, payload.to_vec()));
            }
        }
    }
    (heard, frames)
}

proptest! {
    #[test]
    fn messages_arrive_the_same_however_they_are_gathered_into_frames(acts in proptest::collection::vec(act(), 0..60)) {
        let sent: Heard = acts
            .iter()
            .filter_map(|act| match act {
                Act::Send(channel, kind, payload) => Some((*channel, *kind, payload.clone())),
                _ => None,
            })
            .collect();
        let (one_by_one, single_frames) = run(&acts, false);
        let (gathered, frames) = run(&acts, true);
        prop_assert_eq!(&one_by_one, &sent);
        prop_assert_eq!(&gathered, &sent);
        prop_assert!(frames <= single_frames, "gathering makes no more frames");
    }

    #[test]
    fn frames_that_end_early_or_have_a_changed_byte_never_make_a_mux_panic(
        acts in proptest::collection::vec(act(), 1..20), cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), bits: u8,
    ) {
        let ([mut a, mut b], [ours, _]) = pair();
        a.cork();
        for act in &acts {
            if let Act::Send(channel, kind, payload) = act {
                a.send(ours[*channel], *kind, payload).unwrap();
            }
        }
        a.uncork();
        while let Some(frame) = a.poll_transmit() {
            let mut bytes = frame.to_vec();
            let position = at.index(bytes.len());
            bytes[position] ^= bits;
            bytes.truncate(1 + cut.index(bytes.len()));
            b.receive(bytes.into());
            loop {
                match b.poll_event() {
                    Ok(Some(Event::Requested(request))) => b.reject(&request),
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return Ok(()),
                }
            }
        }
    }
}

//! Bounds, and two muxes talking to each other.

use bytes::Bytes;
use cumulet_encoding::Writer;
use cumulet_protomux::{
    Event, FRAME_LIMIT_BYTES, MAX_BUFFERED_BYTES, MAX_NAME_BYTES, MAX_UNCLAIMED_OPENS, Mux, OpenError,
    SendError,
};
use proptest::prelude::*;

fn carry(from: &mut Mux, to: &mut Mux) -> Vec<Event> {
    let mut events = vec![];
    while let Some(frame) = from.poll_transmit() {
        assert!(frame.len() <= FRAME_LIMIT_BYTES);
        to.receive(frame);
        while let Some(event) = to.poll_event().unwrap() {
            events.push(event);
        }
    }
    events
}

#[test]
fn unclaimed_opens_stop_the_decoding_until_they_are_answered_and_none_is_lost() {
    let (mut a, mut b) = (Mux::new(), Mux::new());
    a.cork();
    for n in 0..2000_u32 {
        a.open("p", &n.to_le_bytes(), &[]).unwrap();
    }
    a.uncork();
    b.receive(a.poll_transmit().unwrap());
    let mut answered = 0;
    loop {
        let mut requests = vec![];
        while let Some(event) = b.poll_event().unwrap() {
            if let Event::Requested(request) = event {
                requests.push(request);
            }
        }
        assert!(requests.len() <= MAX_UNCLAIMED_OPENS);
        if requests.is_empty() {
            break;
        }
        assert_eq!(b.wants_input(), requests.len() < MAX_UNCLAIMED_OPENS);
        for request in requests {
            if answered % 2 == 0 {
                b.accept(&request, &[]).unwrap();
            } else {
                b.reject(&request);
            }
            answered += 1;
        }
    }
    assert_eq!(answered, 2000);
    assert!(b.wants_input());
    let events = carry(&mut b, &mut a);
    assert_eq!(
        events
            .iter()
            .filter(|event| matches!(event, Event::Opened { .. }))
            .count(),
        1000
    );
    assert_eq!(
        events
            .iter()
            .filter(|event| matches!(event, Event::Closed { rejected: true, .. }))
            .count(),
        1000
    );
}

#[test]
fn messages_for_an_unclaimed_channel_stop_the_decoding_above_32_kib_and_arrive_after_the_accept() {
    let (mut a, mut b) = (Mux::new(), Mux::new());
    let channel = a.open("p", &[], b"hello").unwrap();
    a.cork();
    for n in 0..100_u64 {
        a.send(channel, n, &[7; 1000]).unwrap();
    }
    a.uncork();
    let events = carry(&mut a, &mut b);
    let [Event::Requested(request)] = &events[..] else {
        panic!("{events:?}")
    };
    assert!(!b.wants_input());
    let accepted = b.accept(request, &[]).unwrap();
    assert_eq!(b.accept(request, &[]), Err(OpenError::Gone));
    let mut kinds = vec![];
    assert_eq!(
        b.poll_event().unwrap(),
        Some(Event::Opened {
            channel: accepted,
            handshake: "hello".into()
        })
    );
    while let Some(event) = b.poll_event().unwrap() {
        let Event::Message { kind, payload, .. } = event else {
            panic!("{event:?}")
        };
        assert_eq!(payload.len(), 1000);
        kinds.push(kind);
    }
    assert_eq!(kinds, (0..100).collect::<Vec<_>>());
    assert!(b.wants_input());
}

#[test]
fn an_open_taken_back_before_the_answer_is_rejected_once_and_its_id_is_free_again() {
    let (mut a, mut b) = (Mux::new(), Mux::new());
    let first = a.open("p", &[], &[]).unwrap();
    a.close(first);
    a.open("p", &[], &[1]).unwrap();
    let events = carry(&mut a, &mut b);
    let [Event::Requested(old), Event::Requested(new)] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(b.accept(old, &[]), Err(OpenError::Gone));
    b.reject(old);
    b.accept(new, &[2]).unwrap();
    let events = carry(&mut b, &mut a);
    assert!(
        matches!(&events[..], [Event::Opened { handshake, .. }] if handshake[..] == [2]),
        "{events:?}"
    );
    assert_eq!(a.open("p", &[], &[]), Err(OpenError::AlreadyOpen));
}

#[test]
fn names_that_nobody_uses_are_rejected_without_an_event() {
    let (mut a, mut b) = (Mux::new(), Mux::new());
    a.open(&"p".repeat(MAX_NAME_BYTES + 1), &[], &[]).unwrap();
    a.open("p", &[1; MAX_NAME_BYTES + 1], &[]).unwrap();
    a.open("p", &[1], &vec![1; MAX_BUFFERED_BYTES + 1]).unwrap();
    assert_eq!(carry(&mut a, &mut b), []);
    assert_eq!(carry(&mut b, &mut a).len(), 3);
}

#[test]
fn answers_to_a_batch_that_is_not_read_to_its_end_can_be_flushed() {
    let (mut a, mut b) = (Mux::new(), Mux::new());
    a.cork();
    a.open("p", &[1], &[]).unwrap();
    a.open("p", &[2], &[]).unwrap();
    a.uncork();
    b.receive(a.poll_transmit().unwrap());
    let Some(Event::Requested(request)) = b.poll_event().unwrap() else {
        panic!("a request")
    };
    b.reject(&request);
    assert_eq!(b.poll_transmit(), None);
    b.flush();
    assert_eq!(carry(&mut b, &mut a).len(), 1);
    let Some(Event::Requested(request)) = b.poll_event().unwrap() else {
        panic!("a request")
    };
    b.reject(&request);
    assert_eq!(b.poll_event().unwrap(), None);
    assert_eq!(carry(&mut b, &mut a).len(), 1);
}

#[test]
fn batches_are_cut_at_8_mib_and_never_pass_the_frame_limit() {
    let (mut a, mut b) = (Mux::new(), Mux::new());
    let channel = a.open("p", &[], &[]).unwrap();
    let events = carry(&mut a, &mut b);
    let [Event::Requested(request)] = &events[..] else {
        panic!("{events:?}")
    };
    b.accept(request, &[]).unwrap();
    carry(&mut b, &mut a);
    let sizes = [
        8_000_000,
        15_000_000,
        1,
        16_777_190,
        2,
        FRAME_LIMIT_BYTES - 2,
        5_000_000,
        5_000_000,
        3,
    ];
    let big = vec![9; FRAME_LIMIT_BYTES];
    a.cork();
    for size in sizes {
        a.send(channel, 3, &big[..size]).unwrap();
    }
    a.uncork();
    assert_eq!(a.send(channel, 3, &big), Err(SendError { bytes: big.len() }));
    let mut arrived = vec![];
    let mut frames = 0;
    while let Some(frame) = a.poll_transmit() {
        assert!(frame.len() <= FRAME_LIMIT_BYTES);
        frames += 1;
        b.receive(frame);
        while let Some(event) = b.poll_event().unwrap() {
            if let Event::Message { payload, .. } = event {
                arrived.push(payload.len());
            }
        }
    }
    assert_eq!(arrived, sizes);
    assert_eq!(frames, 8);
}

proptest! {
    #[test]
    fn no_bytes_make_the_mux_panic(frames in proptest::collection::vec(proptest::collection::vec(0_u8..8, 0..60), 0..20)) {
        let mut mux = Mux::new();
        let mut open = vec![mux.open("a", &[], &[]).unwrap()];
        'frames: for frame in frames {
            mux.receive(Bytes::from(frame));
            loop {
                match mux.poll_event() {
                    Ok(Some(Event::Requested(request))) => open.extend(mux.accept(&request, &[])),
                    Ok(Some(Event::Message { channel, kind: 1, .. })) => mux.close(channel),
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'frames,
                }
            }
        }
    }

    #[test]
    fn truncated_and_huge_numbers_are_errors_or_ignored(channel in any::<u64>(), kind in any::<u64>(), id in any::<u64>()) {
        let mut writer = Writer::new();
        let max = cumulet_encoding::MAX_UINT;
        writer.uint(channel & max).uint(kind & max).uint(id & max);
        let bytes = Bytes::from(writer.into_vec());
        for length in 0..=bytes.len() {
            let mut mux = Mux::new();
            mux.receive(bytes.slice(..length));
            while let Ok(Some(_)) = mux.poll_event() {}
        }
    }
}

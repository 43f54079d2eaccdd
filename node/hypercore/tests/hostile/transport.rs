//! Attacks on the stream and the multiplexer, on one who serves a core.

use crate::hand::Hand;
use crate::pair::random;
use crate::scene::{Fate, Victim, pour, pour_messages, withstand};
use tokio::io::AsyncReadExt;

/// The head of a frame of this many bytes.
fn head(bytes: usize) -> [u8; 3] {
    let [a, b, c, ..] = bytes.to_le_bytes();
    [a, b, c]
}

/// Returns when the victim has hung up.
async fn wait_for_the_end(hand: &mut Hand) {
    let mut rubbish = vec![0; 16 * 1024];
    while matches!(hand.io.read(&mut rubbish).await, Ok(read) if read > 0) {}
}

#[test]
fn random_bytes_after_the_handshake() {
    withstand(Victim::Serves, Fate::Dropped, async |scene| {
        let (mut hand, _) = scene.open().await;
        let garbage: [u8; 4000] = random();
        pour(&mut hand, &head(1000), true).await;
        pour(&mut hand, &garbage, true).await;
        wait_for_the_end(&mut hand).await;
    });
}

#[test]
fn a_frame_sent_twice() {
    withstand(Victim::Serves, Fate::Dropped, async |scene| {
        let (mut hand, _) = scene.open().await;
        hand.stream.send(&[]).unwrap();
        let frame = hand.stream.take_output();
        pour(&mut hand, &frame, true).await;
        pour(&mut hand, &frame, true).await;
        wait_for_the_end(&mut hand).await;
    });
}

#[test]
fn a_largest_frame_of_garbage() {
    withstand(Victim::Serves, Fate::Dropped, async |scene| {
        let (mut hand, _) = scene.open().await;
        pour(&mut hand, &head(0xff_ffff), true).await;
        let garbage = vec![0x55; 65_536];
        for _ in 0..256 {
            if !pour(&mut hand, &garbage, true).await {
                return;
            }
        }
        wait_for_the_end(&mut hand).await;
    });
}

#[test]
fn fifty_announcements_of_largest_frames_that_come_byte_by_byte() {
    withstand(Victim::Serves, Fate::Bounded, async |scene| {
        let mut hands = Vec::new();
        for _ in 0..50 {
            let mut hand = scene.connect().await;
            pour(&mut hand, &head(0xff_ffff), true).await;
            hands.push(hand);
        }
        loop {
            for hand in &mut hands {
                pour(hand, &[0], true).await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn fifty_largest_frames_of_which_the_last_byte_never_comes() {
    withstand(Victim::Serves, Fate::Bounded, async |scene| {
        let mut hands = Vec::new();
        for _ in 0..50 {
            let mut hand = scene.connect().await;
            pour(&mut hand, &head(0xff_ffff), true).await;
            hands.push((hand, 0xff_fffe));
        }
        let garbage = vec![0x55; 65_536];
        loop {
            for (hand, left) in &mut hands {
                // Those that are not read wait here, and the others go on.
                let some = garbage.len().min(*left);
                let poured = pour(hand, &garbage[..some], true);
                let poured = tokio::time::timeout(std::time::Duration::from_millis(2), poured);
                if poured.await.is_ok() {
                    *left -= some;
                }
            }
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn noise_messages_that_are_cut_short() {
    withstand(Victim::Serves, Fate::Dropped, async |scene| {
        for bytes in 0..200_usize {
            let (mut ours, theirs) = tokio::io::duplex(1 << 12);
            scene.wires.run(&scene.victim, theirs, false);
            let message: [u8; 200] = random();
            // A whole frame that holds a part of a message, or more than one.
            let frame = [
                &head(bytes)[..],
                &message[..bytes],
                &head(bytes),
                &message[..bytes],
            ]
            .concat();
            tokio::io::AsyncWriteExt::write_all(&mut ours, &frame)
                .await
                .unwrap();
            let mut rubbish = vec![0; 1024];
            while matches!(ours.read(&mut rubbish).await, Ok(read) if read > 0) {}
        }
    });
}

#[test]
fn two_hundred_handshakes_that_are_begun_and_not_ended() {
    withstand(Victim::Serves, Fate::Bounded, async |scene| {
        let mut open = Vec::new();
        for number in 0..200_usize {
            let (mut ours, theirs) = tokio::io::duplex(1 << 12);
            scene.wires.run(&scene.victim, theirs, false);
            let hello: [u8; 32] = random();
            let begun = [&head(32)[..], &hello[..number % 33]].concat();
            tokio::io::AsyncWriteExt::write_all(&mut ours, &begun)
                .await
                .unwrap();
            open.push(ours);
        }
        std::future::pending::<()>().await;
    });
}

#[test]
fn a_handshake_frame_of_sixteen_mebibytes() {
    withstand(Victim::Serves, Fate::Dropped, async |scene| {
        let (mut ours, theirs) = tokio::io::duplex(1 << 16);
        scene.wires.run(&scene.victim, theirs, false);
        tokio::io::AsyncWriteExt::write_all(&mut ours, &head(0xff_ffff))
            .await
            .unwrap();
        let mut rubbish = vec![0; 1024];
        while matches!(ours.read(&mut rubbish).await, Ok(read) if read > 0) {}
    });
}

#[test]
fn nothing_but_keep_alives_as_fast_as_they_go() {
    withstand(Victim::Serves, Fate::Dropped, async |scene| {
        let (mut hand, _) = scene.open().await;
        loop {
            for _ in 0..1000 {
                hand.stream.send(&[]).unwrap();
            }
            let output = hand.stream.take_output();
            if !pour(&mut hand, &output, true).await {
                return;
            }
        }
    });
}

#[test]
fn batches_of_nothing_but_channel_switches() {
    withstand(Victim::Serves, Fate::Bounded, async |scene| {
        let (mut hand, _) = scene.open().await;
        // A batch for channel 0, then pairs of an empty item and a channel.
        let batch = [&[0, 0, 0][..], &vec![0; 65_536]].concat();
        loop {
            hand.stream.send(&batch).unwrap();
            let output = hand.stream.take_output();
            if !pour(&mut hand, &output, true).await {
                return;
            }
        }
    });
}

#[test]
fn batches_within_batches() {
    withstand(Victim::Serves, Fate::Bounded, async |scene| {
        let (mut hand, _) = scene.open().await;
        let mut batch = vec![0, 0, 0];
        for _ in 0..10_000 {
            // Items of the control channel that are batches themselves.
            batch.extend_from_slice(&[4, 0, 0, 2, 0]);
        }
        loop {
            hand.stream.send(&batch).unwrap();
            let output = hand.stream.take_output();
            if !pour(&mut hand, &output, true).await {
                return;
            }
        }
    });
}

#[test]
fn an_open_whose_id_is_far_away() {
    withstand(Victim::Serves, Fate::Dropped, async |scene| {
        let mut hand = scene.connect().await;
        // Control, open, id 2^40, an empty protocol, no id.
        let open = [&[0, 1, 0xff][..], &(1_u64 << 40).to_le_bytes(), &[0, 0]].concat();
        hand.stream.send(&open).unwrap();
        pour_messages(&mut hand, true).await;
        wait_for_the_end(&mut hand).await;
    });
}

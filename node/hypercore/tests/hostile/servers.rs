//! Attacks on one who serves a core.

use bytes::Bytes;
use cumulet_hypercore::messages::{
    Cancel, Extension, Message, Request, RequestBlock, RequestHash, RequestSeek, RequestUpgrade, Want,
};

use crate::pair::random;
use crate::scene::{Fate, Scene, Victim, flood, pour_messages, withstand, withstand_many};

const FAR: u64 = (1 << 53) - 1;

fn block(id: u64, index: u64) -> Message {
    let block = Some(RequestBlock { index, nodes: 0 });
    Message::Request(Request {
        id,
        block,
        ..Request::default()
    })
}

#[test]
fn endless_wants() {
    withstand(Victim::Serves, Fate::Bounded, async |scene| {
        let (mut hand, channel) = scene.open().await;
        flood(&mut hand, channel, true, |number| {
            let length = 32 << (number % 17);
            Message::Want(Want {
                start: (number * 7919) % (1 << 40) / length * length,
                length,
                any: number % 3 == 0,
            })
        })
        .await;
    });
}

#[test]
fn wants_for_which_nobody_listens() {
    withstand(Victim::Serves, Fate::Bounded, async |scene| {
        let (mut hand, channel) = scene.open().await;
        flood(&mut hand, channel, false, |_| {
            Message::Want(Want {
                start: 0,
                length: 1 << 21,
                any: false,
            })
        })
        .await;
    });
}

#[test]
fn a_flood_of_requests_for_the_same_block() {
    withstand(Victim::Serves, Fate::Bounded, async |scene| {
        let (mut hand, channel) = scene.open().await;
        flood(&mut hand, channel, true, |number| block(number % 1000 + 1, 7)).await;
    });
}

#[test]
fn everything_asked_for_and_nothing_read() {
    withstand(Victim::Serves, Fate::Bounded, async |scene| {
        let (mut hand, channel) = scene.open().await;
        flood(&mut hand, channel, false, |number| {
            block(number + 1, number % 300)
        })
        .await;
    });
}

#[test]
fn everything_asked_for_on_fifty_connections_and_nothing_read() {
    // A hundred thousand requests come first.
    let more = 15;
    withstand_many(Victim::Serves, Fate::Bounded, more, &async |scene: &Scene| {
        let mut hands = Vec::new();
        for _ in 0..50 {
            let (mut hand, channel) = scene.open().await;
            for number in 0..2000 {
                hand.say(channel, &block(number + 1, number % 300));
                // Gathered, the requests would be counted as the victim's memory.
                if number % 50 == 49 {
                    hand.write().await;
                }
            }
            hands.push(hand);
        }
        std::future::pending::<()>().await;
    });
}

#[test]
fn impossible_requests() {
    withstand(Victim::Serves, Fate::NoChannel, async |scene| {
        let (mut hand, channel) = scene.open().await;
        flood(&mut hand, channel, true, |number| {
            let mut request = Request {
                id: number + 1,
                ..Request::default()
            };
            match number % 4 {
                0 => {
                    request.upgrade = Some(RequestUpgrade {
                        start: FAR,
                        length: FAR,
                    });
                }
                1 => {
                    request.hash = Some(RequestHash {
                        index: FAR,
                        nodes: FAR,
                    });
                }
                2 => request.block = Some(RequestBlock { index: 3, nodes: FAR }),
                _ => request.upgrade = Some(RequestUpgrade { start: 5, length: 0 }),
            }
            Message::Request(request)
        })
        .await;
    });
}

#[test]
fn seeks_to_everywhere() {
    withstand(Victim::Serves, Fate::Bounded, async |scene| {
        let (mut hand, channel) = scene.open().await;
        flood(&mut hand, channel, true, |number| {
            Message::Request(Request {
                id: number + 1,
                hash: Some(RequestHash { index: 511, nodes: 0 }),
                seek: Some(RequestSeek {
                    bytes: number * 977 % 1_000_000,
                    padding: number % 9,
                }),
                ..Request::default()
            })
        })
        .await;
    });
}

#[test]
fn a_flood_of_cancels_before_a_full_queue() {
    withstand(Victim::Serves, Fate::Bounded, async |scene| {
        let (mut hand, channel) = scene.open().await;
        flood(&mut hand, channel, true, |number| match number {
            0..1500 => block(number + 1, number % 300),
            _ => Message::Cancel(Cancel {
                request: number * 31 % 5000,
            }),
        })
        .await;
    });
}

#[test]
fn a_flood_of_extension_messages() {
    withstand(Victim::Serves, Fate::Bounded, async |scene| {
        let (mut hand, channel) = scene.open().await;
        let payload = Bytes::from(vec![1; 20_000]);
        flood(&mut hand, channel, true, |number| {
            Message::Extension(Extension {
                name: if number % 2 == 0 {
                    format!("extension {number}")
                } else {
                    String::new()
                },
                payload: payload.clone(),
            })
        })
        .await;
    });
}

async fn open_unknown(scene: &Scene, listens: bool) {
    let mut hand = scene.connect().await;
    loop {
        // Never closed here, rejected there.
        for _ in 0..500 {
            let id: [u8; 32] = random();
            hand.open(&id, [7; 32]);
        }
        if !pour_messages(&mut hand, listens).await {
            return;
        }
    }
}

#[test]
fn channels_for_unknown_cores_by_the_thousands() {
    withstand(Victim::Serves, Fate::Bounded, async |scene| {
        open_unknown(scene, true).await;
    });
}

#[test]
fn channels_for_unknown_cores_by_one_who_does_not_listen() {
    withstand(Victim::Serves, Fate::Bounded, async |scene| {
        open_unknown(scene, false).await;
    });
}

#[test]
fn channels_of_other_protocols_with_messages_in_front() {
    withstand(Victim::Serves, Fate::Bounded, async |scene| {
        let mut hand = scene.connect().await;
        let mut number = 0_u64;
        loop {
            for _ in 0..20 {
                number += 1;
                let handshake = vec![3; 20_000];
                let name = format!("protocol {number}");
                let channel = hand.mux.open(&name, &[9; 900], &handshake).unwrap();
                hand.mux.send(channel, 1, &[5; 10_000]).unwrap();
            }
            if !pour_messages(&mut hand, true).await {
                return;
            }
        }
    });
}

#[test]
fn a_core_opened_and_closed_for_ever() {
    withstand(Victim::Serves, Fate::Bounded, async |scene| {
        loop {
            let (mut hand, channel) = scene.open().await;
            hand.say(channel, &block(1, 1));
            hand.mux.close(channel);
            hand.write().await;
        }
    });
}

//! Pins survive in the store, whoever writes them at the same time.

#![allow(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod model;
mod stores;

use cumulet_backup::pins::{Pin, PinError, Pins};
use cumulet_backup::retry::Patience;
use cumulet_backup::sealing::ContentKey;
use cumulet_backup::store::list_all;
use model::content_key;

fn pin(key: u8, spec: &str) -> Pin {
    Pin {
        key: [key; 32],
        spec: Some(spec.into()),
    }
}

#[tokio::test]
async fn an_empty_node_learns_the_newest_pins_and_not_the_dropped_ones() {
    for test in stores::both().await {
        let pins = Pins::new(test.store.clone(), content_key(), Patience::default());
        assert_eq!(pins.list().await.unwrap().pins, []);
        pins.put(&pin(1, "{\"a\":1}")).await.unwrap();
        pins.put(&pin(2, "{}")).await.unwrap();
        pins.put(&pin(3, "{}")).await.unwrap();
        pins.put(&pin(1, "{\"a\":2}")).await.unwrap();
        pins.put(&pin(1, "{\"a\":2}")).await.unwrap();
        pins.put(&Pin {
            key: [3; 32],
            spec: None,
        })
        .await
        .unwrap();

        let empty_node = Pins::new(test.store.clone(), content_key(), Patience::default());
        let mut list = empty_node.list().await.unwrap();
        list.pins.sort_by_key(|pin| pin.key);
        assert_eq!(list.pins, [pin(1, "{\"a\":2}"), pin(2, "{}")], "{}", test.name);
        assert_eq!(list.damaged, []);
        let objects = list_all(test.store.as_ref(), "v1/pins/", 100).await.unwrap();
        assert_eq!(objects.len(), 5, "the same wish twice is one object");
        let key = hex::encode([1; 32]);
        assert!(objects.iter().all(|object| !object.name.contains(&key)));
    }
}

#[tokio::test]
async fn a_blind_peer_learns_what_it_kept_and_nothing_of_the_clouds_pins_or_of_other_blind_peers() {
    for test in stores::both().await {
        let pins = || Pins::new(test.store.clone(), content_key(), Patience::default());
        let (ours, other) = (
            || pins().of_blind_peer(&[1; 32]),
            || pins().of_blind_peer(&[2; 32]),
        );
        pins().put(&pin(1, "cloud")).await.unwrap();
        ours().put(&pin(1, "ours")).await.unwrap();
        other().put(&pin(1, "other")).await.unwrap();
        for (shelf, spec) in [(pins(), "cloud"), (ours(), "ours"), (other(), "other")] {
            assert_eq!(shelf.list().await.unwrap().pins, [pin(1, spec)], "{}", test.name);
        }
    }
}

#[tokio::test]
async fn replicas_that_write_at_once_lose_nothing_and_agree_on_the_newest() {
    for test in stores::both().await {
        let writers = (0..8_u8).map(|writer| {
            let pins = Pins::new(test.store.clone(), content_key(), Patience::default());
            async move {
                pins.put(&pin(100 + writer, "own")).await.unwrap();
                match pins.put(&pin(7, &format!("{{\"writer\":{writer}}}"))).await {
                    Ok(()) | Err(PinError::Busy) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        futures::future::join_all(writers).await;
        let one = Pins::new(test.store.clone(), content_key(), Patience::default())
            .list()
            .await
            .unwrap();
        let other = Pins::new(test.store.clone(), content_key(), Patience::default())
            .list()
            .await
            .unwrap();
        assert_eq!(one, other);
        assert_eq!(one.pins.len(), 9, "{}", test.name);
        assert_eq!(one.damaged, []);
    }
}

#[tokio::test]
async fn a_damaged_pin_gives_way_to_the_version_before_it() {
    let test = stores::file();
    let pins = Pins::new(test.store.clone(), content_key(), Patience::default());
    pins.put(&pin(1, "old")).await.unwrap();
    pins.put(&pin(1, "new")).await.unwrap();
    let objects = list_all(test.store.as_ref(), "v1/pins/", 10).await.unwrap();
    let newest = &objects.last().unwrap().name;
    let whole = std::fs::read(test.path(newest)).unwrap();
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 1;
        std::fs::write(test.path(newest), bad).unwrap();
        let list = pins.list().await.unwrap();
        assert_eq!(list.pins, [pin(1, "old")], "byte {at}");
        assert_eq!(&list.damaged[0].object, newest);
    }
    pins.put(&pin(1, "newer")).await.unwrap();
    assert_eq!(pins.list().await.unwrap().pins, [pin(1, "newer")]);
}

#[tokio::test]
async fn another_content_key_reads_no_pins_and_says_so() {
    let test = stores::file();
    Pins::new(test.store.clone(), content_key(), Patience::default())
        .put(&pin(1, "x"))
        .await
        .unwrap();
    let other = Pins::new(test.store.clone(), ContentKey::new([9; 32]), Patience::default());
    assert!(matches!(other.list().await, Err(PinError::OtherKey)));
    let error = other.put(&pin(1, &"x".repeat(100_000))).await.unwrap_err();
    assert!(matches!(error, PinError::TooLarge(100_000)));
}

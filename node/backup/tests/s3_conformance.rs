//! What every object store must do, checked on a directory and on a real S3 server.

#![allow(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod stores;

use std::sync::Arc;

use bytes::Bytes;
use cumulet_backup::error::ErrorKind;
use cumulet_backup::store::s3::{S3Config, S3Store};
use cumulet_backup::store::{MAX_OBJECT_BYTES, ObjectStore, PAGE_OBJECTS, Put, list_all};
use futures::StreamExt;
use futures::stream;

async fn put(store: &dyn ObjectStore, name: &str, content: &'static str) -> Put {
    store
        .put_if_absent(name, Bytes::from_static(content.as_bytes()))
        .await
        .unwrap()
}

#[tokio::test]
async fn what_was_put_is_read_back_whole_and_in_ranges() {
    for test in stores::both().await {
        let store = test.store.as_ref();
        assert_eq!(
            put(store, "a/b", "0123456789").await,
            Put::Created,
            "{}",
            test.name
        );
        assert_eq!(store.get("a/b").await.unwrap().unwrap(), "0123456789");
        assert_eq!(store.get_range("a/b", 2..5).await.unwrap().unwrap(), "234");
        assert_eq!(store.get_range("a/b", 8..500).await.unwrap().unwrap(), "89");
        assert_eq!(store.get_range("a/b", 10..12).await.unwrap().unwrap(), "");
        assert_eq!(store.get_range("a/b", 40..50).await.unwrap().unwrap(), "");
        assert_eq!(store.get_range("a/b", 3..3).await.unwrap().unwrap(), "");
        assert_eq!(std::fs::read(test.path("a/b")).unwrap(), b"0123456789");
    }
}

#[tokio::test]
async fn an_object_that_is_not_there_is_none_and_no_error() {
    for test in stores::both().await {
        put(test.store.as_ref(), "there/it-is", "x").await;
        for name in ["nothing", "there/nothing", "there/it-is/below"] {
            assert_eq!(test.store.get(name).await.unwrap(), None, "{} {name}", test.name);
            assert_eq!(test.store.get_range(name, 0..4).await.unwrap(), None);
            assert_eq!(test.store.get_range(name, 4..4).await.unwrap(), None);
            test.store.delete(name).await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_object_is_never_overwritten() {
    for test in stores::both().await {
        let store = test.store.as_ref();
        assert_eq!(put(store, "head", "first").await, Put::Created);
        assert_eq!(
            put(store, "head", "second").await,
            Put::AlreadyThere,
            "{}",
            test.name
        );
        assert_eq!(store.get("head").await.unwrap().unwrap(), "first");
        store.delete("head").await.unwrap();
        assert_eq!(store.get("head").await.unwrap(), None);
        assert_eq!(put(store, "head", "third").await, Put::Created);
    }
}

#[tokio::test]
async fn of_many_creators_at_once_exactly_one_wins() {
    for test in stores::both().await {
        test.store.capabilities().await.unwrap();
        for round in 0..20 {
            let name = format!("race/{round}");
            let puts = stream::iter(0..16_u8)
                .map(|writer| {
                    let (store, name) = (Arc::clone(&test.store), name.clone());
                    async move {
                        let content = Bytes::from(vec![writer; 5000]);
                        (writer, store.put_if_absent(&name, content).await.unwrap())
                    }
                })
                .buffer_unordered(16)
                .collect::<Vec<_>>()
                .await;
            let winners: Vec<u8> = puts
                .iter()
                .filter(|(_, put)| *put == Put::Created)
                .map(|(w, _)| *w)
                .collect();
            assert_eq!(winners.len(), 1, "{}", test.name);
            assert_eq!(
                test.store.get(&name).await.unwrap().unwrap(),
                vec![winners[0]; 5000]
            );
        }
    }
}

#[tokio::test]
async fn a_listing_is_in_byte_order_over_pages_and_prefixes() {
    for test in stores::both().await {
        let mut names: Vec<String> = (0..PAGE_OBJECTS).map(|n| format!("n/{n:05}")).collect();
        names.extend(["n-a", "n.b", "n0"].map(String::from));
        names.extend((0..8).map(|n| format!("n/00003-x/{n}")));
        names.push("z/last".into());
        stream::iter(&names)
            .for_each_concurrent(8, |name| async {
                put(test.store.as_ref(), name, "abc").await;
            })
            .await;
        names.sort();

        let all = list_all(test.store.as_ref(), "n", 10_000).await.unwrap();
        let listed: Vec<&str> = all.iter().map(|object| object.name.as_str()).collect();
        assert_eq!(listed, &names[..names.len() - 1], "{}", test.name);
        assert!(all.iter().all(|object| object.size == 3));
        let first = test.store.list("n", "").await.unwrap();
        assert_eq!(first.objects.len(), PAGE_OBJECTS);
        assert!(first.more);
        let skipped = test.store.list("n", "n/00998~").await.unwrap();
        let skipped: Vec<&str> = skipped
            .objects
            .iter()
            .map(|object| object.name.as_str())
            .collect();
        assert_eq!(skipped, ["n/00999", "n0"], "a listing starts after any string");

        let part = list_all(test.store.as_ref(), "n/0000", 10_000).await.unwrap();
        assert_eq!(part.len(), 18, "a prefix need not end at a slash");
        assert_eq!(
            list_all(test.store.as_ref(), "none/of/this", 10).await.unwrap(),
            []
        );
        assert_eq!(list_all(test.store.as_ref(), "z/", 1).await.unwrap().len(), 1);
        let error = list_all(test.store.as_ref(), "n", 1001).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn empty_and_large_objects_are_kept_and_larger_ones_refused() {
    for test in stores::both().await {
        assert_eq!(put(test.store.as_ref(), "empty", "").await, Put::Created);
        assert_eq!(test.store.get("empty").await.unwrap().unwrap(), "");
        let large: Bytes = (0..17 << 20)
            .map(|i: u32| (i % 251) as u8)
            .collect::<Vec<_>>()
            .into();
        test.store.put_if_absent("large", large.clone()).await.unwrap();
        assert!(
            test.store.get("large").await.unwrap().unwrap() == large,
            "{}",
            test.name
        );
        let error = test
            .store
            .put_if_absent("huge", vec![0; MAX_OBJECT_BYTES + 1].into())
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);

        let file = std::fs::File::create(test.path("grown")).unwrap();
        file.set_len(MAX_OBJECT_BYTES as u64 + 1).unwrap();
        let error = test.store.get("grown").await.unwrap_err();
        assert_eq!(
            error.kind,
            ErrorKind::Damaged,
            "{}: a hostile store must not fill the memory",
            test.name
        );
    }
}

#[tokio::test]
async fn names_that_could_mean_something_else_are_refused() {
    for test in stores::both().await {
        for name in [
            "",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            ".tmp/x",
            "a/.b",
            "A",
            "a b",
            "a\0",
            &"a".repeat(513),
        ] {
            let error = test.store.put_if_absent(name, Bytes::new()).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{} {name}", test.name);
            assert!(test.store.get(name).await.is_err());
            assert!(test.store.delete(name).await.is_err());
        }
    }
}

#[tokio::test]
async fn both_stores_report_conditional_writes() {
    for test in stores::both().await {
        assert!(
            test.store.capabilities().await.unwrap().conditional_writes,
            "{}",
            test.name
        );
    }
}

#[tokio::test]
async fn objects_of_one_prefix_are_not_seen_under_another() {
    let test = stores::s3().await;
    put(test.store.as_ref(), "v1/x", "x").await;
    let endpoint = test.endpoint();
    let other = S3Store::new(S3Config {
        prefix: "some/prefix-2".into(),
        ..stores::s3_config(&endpoint)
    })
    .unwrap();
    assert_eq!(list_all(&other, "", 10).await.unwrap(), []);
    let above = S3Store::new(S3Config {
        prefix: "some".into(),
        ..stores::s3_config(&endpoint)
    })
    .unwrap();
    assert_eq!(above.get("prefix/v1/x").await.unwrap().unwrap(), "x");
}

#[tokio::test]
async fn wrong_settings_of_s3_say_what_to_correct() {
    let test = stores::s3().await;
    let right = stores::s3_config(&test.endpoint());
    let wrong_secret = S3Config {
        secret_key: "wrong".to_owned().into(),
        ..right.clone()
    };
    let error = S3Store::new(wrong_secret)
        .unwrap()
        .capabilities()
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.hint.unwrap().contains("secret"), "{error}");
    assert!(!format!("{error:?}").contains("wrong"), "secrets are in no error");

    let wrong_bucket = S3Config {
        bucket: "elsewhere".into(),
        ..right.clone()
    };
    let error = S3Store::new(wrong_bucket)
        .unwrap()
        .list("", "")
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.hint.unwrap().contains("bucket"), "{error}");

    let nobody_listens = S3Config {
        endpoint: Some("http://127.0.0.1:9".into()),
        ..right.clone()
    };
    let error = S3Store::new(nobody_listens)
        .unwrap()
        .get("v1/x")
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Retry);
    assert!(error.hint.unwrap().contains("reached"), "{error}");

    assert!(
        S3Store::new(S3Config {
            endpoint: Some("ftp://x".into()),
            ..right
        })
        .is_err()
    );
}

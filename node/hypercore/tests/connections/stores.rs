//! Stores that get on with each other.

use cumulet_hypercore::blocks::{Blocks, BlocksError};
use cumulet_hypercore::corestore::{Corestore, CorestoreError};
use std::time::{Duration, Instant};

use crate::pair::{PATIENCE, Wires, append, assert_same, block, config, memory, until, writer};

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_that_send_each_other_much_at_once_do_not_wait_for_each_other() {
    let (a, b, wires) = (memory(), memory(), Wires::default());
    let (of_a, of_b) = (writer(&a, 1).await, writer(&b, 2).await);
    // Far more than all buffers between them.
    append(&of_a, &[65_536; 200]).await;
    append(&of_b, &[65_536; 200]).await;
    let (at_a, at_b) = (
        a.get(*of_b.key()).await.unwrap(),
        b.get(*of_a.key()).await.unwrap(),
    );
    let (_one, _other) = (at_a.download(0..u64::MAX).await, at_b.download(0..u64::MAX).await);
    wires.connect(&a, &b);
    until(&at_a, "b's core at a", |state| state.contiguous_length == 200).await;
    until(&at_b, "a's core at b", |state| state.contiguous_length == 200).await;
    assert_same(&of_a, &at_b).await;
    assert_same(&of_b, &at_a).await;
    wires.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_passes_on_what_it_has_while_it_still_reads() {
    let (a, b, c, wires) = (memory(), memory(), memory(), Wires::default());
    let core = writer(&a, 1).await;
    append(&core, &[5000; 300]).await;
    let (at_b, at_c) = (
        b.get(*core.key()).await.unwrap(),
        c.get(*core.key()).await.unwrap(),
    );
    let (_b, _c) = (at_b.download(0..u64::MAX).await, at_c.download(0..u64::MAX).await);
    wires.connect(&b, &c);
    wires.connect(&a, &b);
    until(&at_c, "through b", |state| state.contiguous_length == 300).await;
    assert_same(&core, &at_c).await;
    for size in 0..50 {
        append(&core, &[size]).await;
    }
    until(&at_c, "live, through b", |state| state.contiguous_length == 350).await;
    core.truncate(200).await.unwrap();
    append(&core, &[1, 2, 3]).await;
    until(&at_c, "the fork, through b", |state| {
        state.fork == 1 && state.contiguous_length == 203
    })
    .await;
    assert_same(&core, &at_c).await;
    assert_eq!(core.stats().await.uploaded_blocks, 353);
    wires.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_asked_for_after_the_connection_was_made_is_offered_on_it() {
    let (a, b, wires) = (memory(), memory(), Wires::default());
    wires.connect(&a, &b);
    let core = writer(&a, 1).await;
    append(&core, &[10; 3]).await;
    let reader = b.get(*core.key()).await.unwrap();
    // Whether it brings the length or the offer brought it a moment before.
    reader.update().await.unwrap();
    assert_eq!(reader.length(), 3);
    assert_eq!(reader.get(2).await.unwrap(), block(2, 10));
    assert_eq!((reader.state().held_blocks, core.stats().await.peers), (1, 1));
    assert!(!reader.update().await.unwrap());
    wires.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_arrives_wakes_every_reader_that_waits_for_it() {
    let (a, b, wires) = (memory(), memory(), Wires::default());
    let core = writer(&a, 1).await;
    append(&core, &[100; 64]).await;
    let reader = b.get(*core.key()).await.unwrap();
    wires.connect(&a, &b);
    reader.update().await.unwrap();
    let reads = (0..640).map(|n| {
        let reader = reader.clone();
        async move { (n % 64, reader.get(n % 64).await.unwrap()) }
    });
    let mut set = tokio::task::JoinSet::new();
    for read in reads {
        set.spawn(read);
    }
    for (index, read) in set.join_all().await {
        assert_eq!(read, block(index, 100));
    }
    assert_eq!(core.stats().await.uploaded_blocks, 64);
    wires.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_without_peers_ends_after_the_timeout_and_a_closed_store_ends_it_at_once() {
    let mut short = config();
    short.read_timeout = Duration::from_millis(50);
    let (a, b, wires) = (memory(), Corestore::in_memory(short), Wires::default());
    let core = writer(&a, 1).await;
    append(&core, &[10; 2]).await;
    let reader = b.get(*core.key()).await.unwrap();
    let ends = wires.connect(&a, &b);
    // The length may have arrived before the first update, which then reports no growth.
    while reader.length() < 2 {
        reader.update().await.unwrap();
    }
    wires.end().await;
    for end in ends {
        // However it ends: one side may have been writing.
        let _ = end.await.unwrap();
    }
    assert!(matches!(
        reader.get(1).await,
        Err(BlocksError::NotAvailable { index: 1 })
    ));
    b.close().await.unwrap();
    assert!(matches!(reader.get(1).await, Err(BlocksError::Closed)));
    assert!(matches!(b.get([1; 32]).await, Err(CorestoreError::Closed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_shown_as_durable_is_there_after_a_restart_and_a_removed_core_is_not() {
    let (directory, a, wires) = (tempfile::tempdir().unwrap(), memory(), Wires::default());
    let core = writer(&a, 1).await;
    append(&core, &[70_000; 40]).await;
    let b = Corestore::open(directory.path(), config()).unwrap();
    let reader = b.get(*core.key()).await.unwrap();
    let mut download = reader.download(0..u64::MAX).await;
    wires.connect(&a, &b);
    until(&reader, "all", |state| state.contiguous_length == 40).await;
    tokio::time::timeout(PATIENCE, download.done())
        .await
        .unwrap()
        .unwrap();
    let discovery_key = *reader.discovery_key();
    // No close: a crash.
    drop((reader, download, b));
    wires.end().await;
    let again = Corestore::open(directory.path(), config()).unwrap();
    assert_eq!(again.list().await.unwrap(), [discovery_key]);
    let found = again.find(&discovery_key).await.unwrap().unwrap();
    assert_eq!((found.key(), found.state().contiguous_length), (core.key(), 40));
    assert_same(&core, &found).await;
    assert!(again.remove(&discovery_key).await.unwrap());
    assert!(found.is_closed());
    assert!(!again.remove(&discovery_key).await.unwrap());
    assert!(again.find(&discovery_key).await.unwrap().is_none());
    assert_eq!(again.list().await.unwrap(), [[0; 32]; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_dropped_asks_for_nothing_more() {
    let (a, b, wires) = (memory(), memory(), Wires::default());
    let core = writer(&a, 1).await;
    append(&core, &[10; 10]).await;
    let reader = b.get(*core.key()).await.unwrap();
    drop(reader.download(0..u64::MAX).await);
    let _some = reader.download(2..4).await;
    wires.connect(&a, &b);
    until(&reader, "two blocks", |state| state.held_blocks == 2).await;
    append(&core, &[10]).await;
    until(&reader, "the new length", |state| state.length == 11).await;
    assert_eq!(reader.get(10).await.unwrap(), block(10, 10));
    assert_eq!(reader.state().held_blocks, 3);
    assert!(reader.has(2).await && reader.has(3).await && !reader.has(4).await);
    wires.end().await;
}

/// Not a proof of anything but a number to look at: `cargo test --release -- --ignored --nocapture throughput`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints numbers"]
async fn throughput() {
    let directory = tempfile::tempdir().unwrap();
    for (count, size) in [(8000, 65_536), (200_000, 100)] {
        let (a, wires) = (memory(), Wires::default());
        let core = writer(&a, 1).await;
        core.append(vec![block(0, size); count]).await.unwrap();
        let b = Corestore::open(&directory.path().join(size.to_string()), config()).unwrap();
        let reader = b.get(*core.key()).await.unwrap();
        let _download = reader.download(0..u64::MAX).await;
        let start = Instant::now();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (one, other) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        wires.run(&a, one.unwrap(), true);
        wires.run(&b, other.unwrap().0, false);
        until(&reader, "all", |state| state.contiguous_length == count as u64).await;
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{count} blocks of {size} bytes: {:.0} blocks/s, {:.1} MiB/s",
            f64::from(u32::try_from(count).unwrap()) / seconds,
            f64::from(u32::try_from(count * size).unwrap()) / seconds / f64::from(1 << 20)
        );
        wires.end().await;
    }
}

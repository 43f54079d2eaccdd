use std::task::{Poll, Waker};

use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::websocket::socket_config;

type Socket = WebSocketStream<DuplexStream>;

/// The two ends of a WebSocket that has shaken hands, over a pipe of few bytes.
async fn sockets() -> (Socket, Socket) {
    let (a, b) = tokio::io::duplex(1_024);
    let config = Some(socket_config());
    tokio::join!(
        WebSocketStream::from_raw_socket(a, Role::Client, config),
        WebSocketStream::from_raw_socket(b, Role::Server, config),
    )
}

async fn pair(tasks: &TaskTracker) -> (Watched<WebSocketBytes>, Watched<WebSocketBytes>) {
    let (a, b) = sockets().await;
    (carry(a, tasks), carry(b, tasks))
}

fn pattern(seed: u8, length: usize) -> Vec<u8> {
    let bytes = (0..length).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[2] ^ seed);
    bytes.collect()
}

async fn exchange_all(mut io: Watched<WebSocketBytes>, sent: Vec<u8>, length: usize) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(&mut io);
    let mut received = vec![0; length];
    let sending = async { writer.write_all(&sent).await.unwrap() };
    let receiving = async { reader.read_exact(&mut received).await.unwrap() };
    tokio::join!(sending, receiving);
    received
}

#[tokio::test]
async fn bytes_arrive_in_order_both_ways_at_the_same_time() {
    const LENGTH: usize = 3 << 20;
    let tasks = TaskTracker::new();
    let (a, b) = pair(&tasks).await;
    let (from_b, from_a) = tokio::join!(
        exchange_all(a, pattern(1, LENGTH), LENGTH),
        exchange_all(b, pattern(2, LENGTH), LENGTH),
    );
    assert!(from_a == pattern(1, LENGTH) && from_b == pattern(2, LENGTH));
    tasks.close();
    tasks.wait().await;
}

/// Writes until there is no room, with time enough for everything to move that can; returns how many bytes there were room for.
async fn fill(io: &mut Watched<WebSocketBytes>) -> usize {
    let mut written = 0;
    let chunk = [0; 4_096];
    while let Ok(more) = tokio::time::timeout(Duration::from_secs(1), io.write(&chunk)).await {
        written += more.unwrap();
        assert!(written < 8 << 20, "nothing holds it back");
    }
    written
}

#[tokio::test(start_paused = true)]
async fn who_is_not_read_can_not_send_and_loses_nothing_by_it() {
    let tasks = TaskTracker::new();
    let (mut a, mut b) = pair(&tasks).await;
    let written = fill(&mut a).await;
    // Two buffers, the message that is sent, the one that is received, and the pipe.
    let most = 2 * BUFFER_BYTES + 3 * MAX_MESSAGE_BYTES;
    assert!((BUFFER_BYTES..most).contains(&written), "{written}");
    // The other direction is not held up.
    b.write_all(b"on").await.unwrap();
    a.read_exact(&mut [0; 2]).await.unwrap();
    let mut received = vec![0; written];
    b.read_exact(&mut received).await.unwrap();
    a.write_all(b"and on").await.unwrap();
    let mut rest = [0; 6];
    b.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"and on");
}

#[tokio::test(start_paused = true)]
async fn quiet_peers_keep_each_other_alive_also_when_one_of_them_does_not_read() {
    let tasks = TaskTracker::new();
    let (mut a, mut b) = pair(&tasks).await;
    fill(&mut a).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    b.write_all(b"still here").await.unwrap();
    a.read_exact(&mut [0; 10]).await.unwrap();
    assert_eq!(tasks.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_at_all_is_gone_after_a_while() {
    let tasks = TaskTracker::new();
    let (socket, vanished) = sockets().await;
    let mut io = carry(socket, &tasks);
    let begun = tokio::time::Instant::now();
    let error = io.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(begun.elapsed(), SILENCE);
    drop(vanished);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_before_the_end_arrives_before_it() {
    for shut_down in [true, false] {
        let tasks = TaskTracker::new();
        let (mut a, mut b) = pair(&tasks).await;
        let sent = pattern(3, 50_000);
        a.write_all(&sent).await.unwrap();
        if shut_down {
            a.shutdown().await.unwrap();
        } else {
            drop(a);
        }
        let mut received = Vec::new();
        b.read_to_end(&mut received).await.unwrap();
        assert!(received == sent);
        drop(b);
        tasks.close();
        tasks.wait().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_destroyed_ends_at_once_on_both_sides() {
    let tasks = TaskTracker::new();
    let (mut a, mut b) = pair(&tasks).await;
    let begun = tokio::time::Instant::now();
    a.control().destroy();
    let error = a.write(b"x").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    let error = b.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    tasks.close();
    tasks.wait().await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn nobody_who_holds_the_bytes_no_more_waits_long_for_a_peer_that_does_not_say_goodbye() {
    let tasks = TaskTracker::new();
    let (socket, deaf) = sockets().await;
    let io = carry(socket, &tasks);
    let begun = tokio::time::Instant::now();
    drop(io);
    tasks.close();
    tasks.wait().await;
    assert!(begun.elapsed() <= CLOSE_WAIT, "{:?}", begun.elapsed());
    drop(deaf);
}

#[tokio::test]
async fn text_and_messages_that_are_too_long_end_the_bytes() {
    let too_long = Message::Binary(vec![0; MAX_MESSAGE_BYTES + 1].into());
    for wrong in [Message::text("hello"), too_long] {
        let tasks = TaskTracker::new();
        let (a, b) = tokio::io::duplex(1 << 20);
        let mut io = carry(
            WebSocketStream::from_raw_socket(a, Role::Server, Some(socket_config())).await,
            &tasks,
        );
        let mut peer = WebSocketStream::from_raw_socket(b, Role::Client, None).await;
        peer.send(wrong).await.unwrap();
        let error = io.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn the_first_sign_of_life_is_noticed_and_not_taken() {
    let tasks = TaskTracker::new();
    let (mut a, mut b) = pair(&tasks).await;
    let heard = |io: &Watched<WebSocketBytes>| {
        let hearing = std::pin::pin!(io.get_ref().heard());
        hearing.poll(&mut Context::from_waker(Waker::noop()))
    };
    assert_eq!(heard(&b), Poll::Pending);
    a.write_all(b"x").await.unwrap();
    assert!(b.get_ref().heard().await);
    b.read_exact(&mut [0; 1]).await.unwrap();
    assert_eq!(heard(&b), Poll::Pending, "that was taken");
    drop(a);
    assert!(!b.get_ref().heard().await);
}

//! Two contenders against an API server that checks resource versions, and nothing else.

use super::*;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Server {
    lease: Option<Value>,
    version: u64,
    down: bool,
}

type Shared = Arc<Mutex<Server>>;

async fn answer(server: Shared, request: Request<Body>) -> Response<Body> {
    let method = request.method().clone();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut server = server.lock().unwrap();
    let refuse = |code: u16, reason: &str| {
        let status =
            json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason});
        Response::builder()
            .status(code)
            .body(Body::from(status.to_string().into_bytes()))
            .unwrap()
    };
    if server.down {
        return refuse(500, "InternalError");
    }
    if method == Method::GET {
        return match &server.lease {
            Some(lease) => Response::new(Body::from(lease.to_string().into_bytes())),
            None => refuse(404, "NotFound"),
        };
    }
    let mut lease: Value = serde_json::from_slice(&body).unwrap();
    let version = server
        .lease
        .as_ref()
        .map(|lease| lease["metadata"]["resourceVersion"].clone());
    let fits = match method {
        Method::POST => version.is_none(),
        _ => version.as_ref() == Some(&lease["metadata"]["resourceVersion"]),
    };
    if !fits {
        return refuse(409, "Conflict");
    }
    server.version += 1;
    lease["metadata"]["resourceVersion"] = json!(server.version.to_string());
    server.lease = Some(lease.clone());
    Response::new(Body::from(lease.to_string().into_bytes()))
}

/// A client of the scripted server.
fn client(server: &Shared) -> Client {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let server = Arc::clone(server);
    #[allow(clippy::disallowed_methods)] // The test's runtime owns it.
    tokio::spawn(async move {
        while let Some((request, send)) = handle.next_request().await {
            send.send_response(answer(Arc::clone(&server), request).await);
        }
    });
    Client::new(service, "default")
}

fn contender(server: &Shared, identity: &str) -> Contender {
    Contender::new(client(server), "ns", "lease", identity, Timestamp::now)
}

fn holder(server: &Shared) -> Option<String> {
    let server = server.lock().unwrap();
    server.lease.as_ref()?["spec"]["holderIdentity"]
        .as_str()
        .map(Into::into)
}

#[tokio::test(start_paused = true)]
async fn of_two_contenders_one_wins_and_the_other_takes_over_when_it_falls_silent() {
    let server = Shared::default();
    let stop = CancellationToken::new();
    let (a, b) = (contender(&server, "a"), contender(&server, "b"));
    assert!(a.acquire(&stop).await.is_some());
    let began = Instant::now();
    // `a` never renews.
    assert!(b.acquire(&stop).await.is_some());
    assert!(began.elapsed() > LEASE_DURATION, "{:?}", began.elapsed());
    assert_eq!(holder(&server).as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_renews_is_never_replaced() {
    let server = Shared::default();
    let stop = CancellationToken::new();
    let (a, b) = (contender(&server, "a"), contender(&server, "b"));
    let holding = a.acquire(&stop).await.unwrap();
    let watch = async {
        let early = tokio::time::timeout(Duration::from_mins(2), b.acquire(&stop)).await;
        assert!(early.is_err(), "b took a lease that was held");
        stop.cancel();
    };
    let (held, ()) = tokio::join!(a.hold(holding, &stop), watch);
    held.unwrap();
    assert_eq!(holder(&server), None, "a stopped holder gives the lease back");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_cannot_renew_stops_before_another_may_start() {
    let server = Shared::default();
    let stop = CancellationToken::new();
    let a = contender(&server, "a");
    let holding = a.acquire(&stop).await.unwrap();
    let began = Instant::now();
    server.lock().unwrap().down = true;
    let error = a.hold(holding, &stop).await.unwrap_err();
    let took = began.elapsed();
    assert!(
        took <= RENEW_DEADLINE + Duration::from_millis(10),
        "{error} after {took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_lease_was_taken_stops_at_once() {
    let server = Shared::default();
    let stop = CancellationToken::new();
    let a = contender(&server, "a");
    let holding = a.acquire(&stop).await.unwrap();
    {
        let mut server = server.lock().unwrap();
        let lease = server.lease.as_mut().unwrap();
        lease["spec"]["holderIdentity"] = json!("b");
        lease["metadata"]["resourceVersion"] = json!("99");
    }
    let began = Instant::now();
    assert!(a.hold(holding, &stop).await.is_err());
    assert!(began.elapsed() <= RENEW_PERIOD + Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn a_contender_that_shall_stop_gives_up_waiting() {
    let server = Shared::default();
    let stop = CancellationToken::new();
    contender(&server, "a").acquire(&stop).await.unwrap();
    stop.cancel();
    assert!(contender(&server, "b").acquire(&stop).await.is_none());
}

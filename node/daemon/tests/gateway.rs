//! The gateway as its clients see it, over drives in memory.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use cumulet_hyperbee::{
    AppendBlocks, Bee, BeeWriter, Blocks, BlocksError, ErrorKind, MemoryBlocks, WriteOptions,
};
use cumulet_hypercore::key;
use cumulet_hyperdrive::{Drive, DriveWriter, FileOptions};
use cumulet_node::gateway::{Archive, ArchiveName, ArchiveSource, Limits, Served, SourceError, router};
use proptest::prelude::*;
use tower::ServiceExt;

const KEY: [u8; 32] = [7; 32];

/// Blocks of which some never come, and which remember what was read.
#[derive(Debug, Clone, Default)]
struct TestBlocks {
    blocks: MemoryBlocks,
    withheld: Arc<Mutex<BTreeSet<u64>>>,
    refused: Arc<Mutex<BTreeSet<u64>>>,
    read: Arc<Mutex<Vec<u64>>>,
}

impl Blocks for TestBlocks {
    fn length(&self) -> u64 {
        self.blocks.length()
    }
    async fn get(&self, index: u64) -> Result<Bytes, BlocksError> {
        self.read.lock().unwrap().push(index);
        if self.refused.lock().unwrap().contains(&index) {
            return Err(BlocksError::NotAvailable { index });
        }
        let withheld = self.withheld.lock().unwrap().contains(&index);
        if withheld {
            std::future::pending::<()>().await;
        }
        self.blocks.get(index).await
    }
    async fn seek(&self, byte_offset: u64) -> Result<(u64, u64), BlocksError> {
        self.blocks.seek(byte_offset).await
    }
}

impl AppendBlocks for TestBlocks {
    fn byte_length(&self) -> u64 {
        self.blocks.byte_length()
    }
    async fn append(&self, blocks: Vec<Bytes>) -> Result<(), BlocksError> {
        self.blocks.append(blocks).await
    }
}

#[derive(Debug, Clone)]
enum Kind {
    Drive,
    Bee,
    Core,
    Unavailable,
}

#[derive(Debug, Clone)]
struct Source {
    names: HashMap<ArchiveName, Kind>,
    db: TestBlocks,
    blobs: TestBlocks,
    epoch: u64,
}

impl ArchiveSource for Source {
    type Blocks = TestBlocks;

    async fn resolve(&self, name: &ArchiveName) -> Result<Option<Served<TestBlocks>>, SourceError> {
        let archive = match self.names.get(name) {
            None => return Ok(None),
            Some(Kind::Drive) => Archive::Drive(Drive::new(&Bee::new(self.db.clone()), self.blobs.clone())),
            Some(Kind::Bee) => Archive::Bee(Bee::new(self.db.clone())),
            Some(Kind::Core) => Archive::Core(self.db.clone()),
            Some(Kind::Unavailable) => return Err(SourceError(ErrorKind::Unavailable)),
        };
        Ok(Some(Served {
            key: KEY,
            epoch: self.epoch,
            archive,
        }))
    }
}

type Writer = DriveWriter<TestBlocks, TestBlocks>;

struct World {
    source: Source,
    writer: Writer,
}

impl World {
    /// An empty drive, also served as a bee and as a core.
    fn new() -> Self {
        let (db, blobs) = (TestBlocks::default(), TestBlocks::default());
        let names = [
            (ArchiveName::Key(KEY), Kind::Drive),
            (ArchiveName::Name("notes".into()), Kind::Drive),
            (ArchiveName::Name("a bee".into()), Kind::Bee),
            (ArchiveName::Name("core".into()), Kind::Core),
            (ArchiveName::Name("soon".into()), Kind::Unavailable),
        ];
        let source = Source {
            names: names.into(),
            db: db.clone(),
            blobs: blobs.clone(),
            epoch: 0,
        };
        Self {
            source,
            writer: DriveWriter::with_block_size(db, blobs, 10),
        }
    }

    async fn put(&mut self, name: &str, data: impl AsRef<[u8]>) {
        self.writer
            .put(name, data.as_ref(), FileOptions::default())
            .await
            .unwrap();
    }

    async fn send(&self, method: Method, path: &str, headers: &[(header::HeaderName, &str)]) -> Response {
        let limits = Limits {
            patience: Duration::from_secs(30),
            listed_names: 50,
        };
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = router(self.source.clone(), limits)
            .oneshot(request)
            .await
            .unwrap();
        assert_secure(response.headers());
        response
    }

    async fn get(&self, path: &str) -> (StatusCode, HeaderMap, Bytes) {
        self.get_with(path, &[]).await
    }

    async fn get_with(
        &self,
        path: &str,
        headers: &[(header::HeaderName, &str)],
    ) -> (StatusCode, HeaderMap, Bytes) {
        open(self.send(Method::GET, path, headers).await).await
    }

    async fn etag(&self, path: &str) -> String {
        let (status, headers, _) = self.get(path).await;
        assert!(status.is_success(), "{path}: {status}");
        text(&headers, header::ETAG).to_owned()
    }
}

async fn open(response: Response) -> (StatusCode, HeaderMap, Bytes) {
    let (parts, body) = response.into_parts();
    (
        parts.status,
        parts.headers,
        to_bytes(body, 1 << 20).await.unwrap(),
    )
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers
        .get(name)
        .map(|value| value.to_str().unwrap())
        .unwrap_or_default()
}

/// Holds for every answer, whatever it is.
fn assert_secure(headers: &HeaderMap) {
    assert_eq!(text(headers, header::X_CONTENT_TYPE_OPTIONS), "nosniff");
    let policy = text(headers, header::CONTENT_SECURITY_POLICY);
    assert!(policy.starts_with("sandbox") && !policy.contains("allow-same-origin"));
    assert_eq!(text(headers, header::REFERRER_POLICY), "no-referrer");
    assert!(!headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
}

#[tokio::test]
async fn a_file_has_its_bytes_type_and_length_under_every_form_of_the_key() {
    let mut world = World::new();
    let data: Vec<u8> = (0..=255).collect();
    world.put("/deep/photo.jpg", &data).await;
    world.put("/page.html", "<script>").await;
    world.put("/no-extension", "x").await;
    world.put("/empty.txt", "").await;
    for archive in [
        "notes",
        &key::to_hex(&KEY),
        &key::to_hex(&KEY).to_uppercase(),
        &key::to_z32(&KEY),
    ] {
        let (status, headers, body) = world.get(&format!("/{archive}/deep/photo.jpg")).await;
        assert_eq!((status, body.as_ref()), (StatusCode::OK, data.as_slice()));
        assert_eq!(text(&headers, header::CONTENT_TYPE), "image/jpeg");
        assert_eq!(text(&headers, header::CONTENT_LENGTH), "256");
        assert_eq!(text(&headers, header::ACCEPT_RANGES), "bytes");
    }
    for (name, content_type, length) in [
        ("page.html", "text/html; charset=utf-8", "8"),
        ("no-extension", "application/octet-stream", "1"),
        ("empty.txt", "text/plain; charset=utf-8", "0"),
    ] {
        let (status, headers, body) = world.get(&format!("/notes/{name}")).await;
        assert_eq!(
            (status, body.len().to_string().as_str()),
            (StatusCode::OK, length)
        );
        assert_eq!(text(&headers, header::CONTENT_TYPE), content_type);
        assert_eq!(text(&headers, header::CONTENT_LENGTH), length);
    }
}

#[tokio::test]
async fn head_says_what_get_would_without_reading_a_block_of_it() {
    let mut world = World::new();
    world.put("/a.txt", "0123456789".repeat(5)).await;
    let (_, of_get, _) = world.get("/notes/a.txt").await;
    world.source.blobs.read.lock().unwrap().clear();
    for headers in [&[][..], &[(header::RANGE, "bytes=1-2")]] {
        let (status, of_head, body) = open(world.send(Method::HEAD, "/notes/a.txt", headers).await).await;
        assert_eq!((status, body.len()), (StatusCode::OK, 0));
        assert_eq!(of_head, of_get);
    }
    assert!(world.source.blobs.read.lock().unwrap().is_empty());
    for path in ["/notes/", "/notes/none", "/none/x", "/notes"] {
        let (status, _, body) = open(world.send(Method::HEAD, path, &[]).await).await;
        assert_eq!(
            (status, body.is_empty() || !status.is_success()),
            (world.get(path).await.0, true),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_range_is_answered_from_the_blocks_it_needs_alone() {
    let mut world = World::new();
    world.put("/before", "0123456789abc").await;
    let data = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    world.put("/a", data).await;
    // The file's blocks are 2 to 7, of ten bytes each.
    for (range, part, content_range, blocks) in [
        ("bytes=0-0", "A", "bytes 0-0/52", &[2][..]),
        ("bytes=9-10", "JK", "bytes 9-10/52", &[2, 3]),
        ("bytes=20-29", "UVWXYZabcd", "bytes 20-29/52", &[4]),
        ("bytes=45-", "tuvwxyz", "bytes 45-51/52", &[6, 7]),
        ("bytes=-2", "yz", "bytes 50-51/52", &[7]),
        ("bytes=51-999", "z", "bytes 51-51/52", &[7]),
    ] {
        world.source.blobs.read.lock().unwrap().clear();
        let (status, headers, body) = world.get_with("/notes/a", &[(header::RANGE, range)]).await;
        assert_eq!(
            (status, body.as_ref()),
            (StatusCode::PARTIAL_CONTENT, part.as_bytes()),
            "{range}"
        );
        assert_eq!(text(&headers, header::CONTENT_RANGE), content_range);
        assert_eq!(text(&headers, header::CONTENT_LENGTH), part.len().to_string());
        assert_eq!(*world.source.blobs.read.lock().unwrap(), blocks, "{range}");
    }
    for ignored in ["bytes=0-1,4-5", "bytes=5-4", "lines=0-1", "bytes"] {
        let (status, _, body) = world.get_with("/notes/a", &[(header::RANGE, ignored)]).await;
        assert_eq!(
            (status, body.as_ref()),
            (StatusCode::OK, data.as_bytes()),
            "{ignored}"
        );
    }
    for beyond in ["bytes=52-", "bytes=-0", "bytes=99-100"] {
        let (status, headers, _) = world.get_with("/notes/a", &[(header::RANGE, beyond)]).await;
        assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(text(&headers, header::CONTENT_RANGE), "bytes */52");
    }
}

#[tokio::test]
async fn a_range_of_a_file_that_has_changed_is_the_whole_new_file() {
    let mut world = World::new();
    world.put("/a", "0123456789").await;
    let old = world.etag("/notes/a").await;
    let range = |tag: &str, world: &World| {
        let (tag, world) = (
            tag.to_owned(),
            World {
                source: world.source.clone(),
                writer: World::new().writer,
            },
        );
        async move {
            world
                .get_with(
                    "/notes/a",
                    &[(header::RANGE, "bytes=2-3"), (header::IF_RANGE, &tag)],
                )
                .await
        }
    };
    assert_eq!(range(&old, &world).await.0, StatusCode::PARTIAL_CONTENT);
    // Weak tags and dates can't vouch for bytes.
    for unsure in [
        format!("W/{old}"),
        "Sat, 21 Nov 2026 10:00:00 GMT".to_owned(),
        "\"x\"".to_owned(),
    ] {
        assert_eq!(range(&unsure, &world).await.0, StatusCode::OK, "{unsure}");
    }
    world.put("/a", "abcdefghij").await;
    let (status, _, body) = range(&old, &world).await;
    assert_eq!((status, body.as_ref()), (StatusCode::OK, &b"abcdefghij"[..]));
}

#[tokio::test]
async fn a_tag_changes_with_the_file_and_only_then() {
    let mut world = World::new();
    world.put("/a", "1").await;
    world.put("/b", "1").await;
    let tag = world.etag("/notes/a").await;
    assert_ne!(world.etag("/notes/b").await, tag);
    world.put("/c", "1").await;
    assert_eq!(world.etag("/notes/a").await, tag);
    for known in [
        tag.clone(),
        format!("W/{tag}"),
        format!("\"x\", {tag}"),
        "*".to_owned(),
    ] {
        let (status, headers, body) = world
            .get_with("/notes/a", &[(header::IF_NONE_MATCH, &known)])
            .await;
        assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0), "{known}");
        assert_eq!(text(&headers, header::ETAG), tag);
    }
    assert_eq!(
        world.get_with("/notes/a", &[(header::IF_MATCH, &tag)]).await.0,
        StatusCode::OK
    );
    world.put("/a", "2").await;
    let (status, _, body) = world.get_with("/notes/a", &[(header::IF_NONE_MATCH, &tag)]).await;
    assert_eq!((status, body.as_ref()), (StatusCode::OK, &b"2"[..]));
    assert_eq!(
        world.get_with("/notes/a", &[(header::IF_MATCH, &tag)]).await.0,
        StatusCode::PRECONDITION_FAILED
    );
    // A rewritten history may have other bytes at the same place.
    let tag = world.etag("/notes/a").await;
    world.source.epoch = 1;
    assert_ne!(world.etag("/notes/a").await, tag);
    let folder = world.etag("/notes/").await;
    world.put("/d", "1").await;
    assert_ne!(world.etag("/notes/").await, folder);
}

#[tokio::test]
async fn folders_are_their_index_or_a_listing_and_end_in_a_slash() {
    let mut world = World::new();
    world.put("/site/index.html", "welcome").await;
    world.put("/data/x y/1.csv", "1,2").await;
    world.put("/data/z", "12345").await;
    world.writer.symlink("/latest", "/data/x y").await.unwrap();
    world.writer.symlink("/data/link", "/data/z").await.unwrap();
    for (from, to) in [
        ("/notes", "/notes/"),
        ("/notes/data?x=1", "/notes/data/?x=1"),
        ("/notes/data/x%20y", "/notes/data/x%20y/"),
        ("/notes/data%2Fx%20y", "/notes/data/x%20y/"),
        ("/notes/latest", "/notes/data/x%20y/"),
    ] {
        let (status, headers, _) = world.get(from).await;
        assert_eq!(
            (status, text(&headers, header::LOCATION)),
            (StatusCode::TEMPORARY_REDIRECT, to),
            "{from}"
        );
    }
    assert_eq!(world.get("/notes/site/").await.2.as_ref(), b"welcome");
    let json = [(header::ACCEPT, "application/json")];
    let (status, headers, body) = world.get_with("/notes/data/", &json).await;
    assert_eq!(
        (status, text(&headers, header::CONTENT_TYPE)),
        (StatusCode::OK, "application/json")
    );
    assert_eq!(text(&headers, header::VARY), "accept");
    let listing: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let expected = serde_json::json!({
        "path": "/data/", "version": 6, "truncated": false, "entries": [
            { "name": "link", "type": "link", "target": "/data/z" },
            { "name": "x y", "type": "folder" },
            { "name": "z", "type": "file", "size": 5 },
        ],
    });
    assert_eq!(listing, expected);
    let (_, headers, page) = world.get("/notes/data/").await;
    assert_eq!(text(&headers, header::CONTENT_TYPE), "text/html; charset=utf-8");
    let page = String::from_utf8(page.to_vec()).unwrap();
    assert!(
        page.contains(r#"<a href="./x%20y/">x y/</a>"#) && page.contains(r#"<a href="../">"#),
        "{page}"
    );
    // A link to a folder lists it; a file is no folder.
    assert!(String::from_utf8_lossy(&world.get("/notes/latest/").await.2).contains("1.csv"));
    assert_eq!(world.get("/notes/data/z/").await.0, StatusCode::NOT_FOUND);
    assert_eq!(world.get("/notes/none/").await.0, StatusCode::NOT_FOUND);
    // The root is there even without files.
    assert_eq!(World::new().get("/notes/").await.0, StatusCode::OK);
    for number in 0..60 {
        world.put(&format!("/many/{number}"), "").await;
    }
    let (_, _, body) = world.get_with("/notes/many/", &json).await;
    let listing: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (
            listing["entries"].as_array().unwrap().len(),
            &listing["truncated"]
        ),
        (50, &true.into())
    );
}

#[tokio::test]
async fn hostile_names_stay_text() {
    let mut world = World::new();
    let hostile = "\"><script>alert(1)</script>&'";
    world.put(&format!("/x/{hostile}"), "1").await;
    world.put("/x/javascript:alert(1)", "2").await;
    world.put("/x/line\r\nSet-Cookie: a=b", "3").await;
    world.writer.symlink("/x/link", hostile).await.unwrap();
    let page = String::from_utf8(world.get("/notes/x/").await.2.to_vec()).unwrap();
    assert!(
        !page.contains("<script>") && !page.contains("href=\"javascript:"),
        "{page}"
    );
    assert!(page.contains("&lt;script&gt;"));
    let path = "/notes/x/line%0D%0ASet-Cookie:%20a=b";
    assert_eq!(world.get(path).await.2.as_ref(), b"3");
    // Every link on the page leads to its file.
    let mut links = page
        .split("href=\"./")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap());
    let mut found = 0;
    for link in &mut links {
        let (status, _, _) = world.get(&format!("/notes/x/{link}")).await;
        assert!(status == StatusCode::OK || link == "link", "{link}");
        found += 1;
    }
    assert_eq!(found, 4);
    world.put("/line\r\nX: y/deep", "4").await;
    let (status, headers, _) = world.get("/notes/line%0D%0AX:%20y").await;
    assert_eq!(status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(text(&headers, header::LOCATION), "/notes/line%0D%0AX%3A%20y/");
}

#[tokio::test]
async fn addresses_are_decoded_once_and_never_leave_the_drive() {
    let mut world = World::new();
    world.put("/%61", "percent").await;
    world.put("/a", "plain").await;
    world.put("/c:/x", "colon").await;
    world.put("/a b/ü", "space").await;
    for (path, body) in [
        ("/notes/%2561", "percent"),
        ("/notes/%61", "plain"),
        ("/notes//./a", "plain"),
        ("/notes/b/%2e%2e/a", "plain"),
        ("/notes/c:/x", "colon"),
        ("/notes/a%20b%2F%C3%BC", "space"),
    ] {
        let (status, _, got) = world.get(path).await;
        assert_eq!(
            (status, got.as_ref()),
            (StatusCode::OK, body.as_bytes()),
            "{path}"
        );
    }
    for path in [
        "/notes/../core/0",
        "/notes/%2e%2e/core/0",
        "/notes/..%5c..%5cetc",
        "/notes/%ff",
        "/notes/a%00",
    ] {
        assert_eq!(world.get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn links_are_followed_inside_the_drive_only() {
    let mut world = World::new();
    world.put("/v1/data.json", "{}").await;
    for (name, target) in [
        ("/latest", "/v1/data.json"),
        ("/up", "../../etc/passwd"),
        ("/x", "/y"),
        ("/y", "/x"),
        ("/gone", "/nothing"),
    ] {
        world.writer.symlink(name, target).await.unwrap();
    }
    let (status, headers, body) = world.get("/notes/latest").await;
    assert_eq!((status, body.as_ref()), (StatusCode::OK, &b"{}"[..]));
    assert_eq!(text(&headers, header::CONTENT_TYPE), "application/json");
    for path in ["up", "x", "gone"] {
        assert_eq!(
            world.get(&format!("/notes/{path}")).await.0,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
}

#[tokio::test]
async fn what_is_unknown_cannot_be_told_from_what_is_missing() {
    let mut world = World::new();
    world.put("/a", "1").await;
    let missing = world.get("/notes/none").await;
    assert_eq!(missing.0, StatusCode::NOT_FOUND);
    assert_eq!(text(&missing.1, header::CONTENT_TYPE), "application/problem+json");
    let stranger = key::to_hex(&[8; 32]);
    for path in [
        "/",
        "/favicon.ico",
        "/none/a",
        "/none",
        &format!("/{stranger}"),
        &format!("/{stranger}/a"),
        "//x/y",
    ] {
        assert_eq!(world.get(path).await, missing, "{path}");
    }
    for path in ["/notes/a", "/none/a"] {
        let (status, headers, _) = open(world.send(Method::POST, path, &[]).await).await;
        assert_eq!(
            (status, text(&headers, header::ALLOW)),
            (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD")
        );
    }
}

async fn assert_times_out(world: &World, path: &str) {
    let (status, headers, body) = world.get(path).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT, "{path}");
    assert_eq!(text(&headers, header::CONTENT_TYPE), "application/problem+json");
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["status"], 504);
    assert!(
        problem["hint"].as_str().is_some_and(|hint| hint.contains("peer")),
        "{problem}"
    );
}

#[tokio::test(start_paused = true)]
async fn blocks_that_do_not_come_end_in_504_with_a_hint() {
    let mut world = World::new();
    world.put("/a", "0123456789abc").await;
    world.source.blobs.withheld.lock().unwrap().insert(0);
    assert_times_out(&world, "/notes/a").await;
    let (status, _, body) = world.get_with("/notes/a", &[(header::RANGE, "bytes=10-")]).await;
    assert_eq!(
        (status, body.as_ref()),
        (StatusCode::PARTIAL_CONTENT, &b"abc"[..])
    );
    world.source.blobs.withheld.lock().unwrap().clear();
    world.source.blobs.refused.lock().unwrap().insert(0);
    assert_times_out(&world, "/notes/a").await;
    world.source.db.withheld.lock().unwrap().insert(1);
    for path in [
        "/notes/a",
        "/notes/none",
        "/notes/",
        "/a%20bee/k",
        "/core/1",
        "/soon/x",
    ] {
        assert_times_out(&world, path).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_broken_off_and_not_ended() {
    let mut world = World::new();
    world.put("/a", "0123456789".repeat(9)).await;
    world.source.blobs.withheld.lock().unwrap().insert(4);
    let response = world.send(Method::GET, "/notes/a", &[]).await;
    assert_eq!(response.status(), StatusCode::OK);
    let error = to_bytes(response.into_body(), 1000).await.unwrap_err();
    assert!(error.to_string().contains("next block"), "{error}");
}

/// What a raw HTTP/1.1 client gets until the connection ends.
async fn over_tcp(world: &World, limits: Limits, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = axum::serve(listener, router(world.source.clone(), limits)).into_future();
    let client = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    tokio::select! { answer = client => answer, _ = server => panic!("the server ended") }
}

#[tokio::test]
async fn on_the_wire_head_has_a_length_and_no_body_and_a_stalled_body_is_cut_short() {
    let mut world = World::new();
    world.put("/a", "0123456789".repeat(9)).await;
    let limits = Limits {
        patience: Duration::from_millis(200),
        listed_names: 10,
    };
    let answer = over_tcp(&world, limits, "HEAD /notes/a").await;
    assert!(
        answer.contains("content-length: 90\r\n") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
    let answer = over_tcp(&world, limits, "GET /notes/a").await;
    assert!(
        answer.contains("content-length: 90\r\n") && answer.ends_with(&"0123456789".repeat(9)),
        "{answer}"
    );
    world.source.blobs.withheld.lock().unwrap().insert(4);
    let answer = over_tcp(&world, limits, "GET /notes/a").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("200 OK") && head.contains("content-length: 90"),
        "{head}"
    );
    assert!(
        body.len() <= 40 && "0123456789".repeat(4).starts_with(body),
        "{body}"
    );
}

#[tokio::test]
async fn a_large_file_is_read_as_it_is_sent() {
    use futures::StreamExt;
    let mut world = World::new();
    world.put("/a", vec![1; 1000]).await;
    let response = world.send(Method::GET, "/notes/a", &[]).await;
    let mut body = response.into_body().into_data_stream();
    for sent in 1..=5 {
        assert_eq!(body.next().await.unwrap().unwrap().len(), 10);
        let read = world.source.blobs.read.lock().unwrap().len();
        assert!(read <= sent + 1, "{read} blocks read for {sent} sent");
    }
}

#[tokio::test]
async fn damaged_archives_are_502_and_never_a_wrong_answer() {
    let world = World::new();
    let mut bee = BeeWriter::new(world.source.db.clone(), WriteOptions::default());
    bee.put("files\0/bad", Some(b"not json")).await.unwrap();
    let lie = br#"{"blob":{"blockOffset":0,"byteOffset":0,"blockLength":65,"byteLength":3,"blockMap":true}}"#;
    bee.put("files\0/map", Some(lie)).await.unwrap();
    for path in ["/notes/bad", "/notes/map"] {
        let (status, _, body) = world.get(path).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{path}");
        assert!(!String::from_utf8_lossy(&body).contains("blockOffset"));
    }
    // Others in the same folder are not touched by it.
    assert_eq!(world.get("/notes/").await.0, StatusCode::OK);
}

#[tokio::test]
async fn bees_and_cores_give_values_and_blocks() {
    let world = World::new();
    let mut bee = BeeWriter::new(world.source.db.clone(), WriteOptions::default());
    bee.put("json", Some(br#"{"a":1}"#)).await.unwrap();
    bee.put("a/b c", Some(b"<b>text</b>")).await.unwrap();
    bee.put("raw\0", Some(&[0xff, 0xfe])).await.unwrap();
    for (path, content_type, body) in [
        ("/a%20bee/json", "application/json", &br#"{"a":1}"#[..]),
        ("/a%20bee/a/b%20c", "text/plain; charset=utf-8", b"<b>text</b>"),
        ("/a%20bee/raw%00", "application/octet-stream", &[0xff, 0xfe]),
        ("/a%20bee/", "application/json", br#"{"type":"bee","version":4}"#),
        ("/core/", "application/json", br#"{"length":4,"type":"core"}"#),
        ("/core/0", "text/plain; charset=utf-8", b"\x0a\x08hyperbee"),
    ] {
        let (status, headers, got) = world.get(path).await;
        assert_eq!((status, got.as_ref()), (StatusCode::OK, body), "{path}");
        assert_eq!(text(&headers, header::CONTENT_TYPE), content_type, "{path}");
    }
    let (status, _, part) = world
        .get_with("/a%20bee/json", &[(header::RANGE, "bytes=1-3")])
        .await;
    assert_eq!(
        (status, part.as_ref()),
        (StatusCode::PARTIAL_CONTENT, &b"\"a\""[..])
    );
    let tag = world.etag("/core/0").await;
    assert_eq!(
        world
            .get_with("/core/0", &[(header::IF_NONE_MATCH, &tag)])
            .await
            .0,
        StatusCode::NOT_MODIFIED
    );
    for path in [
        "/a%20bee/none",
        "/core/4",
        "/core/-1",
        "/core/+1",
        "/core/1/",
        "/core/99999999999999999999999",
        "/core/x",
    ] {
        assert_eq!(world.get(path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_address_and_headers_are_answered_without_a_server_error(
        path in "/(notes|a%20bee|core|x)?(/|%2f|%|[.]{1,3}|[a-z%0-9\\\\:;@!$&'*+,=~-]){0,9}",
        range in "(bytes)?=?[0-9]{0,3}-?[0-9,-]{0,3}",
        tag in "(W/)?\"?[a-z*]{0,3}\"?",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            world.put("/a", "0123456789abc").await;
            world.put("/b/index.html", "x").await;
            let headers =
                [(header::RANGE, range.as_str()), (header::IF_NONE_MATCH, &tag), (header::IF_RANGE, &tag), (header::ACCEPT, &tag)];
            let (status, headers, body) = world.get_with(&path, &headers).await;
            assert!(status.as_u16() < 500, "{path} {status}");
            if status.is_success() {
                assert_eq!(text(&headers, header::CONTENT_LENGTH).parse(), Ok(body.len()));
            }
        });
    }
}

//! Answers out of drives, bees and cores.

use std::ops::Range;

use axum::Json;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cumulet_hyperbee::{Bee, Blocks, BlocksError, ErrorKind};
use cumulet_hyperdrive::{Drive, DriveError, File};
use serde_json::json;
use tokio::time::timeout;
use tracing::debug;

use super::address::Address;
use super::answer::{Representation, Source, failure, not_found, problem, represent};
use super::conditional::etag;
use super::{Archive, ArchiveSource, Gateway, Served, SourceError};

/// The file that stands for a folder.
const INDEX: &str = "index.html";

/// An error on its way to a status.
pub(super) struct Failure(ErrorKind);

impl From<DriveError> for Failure {
    fn from(error: DriveError) -> Self {
        debug!(%error, "drive");
        Self(error.kind())
    }
}

impl From<cumulet_hyperbee::BeeError> for Failure {
    fn from(error: cumulet_hyperbee::BeeError) -> Self {
        debug!(%error, "bee");
        Self(error.kind())
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self(error.0)
    }
}

impl From<Failure> for ErrorKind {
    fn from(failure: Failure) -> Self {
        failure.0
    }
}

/// What of an archive the tags of its answers depend on.
struct Identity {
    key: [u8; 32],
    epoch: [u8; 8],
}

/// What an address leads to, found within the time allowed. The bytes come later.
enum Found<B> {
    Nothing,
    Response(Response),
    File {
        drive: Drive<B>,
        identity: Identity,
        file: File,
        length: u64,
    },
    Value {
        tag: [u8; 8],
        identity: Identity,
        bytes: Bytes,
    },
}

impl<S: ArchiveSource> Gateway<S> {
    pub(super) async fn answer(&self, request: &Parts) -> Response {
        if request.method != Method::GET && request.method != Method::HEAD {
            let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "The gateway only reads.", None);
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let Some(address) = Address::parse(request.uri.path()) else {
            return not_found();
        };
        match timeout(self.limits.patience, self.find(request, &address)).await {
            Err(_) => failure(ErrorKind::Unavailable),
            Ok(Err(Failure(kind))) => failure(kind),
            Ok(Ok(Found::Nothing)) => not_found(),
            Ok(Ok(Found::Response(response))) => response,
            Ok(Ok(Found::File {
                drive,
                identity,
                file,
                length,
            })) => self.file(request, (drive, identity), file, length).await,
            Ok(Ok(Found::Value { tag, identity, bytes })) => self.value(request, &identity, tag, bytes).await,
        }
    }

    async fn find(&self, request: &Parts, address: &Address<'_>) -> Result<Found<S::Blocks>, Failure> {
        let Some(served) = self.source.resolve(&address.archive).await? else {
            return Ok(Found::Nothing);
        };
        let Served { key, epoch, archive } = served;
        let identity = Identity {
            key,
            epoch: epoch.to_le_bytes(),
        };
        let Some(tail) = &address.tail else {
            return Ok(redirect(request, &format!("/{}/", address.prefix)));
        };
        match archive {
            Archive::Drive(drive) => match std::str::from_utf8(tail) {
                Ok(path) => {
                    self.find_in_drive(request, address, (drive, identity), path)
                        .await
                }
                Err(_) => Ok(Found::Nothing),
            },
            Archive::Bee(bee) if tail.is_empty() => Ok(describe("bee", "version", bee.version())),
            Archive::Bee(bee) => find_in_bee(&bee, identity, tail).await,
            Archive::Core(core) if tail.is_empty() => Ok(describe("core", "length", core.length())),
            Archive::Core(core) => find_in_core(&core, identity, tail).await,
        }
    }

    async fn find_in_drive(
        &self,
        request: &Parts,
        address: &Address<'_>,
        (drive, identity): (Drive<S::Blocks>, Identity),
        path: &str,
    ) -> Result<Found<S::Blocks>, Failure> {
        // One version for the whole answer.
        let drive = drive.checkout(drive.files.version());
        let is_folder = path.is_empty() || path.ends_with('/');
        let (path, file) = if is_folder {
            drive.files.resolve(&format!("/{path}{INDEX}")).await?
        } else {
            // The slash in front keeps `c:/x` and `file://x` from being taken for more than names.
            drive.files.resolve(&format!("/{path}")).await?
        };
        if let Some(file) = file {
            let length = drive.byte_length(&file).await?;
            return Ok(Found::File {
                drive,
                identity,
                file,
                length,
            });
        }
        if !is_folder {
            let found = drive.files.is_folder(&path).await?;
            return Ok(if found {
                redirect(request, &format!("{}/", address.of(&path)))
            } else {
                Found::Nothing
            });
        }
        let tail = address.tail.as_deref().unwrap_or_default();
        let folder = std::str::from_utf8(tail).unwrap_or_default();
        self.list(request, &drive, &identity.parts(), folder).await
    }

    async fn list(
        &self,
        request: &Parts,
        drive: &Drive<S::Blocks>,
        identity: &[&[u8]; 2],
        folder: &str,
    ) -> Result<Found<S::Blocks>, Failure> {
        // A link to a folder is a folder.
        let (path, _) = match cumulet_hyperdrive::path::normalize_folder(folder).map_err(DriveError::from)? {
            root if root.is_empty() => (root, None),
            path => drive.files.resolve(&path).await?,
        };
        let items = drive.files.folder(&path, self.limits.listed_names).await?;
        if items.is_empty() && !path.is_empty() {
            return Ok(Found::Nothing);
        }
        let format = super::listing::Format::negotiate(&request.headers);
        let version = drive.files.version();
        let page = super::listing::render(format, &path, version, &items);
        let etag = etag(&[
            identity[0],
            identity[1],
            &version.to_le_bytes(),
            path.as_bytes(),
            format.name(),
            &page,
        ]);
        let content_type = HeaderValue::from_static(format.content_type());
        let of = Representation {
            etag,
            content_type,
            length: page.len() as u64,
        };
        let mut response = represent(request, &of, self.limits.patience, async |range| {
            Ok::<_, Failure>(part_of::<S::Blocks>(&page, range))
        })
        .await;
        response
            .headers_mut()
            .insert(header::VARY, HeaderValue::from_static("accept"));
        Ok(Found::Response(response))
    }

    async fn file(
        &self,
        request: &Parts,
        (drive, identity): (Drive<S::Blocks>, Identity),
        file: File,
        length: u64,
    ) -> Response {
        let blob = file.entry.blob.unwrap_or_default();
        let numbers = [
            file.seq,
            blob.block_offset,
            blob.byte_offset,
            blob.block_length,
            blob.byte_length,
            length,
        ];
        let numbers = numbers.map(u64::to_le_bytes).concat();
        let [key, epoch] = identity.parts();
        let content_type = content_type(&file.path);
        let of = Representation {
            etag: etag(&[key, epoch, &numbers]),
            content_type,
            length,
        };
        represent(request, &of, self.limits.patience, async |range| {
            drive
                .read(&file, Some(range))
                .await
                .map(Source::Blob)
                .map_err(Failure::from)
        })
        .await
    }

    async fn value(&self, request: &Parts, identity: &Identity, tag: [u8; 8], bytes: Bytes) -> Response {
        let [key, epoch] = identity.parts();
        let content_type = HeaderValue::from_static(sniff(&bytes));
        let of = Representation {
            etag: etag(&[key, epoch, &tag]),
            content_type,
            length: bytes.len() as u64,
        };
        represent(request, &of, self.limits.patience, async |range| {
            Ok::<_, Failure>(part_of::<S::Blocks>(&bytes, range))
        })
        .await
    }
}

impl Identity {
    fn parts(&self) -> [&[u8]; 2] {
        [&self.key, &self.epoch]
    }
}

async fn find_in_bee<B: Blocks>(bee: &Bee<B>, identity: Identity, key: &[u8]) -> Result<Found<B>, Failure> {
    let Some(entry) = bee.snapshot().get(key).await? else {
        return Ok(Found::Nothing);
    };
    let tag = entry.seq.to_le_bytes();
    Ok(Found::Value {
        tag,
        identity,
        bytes: entry.value.unwrap_or_default(),
    })
}

async fn find_in_core<B: Blocks>(core: &B, identity: Identity, index: &[u8]) -> Result<Found<B>, Failure> {
    let index = std::str::from_utf8(index)
        .ok()
        .filter(|index| index.bytes().all(|byte| byte.is_ascii_digit()));
    let Some(index) = index
        .and_then(|index| index.parse().ok())
        .filter(|&index| index < core.length())
    else {
        return Ok(Found::Nothing);
    };
    match core.get(index).await {
        Ok(bytes) => Ok(Found::Value {
            tag: index.to_le_bytes(),
            identity,
            bytes,
        }),
        Err(BlocksError::OutOfRange { .. }) => Ok(Found::Nothing),
        Err(error) => Err(Failure(ErrorKind::of_blocks(&error))),
    }
}

/// A part inside of `bytes`: `represent` asks for no other.
fn part_of<B>(bytes: &Bytes, range: Range<u64>) -> Source<B> {
    Source::Bytes(bytes.slice(range.start as usize..range.end as usize))
}

fn describe<B>(kind: &str, counted: &str, count: u64) -> Found<B> {
    Found::Response(Json(json!({ "type": kind, counted: count })).into_response())
}

/// Sends the client to another address here, with its query; not for good, as a file may take the folder's place. `location` begins with one slash and the name of an archive.
fn redirect<B>(request: &Parts, location: &str) -> Found<B> {
    let query = request
        .uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    match HeaderValue::try_from(format!("{location}{query}")) {
        Ok(location) => {
            Found::Response((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response())
        }
        Err(_) => Found::Nothing,
    }
}

/// The type that a file's name says. Text is taken for UTF-8, as a browser would otherwise guess by its own country.
fn content_type(path: &str) -> HeaderValue {
    let mime = mime_guess::from_path(path).first_or_octet_stream();
    let charset = if mime.type_() == mime_guess::mime::TEXT && mime.get_param("charset").is_none() {
        "; charset=utf-8"
    } else {
        ""
    };
    HeaderValue::try_from(format!("{mime}{charset}"))
        .unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"))
}

/// The type of a value without a name: never one that a browser would run.
fn sniff(bytes: &[u8]) -> &'static str {
    if serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() {
        "application/json"
    } else if std::str::from_utf8(bytes).is_ok() {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    }
}

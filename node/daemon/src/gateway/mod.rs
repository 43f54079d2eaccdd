//! Plain HTTP reading of pinned archives: `GET /<key-or-name>/<path>`.
//!
//! A key is 64 hex digits or 52 letters of z-base-32; anything else is a name. Then, by the archive's type:
//!
//! | address | answer |
//! |---|---|
//! | drive: `/<a>/<file>` | the file, after links; whole or one byte range |
//! | drive: `/<a>/<folder>/` | its `index.html`, or a listing: HTML, or JSON if `Accept` prefers it |
//! | drive: `/<a>/<folder>` | 307 to the same with a slash, so that relative links work |
//! | bee: `/<a>/<key>` | the value |
//! | core: `/<a>/<index>` | the block |
//! | bee, core: `/<a>/` | JSON: type and version |
//!
//! What must hold:
//! - What the [`ArchiveSource`] does not give does not exist: unknown, unpinned and private archives, and names that
//!   are missing in a pinned one, are the same 404.
//! - Addresses are percent-decoded once. A drive's names only ever name its own entries; nothing here is a path of
//!   the machine.
//! - Archives cannot act on each other in a browser: every answer has a sandbox without an origin, and no type is guessed.
//! - An `ETag` changes when the bytes do, and only then (folder listings: with every version of the drive).
//! - A response holds one block in memory. Blocks that don't come within [`Limits::patience`] end in 504, or, when the
//!   answer has begun, in a broken connection.
//!
//! What it does not do: authentication, TLS, rates and numbers of connections (the listener's), writing.

mod address;
mod answer;
mod archive;
mod conditional;
mod listing;

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use cumulet_hyperbee::{Bee, Blocks, ErrorKind};
use cumulet_hypercore::crypto::Key;
use cumulet_hyperdrive::Drive;

pub use address::ArchiveName;

/// An archive, ready to be read.
#[derive(Debug)]
pub enum Archive<B> {
    /// Files.
    Drive(Drive<B>),
    /// Keys and values.
    Bee(Bee<B>),
    /// Blocks.
    Core(B),
}

/// What the source serves under a name.
#[derive(Debug)]
pub struct Served<B> {
    /// Key of the archive: answers of different archives have different tags, also under one name.
    pub key: Key,
    /// Anything that differs after the history of a core was rewritten, such as the sum of its cores' forks.
    pub epoch: u64,
    /// The archive, at the version to be read.
    pub archive: Archive<B>,
}

/// An archive that is pinned but can't be opened now, with what can be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceError(pub ErrorKind);

/// Where the gateway finds archives.
pub trait ArchiveSource: Clone + Send + Sync + 'static {
    /// How their blocks are read.
    type Blocks: Blocks + 'static;

    /// The archive that the world may read under this key or name, or none. An archive of which nothing has arrived yet is
    /// [`ErrorKind::Unavailable`], not empty.
    fn resolve(
        &self,
        name: &ArchiveName,
    ) -> impl Future<Output = Result<Option<Served<Self::Blocks>>, SourceError>> + Send;
}

/// Bounds of one request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long to wait for the blocks that an answer begins with, and then for each next one. Peers that are there
    /// answer within seconds; browsers and proxies give up after a minute or so.
    pub patience: Duration,
    /// Most names shown of a folder: some 200 bytes each in a page.
    pub listed_names: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(30),
            listed_names: 10_000,
        }
    }
}

#[derive(Clone)]
struct Gateway<S> {
    source: S,
    limits: Limits,
}

/// The gateway's router. All paths are its own, so other routes go before it.
pub fn router<S: ArchiveSource>(source: S, limits: Limits) -> Router {
    Router::new()
        .fallback(serve::<S>)
        .with_state(Gateway { source, limits })
}

async fn serve<S: ArchiveSource>(State(gateway): State<Gateway<S>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let mut response = gateway.answer(&parts).await;
    answer::secure(response.headers_mut());
    response
}

//! An object store in an S3 bucket, or in anything that speaks S3.
//!
//! Only five requests are used (`PutObject`, `GetObject`, `ListObjectsV2`, `DeleteObject`, `HeadObject`), no multipart uploads, no ACLs,
//! no checksums beyond what a request asks for: so that small servers will do. "Never overwritten" is
//! `If-None-Match: *`; a server that ignores or refuses it is found out by a probe (the object `v1/probe` is put twice)
//! and gets a look before each write instead, see [`Capabilities`].

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use super::{
    Capabilities, MAX_OBJECT_BYTES, ObjectInfo, ObjectStore, PAGE_OBJECTS, Page, Put, StoreError,
    StoreFuture, check_name, check_size, too_large,
};
use crate::error::ErrorKind;

/// Time to reach the server; further away than this nothing useful can be shipped.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for one try: 64 MiB at 1 MiB/s.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(64);
/// Time for one operation with its tries and the pauses between them.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(150);
/// Tries of one operation, with jittered pauses. Longer outages are the shipper's business, which can say so in the status.
const ATTEMPTS: u32 = 3;
/// Longest pause between tries of one operation.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// The object that the probe puts. Its content never changes, so every node can probe a bucket that others use.
const PROBE: &str = "v1/probe";
const PROBE_CONTENT: &[u8] =
    b"Cumulet puts this object twice to see whether the store has conditional writes.\n";

/// How to reach a bucket.
#[derive(Clone)]
pub struct S3Config {
    /// The bucket; it must be there.
    pub bucket: String,
    /// Put before all names, without slashes at the ends; may be empty.
    pub prefix: String,
    /// `http://` or `https://` URL of the server; `None` is AWS in `region`.
    pub endpoint: Option<String>,
    /// The region that requests are signed for, `us-east-1` if unsure.
    pub region: String,
    /// Bucket in the path and not in the host name: what most servers but AWS want.
    pub force_path_style: bool,
    /// Access key id.
    pub access_key: String,
    /// Secret of the access key.
    pub secret_key: Zeroizing<String>,
    /// Token of temporary credentials.
    pub session_token: Option<Zeroizing<String>>,
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Config")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("force_path_style", &self.force_path_style)
            .finish_non_exhaustive()
    }
}

/// Objects in an S3 bucket.
pub struct S3Store {
    client: Client,
    bucket: String,
    prefix: String,
    location: String,
    capabilities: OnceCell<Capabilities>,
}

impl S3Store {
    /// Checks the configuration; asks the server nothing yet, so a node starts while the store is down.
    pub fn new(config: S3Config) -> Result<Self, StoreError> {
        let invalid = |reason: &str| StoreError::new("open", &config.bucket, ErrorKind::Invalid, reason);
        if config.bucket.is_empty() || config.bucket.contains('/') {
            return Err(invalid("the bucket's name is empty or has a slash"));
        }
        if let Some(endpoint) = &config.endpoint
            && !endpoint.starts_with("http://")
            && !endpoint.starts_with("https://")
        {
            return Err(invalid("the endpoint is not an http:// or https:// URL"));
        }
        let prefix = config.prefix.trim_matches('/');
        if prefix.len() > 256 || prefix.chars().any(char::is_control) {
            return Err(invalid(
                "the prefix is longer than 256 bytes or has control characters",
            ));
        }
        let prefix = if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        };
        let location = format!("s3://{}/{prefix}", config.bucket);
        let token = config.session_token.as_ref().map(|token| token.to_string());
        let credentials = Credentials::new(
            config.access_key,
            config.secret_key.to_string(),
            token,
            None,
            "cumulet",
        );
        let mut builder = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(config.region))
            .credentials_provider(credentials)
            .force_path_style(config.force_path_style)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(
                RetryConfig::standard()
                    .with_max_attempts(ATTEMPTS)
                    .with_max_backoff(MAX_PAUSE),
            )
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_TIMEOUT)
                    .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                    .operation_timeout(OPERATION_TIMEOUT)
                    .build(),
            );
        if let Some(endpoint) = config.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        let client = Client::from_conf(builder.build());
        Ok(Self {
            client,
            bucket: config.bucket,
            prefix,
            location,
            capabilities: OnceCell::new(),
        })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    async fn put(&self, name: &str, bytes: Bytes, conditional: bool) -> Result<Put, StoreError> {
        let mut request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(self.key(name))
            .content_length(i64::try_from(bytes.len()).unwrap_or(i64::MAX))
            .content_type("application/octet-stream")
            .body(ByteStream::from(bytes));
        if conditional {
            request = request.if_none_match("*");
        }
        match request.send().await {
            Ok(_) => Ok(Put::Created),
            Err(error) if conditional && status(&error) == Some(412) => Ok(Put::AlreadyThere),
            Err(error) => Err(sdk_error("write", name, error)),
        }
    }

    async fn exists(&self, name: &str) -> Result<bool, StoreError> {
        match self
            .client
            .head_object()
            .bucket(&self.bucket)
            .key(self.key(name))
            .send()
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if status(&error) == Some(404) => Ok(false),
            Err(error) => Err(sdk_error("look for", name, error)),
        }
    }

    /// Two conditional puts of one object: the second must be refused because of the first. Some servers ignore the
    /// header (both succeed), some do not know it (501 or another refusal, while a plain put succeeds).
    async fn probe(&self) -> Result<Capabilities, StoreError> {
        let content = Bytes::from_static(PROBE_CONTENT);
        for _ in 0..2 {
            match self.put(PROBE, content.clone(), true).await {
                Ok(Put::AlreadyThere) => {
                    return Ok(Capabilities {
                        conditional_writes: true,
                    });
                }
                Ok(Put::Created) => {}
                Err(error) if error.kind == ErrorKind::Retry => return Err(error),
                Err(error) => {
                    // Wrong credentials or a missing bucket fail here too, and must not look like a weak store.
                    self.put(PROBE, content, false).await?;
                    tracing::debug!(%error, "the store refuses conditional writes");
                    return Ok(Capabilities {
                        conditional_writes: false,
                    });
                }
            }
        }
        Ok(Capabilities {
            conditional_writes: false,
        })
    }

    async fn probed(&self) -> Result<Capabilities, StoreError> {
        let capabilities = self.capabilities.get_or_try_init(|| async {
            let found = self.probe().await?;
            if !found.conditional_writes {
                tracing::warn!(
                    store = self.location,
                    "no conditional writes: each object is looked for before it is written"
                );
            }
            Ok(found)
        });
        capabilities.await.copied()
    }

    async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<Option<Bytes>, StoreError> {
        let mut request = self.client.get_object().bucket(&self.bucket).key(self.key(name));
        if let Some(range) = &range {
            if range.is_empty() {
                return Ok(self.exists(name).await?.then(Bytes::new));
            }
            request = request.range(format!("bytes={}-{}", range.start, range.end - 1));
        }
        let output = match request.send().await {
            Ok(output) => output,
            Err(error) if status(&error) == Some(404) && error.code() != Some("NoSuchBucket") => {
                return Ok(None);
            }
            Err(error) if range.is_some() && status(&error) == Some(416) => return Ok(Some(Bytes::new())),
            Err(error) => return Err(sdk_error("read", name, error)),
        };
        let mut body = output.body;
        let mut bytes = BytesMut::new();
        loop {
            match body.try_next().await {
                Ok(None) => return Ok(Some(bytes.freeze())),
                Ok(Some(part)) if bytes.len() + part.len() > MAX_OBJECT_BYTES => {
                    drop(part);
                    return Err(too_large(name));
                }
                Ok(Some(part)) if bytes.is_empty() => bytes = BytesMut::from(part),
                Ok(Some(part)) => bytes.extend_from_slice(&part),
                Err(error) => {
                    let reason = format!("the answer broke off: {}", DisplayErrorContext(&error));
                    let mut failed = StoreError::new("read", name, ErrorKind::Retry, reason);
                    failed.source = Some(Box::new(error));
                    return Err(failed);
                }
            }
        }
    }

    async fn read_in_time(&self, name: &str, range: Option<Range<u64>>) -> Result<Option<Bytes>, StoreError> {
        check_name("read", name)?;
        match tokio::time::timeout(OPERATION_TIMEOUT, self.read(name, range)).await {
            Ok(done) => done,
            Err(_) => Err(
                StoreError::new("read", name, ErrorKind::Retry, "it took too long")
                    .hint("look at the network between this node and the object store"),
            ),
        }
    }
}

impl ObjectStore for S3Store {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn capabilities(&self) -> StoreFuture<'_, Capabilities> {
        Box::pin(self.probed())
    }

    fn put_if_absent<'a>(&'a self, name: &'a str, bytes: Bytes) -> StoreFuture<'a, Put> {
        Box::pin(async move {
            check_name("write", name)?;
            check_size(name, bytes.len())?;
            if self.probed().await?.conditional_writes {
                return self.put(name, bytes, true).await;
            }
            if self.exists(name).await? {
                return Ok(Put::AlreadyThere);
            }
            self.put(name, bytes, false).await
        })
    }

    fn get<'a>(&'a self, name: &'a str) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(self.read_in_time(name, None))
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(self.read_in_time(name, Some(range)))
    }

    fn list<'a>(&'a self, prefix: &'a str, after: &'a str) -> StoreFuture<'a, Page> {
        Box::pin(async move {
            let output = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(self.key(prefix))
                .max_keys(i32::try_from(PAGE_OBJECTS).unwrap_or(i32::MAX))
                .set_start_after((!after.is_empty()).then(|| self.key(after)))
                .send()
                .await
                .map_err(|error| sdk_error("list", prefix, error))?;
            let mut objects = Vec::with_capacity(output.contents().len().min(PAGE_OBJECTS));
            for object in output.contents() {
                let name = object.key().and_then(|key| key.strip_prefix(&self.prefix));
                if let Some(name) = name {
                    let size = object
                        .size()
                        .and_then(|size| u64::try_from(size).ok())
                        .unwrap_or(0);
                    objects.push(ObjectInfo {
                        name: name.to_owned(),
                        size,
                    });
                }
            }
            // A page that is cut off without a single object would make its reader ask for ever.
            let more = output.is_truncated().unwrap_or(false) && !objects.is_empty();
            Ok(Page { objects, more })
        })
    }

    fn delete<'a>(&'a self, name: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            check_name("delete", name)?;
            match self
                .client
                .delete_object()
                .bucket(&self.bucket)
                .key(self.key(name))
                .send()
                .await
            {
                Ok(_) => Ok(()),
                Err(error) if status(&error) == Some(404) && error.code() != Some("NoSuchBucket") => Ok(()),
                Err(error) => Err(sdk_error("delete", name, error)),
            }
        })
    }
}

fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

fn sdk_error<E>(verb: &'static str, name: &str, error: SdkError<E>) -> StoreError
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let (kind, hint) = match (&error, status(&error), error.code()) {
        (_, _, Some("NoSuchBucket")) => (
            ErrorKind::Invalid,
            Some("make the bucket, or correct its name in the backup's settings"),
        ),
        (_, _, Some("RequestTimeTooSkewed")) => (
            ErrorKind::Retry,
            Some("set this machine's clock: it differs from the object store's by too much"),
        ),
        (_, Some(401 | 403), _) => (
            ErrorKind::Invalid,
            Some(
                "check access key, secret and region, and that they may list, read and write below the prefix",
            ),
        ),
        (_, Some(301 | 307 | 400), _) => (
            ErrorKind::Invalid,
            Some("check endpoint, region and path style of the backup's settings"),
        ),
        (_, Some(501), _) => (ErrorKind::Invalid, None),
        (_, Some(507), _) => (
            ErrorKind::Retry,
            Some("the object store is full: free space or raise its quota"),
        ),
        (_, Some(408 | 409 | 425 | 429 | 500..=599), _) | (SdkError::ResponseError(_), ..) => {
            (ErrorKind::Retry, None)
        }
        (_, Some(_), _) | (SdkError::ConstructionFailure(_), ..) => (ErrorKind::Invalid, None),
        _ => (
            ErrorKind::Retry,
            Some(
                "the object store can't be reached: check that it runs, its endpoint, and the network policy",
            ),
        ),
    };
    let reason = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => DisplayErrorContext(&error).to_string(),
    };
    StoreError {
        verb,
        object: name.to_owned(),
        reason,
        kind,
        hint,
        source: Some(Box::new(error)),
    }
}

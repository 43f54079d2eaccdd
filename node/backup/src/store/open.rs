//! A store by its URL.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::file::FileStore;
use super::s3::{S3Config, S3Store};
use super::{ObjectStore, StoreError};
use crate::error::ErrorKind;

/// What an `s3:` URL does not say; not needed for `file:`.
#[derive(Clone, Default)]
pub struct S3Access {
    /// See [`S3Config::endpoint`].
    pub endpoint: Option<String>,
    /// See [`S3Config::region`]; `us-east-1` if absent.
    pub region: Option<String>,
    /// See [`S3Config::force_path_style`].
    pub force_path_style: bool,
    /// Access key id.
    pub access_key: Option<String>,
    /// Secret of the access key.
    pub secret_key: Option<Zeroizing<String>>,
    /// Token of temporary credentials.
    pub session_token: Option<Zeroizing<String>>,
}

/// Opens `file:/directory` or `s3://bucket/prefix`. Asks an S3 server nothing yet; a directory is made if it is missing, which
/// may block for a moment.
pub fn open(url: &str, access: S3Access) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let invalid = |reason: &str| StoreError::new("open", url, ErrorKind::Invalid, reason);
    if url.starts_with("file:") {
        return Ok(Arc::new(FileStore::from_url(url)?));
    }
    let Some(rest) = url.strip_prefix("s3://") else {
        return Err(invalid("it starts neither with s3:// nor with file:")
            .hint("write s3://bucket/prefix or file:/directory"));
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let (Some(access_key), Some(secret_key)) = (access.access_key, access.secret_key) else {
        return Err(invalid("there are no credentials for it")
            .hint("give access key and secret, for example by the Secret that the backup's settings name"));
    };
    Ok(Arc::new(S3Store::new(S3Config {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: access.endpoint.filter(|endpoint| !endpoint.is_empty()),
        region: access
            .region
            .filter(|region| !region.is_empty())
            .unwrap_or_else(|| "us-east-1".to_owned()),
        force_path_style: access.force_path_style,
        access_key,
        secret_key,
        session_token: access.session_token,
    })?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> S3Access {
        S3Access {
            access_key: Some("a".into()),
            secret_key: Some(Zeroizing::new("b".into())),
            ..S3Access::default()
        }
    }

    #[test]
    fn urls_name_buckets_prefixes_and_directories() {
        assert_eq!(
            open("s3://cloud/some/prefix/", access()).unwrap().location(),
            "s3://cloud/some/prefix/"
        );
        assert_eq!(open("s3://cloud", access()).unwrap().location(), "s3://cloud/");
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/backup");
        for url in [
            format!("file:{}", path.display()),
            format!("file://{}", path.display()),
        ] {
            let store = open(&url, S3Access::default()).unwrap();
            assert_eq!(store.location(), format!("file:{}", path.display()));
        }
        for bad in ["", "cloud", "http://x", "s3://", "s3:///x", "file:", "file://"] {
            let error = open(bad, access()).err().unwrap();
            assert_eq!(error.kind, ErrorKind::Invalid, "{bad}");
        }
        assert!(
            open("s3://cloud", S3Access::default())
                .err()
                .unwrap()
                .hint
                .unwrap()
                .contains("secret")
        );
    }
}

//! Stores without conditional writes: found out, reported, and served by looking first.

#![allow(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod model;
mod stores;

use std::sync::Arc;

use cumulet_backup::store::s3::S3Store;
use cumulet_backup::store::{ObjectStore, Put};
use cumulet_s3d::Conditional;
use model::{ModelCore, Ship, contents, restore_into};

#[tokio::test]
async fn a_store_that_ignores_or_refuses_conditions_is_found_out_and_used_all_the_same() {
    for conditional in [Conditional::Ignored, Conditional::Refused] {
        let directory = tempfile::tempdir().unwrap();
        let server = stores::weak_server(directory.path(), conditional).await;
        let s3 = S3Store::new(stores::s3_config(&server.endpoint())).unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(s3);
        assert!(
            !store.capabilities().await.unwrap().conditional_writes,
            "{conditional:?}"
        );

        assert_eq!(
            store.put_if_absent("v1/x", "first".into()).await.unwrap(),
            Put::Created
        );
        assert_eq!(
            store.put_if_absent("v1/x", "second".into()).await.unwrap(),
            Put::AlreadyThere
        );
        assert_eq!(store.get("v1/x").await.unwrap().unwrap(), "first");

        let core = ModelCore::with_blocks(1, [30; 20]);
        let progress = Ship::once(&store, &core).await;
        assert!(!progress.capabilities.unwrap().conditional_writes);
        let bare = core.bare();
        assert!(restore_into(&store, &bare).await.is_complete());
        assert_eq!(bare.blocks(), core.blocks());
        let before = contents(store.as_ref()).await;
        Ship::once(&store, &core).await;
        assert_eq!(contents(store.as_ref()).await, before);
        server.stop().await;
    }
}

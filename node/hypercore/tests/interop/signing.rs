//! JavaScript takes what several of our signers signed together.

use bytes::Bytes;
use cumulet_hypercore::core::Draft;
use cumulet_hypercore::corestore::CoreHandle;
use cumulet_hypercore::crypto::KeyPair;
use cumulet_hypercore::manifest::Manifest;
use cumulet_hypercore::multisig::{assemble, assemble_v0, signable_length};
use serde_json::json;

use crate::peer::{JsPeer, Node, block, digest_of};

fn blocks(name: &str, from: u64, count: u64) -> Vec<Bytes> {
    (from..from + count)
        .map(|index| block(name, index, 10 + index as usize))
        .collect()
}

/// Appends as many blocks as two signers have, of whom the first has two more: his part is a patch where that is allowed.
async fn append_together(core: &CoreHandle, name: &str, pairs: &[KeyPair]) {
    let manifest = core.manifest().await.unwrap();
    let from = core.state().length;
    let counts = if manifest.allow_patch { [5, 3] } else { [3, 3] };
    let length = from + signable_length(&counts, manifest.quorum);
    let drafts = counts.map(|count| blocks(name, from, count));
    let (parts, draft): (Vec<_>, Draft) = core
        .with_core(|core| {
            let drafts = drafts.map(|blocks| core.draft(blocks).unwrap());
            let parts = drafts
                .iter()
                .zip(pairs)
                .map(|(draft, pair)| core.partial_signature(draft, pair, length).unwrap());
            let parts = parts.collect();
            let [_, draft] = drafts;
            (parts, draft)
        })
        .await;
    let signature = if manifest.version == 0 {
        assemble_v0(&parts)
    } else {
        assemble(&parts)
    };
    assert_eq!(core.append_signed(draft, signature.into()).await.unwrap(), length);
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript_takes_cores_of_two_of_three_signers_with_and_without_patches_links_and_user_data() {
    let Some(mut js) = JsPeer::start() else { return };
    let node = Node::new();
    let pairs: Vec<KeyPair> = [11, 12, 13].map(|seed| KeyPair::from_seed(&[seed; 32])).into();
    let keys: Vec<_> = pairs.iter().map(KeyPair::public_key).collect();
    let of = |version, allow_patch| Manifest {
        version,
        allow_patch,
        ..Manifest::of_signers(keys.clone(), Some(2))
    };
    let extended = Manifest {
        linked: Some(vec![[7; 32], [8; 32]]),
        user_data: Some(b"an application's own".to_vec()),
        ..of(2, true)
    };
    let manifests = [
        ("v0", of(0, false)),
        ("v0 patched", of(0, true)),
        ("v1", of(1, false)),
        ("v1 patched", of(1, true)),
        ("v2", extended),
    ];
    let mut cores = Vec::new();
    for (name, manifest) in manifests {
        let core = node.store.create(manifest, None).await.unwrap();
        append_together(&core, name, &pairs).await;
        append_together(&core, name, &pairs).await;
        js.ask("open", json!({"name": name, "key": hex::encode(core.key())}))
            .await;
        cores.push((name, core));
    }
    node.accept(&mut js).await;
    for round in 0..2 {
        for (name, core) in &cores {
            let length = core.state().length;
            assert_eq!(length, 6 + 3 * round);
            let got = js
                .ask("download", json!({"name": name, "length": length, "fork": 0}))
                .await;
            assert_eq!(got["sha256"].as_str().unwrap(), digest_of(core).await, "{name}");
            if round == 0 {
                // Live, over the connection.
                append_together(core, name, &pairs).await;
            }
        }
    }
    drop(cores);
    node.close().await;
    js.close().await;
}

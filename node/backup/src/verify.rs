//! Verification: reads every object of a backup and proves it, without restoring anything.
//!
//! Each head is proven, and each segment that any head names, once. What no head names is counted and left alone: an
//! upload on its way, or a segment that a larger one replaced.

use std::collections::{HashMap, HashSet};

use cumulet_hypercore::crypto::Hash;
use cumulet_hypercore::node::Node;
use futures::StreamExt;
use futures::stream;

use crate::head::segment_name;
use crate::names::{CoreNames, SegmentName};
use crate::restore::{Damaged, RestoreError, Restorer, explain};
use crate::ship::MAX_LISTED;
use crate::store::list_all;

/// Segments read at once.
const PARALLEL_READS: usize = 4;

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// Cores looked at.
    pub cores: usize,
    /// Cores without any head that can be read: nothing of them can be restored.
    pub lost: Vec<Hash>,
    /// Heads that are proven.
    pub heads: usize,
    /// Segments that are proven, of those that a head names.
    pub segments: usize,
    /// Bytes of their blocks.
    pub bytes: u64,
    /// Objects that were refused.
    pub damaged: Vec<Damaged>,
    /// Names of segments that a head names and that have no good copy.
    pub missing: Vec<String>,
    /// Segment objects that no readable head names.
    pub unnamed: usize,
}

impl VerifyReport {
    /// Everything that a head names can be restored, and every core has a head.
    pub fn is_whole(&self) -> bool {
        self.lost.is_empty() && self.missing.is_empty() && self.damaged.is_empty()
    }
}

impl Restorer {
    /// Verifies every core in the store.
    pub async fn verify(&self) -> Result<VerifyReport, RestoreError> {
        let mut report = VerifyReport::default();
        for core in self.cores().await? {
            self.verify_core(&core, &mut report).await?;
        }
        Ok(report)
    }

    /// Verifies one core, and adds what it finds to the report.
    pub async fn verify_core(&self, discovery: &Hash, report: &mut VerifyReport) -> Result<(), RestoreError> {
        let names = CoreNames::new(*discovery);
        report.cores += 1;
        let mut wanted: HashMap<SegmentName, (u64, Node)> = HashMap::new();
        let mut heads = 0;
        for (name, repair) in self.heads(&names).await? {
            let object = names.head(&name, repair);
            match self.read_head(discovery, &name, &object).await? {
                Ok(proven) => {
                    heads += 1;
                    let fork = proven.head.signed.fork;
                    let segments = &proven.head.selection.segments;
                    wanted.extend(
                        segments
                            .iter()
                            .map(|node| (segment_name(fork, node), (fork, *node))),
                    );
                }
                Err(error) => {
                    let reason = error.map_or_else(|| "it is gone".to_owned(), |error| explain(&error));
                    report.damaged.push(Damaged { object, reason });
                }
            }
        }
        report.heads += heads;
        if heads == 0 {
            report.lost.push(*discovery);
        }
        let prefix = names.segments();
        let listed = self
            .patience
            .wait(|| list_all(self.store.as_ref(), &prefix, MAX_LISTED))
            .await?;
        let there: HashSet<SegmentName> = listed
            .iter()
            .filter_map(|object| names.parse_segment(&object.name))
            .map(|(name, _)| name)
            .collect();
        report.unnamed += there.iter().filter(|name| !wanted.contains_key(name)).count();

        let mut wanted: Vec<_> = wanted.into_iter().collect();
        wanted.sort_unstable_by_key(|(name, _)| *name);
        let reads = wanted
            .into_iter()
            .map(|(name, (fork, node))| async move { (name, node, self.fetch(names, fork, &node).await) });
        let mut reads = stream::iter(reads).buffer_unordered(PARALLEL_READS);
        while let Some((name, node, segment)) = reads.next().await {
            let segment = segment?;
            report.damaged.extend(segment.damaged);
            if segment.segment.is_some() {
                report.segments += 1;
                report.bytes += node.size;
            } else {
                report.missing.push(names.segment(&name, 0));
            }
        }
        Ok(())
    }
}

//! Decides everything that depends on order, on what exists already, or on time.

use crate::build::{Inputs, build};
use crate::credentials::{Credentials, CredentialsError, Entropy};
use crate::names::{CLOUD_LABEL, MANAGED_BY_LABEL};
use crate::quantity::Size;
use crate::resources::{Prepared, Resources};
use crate::settings::Settings;
use crate::validate::{Archive, Cloud};
use cumulet_crds::DatArchive;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};

/// What was read of the cluster for one cloud, before anything is decided.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// The replicas, if they were made before.
    pub stateful_set: Option<StatefulSet>,
    /// The secrets, if they were made before.
    pub secret: Option<Secret>,
    /// Claims with the cloud's label.
    pub claims: Vec<PersistentVolumeClaim>,
    /// Pods with the cloud's label.
    pub pods: Vec<Pod>,
    /// The archives that name this cloud.
    pub archives: Vec<DatArchive>,
}

/// What shall be done about a cloud.
#[derive(Debug)]
pub enum Decision {
    /// Hands off: the owner paused it.
    Hold,
    /// Apply these.
    Apply(Box<Resources<Prepared>>),
}

/// Why nothing can be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Somebody else's object has a name that this cloud needs.
    #[error(
        "the {kind} {name} exists and is not this cloud's: delete it, or choose another name for the cloud"
    )]
    NameTaken {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The secrets are not complete.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// Decides what shall be done.
pub fn plan(
    cloud: &Cloud,
    observed: &Observed,
    settings: &Settings,
    entropy: &mut impl Entropy,
) -> Result<Decision, PlanError> {
    if cloud.paused {
        return Ok(Decision::Hold);
    }
    if let Some(set) = &observed.stateful_set {
        not_taken(cloud, "StatefulSet", set.meta(), true)?;
    }
    if let Some(secret) = &observed.secret {
        not_taken(cloud, "Secret", secret.meta(), false)?;
    }
    let credentials = Credentials::complete(cloud, observed.secret.as_ref(), entropy)?;
    let growing = growing(cloud, &observed.claims);
    let existing_size = observed.stateful_set.as_ref().and_then(template_size);
    Ok(Decision::Apply(Box::new(build(&Inputs {
        cloud,
        credentials: &credentials,
        settings,
        claim_size: existing_size.unwrap_or_else(|| cloud.storage_size.quantity()),
        gateway_open: observed.archives.iter().any(is_public),
        growing: &growing,
    }))))
}

/// An object is this cloud's if its labels say so and, where it must have an owner, if that is this very cloud.
fn not_taken(cloud: &Cloud, kind: &'static str, meta: &ObjectMeta, owned: bool) -> Result<(), PlanError> {
    let labels = meta.labels.clone().unwrap_or_default();
    let expected = cloud.names.labels();
    let labelled = [CLOUD_LABEL, MANAGED_BY_LABEL]
        .iter()
        .all(|key| labels.get(*key) == expected.get(*key));
    let owned_by = meta
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.uid == cloud.owner.uid);
    if labelled && (owned_by || !owned) {
        return Ok(());
    }
    Err(PlanError::NameTaken {
        kind,
        name: meta.name.clone().unwrap_or_default(),
    })
}

fn is_public(archive: &DatArchive) -> bool {
    archive.metadata.deletion_timestamp.is_none() && archive.spec.gateway.public
}

fn template_size(set: &StatefulSet) -> Option<Quantity> {
    request(set.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?).cloned()
}

fn request(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    claim
        .spec
        .as_ref()?
        .resources
        .as_ref()?
        .requests
        .as_ref()?
        .get("storage")
}

/// Claims whose request is below the wish. A claim whose request cannot be read is left alone.
fn growing(cloud: &Cloud, claims: &[PersistentVolumeClaim]) -> Vec<PersistentVolumeClaim> {
    let smaller = |claim: &&PersistentVolumeClaim| {
        let size = request(claim).and_then(|quantity| Size::parse(&quantity.0).ok());
        size.is_some_and(|size| size.bytes() < cloud.storage_size.bytes())
    };
    let growable = |claim: &&PersistentVolumeClaim| is_data(cloud, claim) && is_bound(claim);
    claims.iter().filter(growable).filter(smaller).cloned().collect()
}

/// Whether a claim has its volume. Before that its size cannot be changed, and nothing was ever stored in it.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// Whether a replica of this cloud keeps its data there.
fn is_data(cloud: &Cloud, claim: &PersistentVolumeClaim) -> bool {
    let pod = claim
        .metadata
        .name
        .as_deref()
        .and_then(|name| name.strip_prefix("data-"));
    pod.is_some_and(|pod| cloud.names.replica_index(pod).is_some())
}

/// Claims whose volume has not reached the wished size yet.
pub fn expanding(cloud: &Cloud, claims: &[PersistentVolumeClaim]) -> Vec<String> {
    let behind = |claim: &&PersistentVolumeClaim| {
        let capacity = claim
            .status
            .as_ref()
            .and_then(|status| status.capacity.as_ref()?.get("storage"));
        let capacity = capacity.and_then(|quantity| Size::parse(&quantity.0).ok());
        capacity.is_some_and(|capacity| capacity.bytes() < cloud.storage_size.bytes())
    };
    claims
        .iter()
        .filter(|claim| is_data(cloud, claim))
        .filter(behind)
        .map(ResourceExt::name_any)
        .collect()
}

/// The archive that pins the same key for the same cloud and came first, if `archive` is not that one itself.
///
/// Two pins of one key would overwrite each other's wishes for ever.
pub fn pinned_before<'a>(archive: &DatArchive, all: &'a [DatArchive]) -> Option<&'a DatArchive> {
    let key = Archive::parse(archive).ok()?.key;
    let order = |archive: &DatArchive| (archive.creation_timestamp(), archive.name_any());
    let same = |other: &&DatArchive| {
        other.uid() != archive.uid()
            && other.metadata.deletion_timestamp.is_none()
            && other.namespace() == archive.namespace()
            && other.spec.cloud_name == archive.spec.cloud_name
            && Archive::parse(other).is_ok_and(|other| other.key == key)
    };
    all.iter()
        .filter(same)
        .find(|other| order(other) < order(archive))
}

/// Whether another archive still wants the key that `archive` pins: then deleting `archive` keeps the pin.
pub fn wanted_by_another(archive: &DatArchive, all: &[DatArchive]) -> bool {
    let Ok(mine) = Archive::parse(archive) else {
        return false;
    };
    all.iter().any(|other| {
        other.uid() != archive.uid()
            && other.metadata.deletion_timestamp.is_none()
            && other.namespace() == archive.namespace()
            && Archive::parse(other)
                .is_ok_and(|other| (other.key, other.cloud_name) == (mine.key, mine.cloud_name.clone()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Counting, archive, cloud, full_cloud, now, parsed, settings};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn applied(cloud: &Cloud, observed: &Observed) -> Resources<Prepared> {
        match plan(cloud, observed, &settings(), &mut Counting::default()).unwrap() {
            Decision::Apply(resources) => *resources,
            Decision::Hold => panic!("nothing was decided"),
        }
    }

    fn claim(name: &str, request: &str, capacity: &str) -> PersistentVolumeClaim {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name},
            "spec": {"resources": {"requests": {"storage": request}}}, "status": {"phase": "Bound", "capacity": {"storage": capacity}}}))
        .unwrap()
    }

    fn template_request(resources: &Resources<Prepared>) -> String {
        template_size(&resources.stateful_set).unwrap().0
    }

    #[test]
    fn a_paused_cloud_is_not_touched() {
        let mut resource = cloud();
        resource.spec.paused = true;
        let decision = plan(
            &parsed(&resource),
            &Observed::default(),
            &settings(),
            &mut Counting::default(),
        );
        assert!(matches!(decision, Ok(Decision::Hold)));
    }

    #[test]
    fn reconciling_what_was_applied_decides_the_same_again() {
        let cloud = full_cloud();
        let first = applied(&cloud, &Observed::default());
        let observed = Observed {
            stateful_set: Some(first.stateful_set.clone()),
            secret: Some(first.secret.clone()),
            ..Observed::default()
        };
        assert_eq!(applied(&cloud, &observed), first);
    }

    #[test]
    fn storage_grows_by_the_claims_and_leaves_the_template_alone() {
        let mut resource = cloud();
        let before = applied(&parsed(&resource), &Observed::default());
        assert_eq!(template_request(&before), "10Gi");
        resource.spec.storage.size = "20Gi".into();
        let mut pending = claim("data-cumulet-ada-2", "10Gi", "0");
        pending.status = None;
        let claims = vec![
            claim("data-cumulet-ada-0", "10Gi", "10Gi"),
            claim("data-cumulet-ada-1", "20480Mi", "10Gi"),
            claim("data-other-0", "1Gi", "1Gi"),
            pending,
        ];
        let observed = Observed {
            stateful_set: Some(before.stateful_set),
            claims,
            ..Observed::default()
        };
        let after = applied(&parsed(&resource), &observed);
        assert_eq!(template_request(&after), "10Gi");
        let grown: Vec<_> = after
            .expansions
            .iter()
            .map(|claim| (claim.name_any(), request(claim).unwrap().0.clone()))
            .collect();
        assert_eq!(grown, [("data-cumulet-ada-0".to_owned(), "20Gi".to_owned())]);
        assert_eq!(
            expanding(&parsed(&resource), &observed.claims),
            ["data-cumulet-ada-0", "data-cumulet-ada-1"]
        );
    }

    #[test]
    fn a_strangers_objects_are_not_taken_over() {
        let cloud = full_cloud();
        let mut stranger = applied(&cloud, &Observed::default());
        stranger.stateful_set.metadata.owner_references.as_mut().unwrap()[0].uid = "another".into();
        let observed = Observed {
            stateful_set: Some(stranger.stateful_set),
            ..Observed::default()
        };
        let error = plan(&cloud, &observed, &settings(), &mut Counting::default()).unwrap_err();
        assert!(
            matches!(
                error,
                PlanError::NameTaken {
                    kind: "StatefulSet",
                    ..
                }
            ),
            "{error}"
        );
        let observed = Observed {
            secret: Some(Secret::default()),
            ..Observed::default()
        };
        let error = plan(&cloud, &observed, &settings(), &mut Counting::default()).unwrap_err();
        assert!(
            matches!(error, PlanError::NameTaken { kind: "Secret", .. }),
            "{error}"
        );
    }

    #[test]
    fn a_cloud_made_again_takes_up_its_old_keys() {
        let old = applied(&full_cloud(), &Observed::default());
        let mut resource = cloud();
        resource.metadata.uid = Some("new-uid".into());
        let observed = Observed {
            secret: Some(old.secret.clone()),
            ..Observed::default()
        };
        assert_eq!(
            applied(&parsed(&resource), &observed).secret.data,
            old.secret.data
        );
    }

    #[test]
    fn the_gateway_opens_for_a_public_archive_until_it_is_deleted() {
        let mut public = archive();
        public.spec.gateway.public = true;
        let rules = |archive: &DatArchive| {
            let observed = Observed {
                archives: vec![archive.clone()],
                ..Observed::default()
            };
            applied(&full_cloud(), &observed)
                .network_policy
                .spec
                .unwrap()
                .ingress
                .unwrap()
                .len()
        };
        assert_eq!((rules(&archive()), rules(&public)), (2, 3));
        public.metadata.deletion_timestamp = Some(Time(now()));
        assert_eq!(rules(&public), 2);
    }

    #[test]
    fn of_two_archives_with_one_key_the_older_one_counts() {
        let named = |name: &str, at: i64, key: &str| {
            let mut archive = archive();
            archive.metadata.name = Some(name.into());
            archive.metadata.uid = Some(name.into());
            archive.metadata.creation_timestamp = Some(Time(jiff::Timestamp::from_second(at).unwrap()));
            archive.spec.key = key.into();
            archive
        };
        let hex = crate::testing::HEX;
        let mut all = vec![
            named("b", 1, hex),
            named("a", 2, &format!("dat://{hex}")),
            named("c", 0, &"0".repeat(64)),
        ];
        assert_eq!(
            pinned_before(&all[1], &all).map(ResourceExt::name_any).as_deref(),
            Some("b")
        );
        assert_eq!(pinned_before(&all[0], &all), None);
        assert_eq!(pinned_before(&all[2], &all), None);
        assert!(wanted_by_another(&all[0], &all));
        all[1].metadata.deletion_timestamp = Some(Time(now()));
        assert!(!wanted_by_another(&all[0], &all));
    }
}

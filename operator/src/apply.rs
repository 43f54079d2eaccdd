//! The only writes to the API server: server-side apply with one field manager, the sweep of what is no longer
//! wanted, status, and finalizers.
//!
//! An object that is as it was last applied is not applied again. What that costs: a change that somebody else made
//! to an object is found within [`TRUST`] and not at once, save for the StatefulSet, which is read in every reconcile.

use crate::context::ReconcileError;
use crate::dereference::of_cloud;
use crate::telemetry::Metrics;
use cumulet_crds::{DatArchive, PersonalCloud, PersonalCloudSpec};
use cumulet_plan::names::{CloudNames, FIELD_MANAGER, FINALIZER, MANAGED_BY_LABEL};
use cumulet_plan::resources::{Apply, Object};
use cumulet_plan::validate::Cloud;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::params::Preconditions;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long an applied object is believed to be as it was, without looking.
pub const TRUST: Duration = Duration::from_mins(5);

/// Writes to the API server, and remembers what it wrote.
pub struct Server {
    client: Client,
    metrics: Metrics,
    applied: Mutex<HashMap<String, Remembered>>,
}

#[derive(Clone)]
struct Remembered {
    wish: u64,
    version: Version,
    answer: Value,
    looked: Instant,
}

/// What tells that an object changed: its generation, or where it has none, its resource version.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version(Option<i64>, Option<String>);

impl Version {
    fn of(meta: &ObjectMeta) -> Self {
        match meta.generation {
            Some(generation) => Self(Some(generation), None),
            None => Self(None, meta.resource_version.clone()),
        }
    }
}

impl Apply for Server {
    type Error = ReconcileError;

    async fn apply<K: Object>(&self, object: &K) -> Result<K, ReconcileError> {
        let (kind, name) = (K::kind(&()), object.name_any());
        let what = format!("{kind} {name}");
        let namespace = object.namespace().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace);
        let key = format!("{kind}/{namespace}/{name}/{}", owner(object.meta()));
        let wish = hash(object);
        if let Some(known) = self.remembered(&key).filter(|known| known.wish == wish) {
            let current = self.current(&api, &known, &name, kind != "StatefulSet").await;
            if let Some(current) = current.map_err(|error| ReconcileError::server("read", &what, error))? {
                return Ok(current);
            }
        }
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let applied = api.patch(&name, &parameters, &Patch::Apply(object)).await;
        let applied = applied.map_err(|error| ReconcileError::server("apply", &what, error))?;
        self.metrics.wrote(&kind, "apply");
        tracing::debug!(kind = %kind, name, "applied");
        self.remember(key, wish, &applied);
        Ok(applied)
    }
}

impl Server {
    /// A writer that has written nothing yet.
    pub fn new(client: Client, metrics: Metrics) -> Self {
        Self {
            client,
            metrics,
            applied: Mutex::default(),
        }
    }

    fn remembered(&self, key: &str) -> Option<Remembered> {
        self.applied
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    fn remember<K: Object>(&self, key: String, wish: u64, applied: &K) {
        // Secrets are not kept in memory longer than a reconcile; nobody needs the answer.
        let answer = if K::kind(&()) == "Secret" {
            Value::Null
        } else {
            serde_json::to_value(applied).unwrap_or_default()
        };
        let remembered = Remembered {
            wish,
            version: Version::of(applied.meta()),
            answer,
            looked: Instant::now(),
        };
        self.applied
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, remembered);
    }

    /// The object as it is, if it is still as it was applied.
    async fn current<K: Object>(
        &self,
        api: &Api<K>,
        known: &Remembered,
        name: &str,
        trusted: bool,
    ) -> kube::Result<Option<K>> {
        if trusted
            && known.looked.elapsed() < TRUST
            && let Ok(object) = serde_json::from_value(known.answer.clone())
        {
            return Ok(Some(object));
        }
        let found = api.get_opt(name).await?;
        Ok(found.filter(|object| {
            Version::of(object.meta()) == known.version && object.meta().deletion_timestamp.is_none()
        }))
    }

    /// Forgets what was applied for a cloud that is gone.
    pub fn forget(&self, uid: &str) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.retain(|key, _| !key.ends_with(uid));
    }

    /// Deletes what this cloud owns and no longer wants. Only a disruption budget comes and goes; every other object
    /// is wanted as long as the cloud exists.
    pub async fn sweep(&self, cloud: &Cloud, budget_wanted: bool) -> Result<(), ReconcileError> {
        if budget_wanted {
            return Ok(());
        }
        self.sweep_kind::<PodDisruptionBudget>(&cloud.names, &cloud.owner.uid)
            .await
    }

    async fn sweep_kind<K: Object>(&self, names: &CloudNames, owner_uid: &str) -> Result<(), ReconcileError> {
        let kind = K::kind(&());
        let api: Api<K> = Api::namespaced(self.client.clone(), names.namespace());
        let found = api.list(&of_cloud(names).match_any()).await;
        let found = found.map_err(|error| ReconcileError::server("list", format!("{kind}s"), error))?;
        for orphan in found
            .items
            .iter()
            .filter(|object| owner(object.meta()) == owner_uid)
        {
            let name = orphan.name_any();
            let same = Preconditions {
                uid: orphan.uid(),
                resource_version: None,
            };
            match api
                .delete(&name, &DeleteParams::background().preconditions(same))
                .await
            {
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
                Err(error) => return Err(ReconcileError::server("delete", format!("{kind} {name}"), error)),
                Ok(_) => self.metrics.wrote(&kind, "delete"),
            }
        }
        Ok(())
    }

    /// Writes a resource's status. The uid makes sure that it is not a namesake's.
    pub async fn status<K>(&self, object: &K, status: &impl Serialize) -> Result<(), ReconcileError>
    where
        K: Object,
    {
        let name = object.name_any();
        let mut patch = identity(object);
        patch["status"] = json!(status);
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        match self
            .api(object)
            .patch_status(&name, &parameters, &Patch::Apply(patch))
            .await
        {
            Ok(_) => self.metrics.wrote(&K::kind(&()), "status"),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(ReconcileError::server("write the status of", name, error)),
        }
        Ok(())
    }

    /// Puts the finalizer on an archive, or takes it away.
    pub async fn finalizer(&self, archive: &DatArchive, wanted: bool) -> Result<(), ReconcileError> {
        let name = archive.name_any();
        let mut patch = identity(archive);
        if wanted {
            patch["metadata"]["finalizers"] = json!([FINALIZER]);
        }
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        match self
            .api(archive)
            .patch(&name, &parameters, &Patch::Apply(patch))
            .await
        {
            Ok(_) => self.metrics.wrote("DatArchive", "apply"),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(ReconcileError::server("set the finalizer of", name, error)),
        }
        Ok(())
    }

    /// Makes the cloud that is made on demand. That it is there already is fine.
    pub async fn create_cloud(
        &self,
        namespace: &str,
        name: &str,
        spec: &PersonalCloudSpec,
    ) -> Result<(), ReconcileError> {
        let mut cloud = PersonalCloud::new(name, spec.clone());
        cloud
            .labels_mut()
            .insert(MANAGED_BY_LABEL.into(), FIELD_MANAGER.into());
        let api: Api<PersonalCloud> = Api::namespaced(self.client.clone(), namespace);
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PostParams::default()
        };
        match api.create(&parameters, &cloud).await {
            Ok(_) => self.metrics.wrote("PersonalCloud", "create"),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                return Err(ReconcileError::server(
                    "create",
                    format!("PersonalCloud {name}"),
                    error,
                ));
            }
        }
        Ok(())
    }

    fn api<K: Object>(&self, object: &K) -> Api<K> {
        Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default())
    }
}

/// The object is gone, or another one has its name: then there is nothing to write. An apply to a name that is gone
/// would make a new object, which the definition's required fields refuse.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || (status.code == 409 && status.message.to_lowercase().contains("uid")))
}

fn identity<K: Resource<DynamicType = ()>>(object: &K) -> Value {
    json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": object.name_any(), "namespace": object.namespace(), "uid": object.uid()},
    })
}

fn owner(meta: &ObjectMeta) -> String {
    let owners = meta.owner_references.iter().flatten();
    owners.map(|owner| owner.uid.clone()).next().unwrap_or_default()
}

fn hash(object: &impl Serialize) -> u64 {
    let mut hasher = DefaultHasher::new();
    // serde_json's maps are sorted, so equal objects have equal text.
    serde_json::to_value(object)
        .map(|value| value.to_string())
        .unwrap_or_default()
        .hash(&mut hasher);
    hasher.finish()
}

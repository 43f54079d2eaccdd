//! Step one of every reconcile, and the only reads: what the cluster has for one cloud.

use crate::context::{Context, ReconcileError};
use cumulet_crds::DatArchive;
use cumulet_plan::names::{CLOUD_LABEL, CloudNames, FIELD_MANAGER, MANAGED_BY_LABEL};
use cumulet_plan::plan::Observed;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use std::net::IpAddr;
use std::sync::Arc;

/// Everything that the cluster has for a cloud.
pub async fn cloud(context: &Context, names: &CloudNames) -> Result<Observed, ReconcileError> {
    let (client, namespace, base) = (&context.client, names.namespace(), names.base());
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let (set, secret, claims, pods) = futures::future::join4(
        sets.get_opt(&base),
        secret_api(context, names).get_opt(&base),
        claims.list(&of_cloud(names)),
        pods(context, names),
    )
    .await;
    Ok(Observed {
        stateful_set: set.map_err(|e| ReconcileError::server("read", format!("StatefulSet {base}"), e))?,
        secret: secret.map_err(|e| ReconcileError::server("read", format!("Secret {base}"), e))?,
        claims: claims
            .map_err(|e| ReconcileError::server("list", "PersistentVolumeClaims", e))?
            .items,
        pods: pods?,
        archives: archives(context, names)
            .into_iter()
            .map(|archive| (*archive).clone())
            .collect(),
    })
}

/// The archives that name this cloud, as last seen.
pub fn archives(context: &Context, names: &CloudNames) -> Vec<Arc<DatArchive>> {
    context.archives.state_filter(|archive| {
        archive.namespace().as_deref() == Some(names.namespace()) && archive.spec.cloud_name == names.cloud()
    })
}

/// The cloud's Secret.
pub async fn secret(context: &Context, names: &CloudNames) -> Result<Option<Secret>, ReconcileError> {
    let read = secret_api(context, names).get_opt(&names.base()).await;
    read.map_err(|error| ReconcileError::server("read", format!("Secret {}", names.base()), error))
}

/// The cloud's pods, from the API server's cache: they are asked themselves right after.
pub async fn pods(context: &Context, names: &CloudNames) -> Result<Vec<Pod>, ReconcileError> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), names.namespace());
    let listed = pods.list(&of_cloud(names).match_any()).await;
    Ok(listed
        .map_err(|error| ReconcileError::server("list", "Pods", error))?
        .items)
}

/// A replica that can be talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its index.
    pub index: u8,
    /// Its pod's name.
    pub pod: String,
    /// Its container's id: another one after each restart.
    pub container: String,
    /// Its pod's address.
    pub address: IpAddr,
}

/// The replicas whose container runs, by index. Readiness is not asked for: a replica that is not ready answers, and
/// says why.
pub fn running(names: &CloudNames, pods: &[Pod]) -> Vec<Replica> {
    let running = |pod: &Pod| {
        if pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let name = pod.name_any();
        let status = pod.status.as_ref()?;
        let container = status
            .container_statuses
            .as_ref()?
            .iter()
            .find(|container| container.name == "node")?;
        container.state.as_ref()?.running.as_ref()?;
        Some(Replica {
            index: names.replica_index(&name)?,
            container: container
                .container_id
                .clone()
                .unwrap_or_else(|| pod.uid().unwrap_or_default()),
            address: status.pod_ip.as_ref()?.parse().ok()?,
            pod: name,
        })
    };
    let mut replicas: Vec<_> = pods.iter().filter_map(running).collect();
    replicas.sort_by_key(|replica| replica.index);
    replicas
}

fn secret_api(context: &Context, names: &CloudNames) -> Api<Secret> {
    Api::namespaced(context.client.clone(), names.namespace())
}

/// Objects with the labels of the cloud.
pub(crate) fn of_cloud(names: &CloudNames) -> ListParams {
    ListParams::default().labels(&format!(
        "{MANAGED_BY_LABEL}={FIELD_MANAGER},{CLOUD_LABEL}={}",
        names.cloud()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, state: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "uid": name}, "status": {"podIP": "10.1.2.3",
            "containerStatuses": [{"name": "node", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                                   "containerID": format!("containerd://{name}"), "state": state}]}}))
        .unwrap()
    }

    #[test]
    fn only_running_replicas_of_this_cloud_are_asked_and_in_order() {
        let names = CloudNames::new("ada", "ns", "cluster.local");
        let mut leaving = pod("cumulet-ada-2", &json!({"running": {}}));
        leaving.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            jiff::Timestamp::UNIX_EPOCH,
        ));
        let pods = [
            pod("cumulet-ada-1", &json!({"running": {}})),
            pod("cumulet-ada-0", &json!({"running": {}})),
            pod(
                "cumulet-ada-3",
                &json!({"waiting": {"reason": "CrashLoopBackOff"}}),
            ),
            pod("other-0", &json!({"running": {}})),
            leaving,
        ];
        let found: Vec<_> = running(&names, &pods)
            .into_iter()
            .map(|r| (r.index, r.container))
            .collect();
        let expected = [
            (0, "containerd://cumulet-ada-0".to_owned()),
            (1, "containerd://cumulet-ada-1".to_owned()),
        ];
        assert_eq!(found, expected);
    }
}

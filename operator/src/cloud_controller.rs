//! The reconcile of a `PersonalCloud`.

use crate::apply::Server;
use crate::context::{Context, ReconcileError};
use crate::dereference::{self, running};
use crate::entropy::SystemEntropy;
use crate::node_client::{NodeClient, NodeError};
use cumulet_api::NodeStatus;
use cumulet_crds::PersonalCloud;
use cumulet_plan::credentials::ApiAccess;
use cumulet_plan::names::CloudNames;
use cumulet_plan::plan::{Decision, plan};
use cumulet_plan::status::cloud::{self, Refusal, Report};
use cumulet_plan::validate::Cloud;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use std::net::IpAddr;
use std::sync::Arc;

/// Brings a cloud to what its spec says, and its status to what is true.
pub async fn reconcile(
    resource: Arc<PersonalCloud>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let previous = resource.status.clone().unwrap_or_default();
    if resource.metadata.deletion_timestamp.is_some() {
        context.server.forget(&resource.uid().unwrap_or_default());
        return Ok(Action::await_change());
    }
    let outcome = match Cloud::parse(&resource, &context.settings.cluster_domain) {
        Err(error) => Err(Refusal::Invalid(error)),
        Ok(cloud) => {
            let observed = dereference::cloud(&context, &cloud.names).await?;
            match plan(&cloud, &observed, &context.settings, &mut SystemEntropy) {
                Err(error) => Err(Refusal::Plan(error)),
                Ok(decision) => Ok((cloud, observed, decision)),
            }
        }
    };
    let status = match outcome {
        Err(refusal) => {
            tracing::warn!(cloud = %resource.name_any(), %refusal, "refused");
            cloud::refused(resource.metadata.generation, &refusal, &previous, (context.now)())
        }
        Ok((cloud, observed, Decision::Hold)) => {
            let reports = reports(&context, &cloud, observed.secret.as_ref(), &observed.pods).await;
            cloud::held(&cloud, &observed, &reports, &previous, (context.now)())
        }
        Ok((cloud, observed, Decision::Apply(prepared))) => {
            let budget_wanted = prepared.pod_disruption_budget.is_some();
            let applied = Box::pin(prepared.apply::<Server>(&context.server)).await?;
            context.server.sweep(&cloud, budget_wanted).await?;
            let secret = Some(&applied.secret);
            let reports = reports(&context, &cloud, secret, &observed.pods).await;
            cloud::applied(&cloud, &applied, &observed, &reports, &previous, (context.now)())
        }
    };
    if status != previous {
        context.server.status(&*resource, &status).await?;
        if status.ready_replicas != previous.ready_replicas {
            wake_archives(&context, &resource);
        }
    }
    Ok(Action::requeue(cloud::look_again(&status)))
}

/// What each running replica says of itself; one that knows other devices than the cloud's is told of them. Nobody is asked while there
/// is no way to trust the answer.
async fn reports(context: &Context, cloud: &Cloud, secret: Option<&Secret>, pods: &[Pod]) -> Vec<Report> {
    let Some(secret) = secret else { return Vec::new() };
    let replicas = running(&cloud.names, pods);
    let client = ApiAccess::read(&cloud.names, secret)
        .map_err(|error| error.to_string())
        .and_then(|access| NodeClient::new(access, context.api_port).map_err(|error| error.to_string()));
    let client = match client {
        Ok(client) => client,
        Err(why) => return replicas.iter().map(|_| Err(why.clone())).collect(),
    };
    join_all(replicas.iter().map(async |replica| {
        let answer = match client.status(replica.address).await {
            Ok(status) => tell_devices(&client, replica.address, cloud, status).await,
            unreachable => unreachable,
        };
        context
            .metrics
            .asked_node(if answer.is_ok() { "ok" } else { "unreachable" });
        answer.map_err(|error| format!("{}: {error}", replica.pod))
    }))
    .await
}

/// The devices are no part of the pods' template: one that is taken off loses its rights at once, and no replica restarts for it.
async fn tell_devices(
    client: &NodeClient,
    replica: IpAddr,
    cloud: &Cloud,
    status: NodeStatus,
) -> Result<NodeStatus, NodeError> {
    if let Some(devices) = cloud.devices_to_tell(&status) {
        client.set_devices(replica, &devices).await?;
    }
    Ok(status)
}

/// A replica came or went: its archives have to be asked for, or are no longer there.
fn wake_archives(context: &Context, cloud: &PersonalCloud) {
    let names = CloudNames::new(&cloud.name_any(), &cloud.namespace().unwrap_or_default(), "");
    for archive in dereference::archives(context, &names) {
        // A full queue drops the wake-up: archives look again by themselves.
        let _ = context.wake_archive.try_send(ObjectRef::from_obj(&*archive));
    }
}

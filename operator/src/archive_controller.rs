//! The reconcile of a `DatArchive`.

use crate::context::{Context, ReconcileError};
use crate::dereference::{self, Replica, running};
use crate::node_client::{NodeClient, NodeError};
use cumulet_api::ArchiveSpec;
use cumulet_crds::{ArchiveDeletionPolicy, DatArchive, DatArchiveStatus, PersonalCloud};
use cumulet_plan::credentials::ApiAccess;
use cumulet_plan::names::{CloudNames, DATA_VOLUME, FINALIZER};
use cumulet_plan::plan::{Observed, is_bound, pinned_before, wanted_by_another};
use cumulet_plan::status::Reason;
use cumulet_plan::status::archive::{self, Reply};
use cumulet_plan::validate::{Archive, Cloud, MAX_REPLICAS};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use std::sync::Arc;
use std::time::Duration;

/// The cloud that is made on demand.
pub const DEFAULT_CLOUD: &str = "default";
/// How soon to look again while something else has to happen first; most of it wakes the archive anyway.
const WAITING: Duration = Duration::from_secs(10);
/// How soon to look again at a cloud that was just made.
const JUST_MADE: Duration = Duration::from_secs(1);

/// What an archive waits for, or why it is refused.
struct Waiting {
    reason: Reason,
    message: String,
    look_again: Duration,
}

impl Waiting {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            look_again: WAITING,
        }
    }
}

/// Brings an archive to its cloud's replicas, and its status to what is true.
pub async fn reconcile(resource: Arc<DatArchive>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    if resource.metadata.deletion_timestamp.is_some() {
        return forget(&resource, &context).await;
    }
    if !resource
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
    {
        context.server.finalizer(&resource, true).await?;
    }
    let previous = resource.status.clone().unwrap_or_default();
    if previous.observed_generation != resource.metadata.generation {
        wake_cloud(&context, &resource);
    }
    let now = (context.now)();
    let (status, look_again) = match prepare(&resource, &context).await? {
        Err(waiting) => {
            let generation = resource.metadata.generation;
            let status = archive::waiting(generation, waiting.reason, &waiting.message, &previous, now);
            (status, waiting.look_again)
        }
        Ok((archive, cloud)) => {
            let replies = ask(&resource, &archive, &cloud, &context).await?;
            let status = archive::asked(&archive, &cloud, &replies, &previous, now);
            let look_again = archive::look_again(&status, archive.pin(&cloud).backup);
            (status, look_again)
        }
    };
    update_status(&resource, &context, &status, &previous).await?;
    Ok(Action::requeue(look_again))
}

async fn update_status(
    resource: &DatArchive,
    context: &Context,
    status: &DatArchiveStatus,
    previous: &DatArchiveStatus,
) -> Result<(), ReconcileError> {
    if status == previous {
        return Ok(());
    }
    context.server.status(resource, status).await?;
    if status.synced_replicas != previous.synced_replicas {
        wake_cloud(context, resource);
    }
    Ok(())
}

/// Dereferences and validates: the archive and its cloud, or what it waits for.
async fn prepare(
    resource: &DatArchive,
    context: &Context,
) -> Result<Result<(Archive, Cloud), Waiting>, ReconcileError> {
    let archive = match Archive::parse(resource) {
        Ok(archive) => archive,
        Err(error) => return Ok(Err(Waiting::new(Reason::Invalid, error.to_string()))),
    };
    let siblings: Vec<_> = context
        .archives
        .state()
        .iter()
        .map(|archive| (**archive).clone())
        .collect();
    if let Some(first) = pinned_before(resource, &siblings) {
        let message = format!(
            "the DatArchive {} pins the same key in this cloud",
            first.name_any()
        );
        return Ok(Err(Waiting::new(Reason::DuplicateKey, message)));
    }
    let Some(cloud) = find_cloud(resource, context) else {
        return missing(resource, context).await.map(Err);
    };
    match Cloud::parse(&cloud, &context.settings.cluster_domain) {
        Err(error) => {
            let message = format!("the PersonalCloud {} is not valid: {error}", cloud.name_any());
            Ok(Err(Waiting::new(Reason::Invalid, message)))
        }
        Ok(cloud) if cloud.replicas == 0 => Ok(Err(Waiting::new(
            Reason::Hibernated,
            "the cloud's spec.replicas is 0",
        ))),
        Ok(cloud) => Ok(Ok((archive, cloud))),
    }
}

fn find_cloud(archive: &DatArchive, context: &Context) -> Option<Arc<PersonalCloud>> {
    let namespace = archive.namespace().unwrap_or_default();
    let cloud = context
        .clouds
        .get(&ObjectRef::new(&archive.spec.cloud_name).within(&namespace))?;
    cloud.metadata.deletion_timestamp.is_none().then_some(cloud)
}

/// There is no such cloud: the default one is made.
async fn missing(resource: &DatArchive, context: &Context) -> Result<Waiting, ReconcileError> {
    let name = &resource.spec.cloud_name;
    if name != DEFAULT_CLOUD {
        return Ok(Waiting::new(
            Reason::CloudMissing,
            format!("there is no PersonalCloud {name} in this namespace"),
        ));
    }
    let namespace = resource.namespace().unwrap_or_default();
    context
        .server
        .create_cloud(&namespace, name, &context.default_cloud)
        .await?;
    tracing::info!(namespace, "made the default cloud");
    let waiting = Waiting::new(Reason::CloudMissing, "the default cloud is being made");
    Ok(Waiting {
        look_again: JUST_MADE,
        ..waiting
    })
}

/// Asks every wanted replica, and tells those that do not know yet what to keep.
async fn ask(
    resource: &DatArchive,
    archive: &Archive,
    cloud: &Cloud,
    context: &Context,
) -> Result<Vec<Reply>, ReconcileError> {
    let pods = dereference::pods(context, &cloud.names).await?;
    let replicas = running(&cloud.names, &pods);
    let client = match client(cloud, context).await? {
        Ok(client) => client,
        Err(why) => {
            return Ok((0..cloud.replicas)
                .map(|_| Reply::Unreachable(why.clone()))
                .collect());
        }
    };
    let uid = resource.uid().unwrap_or_default();
    let containers: Vec<_> = replicas.iter().map(|replica| replica.container.clone()).collect();
    context.pins.keep_only(&uid, &containers);
    let pin = archive.pin(cloud);
    let replies = (0..cloud.replicas).map(async |index| {
        let Some(replica) = replicas.iter().find(|replica| replica.index == index) else {
            return Reply::Unreachable(format!("{} is not running", cloud.names.pod(index)));
        };
        let wish = Wish {
            uid: &uid,
            archive,
            pin: &pin,
            hands_off: cloud.paused,
        };
        let answer = keep(&client, replica, &wish, context).await;
        reply(replica, answer, context)
    });
    Ok(join_all(replies).await)
}

struct Wish<'a> {
    uid: &'a str,
    archive: &'a Archive,
    pin: &'a ArchiveSpec,
    hands_off: bool,
}

/// Puts the pin where it differs or where the container may have forgotten it, and reads it everywhere else.
async fn keep(
    client: &NodeClient,
    replica: &Replica,
    wish: &Wish<'_>,
    context: &Context,
) -> Result<cumulet_api::ArchiveStatus, NodeError> {
    let key = wish.archive.key;
    if wish.hands_off || context.pins.has(wish.uid, &replica.container, wish.pin) {
        match client.archive(replica.address, key).await {
            Err(error) if error.is_not_found() && !wish.hands_off => {}
            other => return other,
        }
    }
    let status = client.pin(replica.address, key, wish.pin).await?;
    context.pins.accepted(wish.uid, &replica.container, wish.pin);
    Ok(status)
}

fn reply(
    replica: &Replica,
    answer: Result<cumulet_api::ArchiveStatus, NodeError>,
    context: &Context,
) -> Reply {
    let (label, reply) = match answer {
        Ok(status) => ("ok", Reply::Has(status)),
        Err(error) if error.is_refusal() => ("refused", Reply::Refused(format!("{}: {error}", replica.pod))),
        Err(error) => (
            "unreachable",
            Reply::Unreachable(format!("{}: {error}", replica.pod)),
        ),
    };
    context.metrics.asked_node(label);
    reply
}

async fn client(cloud: &Cloud, context: &Context) -> Result<Result<NodeClient, String>, ReconcileError> {
    let Some(secret) = dereference::secret(context, &cloud.names).await? else {
        return Ok(Err("the cloud is being made".into()));
    };
    let access = ApiAccess::read(&cloud.names, &secret).map_err(|error| error.to_string());
    Ok(
        access
            .and_then(|access| NodeClient::new(access, context.api_port).map_err(|error| error.to_string())),
    )
}

/// Takes the pin back from every replica, then lets the archive go.
///
/// With the cloud gone there is nobody to tell. A hibernated cloud, or a replica that is away, would come back with the
/// pin: the archive stays until they were told, and its status says what it waits for.
async fn forget(resource: &DatArchive, context: &Context) -> Result<Action, ReconcileError> {
    if !resource
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
    {
        return Ok(Action::await_change());
    }
    wake_cloud(context, resource);
    let siblings: Vec<_> = context
        .archives
        .state()
        .iter()
        .map(|archive| (**archive).clone())
        .collect();
    let cloud = find_cloud(resource, context);
    let cloud = cloud.and_then(|cloud| Cloud::parse(&cloud, &context.settings.cluster_domain).ok());
    let archive = Archive::parse(resource).ok();
    if let (Some(cloud), Some(archive), false) = (cloud, archive, wanted_by_another(resource, &siblings))
        && let Err(error) = unpin(&archive, &cloud, context).await
    {
        let previous = resource.status.clone().unwrap_or_default();
        let (generation, now) = (resource.metadata.generation, (context.now)());
        let status = archive::waiting(generation, Reason::Deleting, &error.to_string(), &previous, now);
        update_status(resource, context, &status, &previous).await?;
        return Err(error);
    }
    context.pins.keep_only(&resource.uid().unwrap_or_default(), &[]);
    context.server.finalizer(resource, false).await?;
    Ok(Action::await_change())
}

async fn unpin(archive: &Archive, cloud: &Cloud, context: &Context) -> Result<(), ReconcileError> {
    let observed = dereference::cloud(context, &cloud.names).await?;
    if cloud.replicas == 0 && (0..MAX_REPLICAS).any(|index| may_know(&observed, &cloud.names, index)) {
        let why = "the cloud hibernates, and would wake with the archive: raise its spec.replicas, or delete the cloud";
        return Err(ReconcileError::NotNow(why.into()));
    }
    let told: Vec<u8> = (0..cloud.replicas)
        .filter(|index| may_know(&observed, &cloud.names, *index))
        .collect();
    if told.is_empty() {
        return Ok(());
    }
    let client = client(cloud, context).await?.map_err(ReconcileError::NotNow)?;
    let replicas = running(&cloud.names, &observed.pods);
    let delete_data = archive.deletion_policy == ArchiveDeletionPolicy::Delete;
    for index in told {
        let pod = cloud.names.pod(index);
        let replica = replicas.iter().find(|replica| replica.index == index);
        let replica = replica.ok_or_else(|| ReconcileError::NotNow(format!("{pod} is not running")))?;
        let answer = client.unpin(replica.address, archive.key, delete_data).await;
        context
            .metrics
            .asked_node(if answer.is_ok() { "ok" } else { "unreachable" });
        answer.map_err(|source| ReconcileError::Unpin { replica: pod, source })?;
    }
    Ok(())
}

/// Whether a replica may keep the pin: it has a volume, or an address. A replica without either never ran.
fn may_know(observed: &Observed, names: &CloudNames, index: u8) -> bool {
    let pod = names.pod(index);
    let claim = format!("{DATA_VOLUME}-{pod}");
    let ran = |found: &Pod| {
        found.name_any() == pod
            && found
                .status
                .as_ref()
                .is_some_and(|status| status.pod_ip.is_some())
    };
    observed
        .claims
        .iter()
        .any(|found| found.name_any() == claim && is_bound(found))
        || observed.pods.iter().any(ran)
}

fn wake_cloud(context: &Context, archive: &DatArchive) {
    let cloud = ObjectRef::new(&archive.spec.cloud_name).within(&archive.namespace().unwrap_or_default());
    // A full queue drops the wake-up: clouds look again by themselves.
    let _ = context.wake_cloud.try_send(cloud);
}

//! Everything that a cloud becomes, before and after it was applied.
//!
//! [`Resources`] carries its state in its type. Only [`Resources::apply`] makes a [`Resources<Applied>`], from
//! what the API server returned, and status is computed from that alone.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::future::Future;
use std::marker::PhantomData;

/// The objects exist only here.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared;
/// The API server has the objects; these are its answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied;

/// Everything that a cloud becomes.
#[derive(Debug, Clone, PartialEq)]
pub struct Resources<State> {
    /// Token, certificate, keys.
    pub secret: Secret,
    /// An account without any right and without a token.
    pub service_account: ServiceAccount,
    /// Default deny, then what is needed.
    pub network_policy: NetworkPolicy,
    /// A name for each replica.
    pub headless_service: Service,
    /// One address for peers, owner and gateway.
    pub client_service: Service,
    /// Only for two replicas or more.
    pub pod_disruption_budget: Option<PodDisruptionBudget>,
    /// Claims that grow: the request alone, for existing claims.
    pub expansions: Vec<PersistentVolumeClaim>,
    /// Why claims could not be made to grow. A volume that stays small must not keep the rest from being applied.
    pub refused_expansions: Vec<String>,
    /// The replicas.
    pub stateful_set: StatefulSet,
    pub(crate) state: PhantomData<State>,
}

/// An object of one namespace that can be applied.
pub trait Object:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
{
}
impl<T> Object for T where
    T: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + Sync
{
}

/// How objects are brought to the API server.
pub trait Apply: Sync {
    /// Why one was not.
    type Error: std::fmt::Display;
    /// Brings one object, and returns it as it now is.
    fn apply<K: Object>(&self, object: &K) -> impl Future<Output = Result<K, Self::Error>> + Send;
}

impl Resources<Prepared> {
    /// Applies all, one after the other; the StatefulSet comes last, because its pods need the rest.
    pub async fn apply<A: Apply>(self, to: &A) -> Result<Resources<Applied>, A::Error> {
        let mut expansions = Vec::with_capacity(self.expansions.len());
        let mut refused_expansions = self.refused_expansions;
        let secret = to.apply(&self.secret).await?;
        let service_account = to.apply(&self.service_account).await?;
        let network_policy = to.apply(&self.network_policy).await?;
        let headless_service = to.apply(&self.headless_service).await?;
        let client_service = to.apply(&self.client_service).await?;
        let pod_disruption_budget = match &self.pod_disruption_budget {
            Some(budget) => Some(to.apply(budget).await?),
            None => None,
        };
        for claim in &self.expansions {
            match to.apply(claim).await {
                Ok(claim) => expansions.push(claim),
                Err(error) => refused_expansions.push(error.to_string()),
            }
        }
        Ok(Resources {
            secret,
            service_account,
            network_policy,
            headless_service,
            client_service,
            pod_disruption_budget,
            expansions,
            refused_expansions,
            stateful_set: to.apply(&self.stateful_set).await?,
            state: PhantomData,
        })
    }
}

//! Watches of the two custom resources: pruned, and safe against objects that cannot be read.

use futures::{Stream, StreamExt};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{Lookup, Store, store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{Predicate, WatchStreamExt, predicates};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// A stream of the objects whose wish changed, and the cache of all.
///
/// A change of status alone does not come through, or every status that the operator writes would wake it again; the
/// deletion of an object raises its generation, so it does. managedFields are dropped before the cache: they are four
/// fifths of an object. An object that this version cannot read is logged and left out; it must not stop the others.
pub fn watch<K>(client: Client) -> (impl Stream<Item = watcher::Result<K>> + Send, Store<K>)
where
    K: Resource<DynamicType = ()>
        + Lookup<DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (reader, writer) = store();
    let api: Api<DeserializeGuard<K>> = Api::all(client);
    let stream = watcher::watcher(api, watcher::Config::default())
        .filter_map(|event| futures::future::ready(event.map(readable).transpose()))
        .default_backoff()
        .modify(|object: &mut K| object.managed_fields_mut().clear())
        .reflect(writer)
        .applied_objects()
        .predicate_filter(
            predicates::generation.combine(predicates::finalizers),
            predicates_config(),
        );
    (stream, reader)
}

fn predicates_config() -> kube::runtime::PredicateConfig {
    kube::runtime::PredicateConfig::default()
}

/// The event without the guard; `None` if its object cannot be read.
fn readable<K: Resource<DynamicType = ()>>(event: Event<DeserializeGuard<K>>) -> Option<Event<K>> {
    let open = |guard: DeserializeGuard<K>| {
        guard
            .0
            .inspect_err(|invalid| {
                let name = invalid.metadata.name.clone().unwrap_or_default();
                tracing::warn!(kind = %K::kind(&()), name, error = %invalid.error, "left out an object that cannot be read");
            })
            .ok()
    };
    match event {
        Event::Apply(guard) => open(guard).map(Event::Apply),
        Event::InitApply(guard) => open(guard).map(Event::InitApply),
        Event::Delete(guard) => open(guard).map(Event::Delete),
        Event::Init => Some(Event::Init),
        Event::InitDone => Some(Event::InitDone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cumulet_crds::PersonalCloud;
    use serde_json::json;

    #[test]
    fn an_object_that_cannot_be_read_is_left_out_and_the_others_are_not() {
        let guard = |replicas: serde_json::Value| -> DeserializeGuard<PersonalCloud> {
            serde_json::from_value(
                json!({"apiVersion": "cumulet.io/v1alpha1", "kind": "PersonalCloud",
                "metadata": {"name": "a"}, "spec": {"replicas": replicas}}),
            )
            .unwrap()
        };
        assert!(readable(Event::Apply(guard(json!("two")))).is_none());
        assert!(matches!(
            readable(Event::Apply(guard(json!(2)))),
            Some(Event::Apply(_))
        ));
    }
}

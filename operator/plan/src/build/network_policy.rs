//! Default deny for the replicas, then what they need and nothing else.
//!
//! In: the swarm, over UDP and TCP, from anywhere; API and probes from the operator's pods; the gateway only if some archive is
//! public, and WebSockets only if they are served. Out: names, UDP (peers are anywhere and on any port), TCP to the
//! cloud's own replicas, and the object store.

use crate::build::{API_PORT, GATEWAY_PORT, OPS_PORT, WEBSOCKET_PORT, owned, pods_of};
use crate::names::{FIELD_MANAGER, NAME_LABEL};
use crate::settings::Settings;
use crate::validate::{Backup, Cloud, Endpoint};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::net::Ipv4Addr;

pub(crate) fn build(cloud: &Cloud, settings: &Settings, gateway_open: bool) -> NetworkPolicy {
    let mut ingress = vec![
        NetworkPolicyIngressRule {
            from: None,
            ports: Some(vec![port("UDP", cloud.swarm_port), port("TCP", cloud.swarm_port)]),
        },
        NetworkPolicyIngressRule {
            from: Some(vec![operator(settings)]),
            ports: Some(vec![port("TCP", API_PORT), port("TCP", OPS_PORT)]),
        },
    ];
    if gateway_open {
        ingress.push(NetworkPolicyIngressRule {
            from: None,
            ports: Some(vec![port("TCP", GATEWAY_PORT)]),
        });
    }
    if cloud.websocket.enabled {
        ingress.push(NetworkPolicyIngressRule {
            from: None,
            ports: Some(vec![port("TCP", WEBSOCKET_PORT)]),
        });
    }
    let any_udp = NetworkPolicyPort {
        protocol: Some("UDP".into()),
        ..NetworkPolicyPort::default()
    };
    let siblings = NetworkPolicyPeer {
        pod_selector: Some(pods_of(cloud)),
        ..NetworkPolicyPeer::default()
    };
    let mut egress = vec![
        NetworkPolicyEgressRule {
            to: None,
            ports: Some(vec![port("TCP", 53), any_udp]),
        },
        NetworkPolicyEgressRule {
            to: Some(vec![siblings]),
            ports: Some(vec![port("TCP", cloud.swarm_port)]),
        },
    ];
    egress.extend(cloud.backup.as_ref().map(|backup| object_store(cloud, backup)));
    NetworkPolicy {
        metadata: owned(cloud, cloud.names.base()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(pods_of(cloud)),
            policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
            ingress: Some(ingress),
            egress: Some(egress),
        }),
    }
}

/// A policy knows addresses and not names: a named store is allowed by its port. A Service of the cluster is
/// allowed by its namespace, because policies see the pod's address and port, and not the Service's.
fn object_store(cloud: &Cloud, backup: &Backup) -> NetworkPolicyEgressRule {
    let Some(Endpoint {
        host, port: number, ..
    }) = &backup.endpoint
    else {
        return NetworkPolicyEgressRule {
            to: None,
            ports: Some(vec![port("TCP", 443)]),
        };
    };
    if let Some(namespace) = service_namespace(cloud, host) {
        let peer = NetworkPolicyPeer {
            namespace_selector: Some(labelled("kubernetes.io/metadata.name", namespace)),
            ..NetworkPolicyPeer::default()
        };
        let any_tcp = NetworkPolicyPort {
            protocol: Some("TCP".into()),
            ..NetworkPolicyPort::default()
        };
        return NetworkPolicyEgressRule {
            to: Some(vec![peer]),
            ports: Some(vec![any_tcp]),
        };
    }
    let address = host.parse::<Ipv4Addr>().ok().map(|address| {
        vec![NetworkPolicyPeer {
            ip_block: Some(IPBlock {
                cidr: format!("{address}/32"),
                except: None,
            }),
            ..NetworkPolicyPeer::default()
        }]
    });
    NetworkPolicyEgressRule {
        to: address,
        ports: Some(vec![port("TCP", *number)]),
    }
}

/// The namespace of a Service that is named `name`, `name.namespace.svc` or with the cluster's domain behind.
fn service_namespace<'a>(cloud: &'a Cloud, host: &'a str) -> Option<&'a str> {
    let mut labels = host.split('.');
    match (labels.next(), labels.next(), labels.next()) {
        (Some(_), None, None) => Some(cloud.names.namespace()),
        (Some(_), Some(namespace), Some("svc")) => Some(namespace),
        _ => None,
    }
}

fn labelled(key: &str, value: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some([(key.to_owned(), value.to_owned())].into_iter().collect()),
        ..LabelSelector::default()
    }
}

fn operator(settings: &Settings) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        namespace_selector: Some(labelled(
            "kubernetes.io/metadata.name",
            &settings.operator_namespace,
        )),
        pod_selector: Some(labelled(NAME_LABEL, FIELD_MANAGER)),
        ip_block: None,
    }
}

fn port(protocol: &str, number: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.into()),
        port: Some(IntOrString::Int(number.into())),
        end_port: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cloud, full_cloud, parsed, settings, with_backup};

    fn ports_from_anywhere(policy: &NetworkPolicy) -> Vec<(String, Option<IntOrString>)> {
        let rules = policy.spec.as_ref().unwrap().ingress.as_ref().unwrap();
        let open = rules.iter().filter(|rule| rule.from.is_none());
        open.flat_map(|rule| rule.ports.clone().unwrap())
            .map(|p| (p.protocol.unwrap(), p.port))
            .collect()
    }

    #[test]
    fn strangers_reach_the_swarm_alone() {
        let policy = build(&full_cloud(), &settings(), false);
        assert_eq!(
            ports_from_anywhere(&policy),
            ["UDP", "TCP"].map(|protocol| (protocol.to_owned(), Some(IntOrString::Int(49737))))
        );
        assert_eq!(policy.spec.unwrap().policy_types.unwrap(), ["Ingress", "Egress"]);
    }

    #[test]
    fn a_public_archive_opens_the_gateway_and_nothing_else() {
        let policy = build(&full_cloud(), &settings(), true);
        assert_eq!(
            ports_from_anywhere(&policy)[2..],
            [("TCP".to_owned(), Some(IntOrString::Int(8080)))]
        );
    }

    #[test]
    fn websockets_are_reached_only_where_they_are_served() {
        let mut resource = cloud();
        resource.spec.network.websocket.enabled = true;
        let policy = build(&parsed(&resource), &settings(), false);
        assert_eq!(
            ports_from_anywhere(&policy)[2..],
            [("TCP".to_owned(), Some(IntOrString::Int(8090)))]
        );
    }

    #[test]
    fn only_the_operators_pods_reach_the_api() {
        let policy = build(&full_cloud(), &settings(), true);
        let rules = policy.spec.unwrap().ingress.unwrap();
        let api = IntOrString::Int(8443);
        let with_api: Vec<_> = rules
            .iter()
            .filter(|rule| rule.ports.iter().flatten().any(|p| p.port.as_ref() == Some(&api)))
            .collect();
        assert_eq!(with_api.len(), 1);
        assert_eq!(with_api[0].from.as_ref().unwrap(), &[operator(&settings())]);
    }

    #[test]
    fn replicas_of_one_cloud_reach_each_other_over_tcp_on_the_swarm_port() {
        let cloud = full_cloud();
        let spec = build(&cloud, &settings(), false).spec.unwrap();
        let to_siblings: Vec<_> = spec
            .egress
            .unwrap()
            .into_iter()
            .filter(|rule| rule.to.iter().flatten().any(|to| to.pod_selector.is_some()))
            .collect();
        assert_eq!(to_siblings.len(), 1);
        assert_eq!(to_siblings[0].ports, Some(vec![port("TCP", 49737)]));
        let to = &to_siblings[0].to.as_ref().unwrap()[0];
        assert_eq!(to.pod_selector, Some(pods_of(&cloud)));
        assert_eq!(to.namespace_selector, None, "of its own namespace");
    }

    #[test]
    fn tcp_goes_out_to_names_siblings_and_the_object_store_only() {
        let tcp = |cloud: &Cloud| -> Vec<_> {
            let mut rules = build(cloud, &settings(), false).spec.unwrap().egress.unwrap();
            rules.retain(|rule| !rule.to.iter().flatten().any(|to| to.pod_selector.is_some()));
            let ports = |rule: &NetworkPolicyEgressRule| rule.ports.clone().unwrap();
            let tcp = |rule: NetworkPolicyEgressRule| {
                let blocks: Vec<_> = rule
                    .to
                    .iter()
                    .flatten()
                    .map(|to| to.ip_block.clone().unwrap().cidr)
                    .collect();
                let tcp = ports(&rule)
                    .into_iter()
                    .filter(|p| p.protocol.as_deref() == Some("TCP"));
                tcp.map(move |p| (p.port.unwrap(), blocks.first().cloned()))
                    .collect::<Vec<_>>()
            };
            rules.into_iter().flat_map(tcp).collect()
        };
        let dns = (IntOrString::Int(53), None);
        assert_eq!(tcp(&parsed(&cloud())), std::slice::from_ref(&dns));
        assert_eq!(
            tcp(&full_cloud()),
            [dns.clone(), (IntOrString::Int(4566), Some("10.0.0.9/32".into()))]
        );
        let mut aws = cloud();
        with_backup(&mut aws).s3.endpoint = None;
        assert_eq!(tcp(&parsed(&aws)), [dns, (IntOrString::Int(443), None)]);
    }

    #[test]
    fn a_store_inside_the_cluster_is_allowed_by_its_namespace() {
        for (host, namespace) in [
            ("minio", "ns"),
            ("minio.s3.svc", "s3"),
            ("minio.s3.svc.cluster.local", "s3"),
        ] {
            let mut resource = cloud();
            with_backup(&mut resource).s3.endpoint = Some(format!("http://{host}:9000"));
            let rules = build(&parsed(&resource), &settings(), false)
                .spec
                .unwrap()
                .egress
                .unwrap();
            let selector = rules[2].to.as_ref().unwrap()[0]
                .namespace_selector
                .as_ref()
                .unwrap();
            assert_eq!(selector, &labelled("kubernetes.io/metadata.name", namespace));
            assert_eq!(
                rules[2].ports.as_ref().unwrap()[0].port,
                None,
                "the pod's port may be another one"
            );
        }
    }
}

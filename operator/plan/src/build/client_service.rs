//! One address for peers, owner and gateway.
//!
//! A peer stays with one replica: a stream belongs to it. `externalTrafficPolicy: Local` keeps the peer's own
//! address, without which holes cannot be punched.

use crate::build::{API_PORT, GATEWAY_PORT, SWARM_PORT_NAME, SWARM_TCP_PORT_NAME, WEBSOCKET_PORT, owned};
use crate::validate::Cloud;
use cumulet_crds::Expose;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub(crate) fn build(cloud: &Cloud) -> Service {
    let service_type = match cloud.expose {
        // The pods are on the node's network already.
        Expose::ClusterIP | Expose::HostNetwork => "ClusterIP",
        Expose::NodePort => "NodePort",
        Expose::LoadBalancer => "LoadBalancer",
    };
    let outside = service_type != "ClusterIP";
    Service {
        metadata: owned(cloud, cloud.names.base()),
        spec: Some(ServiceSpec {
            type_: Some(service_type.into()),
            selector: Some(cloud.names.selector()),
            session_affinity: Some("ClientIP".into()),
            external_traffic_policy: outside.then(|| "Local".into()),
            ports: Some(ports(cloud)),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn ports(cloud: &Cloud) -> Vec<ServicePort> {
    let mut ports = vec![
        port(SWARM_PORT_NAME, cloud.swarm_port, "UDP"),
        port(SWARM_TCP_PORT_NAME, cloud.swarm_port, "TCP"),
        port("api", API_PORT, "TCP"),
        port("gateway", GATEWAY_PORT, "TCP"),
    ];
    if cloud.websocket.enabled {
        ports.push(port("websocket", WEBSOCKET_PORT, "TCP"));
    }
    ports
}

fn port(name: &str, number: u16, protocol: &str) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port: number.into(),
        target_port: Some(IntOrString::String(name.into())),
        protocol: Some(protocol.into()),
        ..ServicePort::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cloud, parsed};

    fn spec(expose: Expose) -> ServiceSpec {
        let mut resource = cloud();
        resource.spec.network.expose = expose;
        build(&parsed(&resource)).spec.unwrap()
    }

    #[test]
    fn every_way_to_expose_has_its_service_type() {
        for (expose, service_type, policy) in [
            (Expose::ClusterIP, "ClusterIP", None),
            (Expose::HostNetwork, "ClusterIP", None),
            (Expose::NodePort, "NodePort", Some("Local")),
            (Expose::LoadBalancer, "LoadBalancer", Some("Local")),
        ] {
            let spec = spec(expose);
            assert_eq!(spec.type_.as_deref(), Some(service_type));
            assert_eq!(spec.external_traffic_policy.as_deref(), policy);
        }
    }

    #[test]
    fn the_swarm_is_reached_over_udp_and_tcp_and_peers_stay_with_one_replica() {
        let spec = spec(Expose::ClusterIP);
        assert_eq!(spec.session_affinity.as_deref(), Some("ClientIP"));
        let ports: Vec<_> = spec
            .ports
            .unwrap()
            .into_iter()
            .map(|p| (p.name.unwrap(), p.port, p.protocol.unwrap()))
            .collect();
        let expected = [
            ("swarm", 49737, "UDP"),
            ("swarm-tcp", 49737, "TCP"),
            ("api", 8443, "TCP"),
            ("gateway", 8080, "TCP"),
        ];
        assert_eq!(
            ports,
            expected.map(|(name, port, protocol)| (name.to_owned(), port, protocol.to_owned()))
        );
    }
}

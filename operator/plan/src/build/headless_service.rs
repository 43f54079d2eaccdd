//! A DNS name for each replica, also before it is ready: replicas find each other while they start.

use crate::build::{API_PORT, SWARM_PORT_NAME, SWARM_TCP_PORT_NAME, owned};
use crate::validate::Cloud;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

pub(crate) fn build(cloud: &Cloud) -> Service {
    let port = |name: &str, number: u16, protocol: &str| ServicePort {
        name: Some(name.into()),
        port: number.into(),
        protocol: Some(protocol.into()),
        ..ServicePort::default()
    };
    let ports = vec![
        port(SWARM_PORT_NAME, cloud.swarm_port, "UDP"),
        port(SWARM_TCP_PORT_NAME, cloud.swarm_port, "TCP"),
        port("api", API_PORT, "TCP"),
    ];
    Service {
        metadata: owned(cloud, cloud.names.headless()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(cloud.names.selector()),
            ports: Some(ports),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::full_cloud;

    #[test]
    fn replicas_that_are_not_ready_have_a_name_too() {
        let spec = build(&full_cloud()).spec.unwrap();
        assert_eq!(spec.cluster_ip.as_deref(), Some("None"));
        assert_eq!(spec.publish_not_ready_addresses, Some(true));
    }

    #[test]
    fn replicas_meet_over_udp_and_tcp_at_one_port_number() {
        let ports = build(&full_cloud()).spec.unwrap().ports.unwrap();
        let swarm = ports.iter().filter(|port| port.port == 49_737);
        let protocols: Vec<_> = swarm.map(|port| port.protocol.as_deref()).collect();
        assert_eq!(protocols, [Some("UDP"), Some("TCP")]);
    }
}

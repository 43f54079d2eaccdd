//! A DNS name for each replica, also before it is ready: replicas find each other while they start.

use crate::build::{API_PORT, SWARM_PORT_NAME, owned};
use crate::validate::Cloud;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

pub(crate) fn build(cloud: &Cloud) -> Service {
    let swarm = ServicePort {
        name: Some(SWARM_PORT_NAME.into()),
        port: cloud.swarm_port.into(),
        protocol: Some("UDP".into()),
        ..ServicePort::default()
    };
    let api = ServicePort {
        name: Some("api".into()),
        port: API_PORT.into(),
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    };
    Service {
        metadata: owned(cloud, cloud.names.headless()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(cloud.names.selector()),
            ports: Some(vec![swarm, api]),
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
}

//! The replica's one container: environment, ports, probes, and no privilege at all.
//!
//! Secrets reach it as files, never as variables, save the object store's credentials, which the AWS client
//! reads from its own two variables.

use crate::build::{
    API_PORT, GATEWAY_PORT, Inputs, OPS_PORT, SWARM_PORT_NAME, SWARM_TCP_PORT_NAME, WEBSOCKET_PORT,
};
use crate::credentials::{API_TOKEN, CONTENT_KEY, TLS_CERTIFICATE, TLS_PRIVATE_KEY};
use crate::names::DATA_VOLUME;
use crate::validate::{Backup, Cloud};
use cumulet_crds::Expose;
use data_encoding::HEXLOWER;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector, Probe,
    SecretKeySelector, SecurityContext, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The volume with the Secret's files.
pub(crate) const SECRET_VOLUME: &str = "secret";
const SECRET_DIR: &str = "/etc/cumulet/secret";
const DATA_DIR: &str = "/data";

pub(crate) fn build(inputs: &Inputs<'_>) -> Container {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    };
    Container {
        name: "node".into(),
        image: Some(inputs.settings.image.clone()),
        image_pull_policy: Some(inputs.settings.pull_policy.as_str().into()),
        env: Some(environment(inputs)),
        ports: Some(ports(inputs.cloud)),
        // Opening a big store takes time: two minutes until the first success, then the others take over.
        startup_probe: Some(Probe {
            period_seconds: Some(2),
            failure_threshold: Some(60),
            ..probe("/livez")
        }),
        liveness_probe: Some(Probe {
            period_seconds: Some(10),
            failure_threshold: Some(6),
            ..probe("/livez")
        }),
        readiness_probe: Some(Probe {
            period_seconds: Some(5),
            failure_threshold: Some(2),
            ..probe("/readyz")
        }),
        resources: Some(inputs.settings.resources.clone()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".into()]),
                add: None,
            }),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![
            mount(DATA_VOLUME, DATA_DIR, false),
            mount(SECRET_VOLUME, SECRET_DIR, true),
        ]),
        ..Container::default()
    }
}

fn ports(cloud: &Cloud) -> Vec<ContainerPort> {
    let mut ports = vec![
        port(SWARM_PORT_NAME, cloud.swarm_port, "UDP"),
        port(SWARM_TCP_PORT_NAME, cloud.swarm_port, "TCP"),
        port("api", API_PORT, "TCP"),
        port("gateway", GATEWAY_PORT, "TCP"),
        port("ops", OPS_PORT, "TCP"),
    ];
    if cloud.websocket.enabled {
        ports.push(port("websocket", WEBSOCKET_PORT, "TCP"));
    }
    ports
}

fn environment(inputs: &Inputs<'_>) -> Vec<EnvVar> {
    let cloud = inputs.cloud;
    let secret_file = |key: &str| format!("{SECRET_DIR}/{key}");
    let mut env = vec![
        value("CUMULET_DATA_DIR", DATA_DIR),
        value("CUMULET_SWARM_PORT", cloud.swarm_port.to_string()),
        value("CUMULET_API_LISTEN", format!("0.0.0.0:{API_PORT}")),
        value("CUMULET_API_TOKEN_FILE", secret_file(API_TOKEN)),
        value("CUMULET_API_TLS_CERT_FILE", secret_file(TLS_CERTIFICATE)),
        value("CUMULET_API_TLS_KEY_FILE", secret_file(TLS_PRIVATE_KEY)),
        value("CUMULET_GATEWAY_LISTEN", format!("0.0.0.0:{GATEWAY_PORT}")),
        value("CUMULET_OPS_LISTEN", format!("0.0.0.0:{OPS_PORT}")),
        value("CUMULET_DEVICE_SEEDS_DIR", SECRET_DIR),
        value("CUMULET_CONTENT_KEY_FILE", secret_file(CONTENT_KEY)),
        from("CUMULET_REPLICA_NAME", field("metadata.name")),
    ];
    if !cloud.bootstrap.is_empty() {
        env.push(value("CUMULET_BOOTSTRAP", cloud.bootstrap.join(",")));
    }
    if cloud.serve_dht {
        env.push(value("CUMULET_SERVE_DHT", "true"));
        // In a network of the cluster's own the pod's address is everybody's way to it, and there may be no other node yet
        // that could tell it so. Anywhere else the node finds out.
        if cloud.expose == Expose::ClusterIP && !cloud.bootstrap.is_empty() {
            env.push(from("CUMULET_PUBLIC_HOST", field("status.podIP")));
        }
    }
    env.extend(service_environment(cloud));
    if cloud.replicas >= 2 {
        env.push(value("CUMULET_REPLICAS_PEERS", peers(inputs)));
    }
    if let Some(backup) = &cloud.backup {
        env.extend(backup_environment(backup));
    }
    env
}

/// `<public key>@<host>:<port>` of every replica, its own included: all replicas have the same pod template.
fn peers(inputs: &Inputs<'_>) -> String {
    let Cloud {
        names,
        swarm_port,
        replicas,
        ..
    } = inputs.cloud;
    let peer = |index: u8| {
        let key = inputs.credentials.device_public_key(index)?;
        Some(format!(
            "{}@{}:{swarm_port}",
            HEXLOWER.encode(&key),
            names.replica_host(index)
        ))
    };
    (0..*replicas).filter_map(peer).collect::<Vec<_>>().join(",")
}

/// A field of the pod itself.
fn field(path: &str) -> EnvVarSource {
    EnvVarSource {
        field_ref: Some(ObjectFieldSelector {
            field_path: path.into(),
            api_version: None,
        }),
        ..EnvVarSource::default()
    }
}

/// What the replicas do for others.
fn service_environment(cloud: &Cloud) -> Vec<EnvVar> {
    let mut env = Vec::new();
    if let Some(relay) = &cloud.relay {
        env.push(value("CUMULET_RELAY", "true"));
        env.push(value("CUMULET_RELAY_OPEN", relay.open.to_string()));
        env.push(value(
            "CUMULET_RELAY_MAX_SESSIONS",
            relay.max_sessions.to_string(),
        ));
        let rate = relay.max_bytes_per_second.map(|rate| rate.to_string());
        env.extend(rate.map(|rate| value("CUMULET_RELAY_MAX_BYTES_PER_SECOND", rate)));
    }
    if cloud.websocket.enabled {
        env.push(value(
            "CUMULET_WEBSOCKET_LISTEN",
            format!("0.0.0.0:{WEBSOCKET_PORT}"),
        ));
        env.push(value("CUMULET_WEBSOCKET_OPEN", cloud.websocket.open.to_string()));
    }
    if cloud.blind_peer.enabled {
        env.push(value("CUMULET_BLIND_PEER", "true"));
        env.push(value(
            "CUMULET_BLIND_PEER_OPEN",
            cloud.blind_peer.open.to_string(),
        ));
    }
    env
}

fn backup_environment(backup: &Backup) -> Vec<EnvVar> {
    let mut env = vec![
        value("CUMULET_BACKUP_URL", &backup.url),
        value(
            "CUMULET_BACKUP_MAX_LAG",
            format!("{}ms", backup.max_lag.as_millis()),
        ),
        value("CUMULET_S3_FORCE_PATH_STYLE", backup.force_path_style.to_string()),
    ];
    env.extend(
        backup
            .endpoint
            .as_ref()
            .map(|endpoint| value("CUMULET_S3_ENDPOINT", &endpoint.url)),
    );
    env.extend(
        backup
            .region
            .as_ref()
            .map(|region| value("CUMULET_S3_REGION", region)),
    );
    if let Some(secret) = &backup.credentials_secret {
        for key in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            let selector = SecretKeySelector {
                name: secret.clone(),
                key: key.into(),
                optional: Some(false),
            };
            env.push(from(
                key,
                EnvVarSource {
                    secret_key_ref: Some(selector),
                    ..EnvVarSource::default()
                },
            ));
        }
    }
    env
}

fn value(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar {
        name: name.into(),
        value: Some(value.into()),
        value_from: None,
    }
}

fn from(name: &str, source: EnvVarSource) -> EnvVar {
    EnvVar {
        name: name.into(),
        value: None,
        value_from: Some(source),
    }
}

fn port(name: &str, number: u16, protocol: &str) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: number.into(),
        protocol: Some(protocol.into()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String("ops".into()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cloud, credentials, full_cloud, parsed, settings};
    use cumulet_crds::DeviceSpec;

    fn variables(cloud: &Cloud) -> Vec<(String, Option<String>)> {
        let inputs = Inputs {
            cloud,
            credentials: &credentials(cloud),
            settings: &settings(),
            claim_size: cloud.storage_size.quantity(),
            gateway_open: false,
            growing: &[],
        };
        build(&inputs)
            .env
            .unwrap()
            .into_iter()
            .map(|env| (env.name, env.value))
            .collect()
    }

    fn get<'a>(variables: &'a [(String, Option<String>)], name: &str) -> Option<&'a str> {
        variables
            .iter()
            .find(|(found, _)| found == name)
            .and_then(|(_, value)| value.as_deref())
    }

    #[test]
    fn a_backup_is_told_with_its_store_and_its_lag() {
        let variables = variables(&full_cloud());
        assert_eq!(get(&variables, "CUMULET_BACKUP_URL"), Some("s3://bucket/ns/ada"));
        assert_eq!(
            get(&variables, "CUMULET_S3_ENDPOINT"),
            Some("http://10.0.0.9:4566")
        );
        assert_eq!(get(&variables, "CUMULET_S3_REGION"), Some("eu-1"));
        assert_eq!(get(&variables, "CUMULET_S3_FORCE_PATH_STYLE"), Some("true"));
        assert_eq!(get(&variables, "CUMULET_BACKUP_MAX_LAG"), Some("5000ms"));
        assert!(
            variables
                .iter()
                .any(|(name, value)| name == "AWS_SECRET_ACCESS_KEY" && value.is_none())
        );
    }

    #[test]
    fn services_are_told_with_their_members_and_limits_and_otherwise_not_at_all() {
        let mut resource = cloud();
        let public_key = "AB".repeat(32);
        resource.spec.devices = vec![DeviceSpec {
            name: "phone".into(),
            public_key: public_key.clone(),
        }];
        let without = variables(&parsed(&resource));
        for service in [
            "CUMULET_RELAY",
            "CUMULET_WEBSOCKET",
            "CUMULET_BLIND",
            "CUMULET_MEMBER",
        ] {
            assert!(
                without.iter().all(|(name, _)| !name.starts_with(service)),
                "{service}"
            );
        }
        resource.spec.network.relay.enabled = true;
        resource.spec.network.relay.max_bytes_per_second = Some("10Mi".into());
        resource.spec.network.serve_dht = true;
        resource.spec.network.websocket.enabled = true;
        resource.spec.network.blind_peer.enabled = true;
        let with = variables(&parsed(&resource));
        assert_eq!(get(&with, "CUMULET_RELAY"), Some("true"));
        assert_eq!(get(&with, "CUMULET_RELAY_OPEN"), Some("false"));
        assert!(
            with.iter()
                .flat_map(|(_, value)| value)
                .all(|value| !value.to_lowercase().contains(&public_key.to_lowercase())),
            "no pod restarts for a device"
        );
        assert_eq!(get(&with, "CUMULET_RELAY_MAX_BYTES_PER_SECOND"), Some("10485760"));
        assert_eq!(get(&with, "CUMULET_RELAY_MAX_SESSIONS"), Some("64"));
        assert_eq!(get(&with, "CUMULET_SERVE_DHT"), Some("true"));
        assert_eq!(get(&with, "CUMULET_WEBSOCKET_LISTEN"), Some("0.0.0.0:8090"));
        assert_eq!(get(&with, "CUMULET_BLIND_PEER_OPEN"), Some("false"));
    }

    #[test]
    fn without_a_backup_no_store_is_told() {
        let variables = variables(&parsed(&cloud()));
        assert!(
            variables
                .iter()
                .all(|(name, _)| !name.contains("S3") && !name.contains("BACKUP") && !name.contains("AWS"))
        );
        assert!(
            get(&variables, "CUMULET_BOOTSTRAP").is_none(),
            "absent means the public DHT"
        );
    }

    #[test]
    fn replicas_know_each_others_key_and_address() {
        let cloud = full_cloud();
        let variables = variables(&cloud);
        let peers: Vec<_> = get(&variables, "CUMULET_REPLICAS_PEERS")
            .unwrap()
            .split(',')
            .collect();
        assert_eq!(peers.len(), 2);
        let key = HEXLOWER.encode(&credentials(&cloud).device_public_key(1).unwrap());
        assert_eq!(
            peers[1],
            format!("{key}@cumulet-ada-1.cumulet-ada-peers.ns.svc.cluster.local:49737")
        );
    }

    #[test]
    fn a_single_replica_has_no_siblings() {
        let mut resource = cloud();
        resource.spec.replicas = 1;
        assert_eq!(
            get(&variables(&parsed(&resource)), "CUMULET_REPLICAS_PEERS"),
            None
        );
    }

    #[test]
    fn no_secret_of_the_cloud_is_in_a_variable() {
        let cloud = full_cloud();
        let secrets = credentials(&cloud).data();
        for (name, value) in variables(&cloud) {
            let value = value.unwrap_or_default();
            for secret in secrets.values() {
                assert!(!value.contains(&HEXLOWER.encode(&secret.0)), "{name}");
                assert!(
                    !std::str::from_utf8(&secret.0).is_ok_and(|secret| value.contains(secret)),
                    "{name}"
                );
            }
        }
    }
}

//! What every cluster is expected to have and a bare one lacks: DNS for pods, and a default StorageClass.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::Kubectl;
use super::layout::DNS_SERVICE_IP;
use crate::image::{self, Entry, ImageSpec, Reference};
use crate::tools::go;

const DNS_IMAGE: &str = "cumulet.local/coredns:1.14.7";
const DNS_READY_WITHIN: Duration = Duration::from_secs(120);

/// CoreDNS as an image: its tar and reference.
pub fn dns_image() -> Result<(PathBuf, Reference)> {
    let spec = ImageSpec {
        reference: Reference::parse(DNS_IMAGE)?,
        architecture: image::Architecture::host()?,
        entrypoint: vec!["/coredns".into()],
        user: None,
        environment: Vec::new(),
        entries: vec![Entry::executable("coredns", go::COREDNS.executable()?)],
    };
    let tar = image::write_cached(&spec)?;
    Ok((tar, spec.reference))
}

/// Applies the objects and waits until names resolve.
pub fn apply(kubectl: &Kubectl) -> Result<()> {
    kubectl.apply(&manifests())?;
    kubectl.wait_for("cluster DNS", DNS_READY_WITHIN, &["deployment", "coredns", "-n", "kube-system"], |deployment| {
        (deployment["status"]["readyReplicas"].as_u64() >= Some(1)).then_some(())
    })
}

fn manifests() -> String {
    format!(
        r#"apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: local
  annotations: {{storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/host-path
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: coredns, namespace: kube-system}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: coredns}}
rules:
- apiGroups: [""]
  resources: [services, namespaces, pods, endpoints]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: coredns}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: coredns}}
subjects: [{{kind: ServiceAccount, name: coredns, namespace: kube-system}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: coredns, namespace: kube-system}}
data:
  Corefile: |
    .:53 {{
      errors
      ready
      kubernetes cluster.local in-addr.arpa {{
        pods insecure
        ttl 2
      }}
      cache 2
    }}
---
apiVersion: v1
kind: Service
metadata:
  name: kube-dns
  namespace: kube-system
  labels: {{k8s-app: kube-dns}}
spec:
  clusterIP: {DNS_SERVICE_IP}
  selector: {{k8s-app: kube-dns}}
  ports:
  - {{name: dns, port: 53, protocol: UDP}}
  - {{name: dns-tcp, port: 53, protocol: TCP}}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: coredns
  namespace: kube-system
  labels: {{k8s-app: kube-dns}}
spec:
  selector: {{matchLabels: {{k8s-app: kube-dns}}}}
  template:
    metadata: {{labels: {{k8s-app: kube-dns}}}}
    spec:
      serviceAccountName: coredns
      containers:
      - name: coredns
        image: {DNS_IMAGE}
        imagePullPolicy: Never
        args: [-conf, /etc/coredns/Corefile]
        readinessProbe: {{httpGet: {{path: /ready, port: 8181}}, periodSeconds: 1}}
        resources: {{requests: {{cpu: 10m, memory: 32Mi}}, limits: {{memory: 170Mi}}}}
        volumeMounts: [{{name: config, mountPath: /etc/coredns}}]
      volumes: [{{name: config, configMap: {{name: coredns}}}}]
"#
    )
}

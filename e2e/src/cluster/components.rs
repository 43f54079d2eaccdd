//! The processes of the node: stock programs and their arguments.

use super::layout::{API_PORT, Layout, NODE_IP, NODE_NAME, SERVICE_CIDR};

/// A process that `init` starts and restarts.
#[derive(Debug, Clone)]
pub(super) struct Component {
    /// Name of the executable in the cluster's `bin` folder, and of its log.
    pub program: &'static str,
    /// Arguments.
    pub arguments: Vec<String>,
}

/// What has to run before the API server answers.
pub(super) fn first(layout: &Layout) -> Vec<Component> {
    vec![containerd(layout), etcd(layout), api_server(layout)]
}

/// What needs the API server.
pub(super) fn second(layout: &Layout) -> Vec<Component> {
    vec![
        controller_manager(layout),
        scheduler(layout),
        kubelet(layout),
        kube_proxy(layout),
        network_policies(layout),
    ]
}

fn containerd(layout: &Layout) -> Component {
    Component {
        program: "containerd",
        arguments: vec!["-c".into(), layout.text("containerd.toml")],
    }
}

fn etcd(layout: &Layout) -> Component {
    let client = "http://127.0.0.1:2379";
    let peer = "http://127.0.0.1:2380";
    let arguments = vec![
        format!("--data-dir={}", layout.text("etcd")),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        // The cluster is for trying things: its state need not survive a power cut, and fsync is most of its wait.
        "--unsafe-no-fsync".into(),
    ];
    Component {
        program: "etcd",
        arguments,
    }
}

fn api_server(layout: &Layout) -> Component {
    let pki = |name: &str| layout.text(&format!("pki/{name}"));
    let arguments = vec![
        "--etcd-servers=http://127.0.0.1:2379".into(),
        format!("--advertise-address={NODE_IP}"),
        format!("--secure-port={API_PORT}"),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged=true".into(),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
        format!("--kubelet-client-certificate={}", pki("apiserver-kubelet.crt")),
        format!("--kubelet-client-key={}", pki("apiserver-kubelet.key")),
        format!("--kubelet-certificate-authority={}", pki("ca.crt")),
        "--kubelet-preferred-address-types=InternalIP".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-account-key-file={}", pki("service-accounts.pub")),
        format!(
            "--service-account-signing-key-file={}",
            pki("service-accounts.key")
        ),
        format!("--requestheader-client-ca-file={}", pki("ca.crt")),
        "--requestheader-allowed-names=front-proxy".into(),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        format!("--proxy-client-cert-file={}", pki("front-proxy.crt")),
        format!("--proxy-client-key-file={}", pki("front-proxy.key")),
    ];
    Component {
        program: "kube-apiserver",
        arguments,
    }
}

fn controller_manager(layout: &Layout) -> Component {
    let mut arguments = identity(layout, "controller-manager");
    arguments.extend([
        "--use-service-account-credentials".into(),
        format!(
            "--service-account-private-key-file={}",
            layout.text("pki/service-accounts.key")
        ),
        format!("--root-ca-file={}", layout.text("pki/ca.crt")),
        format!("--cluster-signing-cert-file={}", layout.text("pki/ca.crt")),
        format!("--cluster-signing-key-file={}", layout.text("pki/ca.key")),
        format!("--flex-volume-plugin-dir={}", layout.text("plugins")),
        "--leader-elect=false".into(),
        "--enable-hostpath-provisioner".into(),
    ]);
    Component {
        program: "kube-controller-manager",
        arguments,
    }
}

fn scheduler(layout: &Layout) -> Component {
    let mut arguments = identity(layout, "scheduler");
    arguments.push("--leader-elect=false".into());
    Component {
        program: "kube-scheduler",
        arguments,
    }
}

fn identity(layout: &Layout, client: &str) -> Vec<String> {
    let file = layout.text(&format!("pki/{client}.conf"));
    [
        "kubeconfig",
        "authentication-kubeconfig",
        "authorization-kubeconfig",
    ]
    .map(|flag| format!("--{flag}={file}"))
    .to_vec()
}

fn kubelet(layout: &Layout) -> Component {
    let arguments = vec![
        format!("--config={}", layout.text("kubelet.yaml")),
        format!("--kubeconfig={}", layout.text("pki/kubelet.conf")),
        format!("--root-dir={}", layout.text("kubelet")),
        format!("--hostname-override={NODE_NAME}"),
        format!("--node-ip={NODE_IP}"),
    ];
    Component {
        program: "kubelet",
        arguments,
    }
}

fn kube_proxy(layout: &Layout) -> Component {
    Component {
        program: "kube-proxy",
        arguments: vec![format!("--config={}", layout.text("kube-proxy.yaml"))],
    }
}

fn network_policies(layout: &Layout) -> Component {
    let arguments = vec![
        format!("--kubeconfig={}", layout.text("pki/admin.conf")),
        format!("--hostname-override={NODE_NAME}"),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
    ];
    Component {
        program: "network-policy",
        arguments,
    }
}

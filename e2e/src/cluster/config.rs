//! Configuration files of containerd, the kubelet, kube-proxy and the pod network.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::layout::{DNS_SERVICE_IP, Layout, NODE_NAME, POD_CIDR};

/// Image of the container that holds a pod's namespaces.
pub(super) const SANDBOX_IMAGE: &str = "cumulet.local/pause:1";

/// Where containerd listens, inside and outside the cluster's namespaces alike.
pub(super) const CONTAINERD_SOCKET: &str = "run/containerd/containerd.sock";

/// Writes every file. `packages` is the root of the unpacked Debian packages.
pub(super) fn write(layout: &Layout, packages: &Path) -> Result<()> {
    let put = |name: &str, text: String| {
        let path = layout.at(name);
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))
    };
    put("containerd.toml", containerd(layout, packages))?;
    put("cni/net.d/10-pods.conflist", pod_network(layout).to_string())?;
    put("kubelet.yaml", kubelet(layout).to_string())?;
    put("kube-proxy.yaml", kube_proxy(layout).to_string())?;
    // Pods use the cluster's DNS only; there is no way out of the cluster's network anyway.
    put("resolv.conf", format!("nameserver {DNS_SERVICE_IP}\n"))
}

fn containerd(layout: &Layout, packages: &Path) -> String {
    // restrict_oom_score_adj: without CAP_SYS_RESOURCE a score can't be lowered, and pods would not start.
    format!(
        r#"version = 2
root = "{root}"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{SANDBOX_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{networks}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = "{runc}"
"#,
        root = layout.text("containerd"),
        plugins = packages.join("usr/lib/cni").display(),
        networks = layout.text("cni/net.d"),
        runc = layout.text("bin/runc"),
    )
}

fn pod_network(layout: &Layout) -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": layout.text("cni/data"),
                    "ranges": [[{"subnet": POD_CIDR}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn kubelet(layout: &Layout) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": layout.text("pki/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": layout.text("pki/kubelet.crt"),
        "tlsPrivateKeyFile": layout.text("pki/kubelet.key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": layout.cgroup_root(),
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDNS": [DNS_SERVICE_IP],
        "clusterDomain": "cluster.local",
        "resolvConf": layout.text("resolv.conf"),
        "volumePluginDir": layout.text("plugins"),
        "podLogsDir": "/var/log/pods",
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        // Images come from local files: one that was collected could not be pulled again.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
    })
}

fn kube_proxy(layout: &Layout) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": layout.text("pki/kube-proxy.conf")},
        "mode": "iptables",
        "clusterCIDR": POD_CIDR,
        "hostnameOverride": NODE_NAME,
        // These are machine-wide settings, which are not the cluster's to change.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
}

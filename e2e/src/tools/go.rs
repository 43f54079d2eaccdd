//! Stock Kubernetes, Helm and CoreDNS, and kube-router's controller of network policies, built from published Go modules.
//!
//! `e2e/cluster/go` pins them in one module, so that what they share is compiled once. Building takes minutes, so each
//! result is cached under a key of the lock file, the sources and the flags. The Go toolchain is a tool of the tests; the
//! product itself does not need it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Key;
use crate::{process, tools};

/// A program built from the Go module of this repository.
#[derive(Debug, Clone, Copy)]
pub struct GoTool {
    /// Name of the executable.
    pub name: &'static str,
    /// Package to build, as `go build` takes it.
    package: &'static str,
    /// Value of `-ldflags`.
    link_flags: &'static str,
    /// Our own source files of the package.
    sources: &'static [&'static str],
}

/// API server, controller manager, scheduler, kubelet, proxy, kubectl and the controller of network policies in one
/// executable.
pub const KUBEALL: GoTool = GoTool {
    name: "kubeall",
    package: "./kubeall",
    link_flags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.34.2 \
                 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34",
    sources: &["kubeall/main.go", "kubeall/network_policy.go"],
};

/// The package manager the chart is for.
pub const HELM: GoTool = GoTool {
    name: "helm",
    package: "helm.sh/helm/v4/cmd/helm",
    // As in its own builds: the Kubernetes that charts are rendered for when there is no cluster, and checked against.
    link_flags: "-s -w -X helm.sh/helm/v4/pkg/chart/common.k8sVersionMajor=1 \
                 -X helm.sh/helm/v4/pkg/chart/common.k8sVersionMinor=34 \
                 -X helm.sh/helm/v4/pkg/chart/v2/lint/rules.k8sVersionMajor=1 \
                 -X helm.sh/helm/v4/pkg/chart/v2/lint/rules.k8sVersionMinor=34",
    sources: &[],
};

/// The cluster's DNS server.
pub const COREDNS: GoTool = GoTool {
    name: "coredns",
    package: "./coredns",
    link_flags: "-s -w",
    sources: &["coredns/main.go"],
};

impl GoTool {
    fn key(&self) -> Result<Key> {
        let folder = module_folder();
        let mut key = Key::new(self.name)
            .with_file(&folder.join("go.mod"))?
            .with_file(&folder.join("go.sum"))?
            .with(self.package)
            .with(self.link_flags);
        for source in self.sources {
            key = key.with_file(&folder.join(source))?;
        }
        Ok(key)
    }

    /// Whether the executable is already there.
    pub fn is_built(&self) -> Result<bool> {
        Ok(self.key()?.folder()?.is_dir())
    }

    /// The executable's path, built first when it isn't cached.
    pub fn executable(&self) -> Result<PathBuf> {
        let folder = self.key()?.get_or_build(|folder| {
            let Some(go) = process::find("go") else {
                bail!(
                    "the Go toolchain is missing, and {} is built with it; hint: install Go 1.25 or newer",
                    self.name
                );
            };
            let executable = folder.join(self.name);
            process::run_logged(
                // Compiling Kubernetes beside other work: let the other work go first.
                Command::new("nice")
                    .arg(go)
                    .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly"])
                    .arg(format!("-ldflags={}", self.link_flags))
                    .arg("-o")
                    .arg(&executable)
                    .arg(self.package)
                    .env("CGO_ENABLED", "0")
                    .env("GOFLAGS", "")
                    .env("GOWORK", "off")
                    .current_dir(module_folder()),
                &folder.join("build.log"),
            )
            .with_context(|| format!("failed to build {}", self.name))
        })?;
        Ok(folder.join(self.name))
    }
}

fn module_folder() -> PathBuf {
    tools::repository().join("e2e/cluster/go")
}

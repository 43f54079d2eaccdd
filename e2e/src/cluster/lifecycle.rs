//! Up and down.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use super::layout::{API_PORT, Layout, NODE_IP, NODE_NAME, PROVISIONER_DIR};
use super::{Cluster, Process, Record, addons, cgroups, config, init, leftovers, pki};
use crate::image::Reference;
use crate::progress::Progress;
use crate::tools::{debian, go};
use crate::{image, poll, process};

/// API server and controllers on two cores that also compile something.
const STARTED_WITHIN: Duration = Duration::from_mins(4);
const NODE_READY_WITHIN: Duration = Duration::from_mins(2);
/// Where people expect a local API server; another is taken when it is in use.
const PREFERRED_API_PORT: u16 = 16443;

/// The subcommands of the running executable that `up` starts again as other processes.
#[derive(Debug, Clone)]
pub struct Reexec {
    /// Arguments before `--name NAME --dir DIR` that run [`init::run`].
    pub init: Vec<String>,
    /// Arguments before `--namespace PATH --port PORT --target ADDRESS` that run a forward.
    pub forward: Vec<String>,
}

impl Cluster {
    /// Whether this process has the rights that [`Self::up`] needs.
    pub fn may_run(&self) -> bool {
        nix::unistd::geteuid().is_root()
    }

    /// Brings the cluster up, unless it is up, and waits until its node is ready and its DNS runs.
    pub fn up(&self, reexec: &Reexec, progress: &Progress) -> Result<()> {
        if !self.may_run() {
            bail!("a local cluster needs root; hint: use sudo, or an existing cluster with --context");
        }
        let layout = &self.layout;
        fs::create_dir_all(layout.dir())
            .with_context(|| format!("failed to create {}", layout.dir().display()))?;
        let _lock = lock(layout)?;
        let mut record = Record::load(layout.dir())?.unwrap_or_default();
        if record.is_running() && layout.at(init::STARTED).exists() {
            progress.say(format_args!("cluster {} is up already", layout.name()));
        } else {
            self.stop(&record)?;
            record = Record {
                name: layout.name().into(),
                api_port: record.api_port,
                ..Record::default()
            };
            let packages = progress.step("Debian packages", || debian::NODE.root())?;
            let kubeall = progress.step(go::KUBEALL.name, || go::KUBEALL.executable())?;
            progress.step(go::COREDNS.name, || go::COREDNS.executable())?;
            prepare(layout, &packages, &kubeall)?;
            progress.step("node", || start(layout, reexec, &mut record))?;
        }
        self.open_api(reexec, &mut record)?;
        for (tar, name) in [image::sandbox(), image::busybox(), addons::dns_image()].map(split) {
            progress.step(format_args!("image {name}"), || self.import_image(&tar?))?;
        }
        progress.step("node ready", || self.wait_ready())?;
        progress.step("cluster DNS", || addons::apply(&self.kubectl()))
    }

    /// Starts a forward that outlives this process and ends with the cluster; returns its address on 127.0.0.1.
    ///
    /// A forward of the same name is replaced.
    pub fn lasting_forward(
        &self,
        reexec: &Reexec,
        name: &str,
        preferred_port: u16,
        target: SocketAddr,
    ) -> Result<SocketAddr> {
        let _lock = wait_lock(&self.layout)?;
        let mut record = Record::load(self.layout.dir())?.context("the cluster has no record")?;
        for old in record.others.extract_if(.., |other| other.name == name) {
            old.kill()?;
        }
        let port = free_port(preferred_port)?;
        record.others.push(start_forward(
            &self.layout,
            reexec,
            name,
            (port, target),
            &self.network()?,
        )?);
        record.save(&self.layout)?;
        Ok(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)))
    }

    /// Remembers a process started for the cluster, so that [`Cluster::down`] ends it.
    pub fn adopt(&self, process: Process) -> Result<()> {
        let _lock = wait_lock(&self.layout)?;
        let mut record = Record::load(self.layout.dir())?.context("the cluster has no record")?;
        record.others.retain(Process::is_alive);
        record.others.push(process);
        record.save(&self.layout)
    }

    /// Whether a process of this name was adopted and runs.
    pub fn has_adopted(&self, name: &str) -> Result<bool> {
        let record = Record::load(self.layout.dir())?.unwrap_or_default();
        Ok(record
            .others
            .iter()
            .any(|other| other.name == name && other.is_alive()))
    }

    /// Stops everything and removes the cluster's folder, or with `keep_state` leaves the folder for the next `up`.
    ///
    /// # Errors
    /// Something is left on the machine; the message lists it.
    pub fn down(&self, keep_state: bool) -> Result<()> {
        let layout = &self.layout;
        let network = self
            .network()
            .ok()
            .and_then(|path| fs::metadata(path).ok())
            .map(|file| file.ino());
        if layout.dir().exists() {
            let _lock = lock(layout)?;
            let record = Record::load(layout.dir())?.unwrap_or_default();
            self.stop(&record)?;
            if keep_state {
                Record {
                    init: None,
                    launcher: None,
                    others: Vec::new(),
                    ..record
                }
                .save(layout)?;
            } else {
                fs::remove_dir_all(layout.dir())
                    .with_context(|| format!("failed to remove {}", layout.dir().display()))?;
            }
        }
        if !leftovers::provisioner_path_in_use() {
            // Absent, or used by someone else's provisioner: both are fine.
            let _ = fs::remove_dir(PROVISIONER_DIR);
        }
        let left = leftovers::find(layout, network)?;
        if !left.is_empty() {
            bail!(
                "the cluster {} left this behind:\n{}",
                layout.name(),
                left.join("\n")
            );
        }
        Ok(())
    }

    fn stop(&self, record: &Record) -> Result<()> {
        for process in record.others.iter().chain(&record.init).chain(&record.launcher) {
            process.kill()?;
        }
        cgroups::remove(&self.layout)?;
        match fs::remove_file(self.layout.at(init::STARTED)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("failed to clear the cluster's started mark")
            }
            _ => Ok(()),
        }
    }

    /// Makes the API server reachable on 127.0.0.1 and writes the kubeconfig that says where.
    fn open_api(&self, reexec: &Reexec, record: &mut Record) -> Result<()> {
        let name = "api";
        if !record
            .others
            .iter()
            .any(|other| other.name == name && other.is_alive())
        {
            record.api_port = free_port(if record.api_port == 0 {
                PREFERRED_API_PORT
            } else {
                record.api_port
            })?;
            let target = SocketAddr::V4(SocketAddrV4::new(NODE_IP, API_PORT));
            let forward = start_forward(
                &self.layout,
                reexec,
                name,
                (record.api_port, target),
                &self.network()?,
            )?;
            record.others.push(forward);
            record.save(&self.layout)?;
        }
        let text = pki::kubeconfig(
            &self.layout,
            "admin",
            &format!("https://127.0.0.1:{}", record.api_port),
        )?;
        let path = self.kubeconfig();
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .with_context(|| format!("failed to protect {}", path.display()))
    }

    fn wait_ready(&self) -> Result<()> {
        let kubectl = self.kubectl();
        poll::until("the node becoming ready", NODE_READY_WITHIN, || {
            kubectl.run(["-n", "default", "get", "serviceaccount", "default"])?;
            let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
            let status = kubectl.run(["get", "node", NODE_NAME, "-o", ready])?;
            Ok((status == "True").then_some(()))
        })
    }
}

fn split(built: Result<(PathBuf, Reference)>) -> (Result<PathBuf>, String) {
    match built {
        Ok((tar, reference)) => (Ok(tar), reference.to_string()),
        Err(error) => (Err(error), "of the cluster".into()),
    }
}

/// One command at a time changes a cluster.
fn lock(layout: &Layout) -> Result<Flock<File>> {
    take_lock(layout, FlockArg::LockExclusiveNonblock).with_context(|| {
        format!(
            "another command is changing this cluster ({} is locked)",
            layout.text("lock")
        )
    })
}

/// For changes to the record alone, which are over in a moment.
fn wait_lock(layout: &Layout) -> Result<Flock<File>> {
    take_lock(layout, FlockArg::LockExclusive).context("failed to lock the cluster's record")
}

fn take_lock(layout: &Layout, how: FlockArg) -> Result<Flock<File>> {
    let path = layout.at("lock");
    let file = File::create(&path).with_context(|| format!("failed to create {}", path.display()))?;
    Flock::lock(file, how).map_err(|(_, errno)| errno.into())
}

fn prepare(layout: &Layout, packages: &Path, kubeall: &Path) -> Result<()> {
    for folder in Layout::FOLDERS {
        fs::create_dir_all(layout.at(folder)).with_context(|| format!("failed to create {folder}"))?;
    }
    fs::create_dir_all(PROVISIONER_DIR).context("failed to create the provisioner's folder")?;
    link(packages, &layout.at("packages"))?;
    let find = |name: &str| {
        let places = ["usr/bin", "usr/sbin", "bin", "sbin"].map(|folder| packages.join(folder).join(name));
        places
            .into_iter()
            .find(|path| path.is_file())
            .with_context(|| format!("the Debian packages lack {name}"))
    };
    for name in [
        "containerd",
        "containerd-shim-runc-v2",
        "ctr",
        "etcd",
        "runc",
        "conntrack",
        "ipset",
        "ip",
    ] {
        link(&find(name)?, &layout.at("bin").join(name))?;
    }
    let tables = find("xtables-nft-multi")?;
    for family in ["iptables", "ip6tables"] {
        for command in ["", "-save", "-restore"] {
            link(&tables, &layout.at("bin").join(format!("{family}{command}")))?;
        }
    }
    for name in [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
        "kubectl",
        "network-policy",
    ] {
        link(kubeall, &layout.at("bin").join(name))?;
    }
    pki::ensure(layout)?;
    config::write(layout, packages)
}

fn link(target: &Path, at: &Path) -> Result<()> {
    let _ = fs::remove_file(at);
    symlink(target, at).with_context(|| format!("failed to link {}", at.display()))
}

fn start(layout: &Layout, reexec: &Reexec, record: &mut Record) -> Result<()> {
    let log_path = layout.at("log/init.log");
    let log = File::create(&log_path).with_context(|| format!("failed to create {}", log_path.display()))?;
    // A session of its own: the cluster outlives the terminal that started it.
    let mut child = Command::new("setsid")
        .args([
            "unshare",
            "--mount",
            "--net",
            "--pid",
            "--uts",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ])
        .arg(own_executable(layout)?)
        .args(&reexec.init)
        .args(["--name", layout.name(), "--dir"])
        .arg(layout.dir())
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("failed to duplicate a log handle")?)
        .stderr(log)
        .spawn()
        .context("failed to start unshare and setsid, which are in the package util-linux")?;
    let launcher = i32::try_from(child.id()).context("a process id is out of range")?;
    record.launcher = Some(Process::of("launcher", launcher)?);
    record.save(layout)?;
    let init = poll::until("the namespaces", Duration::from_secs(10), || {
        let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children"))?;
        Ok(children
            .split_whitespace()
            .next()
            .and_then(|pid| pid.parse().ok()))
    })
    .with_context(|| process::tail(&log_path))?;
    record.init = Some(Process::of("init", init)?);
    record.save(layout)?;
    poll::until("the start of the components", STARTED_WITHIN, || {
        if let Some(status) = child
            .try_wait()
            .context("failed to look at the cluster's process")?
        {
            return Ok(Some(Err(anyhow::anyhow!("the node ended with {status}"))));
        }
        Ok(layout.at(init::STARTED).exists().then_some(Ok(())))
    })
    .and_then(|outcome| outcome)
    .with_context(|| {
        format!(
            "failed to start the node; logs are in {}\n{}",
            layout.text("log"),
            process::tail(&log_path)
        )
    })
}

fn start_forward(
    layout: &Layout,
    reexec: &Reexec,
    name: &str,
    (port, target): (u16, SocketAddr),
    namespace: &Path,
) -> Result<Process> {
    let log_path = layout.at("log").join(format!("forward-{name}.log"));
    let log = File::create(&log_path).with_context(|| format!("failed to create {}", log_path.display()))?;
    let mut child = Command::new("setsid")
        .arg(own_executable(layout)?)
        .args(&reexec.forward)
        .arg("--namespace")
        .arg(namespace)
        .args(["--port", &port.to_string(), "--target", &target.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("failed to start a forward")?;
    let pid = i32::try_from(child.id()).context("a process id is out of range")?;
    poll::until("the forward's port opening", Duration::from_secs(10), || {
        if let Some(status) = child.try_wait().context("failed to look at the forward")? {
            return Ok(Some(Err(anyhow::anyhow!(
                "the forward ended with {status}\n{}",
                process::tail(&log_path)
            ))));
        }
        Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .is_err()
            .then_some(Ok(())))
    })
    .and_then(|outcome| outcome)?;
    Process::of(name, pid)
}

/// A copy of the running executable in the cluster's folder. The file that this process was started from may have been built anew
/// since; the kernel still has it, but not under a path that another process id namespace sees.
fn own_executable(layout: &Layout) -> Result<PathBuf> {
    let path = layout.at("bin/again");
    let unfinished = layout.at("bin/again.new");
    fs::copy("/proc/self/exe", &unfinished)
        .and_then(|_| fs::rename(&unfinished, &path))
        .with_context(|| format!("failed to copy this executable to {}", path.display()))?;
    Ok(path)
}

/// The preferred port, or a free one when it is taken.
fn free_port(preferred: u16) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, preferred))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("failed to find a free port on 127.0.0.1")?;
    Ok(listener
        .local_addr()
        .context("failed to read a listening address")?
        .port())
}

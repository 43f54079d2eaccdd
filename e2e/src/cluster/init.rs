//! The first process inside a cluster's namespaces: it shapes them, starts the components, restarts those that die and
//! reaps what they leave behind. When it is killed, the kernel ends everything else in its pid namespace.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::components::{self, Component};
use super::layout::{Layout, NODE_IP, NODE_NAME, PROVISIONER_DIR};
use super::{cgroups, volumes};
use crate::{poll, process};

/// Written when every component has been started.
pub const STARTED: &str = "started";

/// A cold API server on two busy cores takes about ten seconds.
const API_READY_WITHIN: Duration = Duration::from_mins(3);

/// Restarts of one component before init gives it up: enough for a race at the start, not for a crash loop.
const MAX_RESTARTS: u32 = 30;

/// Time before a dead component is started again, so that a crash loop does not eat the machine.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Runs until killed. Must be process 1 of fresh mount, network, pid and uts namespaces.
pub fn run(layout: &Layout) -> Result<()> {
    if !nix::unistd::getpid().as_raw().eq(&1) {
        bail!("this command is started by `cargo xtask cluster up`, inside namespaces of its own");
    }
    nix::unistd::sethostname(NODE_NAME).context("failed to name the node")?;
    mounts(layout)?;
    network(layout)?;
    cgroups::create(layout)?;
    volumes::open_to_all(&layout.at("volumes"))?;

    let mut supervisor = Supervisor {
        layout,
        running: BTreeMap::new(),
    };
    for component in components::first(layout) {
        supervisor.start(component, 0)?;
    }
    poll::until("the API server becoming ready", API_READY_WITHIN, || {
        let ready = process::output(
            tool(layout, "kubectl")
                .args(["get", "--raw", "/readyz", "--kubeconfig"])
                .arg(layout.at("pki/admin.conf")),
        )?;
        Ok((ready == "ok").then_some(()))
    })?;
    for component in components::second(layout) {
        supervisor.start(component, 0)?;
    }
    fs::write(layout.at(STARTED), "").context("failed to tell that the node started")?;
    supervisor.watch()
}

/// A program of the cluster's `bin` folder, with the environment that the unpacked packages need.
pub(super) fn tool(layout: &Layout, program: &str) -> Command {
    let mut command = Command::new(layout.at("bin").join(program));
    environment(layout, &mut command);
    command
}

/// What the unpacked packages need to find each other.
pub(super) fn environment(layout: &Layout, command: &mut Command) {
    let libraries = [
        "packages/usr/lib/x86_64-linux-gnu",
        "packages/lib/x86_64-linux-gnu",
        "packages/usr/lib/aarch64-linux-gnu",
        "packages/lib/aarch64-linux-gnu",
    ];
    command
        .env(
            "PATH",
            format!(
                "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                layout.text("bin")
            ),
        )
        .env(
            "LD_LIBRARY_PATH",
            libraries.map(|path| layout.text(path)).join(":"),
        )
        .env(
            "XTABLES_LIBDIR",
            libraries.map(|path| layout.text(path) + "/xtables").join(":"),
        )
        .env("NODE_NAME", NODE_NAME)
        .env_remove("KUBECONFIG");
}

fn mounts(layout: &Layout) -> Result<()> {
    let none: Option<&str> = None;
    // The kubelet's mounts must reach the containers it starts; the namespace itself is private to the cluster.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).context("failed to share mounts")?;
    bind(&layout.at("volumes"), Path::new(PROVISIONER_DIR))?;
    bind(&layout.at("run"), Path::new("/run"))?;
    bind(&layout.at("varlog"), Path::new("/var/log"))?;
    // The kubelet sets these for the whole machine. It is shown the values it wants instead.
    for (setting, value) in [
        ("vm/overcommit_memory", "1"),
        ("kernel/panic", "10"),
        ("kernel/panic_on_oops", "1"),
    ] {
        let shown = layout.at("sysctl").join(setting.replace('/', "_"));
        fs::write(&shown, value).with_context(|| format!("failed to write {}", shown.display()))?;
        bind(&shown, &Path::new("/proc/sys").join(setting))?;
    }
    Ok(())
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    let none: Option<&str> = None;
    mount(Some(source), target, none, MsFlags::MS_BIND, none)
        .with_context(|| format!("failed to bind {} over {}", source.display(), target.display()))
}

/// One veth pair that is always up carries the node's address and a default route: without one, addresses of Services
/// would be refused before the proxy's rules see them.
fn network(layout: &Layout) -> Result<()> {
    for arguments in [
        "link set lo up".to_owned(),
        "link add node0 type veth peer name node0p".into(),
        "link set node0p up".into(),
        "link set node0 up".into(),
        format!("addr add {NODE_IP}/24 dev node0"),
        "route add default dev node0".into(),
    ] {
        process::output(tool(layout, "ip").args(arguments.split(' ')))
            .context("failed to set up the node's network")?;
    }
    for setting in ["ip_forward", "conf/all/route_localnet"] {
        let path = Path::new("/proc/sys/net/ipv4").join(setting);
        fs::write(&path, "1").with_context(|| format!("failed to set {}", path.display()))?;
    }
    // Present only where bridged packets pass the firewall at all; policies between pods need it.
    let bridged = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if bridged.exists() {
        fs::write(bridged, "1").context("failed to pass bridged packets to the firewall")?;
    }
    Ok(())
}

struct Supervisor<'a> {
    layout: &'a Layout,
    running: BTreeMap<Pid, (Component, u32)>,
}

impl Supervisor<'_> {
    fn start(&mut self, component: Component, restarts: u32) -> Result<()> {
        let path = self.layout.at("log").join(format!("{}.log", component.program));
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("failed to open {}", path.display()))?;
        let child = tool(self.layout, component.program)
            .args(&component.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("failed to duplicate a log handle")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("failed to start {}", component.program))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).context("a process id is out of range")?);
        self.running.insert(pid, (component, restarts));
        Ok(())
    }

    /// Waits for whatever ends: a component is started again, an orphan is only reaped.
    fn watch(&mut self) -> Result<()> {
        loop {
            let status = waitpid(None, None).context("failed to wait for child processes")?;
            if !matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
                continue;
            }
            let Some((component, restarts)) = status.pid().and_then(|pid| self.running.remove(&pid)) else {
                continue;
            };
            eprintln!(
                "{} ended ({status:?}), restart {}",
                component.program,
                restarts + 1
            );
            if restarts < MAX_RESTARTS {
                std::thread::sleep(RESTART_DELAY);
                self.start(component, restarts + 1)?;
            }
        }
    }
}

//! Builds a network, and takes it down again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::PREFIX;
use crate::forwarder::Forwarder;
use crate::impairment::mix;
use crate::namespace::Namespace;
use crate::plan::{Plan, Step};
use crate::rules;
use crate::tools::{self, Missing, Tools};
use crate::topology::Topology;

const NAMES: &str = "/run/netns";

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// This machine can't.
    #[error("failed to build a network: {0}")]
    Missing(Missing),
    /// A program said no.
    #[error("failed to build a network: `{command}` said: {said}")]
    Refused {
        /// What was run.
        command: String,
        /// What it wrote on stderr.
        said: String,
    },
    /// The system said no.
    #[error("failed to {what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> LabError {
    let what = what.into();
    |source| LabError::Io { what, source }
}

/// What a host has received, bytes of IP packets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From other sites' public addresses, by site.
    pub sites: BTreeMap<usize, u64>,
    /// From the services of the internet: bootstrap nodes, relays.
    pub services: u64,
    /// From hosts of its own private network.
    pub neighbours: u64,
}

/// A network that is there until it is dropped.
#[derive(Debug)]
pub struct Lab {
    topology: Topology,
    plan: Plan,
    tools: Tools,
    forwarders: Vec<Forwarder>,
}

impl Lab {
    /// Builds the network. First removes what labs of dead processes left.
    pub fn up(topology: Topology) -> Result<Self, LabError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let tools = tools::find().map_err(LabError::Missing)?;
        remove_leftovers(&tools);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let plan = topology.plan(std::process::id(), number);
        // From here on dropping it takes back what was done.
        let mut lab = Self {
            topology,
            plan,
            tools,
            forwarders: Vec::new(),
        };
        lab.take_steps()?;
        for wire in &lab.plan.wires {
            let link = lab.topology.sites[wire.site].link;
            let seed = mix(lab.topology.seed ^ mix(wire.site as u64));
            let forwarder = Forwarder::start(&lab.namespace(&wire.namespace), link, seed)
                .map_err(io_error(format!("start the wire of site {}", wire.site)))?;
            lab.forwarders.push(forwarder);
        }
        Ok(lab)
    }

    /// What was built.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    fn namespace(&self, name: &str) -> Namespace {
        Namespace::new(name, self.tools.ip.clone())
    }

    /// The internet, where services run; bind them to [`Topology::service_address`].
    pub fn internet(&self) -> Namespace {
        self.namespace(&self.plan.internet())
    }

    /// A host.
    pub fn host(&self, site: usize, host: usize) -> Namespace {
        self.namespace(&self.plan.host(site, host))
    }

    /// What a host has received since the lab was built.
    pub fn traffic(&self, site: usize, host: usize) -> Result<Traffic, LabError> {
        let mut nft = self.host(site, host).command(&self.tools.nft.to_string_lossy());
        nft.args(["-j", "list", "counters"]);
        let text = run(&mut nft, "")?;
        let listed: Value = serde_json::from_str(&text)
            .map_err(|error| io_error("read the packet filter's counters")(error.into()))?;
        let mut traffic = Traffic::default();
        for counter in listed["nftables"].as_array().into_iter().flatten() {
            let counter = &counter["counter"];
            let (Some(name), Some(bytes)) = (counter["name"].as_str(), counter["bytes"].as_u64()) else {
                continue;
            };
            match name {
                rules::SERVICES_COUNTER => traffic.services = bytes,
                rules::NEIGHBOURS_COUNTER => traffic.neighbours = bytes,
                _ => {
                    if let Some(other) =
                        (0..self.topology.sites.len()).find(|other| rules::site_counter(*other) == name)
                    {
                        traffic.sites.insert(other, bytes);
                    }
                }
            }
        }
        Ok(traffic)
    }

    /// The public address of a site.
    pub fn public_address(&self, site: usize) -> Ipv4Addr {
        Topology::public_address(site)
    }

    fn take_steps(&self) -> Result<(), LabError> {
        let mut steps = self.plan.steps.iter().peekable();
        while let Some(step) = steps.next() {
            match step {
                Step::Namespace(name) => {
                    run(Command::new(&self.tools.ip).args(["netns", "add", name]), "")?;
                }
                Step::Setting {
                    namespace,
                    path,
                    value,
                } => self.write_setting(namespace, path, value)?,
                Step::Rules { namespace, rules } => {
                    let mut nft = self
                        .namespace(namespace)
                        .command(&self.tools.nft.to_string_lossy());
                    run(nft.args(["-f", "-"]), rules)?;
                }
                Step::Ip { namespace, arguments } => {
                    let mut batch = format!("{arguments}\n");
                    while let Some(Step::Ip { arguments, .. }) = steps.next_if(
                        |next| matches!(next, Step::Ip { namespace: other, .. } if other == namespace),
                    ) {
                        batch.extend([arguments, "\n"]);
                    }
                    let mut ip = Command::new(&self.tools.ip);
                    run(ip.args(["-n", namespace, "-batch", "-"]), &batch)?;
                }
            }
        }
        Ok(())
    }

    fn write_setting(
        &self,
        namespace: &str,
        path: &'static str,
        value: &'static str,
    ) -> Result<(), LabError> {
        let file = Path::new("/proc/sys/net").join(path);
        let written = self.namespace(namespace).call(move || {
            match fs::write(&file, value) {
                // A kernel without IPv6 has nothing to turn off.
                Err(error) if error.kind() == io::ErrorKind::NotFound && path.starts_with("ipv6") => Ok(()),
                result => result,
            }
        });
        written.map_err(io_error(format!("set {path} in {namespace}")))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.forwarders.clear();
        for name in self.plan.namespaces() {
            remove(&self.tools, name);
        }
    }
}

/// Removes the namespaces of labs whose process is gone, with the programs that still run in them.
fn remove_leftovers(tools: &Tools) {
    for entry in fs::read_dir(NAMES).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if owner(name).is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            remove(tools, name);
        }
    }
}

/// The process that made a namespace, if a lab did.
fn owner(namespace: &str) -> Option<u32> {
    let (process, _) = namespace.strip_prefix(PREFIX)?.split_once('n')?;
    process.parse().ok()
}

/// Ends the programs in a namespace and removes it. What can't be removed now is found by the next lab.
fn remove(tools: &Tools, namespace: &str) {
    if !Path::new(NAMES).join(namespace).exists() {
        return;
    }
    let users = run(Command::new(&tools.ip).args(["netns", "pids", namespace]), "");
    let own = std::process::id();
    for process in users
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.trim().parse::<i32>().ok())
    {
        if u32::try_from(process) != Ok(own) {
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
    }
    let _ = run(Command::new(&tools.ip).args(["netns", "delete", namespace]), "");
}

/// Runs a program with this input; what it wrote on stdout.
fn run(command: &mut Command, input: &str) -> Result<String, LabError> {
    let shown = format!("{command:?}").replace('"', "");
    let failed = |source| io_error(format!("run `{shown}`"))(source);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read all says why on stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(LabError::Refused {
            command: shown,
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_namespace_is_read_from_its_name_and_others_are_left_alone() {
        assert_eq!(owner("cumulab42n3-s0h1"), Some(42));
        for foreign in ["cni-42n3", "cumulabn3", "cumulab42", "e2e", "cumulabXn1"] {
            assert_eq!(owner(foreign), None, "{foreign}");
        }
    }
}

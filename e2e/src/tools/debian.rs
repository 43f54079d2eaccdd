//! Debian packages, downloaded and unpacked into the cache; nothing is installed on the machine.
//!
//! Two suites are mixed because no single one has a set that runs everywhere: trixie's etcd, containerd and CNI
//! plugins are recent enough for the kubelet and run on bookworm's C library, while trixie's runc would need a newer
//! one. The mirror is the one the machine is already set up for. Package lists live in the cache as well, so apt's own
//! state is not touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Key;
use crate::process;

/// Raise when the unpacked layout changes in a way the package names don't show.
const LAYOUT: &str = "1";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A set of packages to unpack together.
#[derive(Debug, Clone, Copy)]
pub struct PackageSet {
    /// Name of the cache folder.
    pub name: &'static str,
    /// Packages by suite.
    pub suites: &'static [(&'static str, &'static [&'static str])],
}

/// What a cluster node needs beside Kubernetes itself.
pub const NODE: PackageSet = PackageSet {
    name: "node-packages",
    suites: &[
        (
            "trixie",
            &[
                "etcd-server",
                "containerd",
                "containernetworking-plugins",
                "busybox-static",
            ],
        ),
        (
            "bookworm",
            &[
                "runc",
                "libseccomp2",
                "iproute2",
                "libbpf1",
                "libelf1",
                "libtirpc3",
                "libbsd0",
                "libmd0",
                "libcap2",
                "iptables",
                "libxtables12",
                "libip4tc2",
                "libip6tc2",
                "libnftnl11",
                "libmnl0",
                "libnfnetlink0",
                "libnetfilter-conntrack3",
                "conntrack",
                "ipset",
                "libipset13",
            ],
        ),
    ],
};

/// The certificate authorities that browsers trust.
pub const CERTIFICATES: PackageSet = PackageSet {
    name: "certificates",
    suites: &[("bookworm", &["ca-certificates"])],
};

/// Runs foreign binaries, to try an arm64 build on an amd64 machine.
pub const QEMU: PackageSet = PackageSet {
    name: "qemu-user",
    suites: &[("bookworm", &["qemu-user-static"])],
};

/// A browser without a screen, and the libraries beside the C library that it needs.
pub const CHROMIUM: PackageSet = PackageSet {
    name: "chromium",
    suites: &[(
        "bookworm",
        &[
            "chromium-headless-shell",
            "chromium-common",
            "libasound2",
            "libatk1.0-0",
            "libatspi2.0-0",
            "libdav1d6",
            "libdbus-1-3",
            "libdouble-conversion3",
            "libexpat1",
            "libflac12",
            "libfontconfig1",
            "libfreetype6",
            "libgbm1",
            "libglib2.0-0",
            "libharfbuzz-subset0",
            "libharfbuzz0b",
            "libjpeg62-turbo",
            "liblcms2-2",
            "libminizip1",
            "libnspr4",
            "libnss3",
            "libopenh264-7",
            "libopenjp2-7",
            "libopus0",
            "libpulse0",
            "libudev1",
            "libx11-6",
            "libxcb1",
            "libxcomposite1",
            "libxdamage1",
            "libxext6",
            "libxfixes3",
            "libxkbcommon0",
            "libxnvctrl0",
            "libxrandr2",
            "libzstd1",
            "zlib1g",
            "libogg0",
            "libpng16-16",
            "libbrotli1",
            "libpcre2-8-0",
            "libffi8",
            "libgraphite2-3",
            "libsqlite3-0",
            "libdrm2",
            "libwayland-server0",
            "libsndfile1",
            "libx11-xcb1",
            "libsystemd0",
            "libvorbis0a",
            "libvorbisenc2",
            "libmp3lame0",
            "libmpg123-0",
            "libasyncns0",
            "libcap2",
            "libgcrypt20",
            "libgpg-error0",
            "liblz4-1",
            "liblzma5",
            "libxau6",
            "libxdmcp6",
            "libbsd0",
            "libmd0",
            "libxrender1",
            "libxi6",
            "libmount1",
            "libselinux1",
            "libblkid1",
            "libuuid1",
            "libxcb-randr0",
            "fontconfig-config",
            "fonts-dejavu-core",
        ],
    )],
};

/// What makes networks of namespaces, and what that needs beyond the C library.
pub const NETWORKS: PackageSet = PackageSet {
    name: "network-packages",
    suites: &[(
        "bookworm",
        &[
            "iproute2",
            "libbpf1",
            "libelf1",
            "libtirpc3",
            "libcap2",
            "zlib1g",
            "nftables",
            "libnftables1",
            "libedit2",
            "libbsd0",
            "libmd0",
            "libgmp10",
            "libjansson4",
            "libmnl0",
            "libnftnl11",
            "libtinfo6",
            "libxtables12",
        ],
    )],
};

impl PackageSet {
    /// The unpacked tree's root, downloading it first when it isn't cached.
    pub fn root(&self) -> Result<PathBuf> {
        let key = self
            .suites
            .iter()
            .fold(Key::new(self.name).with(LAYOUT), |key, (suite, packages)| {
                packages
                    .iter()
                    .fold(key.with(suite), |key, package| key.with(package))
            });
        key.get_or_build(|folder| {
            for (suite, packages) in self.suites {
                unpack(suite, packages, folder).with_context(|| {
                    format!(
                        "failed to fetch Debian packages from {suite}: {}",
                        packages.join(" ")
                    )
                })?;
            }
            Ok(())
        })
    }
}

fn unpack(suite: &str, packages: &[&str], into: &Path) -> Result<()> {
    let Some(apt) = process::find("apt-get") else {
        bail!(
            "apt-get is missing; hint: a local cluster needs a Debian machine, or use an existing one with --context"
        );
    };
    let work = tempfile::tempdir().context("failed to create a working folder")?;
    let work = work.path();
    for folder in ["lists/partial", "cache/archives/partial", "debs"] {
        fs::create_dir_all(work.join(folder)).context("failed to prepare apt's folders")?;
    }
    fs::write(work.join("status"), "").context("failed to prepare apt's folders")?;
    fs::write(
        work.join("sources.list"),
        format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror()?),
    )
    .context("failed to write the package source")?;
    let apt_get = || {
        let mut command = Command::new(&apt);
        let at = |name: &str| work.join(name).display().to_string();
        for option in [
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=-".into(),
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::Cache={}", at("cache")),
            "Acquire::Languages=none".into(),
            "Acquire::Retries=3".into(),
            "APT::Sandbox::User=root".into(),
        ] {
            command.arg("-o").arg(option);
        }
        command.current_dir(work.join("debs"));
        command
    };
    process::output(apt_get().arg("update"))?;
    process::output(apt_get().arg("download").args(packages))?;
    for entry in fs::read_dir(work.join("debs")).context("failed to list downloaded packages")? {
        let path = entry.context("failed to list downloaded packages")?.path();
        process::output(Command::new("dpkg").arg("--extract").arg(&path).arg(into))?;
    }
    Ok(())
}

/// The archive this machine already uses.
fn mirror() -> Result<String> {
    let targets = process::output(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]))?;
    targets
        .lines()
        .map(str::trim)
        .find(|uri| uri.contains("debian") && !uri.contains("security"))
        .map(str::to_owned)
        .context(
            "apt knows no Debian archive; hint: a local cluster needs a Debian machine, or use --context",
        )
}

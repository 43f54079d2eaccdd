//! The product's own images: static executables of this repository over nothing but certificate authorities.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::Key;
use crate::image::{self, Architecture, Entry, ImageSpec, Reference};
use crate::progress::Progress;
use crate::tools::{self, debian, wheels};
use crate::{cache, process};

/// User and group of every image: the number that distroless images made customary for "nobody in particular".
const USER: &str = "65532:65532";

/// Where programs look for certificate authorities.
const AUTHORITIES: &str = "etc/ssl/certs/ca-certificates.crt";

/// A program of this repository that runs in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Cargo package and executable.
    pub package: &'static str,
    /// Image name, as the chart has it.
    pub image: &'static str,
}

/// The operator.
pub const OPERATOR: Program = Program {
    package: "cumulet-operator",
    image: "docker.io/cumulet/cumulet-operator",
};
/// An always-on peer.
pub const NODE: Program = Program {
    package: "cumulet-node",
    image: "docker.io/cumulet/cumulet-node",
};
/// The S3 server of the tests; not a part of the product.
pub const S3_SERVER: Program = Program {
    package: "cumulet-s3d",
    image: "cumulet.local/s3d",
};

/// An image that was written.
#[derive(Debug, Clone)]
pub struct Built {
    /// What is in it.
    pub program: Program,
    /// Its name and tag.
    pub reference: Reference,
    /// Its OCI archive.
    pub archive: PathBuf,
    /// Size of the archive.
    pub bytes: u64,
}

/// How an image is tagged.
#[derive(Debug, Clone)]
pub enum Tag {
    /// With this text.
    Named(String),
    /// With a hash of the executable, so that a changed program is a changed pod template.
    Content,
}

/// Builds static executables of these programs and returns their paths, in the same order.
pub fn executables(programs: &[Program], architecture: Architecture) -> Result<Vec<PathBuf>> {
    let target = architecture.rust_target();
    let zig = wheels::executable("zig")?;
    let zigbuild = wheels::executable("cargo-zigbuild")?;
    if let Some(rustup) = process::find("rustup") {
        process::output(Command::new(rustup).args(["target", "add", target]))
            .with_context(|| format!("failed to add the Rust target {target}"))?;
    }
    let mut command = Command::new(zigbuild);
    command
        .args(["zigbuild", "--profile", "image", "--locked", "--target", target])
        .current_dir(tools::repository());
    for program in programs {
        command.args(["--package", program.package]);
    }
    let shared = dependencies()?;
    // Until the executables are copied: another tree's would take their place.
    let _lock = cache::lock(&shared)?;
    command
        .env("CARGO_TARGET_DIR", &shared)
        .env("CARGO_ZIGBUILD_ZIG_PATH", zig)
        .env("CARGO_ZIGBUILD_CACHE_DIR", cache::root()?.join("zigbuild"));
    let log = cache::root()?.join(format!("image-build-{architecture}.log"));
    process::run_logged(&mut command, &log).context("failed to build the executables of the images")?;

    let (from, to) = (
        shared.join(target).join("image"),
        target_folder()?.join("images").join(target),
    );
    fs::create_dir_all(&to).with_context(|| format!("failed to create {}", to.display()))?;
    let copied = programs.iter().map(|program| {
        let (made, path) = (from.join(program.package), to.join(program.package));
        fs::copy(&made, &path)
            .with_context(|| format!("the package {} has no executable of its name", program.package))?;
        Ok(path)
    });
    copied.collect()
}

/// The folder in which cargo builds executables for images: outside the tree, so that a fresh clone compiles this
/// repository's packages alone. What was built for other dependencies is removed.
fn dependencies() -> Result<PathBuf> {
    let version = process::output(Command::new("rustc").arg("-vV"))?;
    let key = Key::new("image-target")
        .with_file(&tools::repository().join("Cargo.lock"))?
        .with(&version);
    let folder = key.folder()?;
    cache::keep_only(&cache::root()?, "image-target-", &folder)?;
    Ok(folder)
}

/// Builds the programs and writes their images.
pub fn images(
    programs: &[Program],
    architecture: Architecture,
    tag: &Tag,
    progress: &Progress,
) -> Result<Vec<Built>> {
    let names: Vec<&str> = programs.iter().map(|program| program.package).collect();
    let what = format!("{architecture} executables: {}", names.join(", "));
    let executables = progress.step(what, || executables(programs, architecture))?;
    let authorities = authorities()?;
    let written = programs.iter().zip(executables).map(|(program, executable)| {
        let tag = match tag {
            Tag::Named(tag) => tag.clone(),
            Tag::Content => content_tag(&executable)?,
        };
        let spec = ImageSpec {
            reference: Reference::parse(&format!("{}:{tag}", program.image))?,
            architecture,
            entrypoint: vec![format!("/{}", program.package)],
            user: Some(USER.into()),
            environment: vec![format!("SSL_CERT_FILE=/{AUTHORITIES}")],
            entries: vec![
                Entry::executable(program.package, executable),
                Entry::bytes(AUTHORITIES, authorities.clone()),
            ],
        };
        let archive = image::write_cached(&spec)?;
        let bytes = fs::metadata(&archive)
            .context("failed to look at an image")?
            .len();
        Ok(Built {
            program: *program,
            reference: spec.reference,
            archive,
            bytes,
        })
    });
    written.collect()
}

/// Builds the node for a processor that this machine may not have, and runs it at least as far as its version and help.
pub fn try_out(architecture: Architecture) -> Result<()> {
    for executable in executables(&[NODE], architecture)? {
        let version = emulate(&executable, architecture, &["--version"])?;
        if !version.contains(env!("CARGO_PKG_VERSION")) {
            bail!("{} says its version is {version:?}", executable.display());
        }
        let help = emulate(&executable, architecture, &["--help"])?;
        if !help.contains("--data-dir") {
            bail!(
                "{} has a help that does not name its options:\n{help}",
                executable.display()
            );
        }
    }
    Ok(())
}

/// Runs an executable of another architecture with emulation, and returns what it printed.
pub fn emulate(executable: &Path, architecture: Architecture, arguments: &[&str]) -> Result<String> {
    let name = match architecture {
        Architecture::Amd64 => "usr/bin/qemu-x86_64-static",
        Architecture::Arm64 => "usr/bin/qemu-aarch64-static",
    };
    process::output(
        Command::new(debian::QEMU.root()?.join(name))
            .arg(executable)
            .args(arguments),
    )
}

fn content_tag(executable: &Path) -> Result<String> {
    let bytes = fs::read(executable).with_context(|| format!("failed to read {}", executable.display()))?;
    let digest = <sha2::Sha256 as sha2::Digest>::digest(bytes);
    Ok(hex::encode(&digest[..8]))
}

/// Cargo's target folder, which an environment variable or a configuration file may have moved.
fn target_folder() -> Result<PathBuf> {
    let text = process::output(
        Command::new("cargo")
            .args(["metadata", "--format-version", "1", "--no-deps"])
            .current_dir(tools::repository()),
    )?;
    let metadata: serde_json::Value =
        serde_json::from_str(&text).context("failed to understand cargo's metadata")?;
    let folder = metadata["target_directory"]
        .as_str()
        .context("cargo's metadata has no target folder")?;
    Ok(PathBuf::from(folder))
}

fn authorities() -> Result<Vec<u8>> {
    let folder = debian::CERTIFICATES
        .root()?
        .join("usr/share/ca-certificates/mozilla");
    let listed = fs::read_dir(&folder).with_context(|| format!("failed to list {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let mut bundle = Vec::new();
    for path in paths {
        bundle.extend(fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?);
    }
    Ok(bundle)
}

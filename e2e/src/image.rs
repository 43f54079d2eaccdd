//! Container images written as OCI archives, without a daemon, a registry or a Dockerfile.
//!
//! An image is one layer over nothing: static executables, certificates, links. The same inputs give the same bytes
//! (times are zero, entries in the order given), so an image that did not change keeps its digest. Layers are not
//! compressed: they are copied into a local store once, and compressing takes longer than the copy.
//!
//! Formats: OCI image layout 1.0, image manifest and configuration of the OCI image specification 1.0.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::cache::Key;
use crate::cluster::sandbox_reference;
use crate::process;
use crate::tools::debian;

/// Image for tests that need a shell.
pub const BUSYBOX: &str = "cumulet.local/busybox:1";

/// Raise when an image's bytes change in a way its description does not show.
const WRITER: &str = "1";

/// A processor architecture, by the name OCI and Kubernetes use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// x86_64
    Amd64,
    /// aarch64
    Arm64,
}

impl Architecture {
    /// The machine's own.
    pub fn host() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("images are built for x86_64 and aarch64, not for {other}"),
        }
    }

    /// Rust's target for static executables.
    pub fn rust_target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        })
    }
}

/// An image's name and tag, such as `cumulet.local/busybox:1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    name: String,
    tag: String,
}

impl Reference {
    /// Splits `name:tag`; both are needed, since a missing tag means "latest", which Kubernetes would try to pull.
    pub fn parse(text: &str) -> Result<Self> {
        match text.rsplit_once(':') {
            Some((name, tag)) if name.contains('/') && !tag.is_empty() && !tag.contains('/') => Ok(Self {
                name: name.into(),
                tag: tag.into(),
            }),
            _ => bail!("an image reference is HOST/NAME:TAG, unlike {text:?}"),
        }
    }

    /// Name without the tag.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)
    }
}

/// What an entry of the layer holds.
#[derive(Debug, Clone)]
pub enum Source {
    /// Bytes of a file.
    File(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
    /// A symbolic link to this path.
    Link(String),
    /// An empty folder.
    Folder,
}

/// One path in the image.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Path without a leading slash.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// Contents.
    pub source: Source,
}

impl Entry {
    /// A program.
    pub fn executable(path: &str, file: PathBuf) -> Self {
        Self {
            path: path.into(),
            mode: 0o755,
            source: Source::File(file),
        }
    }

    /// A file that everyone may read.
    pub fn bytes(path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            mode: 0o644,
            source: Source::Bytes(bytes.into()),
        }
    }

    fn folder(path: &str, mode: u32) -> Self {
        Self {
            path: path.into(),
            mode,
            source: Source::Folder,
        }
    }
}

/// An image to write.
#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// What it is called.
    pub reference: Reference,
    /// For which processor.
    pub architecture: Architecture,
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// User and group ids, `uid:gid`; `None` is root.
    pub user: Option<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// The layer.
    pub entries: Vec<Entry>,
}

/// Writes the image into the cache, unless one of the same inputs is there; returns the archive's path.
pub fn write_cached(spec: &ImageSpec) -> Result<PathBuf> {
    let mut key = Key::new("image")
        .with(WRITER)
        .with(&spec.reference.to_string())
        .with(&configuration(spec, "").to_string());
    for entry in &spec.entries {
        let contents = match &entry.source {
            Source::File(file) => {
                let mut hash = Hashing {
                    inner: io::sink(),
                    hash: Sha256::new(),
                    bytes: 0,
                };
                copy(file, &mut hash)?;
                hash.digest()
            }
            Source::Bytes(bytes) => digest(bytes),
            Source::Link(target) => format!("link {target}"),
            Source::Folder => "folder".into(),
        };
        key = key.with(&format!("{} {:o} {contents}", entry.path, entry.mode));
    }
    Ok(key
        .get_or_build(|folder| write(spec, &folder.join("image.tar")))?
        .join("image.tar"))
}

/// Writes the image as an OCI archive.
pub fn write(spec: &ImageSpec, archive: &Path) -> Result<()> {
    let layer_file = tempfile::tempfile().context("failed to create a working file")?;
    let mut layer = Hashing {
        inner: io::BufWriter::new(layer_file),
        hash: Sha256::new(),
        bytes: 0,
    };
    write_layer(&spec.entries, &mut layer)?;
    let (layer_digest, layer_bytes) = (layer.digest(), layer.bytes);
    let mut layer_file = layer.inner.into_inner().context("failed to write the layer")?;

    let configuration = configuration(spec, &layer_digest).to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&configuration),
            "size": configuration.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer_digest,
            "size": layer_bytes,
        }],
    })
    .to_string()
    .into_bytes();
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&manifest),
            "size": manifest.len(),
            "platform": {"architecture": spec.architecture.to_string(), "os": "linux"},
            "annotations": {
                "io.containerd.image.name": spec.reference.to_string(),
                "org.opencontainers.image.ref.name": spec.reference.tag(),
            },
        }],
    })
    .to_string();

    let file = File::create(archive).with_context(|| format!("failed to create {}", archive.display()))?;
    let mut tar = tar::Builder::new(io::BufWriter::new(file));
    let written = (|| {
        append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut tar, "index.json", index.as_bytes())?;
        append(&mut tar, &blob(&digest(&configuration)), &configuration)?;
        append(&mut tar, &blob(&digest(&manifest)), &manifest)?;
        io::Seek::rewind(&mut layer_file)?;
        tar.append_data(&mut header(layer_bytes, 0o644), blob(&layer_digest), layer_file)?;
        tar.into_inner()?.flush()
    })();
    written.with_context(|| format!("failed to write {}", archive.display()))
}

fn configuration(spec: &ImageSpec, layer_digest: &str) -> serde_json::Value {
    json!({
        "architecture": spec.architecture.to_string(),
        "os": "linux",
        "config": {"Entrypoint": spec.entrypoint, "User": spec.user, "Env": spec.environment},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    })
}

fn write_layer(entries: &[Entry], into: impl Write) -> Result<()> {
    let mut tar = tar::Builder::new(into);
    for entry in entries {
        let added = match &entry.source {
            Source::File(file) => File::open(file).and_then(|contents| {
                let mut header = header(contents.metadata()?.len(), entry.mode);
                tar.append_data(&mut header, &entry.path, contents)
            }),
            Source::Bytes(bytes) => tar.append_data(
                &mut header(bytes.len() as u64, entry.mode),
                &entry.path,
                bytes.as_slice(),
            ),
            Source::Link(target) => {
                let mut header = header(0, entry.mode);
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, &entry.path, target)
            }
            Source::Folder => {
                let mut header = header(0, entry.mode);
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, &entry.path, io::empty())
            }
        };
        added.with_context(|| format!("failed to add {} to an image", entry.path))?;
    }
    tar.finish().context("failed to end an image's layer")
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(bytes.len() as u64, 0o644), path, bytes)
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header
}

fn blob(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Counts and hashes what passes through.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W> Hashing<W> {
    fn digest(&self) -> String {
        format!("sha256:{}", hex::encode(self.hash.clone().finalize()))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn copy(file: &Path, mut into: impl Write) -> Result<()> {
    let mut source = File::open(file).with_context(|| format!("failed to open {}", file.display()))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = source
            .read(&mut buffer)
            .with_context(|| format!("failed to read {}", file.display()))?;
        if read == 0 {
            return Ok(());
        }
        into.write_all(&buffer[..read]).context("failed to copy a file")?;
    }
}

/// A shell with the usual small programs: the archive and its reference.
pub fn busybox() -> Result<(PathBuf, Reference)> {
    let spec = busybox_spec(BUSYBOX, vec!["/bin/sh".into()])?;
    Ok((write_cached(&spec)?, spec.reference))
}

/// The container that holds a pod's namespaces: a shell that waits and reaps.
pub fn sandbox() -> Result<(PathBuf, Reference)> {
    let wait = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done";
    let spec = busybox_spec(
        sandbox_reference(),
        vec!["/bin/sh".into(), "-c".into(), wait.into()],
    )?;
    Ok((write_cached(&spec)?, spec.reference))
}

fn busybox_spec(reference: &str, entrypoint: Vec<String>) -> Result<ImageSpec> {
    let packages = debian::NODE.root()?;
    let places = ["usr/bin/busybox", "bin/busybox"].map(|path| packages.join(path));
    let program = places
        .into_iter()
        .find(|path| path.is_file())
        .context("the Debian packages lack busybox")?;
    let names = process::output(Command::new(&program).arg("--list"))?;
    let mut entries = vec![
        Entry::folder("bin", 0o755),
        Entry::folder("tmp", 0o1777),
        Entry::folder("etc", 0o755),
        Entry::folder("root", 0o755),
        Entry::executable("bin/busybox", program),
        Entry::bytes(
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
        ),
    ];
    entries.extend(names.lines().filter(|name| *name != "busybox").map(|name| Entry {
        path: format!("bin/{name}"),
        mode: 0o777,
        source: Source::Link("busybox".into()),
    }));
    Ok(ImageSpec {
        reference: Reference::parse(reference)?,
        architecture: Architecture::host()?,
        entrypoint,
        user: None,
        environment: vec!["PATH=/bin".into()],
        entries,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    fn spec(file: &Path) -> ImageSpec {
        ImageSpec {
            reference: Reference::parse("example.org/thing:7").unwrap(),
            architecture: Architecture::Arm64,
            entrypoint: vec!["/thing".into()],
            user: Some("65532:65532".into()),
            environment: Vec::new(),
            entries: vec![
                Entry::executable("thing", file.into()),
                Entry {
                    path: "alias".into(),
                    mode: 0o777,
                    source: Source::Link("thing".into()),
                },
            ],
        }
    }

    fn unpack(archive: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut tar = tar::Archive::new(File::open(archive).unwrap());
        tar.entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let name = entry.path().unwrap().display().to_string();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                (name, bytes)
            })
            .collect()
    }

    #[test]
    fn every_blob_has_the_digest_and_size_that_name_it_and_the_layer_holds_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, b"#!/bin/true\n").unwrap();
        let archive = folder.path().join("image.tar");
        write(&spec(&program), &archive).unwrap();

        let files = unpack(&archive);
        let descriptor = |value: &serde_json::Value| {
            let name = blob(value["digest"].as_str().unwrap());
            let bytes = &files[&name];
            assert_eq!(value["size"].as_u64().unwrap(), bytes.len() as u64);
            assert_eq!(value["digest"].as_str().unwrap(), digest(bytes));
            bytes.clone()
        };
        let index: serde_json::Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["platform"]["architecture"], "arm64");
        let manifest: serde_json::Value =
            serde_json::from_slice(&descriptor(&index["manifests"][0])).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&descriptor(&manifest["config"])).unwrap();
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let layer = folder.path().join("layer.tar");
        fs::write(&layer, descriptor(&manifest["layers"][0])).unwrap();
        assert_eq!(unpack(&layer)["thing"], b"#!/bin/true\n");
    }

    #[test]
    fn the_same_inputs_give_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, b"same").unwrap();
        let bytes = ["a.tar", "b.tar"].map(|name| {
            write(&spec(&program), &folder.path().join(name)).unwrap();
            fs::read(folder.path().join(name)).unwrap()
        });
        assert_eq!(bytes[0], bytes[1]);
    }

    #[test]
    fn a_reference_needs_a_host_a_name_and_a_tag() {
        assert_eq!(Reference::parse("a.b/c:1").unwrap().to_string(), "a.b/c:1");
        for wrong in ["c:1", "a.b/c", "a.b:5000/c", "a.b/c:"] {
            assert!(Reference::parse(wrong).is_err(), "{wrong}");
        }
    }
}

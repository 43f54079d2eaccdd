//! The cluster's certificates: one authority, one leaf per component, and kubeconfigs that carry them.
//!
//! A component's common name and organisation are its identity in RBAC. Keys are made anew for each cluster and never
//! leave its folder.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use super::layout::{API_PORT, API_SERVICE_IP, Layout, NODE_IP, NODE_NAME};

/// Written last, so that its presence means the set is complete.
const COMPLETE: &str = "pki/complete";

/// Components that talk to the API server with a kubeconfig: file name, common name, organisation.
const CLIENTS: [(&str, &str, Option<&str>); 5] = [
    ("admin", "admin", Some("system:masters")),
    ("controller-manager", "system:kube-controller-manager", None),
    ("scheduler", "system:kube-scheduler", None),
    ("kube-proxy", "system:kube-proxy", None),
    ("kubelet", "system:node:node1", Some("system:nodes")),
];

/// Makes keys, certificates and kubeconfigs, unless they are there.
pub(super) fn ensure(layout: &Layout) -> Result<()> {
    if layout.at(COMPLETE).exists() {
        return Ok(());
    }
    let authority = authority()?;
    let pki = layout.at("pki");
    write(&pki, "ca.crt", &authority.pem())?;
    write(&pki, "ca.key", &authority.key().serialize_pem())?;

    let service_accounts = KeyPair::generate().context("failed to make the service account key")?;
    write(&pki, "service-accounts.key", &service_accounts.serialize_pem())?;
    write(&pki, "service-accounts.pub", &service_accounts.public_key_pem())?;

    let api_names = [
        NODE_IP.to_string(),
        "127.0.0.1".into(),
        API_SERVICE_IP.to_string(),
        "localhost".into(),
        "kubernetes".into(),
        "kubernetes.default".into(),
        "kubernetes.default.svc".into(),
        "kubernetes.default.svc.cluster.local".into(),
    ];
    let node_names = [NODE_IP.to_string(), NODE_NAME.into()];
    leaf(
        &authority,
        &pki,
        "apiserver",
        ("kube-apiserver", None),
        &api_names,
    )?;
    leaf(
        &authority,
        &pki,
        "apiserver-kubelet",
        ("apiserver-kubelet-client", Some("system:masters")),
        &[],
    )?;
    leaf(&authority, &pki, "front-proxy", ("front-proxy", None), &[])?;
    let server = format!("https://{NODE_IP}:{API_PORT}");
    for (file, common_name, organisation) in CLIENTS {
        let names: &[String] = if file == "kubelet" { &node_names } else { &[] };
        leaf(&authority, &pki, file, (common_name, organisation), names)?;
        write(&pki, &format!("{file}.conf"), &kubeconfig(layout, file, &server)?)?;
    }
    fs::write(layout.at(COMPLETE), "").context("failed to finish the certificates")
}

/// A kubeconfig for the identity `client` (a file name of the set) and an API server at `server`.
pub(super) fn kubeconfig(layout: &Layout, client: &str, server: &str) -> Result<String> {
    let read = |name: String| {
        let path = layout.at("pki").join(name);
        fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
    };
    let name = format!("cumulet-{}", layout.name());
    let document = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": server,
            "certificate-authority-data": base64(read("ca.crt".into())?.as_bytes()),
        }}],
        "users": [{"name": client, "user": {
            "client-certificate-data": base64(read(format!("{client}.crt"))?.as_bytes()),
            "client-key-data": base64(read(format!("{client}.key"))?.as_bytes()),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": client}}],
        "current-context": name,
    });
    // JSON is YAML.
    serde_json::to_string_pretty(&document).context("failed to write a kubeconfig")
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "cumulet-cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let key = KeyPair::generate().context("failed to make the authority's key")?;
    CertifiedIssuer::self_signed(params, key).context("failed to sign the authority")
}

fn leaf(
    authority: &CertifiedIssuer<'static, KeyPair>,
    folder: &Path,
    file: &str,
    (common_name, organisation): (&str, Option<&str>),
    names: &[String],
) -> Result<()> {
    let mut params = CertificateParams::new(names).with_context(|| format!("failed to name {file}"))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organisation) = organisation {
        params
            .distinguished_name
            .push(DnType::OrganizationName, organisation);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate().with_context(|| format!("failed to make the key of {file}"))?;
    let certificate = params
        .signed_by(&key, authority)
        .with_context(|| format!("failed to sign {file}"))?;
    write(folder, &format!("{file}.crt"), &certificate.pem())?;
    write(folder, &format!("{file}.key"), &key.serialize_pem())
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("failed to write {}", path.display()))
}

fn base64(bytes: &[u8]) -> String {
    data_encoding::BASE64.encode(bytes)
}

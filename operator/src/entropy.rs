//! Where new secrets come from: the operating system, and certificates signed by an authority that is thrown away.

use cumulet_plan::credentials::{Entropy, EntropyError, Tls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// Entropy of the operating system.
#[derive(Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn bytes(&mut self) -> Result<[u8; 32], EntropyError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| EntropyError(error.to_string()))?;
        Ok(bytes)
    }

    fn tls(&mut self, hosts: &[String]) -> Result<Tls, EntropyError> {
        certificate(hosts).map_err(|error| EntropyError(error.to_string()))
    }
}

/// P-256, because browsers refuse Ed25519 certificates. The dates are rcgen's widest: the operator trusts this
/// authority alone and by its key, and a cloud that was switched off for years must still be reachable.
fn certificate(hosts: &[String]) -> Result<Tls, rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    authority
        .distinguished_name
        .push(DnType::CommonName, "Cumulet cloud authority");
    let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let mut leaf = CertificateParams::new(hosts.to_vec())?;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    leaf.distinguished_name
        .push(DnType::CommonName, "Cumulet replica");
    let key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&key, &issuer)?;
    Ok(Tls {
        ca_certificate: issuer.pem(),
        certificate: certificate.pem(),
        private_key: key.serialize_pem().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_draws_are_alike() {
        let mut entropy = SystemEntropy;
        assert_ne!(entropy.bytes().unwrap(), entropy.bytes().unwrap());
        let hosts = ["a.svc".to_owned()];
        let (first, second) = (entropy.tls(&hosts).unwrap(), entropy.tls(&hosts).unwrap());
        assert_ne!(first.certificate, second.certificate);
        assert!(first.private_key.contains("PRIVATE KEY"));
    }
}

//! Key pairs and the Diffie-Hellman function of Hyperswarm's Noise: Ed25519 keys, multiplied on the Edwards curve.
//!
//! This is not X25519: both the public keys on the wire and the shared secret are compressed Edwards points
//! (libsodium's `crypto_scalarmult_ed25519_noclamp`). Points outside the prime-order subgroup are refused.

use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;
use sha2::{Digest, Sha512};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::NoiseError;

/// An Ed25519 key pair, made from its 32 byte seed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct KeyPair {
    seed: [u8; 32],
    #[zeroize(skip)]
    public_key: [u8; 32],
}

impl KeyPair {
    /// The key pair that libsodium's `crypto_sign_seed_keypair` makes of `seed`.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let scalar = Zeroizing::new(clamped_scalar(&seed));
        let public_key = EdwardsPoint::mul_base(&scalar).compress().to_bytes();
        Self { seed, public_key }
    }

    /// The Ed25519 public key, 32 bytes.
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// The seed that the pair was made from, 32 bytes: secret.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The shared secret with the owner of `public_key`: a compressed Edwards point, 32 bytes.
    ///
    /// # Errors
    /// [`NoiseError::PublicKey`] if `public_key` is not canonical, of small order or outside the prime-order subgroup.
    pub fn dh(&self, public_key: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, NoiseError> {
        let point = CompressedEdwardsY(*public_key)
            .decompress()
            .ok_or(NoiseError::PublicKey)?;
        let canonical = point.compress().0 == *public_key;
        if !canonical || point.is_small_order() || !point.is_torsion_free() {
            return Err(NoiseError::PublicKey);
        }
        let scalar = Zeroizing::new(clamped_scalar(&self.seed));
        let shared = point * *scalar;
        if shared.is_identity() {
            return Err(NoiseError::PublicKey);
        }
        Ok(Zeroizing::new(shared.compress().to_bytes()))
    }
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyPair").finish_non_exhaustive()
    }
}

/// The signing scalar of a seed. Reduced modulo the group order, which changes nothing on the prime-order subgroup.
fn clamped_scalar(seed: &[u8; 32]) -> Scalar {
    let mut digest: [u8; 64] = Sha512::digest(seed).into();
    let mut bytes = [0; 32];
    bytes.copy_from_slice(&digest[..32]);
    bytes[0] &= 0b1111_1000;
    bytes[31] &= 0b0111_1111;
    bytes[31] |= 0b0100_0000;
    let scalar = Scalar::from_bytes_mod_order(bytes);
    digest.zeroize();
    bytes.zeroize();
    scalar
}

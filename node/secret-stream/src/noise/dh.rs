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
        self.dh_checked(&CheckedKey::new(public_key)?)
    }

    /// The same with a key that was checked before.
    pub(super) fn dh_checked(&self, key: &CheckedKey) -> Result<Zeroizing<[u8; 32]>, NoiseError> {
        let scalar = Zeroizing::new(clamped_scalar(&self.seed));
        let shared = key.0 * *scalar;
        if shared.is_identity() {
            return Err(NoiseError::PublicKey);
        }
        Ok(Zeroizing::new(shared.compress().to_bytes()))
    }
}

/// A public key that is a canonical point of the prime-order subgroup. To find that out takes as long as a multiplication.
#[derive(Clone, Copy)]
pub(super) struct CheckedKey(EdwardsPoint);

impl CheckedKey {
    pub(super) fn new(public_key: &[u8; 32]) -> Result<Self, NoiseError> {
        let point = CompressedEdwardsY(*public_key)
            .decompress()
            .ok_or(NoiseError::PublicKey)?;
        if !is_canonical(public_key) || point.is_small_order() || !is_torsion_free(&point) {
            return Err(NoiseError::PublicKey);
        }
        Ok(Self(point))
    }
}

/// Whether the y coordinate is below the field's order, 2^255 - 19. A wrong sign of x = 0 is not seen: such points are of small
/// order.
fn is_canonical(compressed: &[u8; 32]) -> bool {
    let [first, middle @ .., last] = compressed;
    *first < 0xed || last & 0x7f != 0x7f || middle.iter().any(|byte| *byte != 0xff)
}

/// Whether the group's order times the point is nothing. In variable time, and so faster than the library's own test: the point
/// is a public key.
fn is_torsion_free(point: &EdwardsPoint) -> bool {
    let minus_one = -Scalar::ONE;
    EdwardsPoint::vartime_double_scalar_mul_basepoint(&minus_one, point, &Scalar::ZERO) == -point
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

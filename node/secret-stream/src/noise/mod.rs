//! The Noise handshakes of Hyperswarm: `Noise_{XX,IK}_Ed25519_ChaChaPoly_BLAKE2b`.
//!
//! XX opens secret streams over plain transports; IK runs inside the packets of the DHT. Ephemeral seeds are passed in,
//! so a handshake is a pure function of its inputs: **never** use a seed twice. A responder of IK may have read a
//! replayed first message; only the secret stream's header proves that the peer is live.
//!
//! It frames nothing and keeps no replies: a server that gets the same message twice answers from its own cache.

mod dh;
mod symmetric;

pub use dh::KeyPair;

use dh::CheckedKey;
use symmetric::{SymmetricState, TAG_BYTES};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Noise's own limit for one handshake message, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 65_535;

const KEY_BYTES: usize = 32;

/// Why a handshake failed. The handshake is of no further use after any of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoiseError {
    /// A message does not hold the fields of its place in the pattern.
    #[error("failed to read handshake message: too short")]
    MessageTooShort,
    /// A message is longer than [`MAX_MESSAGE_BYTES`].
    #[error("failed to handle handshake message: longer than 65535 bytes")]
    MessageTooLong,
    /// A field did not decrypt: wrong keys, or changed on its way.
    #[error("failed to authenticate handshake message")]
    Authentication,
    /// A public key is not a canonical point of the prime-order subgroup.
    #[error("failed to use public key: not a canonical point of the prime-order subgroup")]
    PublicKey,
    /// It is the other side's turn.
    #[error("failed to continue handshake: it is the other side's turn")]
    OutOfTurn,
    /// All messages have been exchanged.
    #[error("failed to continue handshake: it is finished")]
    Finished,
    /// Messages are still missing.
    #[error("failed to finish handshake: messages are missing")]
    Unfinished,
}

/// The message pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Three messages; neither side knows the other's key before.
    Xx,
    /// Two messages; the initiator knows the responder's key.
    Ik,
}

impl Pattern {
    fn protocol_name(self) -> &'static str {
        match self {
            Self::Xx => "Noise_XX_Ed25519_ChaChaPoly_BLAKE2b",
            Self::Ik => "Noise_IK_Ed25519_ChaChaPoly_BLAKE2b",
        }
    }

    fn messages(self) -> &'static [&'static [Token]] {
        use Token::{E, Ee, Es, S, Se, Ss};
        match self {
            Self::Xx => &[&[E], &[E, Ee, S, Es], &[S, Se]],
            Self::Ik => &[&[E, Es, S, Ss], &[E, Ee, Se]],
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Token {
    E,
    S,
    Ee,
    Es,
    Se,
    Ss,
}

/// What both sides hold after the handshake; `tx` of one is `rx` of the other.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct HandshakeResult {
    /// Key of what this side sends.
    pub tx: [u8; 32],
    /// Key of what this side receives.
    pub rx: [u8; 32],
    /// The handshake hash, equal on both sides: binds what follows to this session.
    pub handshake_hash: [u8; 64],
    /// The other side's static Ed25519 public key, authenticated.
    pub remote_public_key: [u8; 32],
    /// Whether this side sent the first message.
    pub is_initiator: bool,
}

impl std::fmt::Debug for HandshakeResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandshakeResult")
            .field("is_initiator", &self.is_initiator)
            .finish_non_exhaustive()
    }
}

/// One side of one handshake.
///
/// A clone goes on from the same place by itself: for several candidates for the other side's next message. Of clones only one may write.
///
/// Alternate [`write`](Self::write) and [`read`](Self::read) until [`is_finished`](Self::is_finished), then call
/// [`finish`](Self::finish).
#[derive(Clone)]
pub struct Handshake {
    pattern: Pattern,
    is_initiator: bool,
    next: usize,
    symmetric: SymmetricState,
    local_static: KeyPair,
    local_ephemeral: KeyPair,
    remote_static: Option<[u8; 32]>,
    remote_ephemeral: Option<[u8; 32]>,
    /// The static and the ephemeral key, once they were checked: each is used twice.
    checked: [Option<CheckedKey>; 2],
}

impl Handshake {
    /// One side of an XX handshake; `ephemeral_seed` is 32 fresh random bytes.
    pub fn xx(is_initiator: bool, local_static: KeyPair, ephemeral_seed: [u8; 32], prologue: &[u8]) -> Self {
        Self::new(
            Pattern::Xx,
            is_initiator,
            (local_static, ephemeral_seed),
            prologue,
            None,
        )
    }

    /// The initiator of an IK handshake with the owner of `remote_public_key`; `ephemeral_seed` is 32 fresh random bytes.
    pub fn ik_initiator(
        local_static: KeyPair,
        ephemeral_seed: [u8; 32],
        remote_public_key: [u8; 32],
        prologue: &[u8],
    ) -> Self {
        Self::new(
            Pattern::Ik,
            true,
            (local_static, ephemeral_seed),
            prologue,
            Some(remote_public_key),
        )
    }

    /// The responder of an IK handshake; `ephemeral_seed` is 32 fresh random bytes.
    pub fn ik_responder(local_static: KeyPair, ephemeral_seed: [u8; 32], prologue: &[u8]) -> Self {
        Self::new(Pattern::Ik, false, (local_static, ephemeral_seed), prologue, None)
    }

    fn new(
        pattern: Pattern,
        is_initiator: bool,
        (local_static, ephemeral_seed): (KeyPair, [u8; 32]),
        prologue: &[u8],
        remote_static: Option<[u8; 32]>,
    ) -> Self {
        let mut symmetric = SymmetricState::new(pattern.protocol_name(), prologue);
        if pattern == Pattern::Ik {
            // The pre-message of IK: both sides know the responder's key.
            symmetric.mix_hash(remote_static.as_ref().unwrap_or(local_static.public_key()));
        }
        Self {
            pattern,
            is_initiator,
            next: 0,
            symmetric,
            local_static,
            local_ephemeral: KeyPair::from_seed(ephemeral_seed),
            remote_static,
            remote_ephemeral: None,
            checked: [None; 2],
        }
    }

    /// The handshake hash and the chaining key so far (Noise's `h` and `ck`), for comparison with recorded ones.
    #[cfg(feature = "vectors")]
    pub fn chaining_state(&self) -> ([u8; 64], [u8; 64]) {
        (*self.symmetric.hash(), *self.symmetric.chaining_key())
    }

    /// Whether this side started.
    pub fn is_initiator(&self) -> bool {
        self.is_initiator
    }

    /// Whether the next step is [`write`](Self::write).
    pub fn is_my_turn(&self) -> bool {
        !self.is_finished() && self.next.is_multiple_of(2) == self.is_initiator
    }

    /// Whether all messages have been exchanged.
    pub fn is_finished(&self) -> bool {
        self.next >= self.pattern.messages().len()
    }

    /// The other side's static key, as soon as it is known (for an IK responder: after the first message).
    pub fn remote_public_key(&self) -> Option<&[u8; 32]> {
        self.remote_static.as_ref()
    }

    /// The next message, carrying `payload`.
    ///
    /// # Errors
    /// [`NoiseError::OutOfTurn`], [`NoiseError::Finished`], [`NoiseError::MessageTooLong`], or
    /// [`NoiseError::PublicKey`] if the other side's key is unusable.
    pub fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, NoiseError> {
        let tokens = self.take_turn(true)?;
        let mut message = Vec::with_capacity(2 * KEY_BYTES + 2 * TAG_BYTES + payload.len());
        for token in tokens {
            match token {
                Token::E => {
                    let key = *self.local_ephemeral.public_key();
                    message.extend_from_slice(&key);
                    self.symmetric.mix_hash(&key);
                }
                Token::S => {
                    let key = *self.local_static.public_key();
                    self.symmetric.encrypt_and_hash(&key, &mut message)?;
                }
                dh => self.mix_dh(*dh)?,
            }
        }
        self.symmetric.encrypt_and_hash(payload, &mut message)?;
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(NoiseError::MessageTooLong);
        }
        self.next += 1;
        Ok(message)
    }

    /// Reads the other side's next message and returns its payload.
    ///
    /// # Errors
    /// Any [`NoiseError`] but [`NoiseError::Unfinished`].
    pub fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, NoiseError> {
        let tokens = self.take_turn(false)?;
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(NoiseError::MessageTooLong);
        }
        let mut rest = message;
        for token in tokens {
            match token {
                Token::E => {
                    let key = take_key(&mut rest, KEY_BYTES)?;
                    self.symmetric.mix_hash(key);
                    self.remote_ephemeral = Some(to_key(key)?);
                    self.checked[1] = None;
                }
                Token::S => {
                    let bytes = if self.symmetric.has_key() {
                        KEY_BYTES + TAG_BYTES
                    } else {
                        KEY_BYTES
                    };
                    let key = self.symmetric.decrypt_and_hash(take_key(&mut rest, bytes)?)?;
                    self.remote_static = Some(to_key(&key)?);
                    self.checked[0] = None;
                }
                dh => self.mix_dh(*dh)?,
            }
        }
        let payload = self.symmetric.decrypt_and_hash(rest)?;
        self.next += 1;
        Ok(payload)
    }

    /// The session's keys.
    ///
    /// # Errors
    /// [`NoiseError::Unfinished`] before the last message.
    pub fn finish(self) -> Result<HandshakeResult, NoiseError> {
        if !self.is_finished() {
            return Err(NoiseError::Unfinished);
        }
        let remote_public_key = self.remote_static.ok_or(NoiseError::Unfinished)?;
        let (to_responder, to_initiator) = self.symmetric.split();
        let (tx, rx) = if self.is_initiator {
            (to_responder, to_initiator)
        } else {
            (to_initiator, to_responder)
        };
        Ok(HandshakeResult {
            tx,
            rx,
            handshake_hash: *self.symmetric.hash(),
            remote_public_key,
            is_initiator: self.is_initiator,
        })
    }

    fn take_turn(&self, writing: bool) -> Result<&'static [Token], NoiseError> {
        let tokens = self
            .pattern
            .messages()
            .get(self.next)
            .ok_or(NoiseError::Finished)?;
        if self.is_my_turn() == writing {
            Ok(tokens)
        } else {
            Err(NoiseError::OutOfTurn)
        }
    }

    /// In the name of a token the initiator's key comes first.
    fn mix_dh(&mut self, token: Token) -> Result<(), NoiseError> {
        let (initiator_ephemeral, responder_ephemeral) = match token {
            Token::Ee => (true, true),
            Token::Es => (true, false),
            Token::Se => (false, true),
            Token::Ss => (false, false),
            Token::E | Token::S => return Ok(()),
        };
        let (local, remote) = if self.is_initiator {
            (initiator_ephemeral, responder_ephemeral)
        } else {
            (responder_ephemeral, initiator_ephemeral)
        };
        let local = if local {
            &self.local_ephemeral
        } else {
            &self.local_static
        };
        let (key, checked) = if remote {
            (self.remote_ephemeral, &mut self.checked[1])
        } else {
            (self.remote_static, &mut self.checked[0])
        };
        let remote = match *checked {
            Some(checked) => checked,
            None => *checked.insert(CheckedKey::new(&key.ok_or(NoiseError::Unfinished)?)?),
        };
        let shared = local.dh_checked(&remote)?;
        self.symmetric.mix_key(&*shared);
        Ok(())
    }
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handshake")
            .field("pattern", &self.pattern)
            .field("is_initiator", &self.is_initiator)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

fn take_key<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], NoiseError> {
    let (key, tail) = rest.split_at_checked(bytes).ok_or(NoiseError::MessageTooShort)?;
    *rest = tail;
    Ok(key)
}

fn to_key(bytes: &[u8]) -> Result<[u8; 32], NoiseError> {
    bytes.try_into().map_err(|_| NoiseError::MessageTooShort)
}

//! Noise (XX, IK) over Ed25519 and the framed secret stream, without IO.
//!
//! [`noise`] makes the keys of a session, [`SecretStream`] turns its messages into bytes and back.
//! Everything is sans-IO: bytes, time and random seeds are passed in.

pub mod noise;

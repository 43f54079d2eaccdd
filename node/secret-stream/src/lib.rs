//! Noise (XX, IK) over Ed25519 and the framed secret stream, without IO.

//! Hyperbee: an ordered key-value tree on a Hypercore.

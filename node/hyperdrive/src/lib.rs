//! Hyperdrive and Hyperblobs: files on a Hyperbee and a blob core.

//! cumulet-node: an always-on peer of a personal cloud.

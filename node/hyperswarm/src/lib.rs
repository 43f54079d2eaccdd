//! Hyperswarm: topics to connections.

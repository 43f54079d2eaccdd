//! Connections between our own stores, over pipes.

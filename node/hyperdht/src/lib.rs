//! HyperDHT: RPC, routing, announce and lookup, handshakes.

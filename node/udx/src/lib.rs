//! UDX: reliable streams over UDP, wire-compatible with libudx.

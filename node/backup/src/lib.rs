//! Segments to and from object stores: ship, restore, verify.

//! The custom resources of group cumulet.io: pure types, no client.

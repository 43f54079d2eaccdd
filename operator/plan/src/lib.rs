//! Every decision of the operator, as pure functions: no client, no clock, no randomness of its own.
//!
//! ```text
//! spec ──validate──► Cloud ──plan(observed, now)──► Decision ──build──► Resources<Prepared>
//!                                                                           │ the operator applies them
//!                             status ◄──status(applied, observed, now)── Resources<Applied>
//! ```
//!
//! - [`validate`] parses a resource's spec into types that cannot hold a bad state.
//! - [`plan`] decides what depends on order, on what exists, or on time.
//! - [`build`] makes one Kubernetes object per file, from validated types only.
//! - [`status`] says what is true, from what was applied and observed. It cannot be computed from objects
//!   that were only prepared: the types differ.
//!
//! It does not read or write a cluster, and it never makes a secret by itself: [`credentials`] asks the caller
//! for entropy and keeps what exists.

pub mod build;
pub mod credentials;
pub mod key;
pub mod names;
pub mod plan;
pub mod quantity;
pub mod resources;
pub mod settings;
pub mod status;
#[cfg(test)]
mod testing;
pub mod validate;

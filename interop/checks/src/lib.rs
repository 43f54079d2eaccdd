//! Conformance with the JavaScript packages.
//!
//! - [`vectors`] checks folders of test vectors, made by running the packages;
//! - [`matrix`] runs the packages themselves beside the product.
//!
//! The executable of the same name is what `cargo xtask vectors` and `cargo xtask interop` run, so that the command for
//! developers does not have to link the product.

pub mod matrix;
pub mod vectors;

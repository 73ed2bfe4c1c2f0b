//! The search for orders of events that nobody thought of.
//!
//! [`System`] is what is searched; everything else here works on any system, and is tested on a toy.

mod base32;
pub mod found;
pub mod shrink;
pub mod system;
pub mod token;
#[cfg(test)]
mod toy;

pub use system::System;

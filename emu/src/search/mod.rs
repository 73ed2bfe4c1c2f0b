//! The search for orders of events that nobody thought of.
//!
//! [`System`] is what is searched; everything else here works on any system, and is tested on a toy.

pub mod results;
pub mod shard;
pub mod system;
#[cfg(test)]
mod toy;

pub use shard::{Shard, Shards, shard_of};
pub use system::System;

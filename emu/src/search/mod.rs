//! The search for orders of events that nobody thought of.
//!
//! [`System`] is what is searched; everything else here works on any system, and is tested on a toy. [`explore`] draws many schedules
//! ([`strategy`], [`walk`]), in blocks of consecutive seeds, and adds up what was seen ([`block`], [`coverage`], [`bound`]). [`mod@shrink`] makes
//! few constraints of a schedule that fails, [`found`] a scenario file of those, [`mod@reproduce`] both, checked by a run; [`token`] is what replays the
//! schedule itself. [`prove`] searches all schedules; [`why`] says when a failing one was lost. Where scenarios are concerned, [`Subject`] makes systems
//! of them.

mod base32;
pub mod block;
pub mod bound;
mod context;
pub mod coverage;
pub mod draw;
pub mod explore;
pub mod found;
pub mod graph;
mod index;
pub mod prove;
pub mod reproduce;
pub mod results;
pub mod shard;
pub mod shrink;
pub mod strategy;
pub mod subject;
pub mod system;
pub mod token;
#[cfg(test)]
pub(crate) mod toy;
pub mod walk;
pub mod why;

pub use shard::{Shard, Shards, shard_of};
pub use subject::Subject;
pub use system::System;

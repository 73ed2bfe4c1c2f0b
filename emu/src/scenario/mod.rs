//! Scenario files: what a user writes, checked into plain values.
pub mod model;

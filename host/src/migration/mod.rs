//! The precopy engine.
pub mod notifier;

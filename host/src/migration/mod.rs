//! The precopy engine.
//!
//! QEMU 11.1.50: migration/migration.c, migration/ram.c, migration/savevm.c. [`ram`] holds the bitmaps of what is still to be sent,
//! [`pace`] the bandwidth estimate and the rate limit, [`op`] the engine's moves, [`engine`] the state machine that makes them, [`course`] the
//! decisions between them, [`slice`](mod@slice) the sending of pages, [`wire`] what travels, [`hint`] the way in for the balloon device and
//! [`notifier`] the way out to it.

pub mod course;
pub mod engine;
pub mod hint;
pub mod notifier;
pub mod op;
pub mod pace;
pub mod ram;
pub mod slice;
pub mod wire;

//! The precopy engine.
//!
//! QEMU 11.1.50: migration/migration.c, migration/ram.c, migration/savevm.c. [`ram`] holds the bitmaps of what is still to be sent, `blocks` each RAM
//! block's own, `scan` where the next page is looked for, [`pace`] the bandwidth estimate and the rate limit, `op` the engine's moves, [`engine`] the
//! state machine that makes them, `run` what they work on, `course` the choices between them, [`slice`](mod@slice) the sending of pages, [`encoding`] how pages are written, [`xbzrle`] their differences,
//! [`multifd`] the channels beside the main one, [`mapped_ram`] the file, [`wire`] what travels, [`stream`] what it looks like as bytes, `incoming` the
//! destination's moves, [`postcopy`] the guest's going on before all is there, [`snapshot`] saving while it goes on, [`hint`] the way in
//! for the balloon device and [`notifier`] the way out to it.

mod blocks;
mod course;
pub mod encoding;
pub mod engine;
pub mod hint;
mod incoming;
pub mod mapped_ram;
pub mod multifd;
pub mod notifier;
mod op;
pub mod pace;
pub mod postcopy;
pub mod ram;
mod return_path;
mod run;
mod scan;
pub mod slice;
pub mod snapshot;
pub mod stream;
pub mod throttle;
pub mod wire;
pub mod xbzrle;

//! The device: the host's balloon, in both profiles, against a driver made by hand.

mod hints;
mod inflate;
mod mmio;
mod negotiation;
mod rig;
mod ring;
mod stats;

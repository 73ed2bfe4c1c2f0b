//! The driver: the guest's image against the tester.

mod hints;
mod inflate;
mod mmio;
mod moved;
mod negotiation;
mod reporting;
mod ring;
mod sleep;
mod stats;

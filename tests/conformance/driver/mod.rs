//! The driver: the guest's image against the tester.

mod hints;
mod inflate;
mod mmio;
mod negotiation;
mod reporting;
mod ring;
mod stats;

//! The driver: the guest's image against the tester.

mod inflate;
mod negotiation;
mod stats;

//! The driver: the guest's image against the tester.

mod negotiation;

//! What a guest and a VMM must agree on, and nothing else.
//!
//! Four contracts stand here, one module each: the virtio transport and rings ([`virtio`], [`vring`]), the balloon device
//! ([`balloon`]), the machine that both live on ([`platform`]), and what an observer outside the guest may know of it
//! ([`debug`]: tracepoints; [`layout`]: where the memory manager keeps its structures, as `vmcoreinfo` tells a crash tool).
//! No code runs here; every number has its source.
#![no_std]

pub mod balloon;
pub mod debug;
pub mod dialect;
pub mod layout;
pub mod platform;
pub mod switch;
pub mod task;
pub mod virtio;
pub mod vring;

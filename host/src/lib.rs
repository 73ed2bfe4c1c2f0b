//! What a VMM does, without input or output of its own: memory, dirty tracking, the virtio-mmio transport, the balloon device, live
//! migration, and the monitor's commands.
//!
//! Behaviour is QEMU's (the sources are named at each function). Everything here is a value: an actor's state is an enum, its next move can
//! be asked for ([`step::Next`]) before it is made, and a whole [`vmm::Vmm`] can be cloned, hashed ([`fold`]) and put back at any step. Nothing here
//! blocks, allocates threads or reads a clock: waiting is a value too.
//!
//! Reading order is the data's: [`event`] and [`step`] are the vocabulary; [`memory`] is the guest's RAM; [`dirty`] records who wrote it;
//! [`devices`] write it by themselves; [`transport`] and [`balloon`] are the device; [`migration`] sends the pages; [`destination`] receives them; [`vmm`] owns all.

pub mod balloon;
pub mod destination;
pub mod devices;
pub mod dirty;
pub mod event;
pub mod fault;
pub mod fold;
pub mod lock;
pub mod memory;
pub mod migration;
pub mod page;
pub mod step;
pub mod transport;
pub mod vmm;

//! Linux's side: a small kernel, its memory manager, and what runs on them.
//!
//! The same source is two things. As a native library its modules run over a thread's own test memory ([`arch::hosted`]), for unit
//! tests. With `--cfg image` it is a freestanding kernel whose addresses are the machine's: no paging, text read-only.
//! No module but [`arch`] knows which of the two it is, except where a panic or a stack is concerned.
//!
//! Order of boot: [`arch`] gives each vCPU a stack and an interrupt table; [`kernel::boot`] sets up [`mm`] and [`kernel::sched`] on
//! vCPU 0 and releases the others; the first thread then calls [`workload::start`].
#![cfg_attr(image, no_std)]

pub mod arch;
pub mod balloon;
pub mod kernel;
pub mod mm;
pub mod virtio;
pub mod workload;

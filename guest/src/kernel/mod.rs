//! The kernel's ground: data segment, lists, locks, threads, time, interrupts, deferred work. Linux's names throughout.

pub mod boot;
pub mod data;
pub mod info;
pub mod irq;
pub mod list;
pub mod lock;
pub mod mutex;
pub mod panic;
pub mod reboot;
pub mod sched;
pub mod switch;
pub mod timer;
pub mod wait;
pub mod workqueue;

//! The memory manager. Linux: mm/, version 6.12 with SMP; see the files for what differs.
//!
//! * [`page`] the memory map, [`zone`] the free lists, [`page_alloc`] the buddy allocator, [`pcp`] the per-CPU lists before it
//! * [`watermark`], [`reclaim`], [`shrinker`], [`oom`]: what happens when memory is short
//! * [`balloon_compaction`]: pages that a balloon owns; [`compaction`] and [`migrate`]: how they move; [`page_reporting`]: free blocks that a
//!   device is told of
//! * [`unused_pages`], [`free_page_list`], [`pfn_walk`]: how it was proposed that a driver might learn what is free
//! * [`slab`]: memory by bytes
//!
//! Leaves out: nodes, kswapd, swap, the LRU, slabs, huge pages, CMA.

pub mod balloon_2012;
pub mod balloon_compaction;
#[cfg(test)]
mod behaviour_tests;
pub mod compaction;
pub(crate) mod fallback;
pub mod free_page_list;
pub mod gfp;
pub mod globals;
mod init;
pub mod migrate;
#[cfg(test)]
mod model_tests;
pub mod oom;
pub mod page;
pub mod page_alloc;
pub mod page_reporting;
pub mod pcp;
pub mod pfn_walk;
pub mod reclaim;
pub mod shrinker;
pub mod slab;
pub mod stats;
pub(crate) mod swap;
pub mod unused_pages;
pub mod watermark;
pub mod zone;

pub use gfp::Gfp;
pub use globals::{page_poisoning_enabled, want_init_on_free};
pub use init::adjust_managed_page_count;
pub(crate) use init::init;
pub use oom::{register_oom_notifier, unregister_oom_notifier};
pub use page::{Page, Pfn};
pub use page_alloc::{alloc_pages, free_pages};
pub use shrinker::{register_shrinker, unregister_shrinker};

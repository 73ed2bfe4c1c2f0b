//! `kmalloc()`: memory by bytes. Linux: mm/slub.c, mm/slab_common.c.
//!
//! Differs: no slabs. Every object is a block of whole pages, as Linux makes those that are larger than its caches (`kmalloc_large`); its first
//! page's `private` keeps the order, as a compound page keeps it in Linux. So a pointer into the first page frees the whole block, there and here.

use wire::layout::MAX_PAGE_ORDER;
use wire::platform::PAGE_SIZE;

use crate::mm::gfp::Gfp;
use crate::mm::page::{Page, Pfn};
use crate::mm::page_alloc::{alloc_pages, free_pages};

/// log2 of the pages that hold so many bytes. Linux: get_order().
pub fn get_order(bytes: u64) -> u32 {
    bytes.div_ceil(PAGE_SIZE).next_power_of_two().trailing_zeros()
}

/// Allocates at least so many bytes; `None` when there is no such block, or never could be. Linux: kmalloc().
pub fn kmalloc(bytes: u64, gfp: Gfp) -> Option<u64> {
    assert!(bytes > 0, "an object without bytes");
    let order = get_order(bytes);
    if order > MAX_PAGE_ORDER {
        return None;
    }
    let pfn = alloc_pages(gfp, order)?;
    Page::of(pfn).set_private(u64::from(order));
    Some(pfn.addr())
}

/// Frees an object, by an address in its first page; 0 is none. Linux: kfree().
pub fn kfree(addr: u64) {
    if addr == 0 {
        return;
    }
    let pfn = Pfn::of_addr(addr);
    free_pages(pfn, Page::of(pfn).private() as u32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::boot;
    use crate::mm::pcp::drain_all_pages;
    use crate::mm::stats::si_meminfo;

    #[test]
    fn objects_come_back_whole_whatever_their_size() {
        boot::init_for_test(16 << 20, 1);
        drain_all_pages();
        let free = si_meminfo().freeram;
        let sizes = [1, 4096, 4097, 32 << 10, (32 << 10) + 8, 4 << 20];
        let objects = sizes.map(|bytes| kmalloc(bytes, Gfp::KERNEL).expect("memory"));
        assert_eq!(si_meminfo().freeram, free - (1 + 1 + 2 + 8 + 16 + 1024));
        // A pointer into the first page is as good as the first byte's.
        objects.into_iter().for_each(|object| kfree(object + 8));
        kfree(0);
        drain_all_pages();
        assert_eq!(si_meminfo().freeram, free);
        assert_eq!(kmalloc((4 << 20) + 1, Gfp::KERNEL), None);
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn freeing_an_object_twice_is_caught() {
        boot::init_for_test(16 << 20, 1);
        let object = kmalloc(100, Gfp::KERNEL).expect("memory");
        kfree(object);
        kfree(object);
    }
}

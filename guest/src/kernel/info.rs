//! What the guest tells an observer of its structures: fills `wire::layout::KernelInfo`, as Linux fills `vmcoreinfo`.

use core::mem::offset_of;

use wire::layout::{KernelInfo, ZoneInfo};
use wire::platform::KERNEL_INFO;

use crate::arch;

/// Publishes one field: `publish(offset_of!(KernelInfo, balloon_pages), addr)`.
pub fn publish(offset: usize, value: u64) {
    assert!(offset + 8 <= size_of::<KernelInfo>() && offset.is_multiple_of(8), "no such field");
    arch::write64(KERNEL_INFO + offset as u64, value);
}

/// Publishes a zone.
pub fn publish_zone(index: usize, zone: &ZoneInfo) {
    let base = offset_of!(KernelInfo, zones) + index * size_of::<ZoneInfo>();
    publish(base + offset_of!(ZoneInfo, start_pfn), zone.start_pfn);
    publish(base + offset_of!(ZoneInfo, spanned_pages), zone.spanned_pages);
    publish(base + offset_of!(ZoneInfo, lock), zone.lock);
    publish(base + offset_of!(ZoneInfo, free_area), zone.free_area);
    publish(base + offset_of!(ZoneInfo, nr_free_pages), zone.nr_free_pages);
    publish(base + offset_of!(ZoneInfo, managed_pages), zone.managed_pages);
    publish(base + offset_of!(ZoneInfo, pageblock_types), zone.pageblock_types);
    publish(base + offset_of!(ZoneInfo, pcp), zone.pcp);
    publish(base + offset_of!(ZoneInfo, pcp_stride), zone.pcp_stride);
}

/// Publishes that the memory manager's fields are valid, after all of them.
pub fn publish_magic() {
    publish(offset_of!(KernelInfo, inject_store), arch::inject_store_entry());
    arch::write_barrier();
    publish(offset_of!(KernelInfo, magic), KernelInfo::MAGIC);
}

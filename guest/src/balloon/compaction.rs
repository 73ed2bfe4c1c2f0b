//! Compaction moves a page of the balloon: the host gets the new one and gives the old one back. Linux 6.12: virtio_balloon.c.

use wire::balloon::feature;
use wire::debug::{DEFLATE, INFLATE};
use wire::switch::fault;

use crate::balloon::balloon_2012;
use crate::balloon::driver::VirtioBalloon;
use crate::balloon::inflate::{set_page_pfns, tell_host};
use crate::kernel::switch::faulty;
use crate::mm::balloon_compaction::{balloon_page_delete, balloon_page_finalize, balloon_page_insert};
use crate::mm::migrate::rc;
use crate::mm::page_alloc::put_page;
use crate::mm::stats::{self, Event};
use crate::mm::zone::Zone;
use crate::mm::{self, Gfp, Page, Pfn, adjust_managed_page_count};
use crate::virtio::Errno;
use crate::virtio::device::VirtioDevice;

/// Puts `newpage` in the place of `page`, which is isolated; both are locked. The host owns the new page before it gives the old one back, so
/// the balloon never has a page less than it says. Linux: virtballoon_migratepage().
pub fn virtballoon_migratepage(newpage: u64, page: u64) -> u64 {
    let vb = VirtioBalloon::at(VirtioDevice::the().private().get());
    let (newpage, page) = (Page::of(Pfn(newpage)), Page::of(Pfn(page)));
    let dev = vb.dev_info();
    // Who holds the lock may wait for the page lock that we hold: never sleep for it.
    if !vb.balloon_mutex().try_lock() {
        return rc::AGAIN;
    }
    newpage.get();
    // A page that leaves a zone gives it back what the inflation took from it.
    if !faulty(fault::NO_ZONE_FIXUP) && !vb.has_feature(feature::DEFLATE_ON_OOM) && Zone::of(page.pfn()) != Zone::of(newpage.pfn()) {
        adjust_managed_page_count(page.pfn(), 1);
        adjust_managed_page_count(newpage.pfn(), -1);
    }
    let flags = dev.pages_lock().lock_irqsave();
    balloon_page_insert(dev, newpage);
    dev.set_isolated_pages(dev.isolated_pages() - 1);
    stats::count(Event::BalloonMigrate, 1);
    dev.pages_lock().unlock_irqrestore(flags);
    vb.num_pfns().set(0);
    set_page_pfns(vb, newpage.pfn());
    tell_host(vb, vb.inflate_vq().get(), INFLATE);
    vb.num_pfns().set(0);
    set_page_pfns(vb, page.pfn());
    tell_host(vb, vb.deflate_vq().get(), DEFLATE);
    vb.balloon_mutex().unlock();
    if faulty(fault::DEQUEUE_ISOLATED) {
        // As if it were on the balloon's list; it is on compaction's.
        balloon_page_delete(page);
    } else {
        balloon_page_finalize(page);
    }
    // The balloon's reference; compaction has another.
    put_page(page.pfn());
    rc::SUCCESS
}

/// Gives the device's pages a mapping of their own, when that is asked for. Linux 3.8 to 3.17: virtballoon_probe().
pub(super) fn probe(vb: VirtioBalloon) -> Result<(), Errno> {
    if faulty(fault::MAPPING_DEREF) {
        vb.dev_info().set_own_mapping(mm::alloc_pages(Gfp::KERNEL, 0).ok_or(Errno::NoMem)?);
    }
    Ok(())
}

/// Frees the mapping of a device whose pages are all given back.
pub(super) fn remove(vb: VirtioBalloon) {
    if vb.balloon_mapping().get() != 0 {
        balloon_2012::remove(vb);
    }
    if let Some(mapping) = vb.dev_info().own_mapping() {
        mm::free_pages(mapping, 0);
    }
}

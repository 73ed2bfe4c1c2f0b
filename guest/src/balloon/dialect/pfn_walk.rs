//! Frames that nobody refers to. Proposed: M. Hocko, July 2017, in the discussion of v12. There is no patch; the driver's part is that of [`super::v13`].

use wire::switch::correct;

use super::v13::virtio_balloon_send_free_pages;
use crate::balloon::driver::VirtioBalloon;
use crate::kernel::switch::corrected;
use crate::mm::pfn_walk::{walk_buddies, walk_unreferenced};
use crate::virtio::Errno;

/// Walks all frames.
pub(super) fn report_unreferenced(vb: VirtioBalloon) -> Result<(), Errno> {
    let mut report = |pfn, order| virtio_balloon_send_free_pages(vb, pfn, order);
    if corrected(correct::REFCOUNT_TRUSTED) {
        walk_buddies(&mut report);
    } else {
        walk_unreferenced(&mut report);
    }
    Ok(())
}

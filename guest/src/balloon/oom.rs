//! Deflating when memory runs out. Linux 6.12: virtio_balloon.c virtio_balloon_oom_notify().

use crate::balloon::driver::VirtioBalloon;
use crate::balloon::inflate::{leak_balloon, update_balloon_size};
use crate::mm::oom::{OomNotifier, register_oom_notifier, unregister_oom_notifier};
use crate::virtio::Errno;

/// Pages taken back at a time. Linux: VIRTIO_BALLOON_OOM_NR_PAGES.
const OOM_NR_PAGES: usize = 256;
/// Linux: VIRTIO_BALLOON_OOM_NOTIFY_PRIORITY.
const OOM_NOTIFY_PRIORITY: u64 = 80;

/// Takes pages back from the host, in the context of whoever could not allocate; returns how many. It waits for the host.
fn virtio_balloon_oom_notify(vb: u64, _unused: u64) -> u64 {
    let vb = VirtioBalloon::at(vb);
    let freed = leak_balloon(vb, OOM_NR_PAGES);
    update_balloon_size(vb);
    freed as u64
}

/// Registers the notifier.
pub fn register(vb: VirtioBalloon) -> Result<(), Errno> {
    let notifier = register_oom_notifier(OOM_NOTIFY_PRIORITY, virtio_balloon_oom_notify, vb.addr()).ok_or(Errno::NoMem)?;
    vb.oom_nb().set(notifier.addr());
    Ok(())
}

/// Unregisters it.
pub fn unregister(vb: VirtioBalloon) {
    unregister_oom_notifier(OomNotifier::at(vb.oom_nb().get()));
    vb.oom_nb().set(0);
}

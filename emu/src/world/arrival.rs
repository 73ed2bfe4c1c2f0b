//! The guest's going on at the destination: what memory holds there, and who waits for a page.
//!
//! QEMU: migration/savevm.c loadvm_postcopy_handle_run_bh(), migration/postcopy-ram.c; Linux: fs/userfaultfd.c. One machine is enough: when the
//! guest goes over, its memory takes what the destination has, and its vCPUs go on as they were saved. What the destination has not stays as
//! it was at the source, and nobody can use it: it is the source's copy, until the page is placed.

use host::dirty::bitmap::DirtyBitmap;
use host::event::{Actor, EventKind, PageRange, Pfn};
use host::migration::postcopy::Landing;
use host::step::{Await, Move};
use wire::platform::{MAILBOX, PAGE_SHIFT};

use crate::world::guest::Pending;
use crate::world::{Readiness, World};

impl World {
    /// Takes over what has come about at the destination, behind the events that told of it.
    pub(super) fn land(&mut self) {
        let Some(Landing { moved, placed, given_up, changed: _ }) = self.state.vmm.migration.take_landing() else { return };
        if let Some(running) = moved {
            for pfn in (0..self.ram.pages()).map(Pfn) {
                if !self.state.vmm.migration.is_missing(pfn) {
                    self.take_over(pfn);
                }
            }
            self.with_ctx(Actor::Destination, |vmm, ctx| vmm.go_over(running, ctx));
            // All memory is another one.
            self.used.changed = u64::MAX;
        }
        for pfn in placed {
            self.take_over(pfn);
        }
        for pfn in given_up.into_iter().filter(|pfn| !self.is_mailbox(*pfn) && !self.ram.is_zero(*pfn)) {
            self.ram.write_unlogged(pfn.address(), &[0; 4096]);
        }
        self.show_missing();
    }

    /// Lets the vCPUs know what is missing, and what may not be written.
    fn show_missing(&mut self) {
        let migration = &self.state.vmm.migration;
        self.machine.set_missing(migration.missing().into_iter().flat_map(DirtyBitmap::all_words));
        self.machine.set_protected(migration.protected().into_iter().flat_map(DirtyBitmap::all_words));
    }

    /// A page of memory is now what the destination has there. What the scenario has put into a mailbox is no memory of the guest's: it stays.
    fn take_over(&mut self, pfn: Pfn) {
        let destination = &self.state.vmm.destination;
        if !self.is_mailbox(pfn) && !destination.equals(pfn, &self.ram) {
            self.ram.write_unlogged(pfn.address(), &destination.page(pfn));
        }
    }

    fn is_mailbox(&self, pfn: Pfn) -> bool {
        let first = MAILBOX >> PAGE_SHIFT;
        (first..first + self.state.vcpus.len() as u64).contains(&pfn.0)
    }

    /// What a vCPU in front of a page that it cannot use does next: ask for it, unless somebody has; then it waits.
    pub(super) fn missing_next(&self, pfn: Pfn) -> Readiness {
        let migration = &self.state.vmm.migration;
        match () {
            () if migration.is_protected(pfn) && migration.is_wanted(pfn) => Readiness::Await(Await::Page),
            () if migration.is_protected(pfn) => Readiness::Ready(Some(Move::on(EventKind::SnapshotFault, PageRange::page(pfn)))),
            () if !migration.is_missing(pfn) => Readiness::Ready(None),
            () if migration.is_asked_for(pfn) => Readiness::Await(Await::Page),
            () => Readiness::Ready(Some(Move::on(EventKind::DstFault, PageRange::page(pfn)))),
        }
    }

    /// The vCPU asks for the page, or goes on if it has come.
    pub(super) fn vcpu_missing(&mut self, cpu: usize, pfn: Pfn) -> u64 {
        let migration = &self.state.vmm.migration;
        let protected = migration.is_protected(pfn);
        if !protected && !migration.is_missing(pfn) {
            return self.vcpu_run(cpu);
        }
        self.with_ctx(Actor::Vcpu(cpu as u8), |vmm, ctx| match protected {
            true => vmm.migration.write_fault(pfn, ctx),
            false => vmm.page_fault(pfn, ctx),
        });
        // What is not plugged is there at once.
        self.land();
        self.state.vcpus[cpu].pending = Pending::Missing { pfn };
        self.costs.exit_ns
    }
}

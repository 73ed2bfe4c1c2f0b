//! K and S: how the accelerator records guest stores, and the copy that the VMM takes of it.
//!
//! Linux: virt/kvm/kvm_main.c kvm_get_dirty_log_protect(), kvm_clear_dirty_log_protect(); QEMU: accel/kvm/kvm-all.c
//! kvm_physical_sync_dirty_bitmap(), kvm_log_clear_one_slot(); accel/tcg/cputlb.c notdirty_write(). Memory slots are in [`super::slots`], rings
//! in [`super::ring`], TLB flags in [`super::tcg`].
//!
//! A store to a write-protected page faults, sets its K bit and lifts the protection: later stores leave no new trace until the page is
//! protected again. With manual clear that happens at CLEAR, long after GET, so a store behind the GET may share the K bit of one before it.
//! Under TCG there is no K: a store to a page that is clean in D marks D. Under HVF there is none either: a fault marks D.
//!
//! The slots lock, which real QEMU holds from GET to the end of the merge, is not modelled. A CLEAR that comes between the two moves here
//! leaves its bits to the merge all the same, so any such order ends in the state of an order that the lock allows.

use super::bitmap::DirtyBitmap;
use super::physmem::DirtyMemory;
use super::ring::{RING_SIZE, Rings};
use super::slots::Log;
use super::tcg::Tlbs;
use crate::event::{Event, Level, PageRange, Pfn};
use crate::fault::{Fault, Faults};
use crate::fold::{Fold, Tag};
use crate::step::Ctx;

/// How guest stores are tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogMode {
    /// KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: GET copies, CLEAR clears and write-protects.
    ManualClear {
        /// KVM_DIRTY_LOG_INITIALLY_SET: everything counts as dirty when logging starts, and nothing is write-protected.
        initially_set: bool,
    },
    /// KVM without it: GET copies, clears and write-protects.
    GetClears,
    /// KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP: each vCPU lists what it writes; what KVM writes outside of vCPUs is in K.
    Ring,
    /// HVF: a fault on a write-protected page marks D, and CLEAR write-protects (QEMU: accel/hvf/hvf-all.c).
    Hvf,
    /// TCG: stores mark D.
    Tcg,
}

/// What a log is made from, beside its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackingOptions {
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Places of a vCPU's ring.
    pub ring_size: u32,
    /// The reaper looks at the rings this often, nanoseconds.
    pub reap_interval_ns: u64,
    /// Target pages of a page of the host's: what a bit of K stands for.
    pub host_page: u16,
    /// First pages of the memory slots behind the first.
    pub slots: Vec<Pfn>,
    /// System management mode has an address space of its own.
    pub smm: bool,
}

/// The reaper's interval when nothing else is asked for (QEMU: kvm_dirty_ring_reaper_thread() sleeps a second).
pub const REAP_INTERVAL_NS: u64 = 1_000_000_000;

impl Default for TrackingOptions {
    fn default() -> Self {
        let (ring_size, reap_interval_ns) = (RING_SIZE, REAP_INTERVAL_NS);
        Self { vcpus: 1, ring_size, reap_interval_ns, host_page: 1, slots: Vec::new(), smm: false }
    }
}

/// What a vCPU's store is, beside plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum StoreKind {
    /// Nothing.
    #[default]
    Plain,
    /// A locked read-modify-write.
    Atomic,
    /// In system management mode.
    Smm,
}

/// A vCPU's store as the log sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Store {
    /// Which vCPU.
    pub cpu: u8,
    /// To which page.
    pub pfn: Pfn,
    /// How.
    pub kind: StoreKind,
}

impl Store {
    /// Returns a plain store.
    pub fn plain(cpu: u8, pfn: Pfn) -> Self {
        Self { cpu, pfn, kind: StoreKind::Plain }
    }
}

/// Who wants stores to be tracked (QEMU: GLOBAL_DIRTY_MIGRATION, GLOBAL_DIRTY_DIRTY_RATE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogUser {
    /// A migration.
    Migration,
    /// A measurement of how fast the guest dirties pages.
    DirtyRate,
}

/// K with its write protection, and S.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accelerator {
    mode: LogMode,
    host_page: u64,
    logging: bool,
    users: Users,
    /// The log is to stop when the VM runs again.
    stop_postponed: bool,
    main: Log,
    smm: Option<Log>,
    merged: bool,
    /// GETs that are going to fail.
    failing_gets: u32,
    rings: Rings,
    tlbs: Tlbs,
    /// A vCPU is on the list of vCPUs and has no ring yet.
    half_created: bool,
    /// Pages that became protected since the vCPUs were last told.
    protected: DirtyBitmap,
    protected_any: bool,
}

/// The users of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Users {
    migration: bool,
    dirty_rate: bool,
}

impl Users {
    fn of(&mut self, user: LogUser) -> &mut bool {
        match user {
            LogUser::Migration => &mut self.migration,
            LogUser::DirtyRate => &mut self.dirty_rate,
        }
    }

    fn any(self) -> bool {
        self.migration || self.dirty_rate
    }
}

impl Accelerator {
    /// Returns an accelerator that does not log.
    pub fn new(mode: LogMode, pages: u64) -> Self {
        Self::with(mode, &TrackingOptions::default(), pages)
    }

    /// Returns the same with options.
    pub fn with(mode: LogMode, options: &TrackingOptions, pages: u64) -> Self {
        let log = || Log::new(&options.slots, pages);
        Self {
            mode,
            host_page: u64::from(options.host_page),
            logging: false,
            users: Users::default(),
            stop_postponed: false,
            main: log(),
            smm: options.smm.then(log),
            merged: true,
            failing_gets: 0,
            rings: Rings::new(options.vcpus, options.ring_size, pages),
            tlbs: Tlbs::new(options.vcpus, pages),
            half_created: false,
            protected: DirtyBitmap::new(pages),
            protected_any: false,
        }
    }

    /// Adds its state to a hash.
    pub(crate) fn fold(&mut self, fold: &mut Fold) {
        // Without protected pages, whether there are any is asked in vain.
        let Self {
            mode,
            host_page: _,
            logging,
            users,
            stop_postponed,
            main,
            smm,
            merged,
            failing_gets,
            rings,
            tlbs,
            half_created,
            protected,
            protected_any: _,
        } = self;
        fold.add_each(Tag::Logging, [*logging, users.migration, users.dirty_rate, *stop_postponed, *half_created]);
        fold.add(Tag::Merged, u64::from(*merged));
        fold.add(Tag::FailingGets, u64::from(*failing_gets));
        for (index, log) in (0..).zip([Some(main), smm.as_mut()]) {
            log.into_iter().for_each(|log| log.fold(index, fold));
        }
        fold.sum_of(Tag::Protected as u64, protected.fold());
        match mode {
            LogMode::Ring => rings.fold(fold),
            LogMode::Tcg => tlbs.fold(fold),
            LogMode::ManualClear { .. } | LogMode::GetClears | LogMode::Hvf => {}
        }
    }

    /// Returns how stores are tracked.
    pub fn mode(&self) -> LogMode {
        self.mode
    }

    /// Returns whether stores are tracked now.
    pub fn logging(&self) -> bool {
        self.logging
    }

    /// Returns the bits of K of 64 pages, those of all address spaces.
    pub fn k_word(&self, at: usize) -> u64 {
        self.main.k.word(at) | self.smm.as_ref().map_or(0, |log| log.k.word(at))
    }

    /// Returns the bits of S of 64 pages, those of all address spaces.
    pub fn s_word(&self, at: usize) -> u64 {
        self.main.s.word(at) | self.smm.as_ref().map_or(0, |log| log.s.word(at))
    }

    /// Returns whether the page is set in K.
    pub fn k(&self, pfn: Pfn) -> bool {
        self.logs().any(|log| log.k.test(pfn))
    }

    /// Returns whether the page is set in S.
    pub fn s(&self, pfn: Pfn) -> bool {
        self.logs().any(|log| log.s.test(pfn))
    }

    /// Returns whether the page is write-protected.
    pub fn wp(&self, pfn: Pfn) -> bool {
        self.main.wp.test(pfn)
    }

    /// Returns whether GET copied the page and the copy still waits to be merged into D.
    pub fn unmerged(&self, pfn: Pfn) -> bool {
        !self.merged && self.logs().any(|log| log.s.test(pfn) || log.s_unmerged.test(pfn))
    }

    /// Returns the pages that stand in a vCPU's ring.
    pub fn ring_bits(&self) -> &DirtyBitmap {
        self.rings.held()
    }

    /// Returns whether each sync begins with a GET. Who does not log is not asked.
    /// [`Fault::HvfProtectsAtSync`]: under HVF it protects everything.
    pub fn has_get(&self, faults: &Faults) -> bool {
        self.logging
            && match self.mode {
                LogMode::ManualClear { .. } | LogMode::GetClears => true,
                LogMode::Hvf => faults.on(Fault::HvfProtectsAtSync),
                LogMode::Ring | LogMode::Tcg => false,
            }
    }

    /// Returns whether vCPUs list what they write.
    pub fn has_rings(&self) -> bool {
        self.mode == LogMode::Ring
    }

    /// Returns whether S holds what a merge has not taken.
    pub fn awaits_merge(&self) -> bool {
        !self.merged
    }

    /// Returns whether there is a log to CLEAR. Without manual clear the VMM's call returns at once (QEMU: kvm_physical_log_clear()).
    pub fn has_clear(&self) -> bool {
        self.logging
            && match self.mode {
                LogMode::ManualClear { .. } | LogMode::Hvf => true,
                LogMode::GetClears | LogMode::Ring | LogMode::Tcg => false,
            }
    }

    fn logs(&self) -> impl Iterator<Item = &Log> {
        [Some(&self.main), self.smm.as_ref()].into_iter().flatten()
    }

    /// Switches tracking on for a migration (QEMU: memory_global_dirty_log_start()).
    /// [`Fault::LogStopPostponed`]: a stop that waits for the VM is not thought of, and the assertion that the log is off fails.
    ///
    /// # Panics
    /// When a migration has it on.
    pub fn log_start(&mut self, ctx: &mut Ctx<'_>) {
        if self.stop_postponed {
            if ctx.faults.on(Fault::LogStopPostponed) {
                ctx.emit(Event::LogStart);
                ctx.crash("memory_global_dirty_log_start: assertion failed, the log is on");
                return;
            }
            self.stop_postponed = false;
            self.stop_user(LogUser::Migration);
        }
        assert!(!self.users.migration, "dirty logging started twice");
        self.start_user(LogUser::Migration, ctx);
        ctx.emit(Event::LogStart);
    }

    /// Switches a migration's tracking off. The log stops once the VM runs, so that it costs nobody time now (QEMU:
    /// memory_global_dirty_log_stop()).
    ///
    /// # Panics
    /// When it is off.
    pub fn log_stop(&mut self, vm_running: bool, ctx: &mut Ctx<'_>) {
        let shared = ctx.faults.on(Fault::LogFlagShared);
        assert!(self.users.migration || shared, "dirty logging stopped twice");
        if vm_running {
            self.stop_user(LogUser::Migration);
        } else {
            self.stop_postponed = true;
        }
        ctx.emit(Event::LogStop);
    }

    /// The VM runs again: a log that was to stop does so.
    pub fn vm_starts(&mut self, d: &mut DirtyMemory) {
        if std::mem::take(&mut self.stop_postponed) {
            self.stop_user(LogUser::Migration);
            d.set_tracking(self.logging);
        }
    }

    /// A measurement of the dirty rate starts (QEMU: migration/dirtyrate.c global_dirty_log_change()).
    pub fn dirty_rate_start(&mut self, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        if !self.users.dirty_rate {
            self.start_user(LogUser::DirtyRate, ctx);
            d.set_tracking(true);
        }
    }

    /// It stops. [`Fault::LogFlagShared`]: with it everybody's tracking.
    pub fn dirty_rate_stop(&mut self, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        if self.users.dirty_rate {
            if ctx.faults.on(Fault::LogFlagShared) {
                self.stop_user(LogUser::Migration);
            }
            self.stop_user(LogUser::DirtyRate);
            d.set_tracking(self.logging);
        }
    }

    fn start_user(&mut self, user: LogUser, ctx: &Ctx<'_>) {
        *self.users.of(user) = true;
        if self.logging {
            return;
        }
        self.logging = true;
        self.forget();
        self.tlbs.flush(!ctx.faults.on(Fault::TlbNotRearmed));
        let initially_set = self.mode == (LogMode::ManualClear { initially_set: true });
        let unprotected = self.mode == LogMode::Ring && ctx.faults.on(Fault::RingInitiallySet);
        let tcg = self.mode == LogMode::Tcg;
        for log in [Some(&mut self.main), self.smm.as_mut()].into_iter().flatten() {
            if initially_set {
                log.k.fill();
            } else if !tcg && !unprotected {
                log.wp.fill();
            }
        }
        // TCG traps what is clean in D; telling the vCPUs of all pages is the harmless side.
        if !initially_set && !unprotected {
            self.protect_all();
        }
    }

    fn stop_user(&mut self, user: LogUser) {
        *self.users.of(user) = false;
        if !self.users.any() && self.logging {
            self.logging = false;
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.merged = true;
        self.protected_any = false;
        self.protected.reset();
        self.rings.clear();
        [Some(&mut self.main), self.smm.as_mut()].into_iter().flatten().for_each(Log::reset);
    }

    /// Returns where a vCPU's store to this page would be recorded now, or `None` when it would leave no new trace.
    pub fn would_mark(&self, store: Store, d: &DirtyMemory) -> Option<Level> {
        let Store { cpu, pfn, kind } = store;
        if !self.logging {
            return None;
        }
        let log = self.smm.as_ref().filter(|_| kind == StoreKind::Smm).unwrap_or(&self.main);
        match self.mode {
            LogMode::ManualClear { .. } | LogMode::GetClears => log.wp.test(pfn).then_some(Level::K),
            LogMode::Ring => log.wp.test(pfn).then_some(Level::Ring),
            LogMode::Hvf => log.wp.test(pfn).then_some(Level::D),
            LogMode::Tcg => (!d.test(pfn) && !self.tlbs.is_fast(cpu, pfn)).then_some(Level::D),
        }
    }

    /// Records a vCPU's store to this page, and returns where (see [`Self::would_mark`]).
    /// [`Fault::RingEntryLag`]: others see the flag of a ring's entry before what it holds. [`Fault::AtomicUnmarked`], [`Fault::TlbNotRearmed`]:
    /// a TLB entry loses its flag without a mark, or for ever. [`Fault::HvfUnprotectsSlot`]: a fault opens its whole slot.
    /// [`Fault::HvfAddressTwice`]: the mark is made at the guest's address added to the offset in the memory region, which here are the same number.
    pub fn guest_store(&mut self, store: Store, d: &mut DirtyMemory, faults: &Faults) -> Option<Level> {
        let Store { cpu, pfn, kind } = store;
        let level = self.would_mark(store, d)?;
        let unit = self.unit(pfn);
        let log = self.smm.as_mut().filter(|_| kind == StoreKind::Smm).unwrap_or(&mut self.main);
        match self.mode {
            LogMode::ManualClear { .. } | LogMode::GetClears => {
                log.k.set_range(unit);
                log.wp.clear_range(unit);
            }
            LogMode::Ring => {
                self.rings.push(cpu, unit, faults.on(Fault::RingEntryLag));
                log.wp.clear_range(unit);
            }
            LogMode::Hvf => {
                let opened = if faults.on(Fault::HvfUnprotectsSlot) { log.slot(pfn).range } else { unit };
                log.wp.clear_range(opened);
                let at = if faults.on(Fault::HvfAddressTwice) { Pfn(pfn.0 * 2) } else { unit.first };
                d.mark(d.bits().clip(PageRange::new(at, unit.count)));
            }
            LogMode::Tcg => {
                assert!(d.tracking(), "stores are logged while D drops marks");
                if kind == StoreKind::Atomic && faults.on(Fault::AtomicUnmarked) {
                    self.tlbs.unflag(cpu, pfn);
                    return None;
                }
                d.mark(PageRange::page(pfn));
                if !self.tlbs.rearms() {
                    self.tlbs.unflag(cpu, pfn);
                }
            }
        }
        Some(level)
    }

    /// Returns the pages that share a page's bit of K: a page of the host's. Larger pages than 64 KiB are split while writes are logged, as Linux
    /// does; those of [`TrackingOptions::host_page`] that are so large are somebody else's concern.
    fn unit(&self, pfn: Pfn) -> PageRange {
        let count = match self.mode {
            LogMode::Tcg => 1,
            LogMode::ManualClear { .. } | LogMode::GetClears | LogMode::Ring | LogMode::Hvf if self.host_page > UNIT_MAX => 1,
            LogMode::ManualClear { .. } | LogMode::GetClears | LogMode::Ring | LogMode::Hvf => self.host_page,
        };
        self.main.k.clip(PageRange::new(Pfn(pfn.0 - pfn.0 % count), count))
    }

    /// KVM itself writes a page, for no vCPU: a device that it emulates, such as an interrupt controller's tables (Linux: arch/arm64/kvm/vgic/
    /// vgic-its.c). Returns where that is recorded. Other accelerators have no such devices; there it counts as a device's write.
    pub fn kernel_write(&mut self, pfn: Pfn, d: &mut DirtyMemory) -> Option<Level> {
        match self.mode {
            LogMode::ManualClear { .. } | LogMode::GetClears | LogMode::Ring => {
                let unit = self.unit(pfn);
                if self.logging {
                    self.main.k.set_range(unit);
                }
                self.logging.then_some(Level::K)
            }
            LogMode::Hvf | LogMode::Tcg => {
                d.mark(PageRange::page(pfn));
                d.tracking().then_some(Level::D)
            }
        }
    }

    /// The vCPU has left what recorded its last store behind: others see all of it.
    pub fn vcpu_goes_on(&mut self, cpu: u8) {
        self.rings.settle(cpu);
    }

    /// Returns how many pages a vCPU may write before its ring is full; without rings, any number.
    pub fn ring_room(&self, cpu: u8) -> u64 {
        if self.has_rings() && self.logging { self.rings.room(cpu) } else { u64::MAX }
    }

    /// Returns whether a ring has an entry.
    pub fn awaits_reap(&self) -> bool {
        self.has_rings() && self.logging && self.rings.any()
    }

    /// Returns whether reaped entries wait for their reset.
    pub fn awaits_reset(&self) -> bool {
        self.rings.has_collected()
    }

    /// Reaps all rings into S. QEMU: kvm_dirty_ring_reap_locked(), its first half.
    /// [`Fault::ReapHalfCreated`]: the ring of a vCPU that is being created is looked at before it is there.
    ///
    /// # Panics
    /// When there are no rings.
    pub fn reap(&mut self, ctx: &mut Ctx<'_>) -> u64 {
        assert!(self.has_rings(), "a reap without rings");
        let pages = self.rings.reap(&mut self.main.s);
        // A vCPU may have waited for its lock until the log was over.
        self.merged = !self.logging;
        ctx.emit(Event::RingReap { pages });
        if self.half_created && ctx.faults.on(Fault::ReapHalfCreated) {
            ctx.crash("kvm_dirty_ring_reap_one: the ring of a vCPU that is not created yet");
        }
        pages
    }

    /// A vCPU is plugged: on the list, but without a ring until [`Self::vcpu_created`].
    pub fn vcpu_plugged(&mut self) {
        self.half_created = true;
    }

    /// The plugged vCPU has its ring. The guest never brings it up, so it stays empty.
    pub fn vcpu_created(&mut self) {
        self.half_created = false;
    }

    /// Gives the reaped entries back, and protects their pages. Linux: kvm_vm_ioctl_reset_dirty_pages().
    ///
    /// # Panics
    /// When nothing was reaped.
    pub fn ring_reset(&mut self, ctx: &mut Ctx<'_>) {
        assert!(self.awaits_reset(), "a reset of rings from which nothing was reaped");
        let pages = self.rings.reset();
        self.logs_protect(&pages);
        ctx.emit(Event::RingReset { pages: pages.count() });
    }

    fn logs_protect(&mut self, pages: &DirtyBitmap) {
        [Some(&mut self.main), self.smm.as_mut()].into_iter().flatten().for_each(|log| {
            log.wp.merge(pages);
        });
        self.protected.merge(pages);
        self.protected_any = true;
    }

    /// The next GET fails.
    pub fn fail_get(&mut self) {
        self.failing_gets += 1;
    }

    /// GET: copies K to S; without manual clear K is cleared and its pages are protected again. One that fails leaves K alone, and there is
    /// nothing to merge (QEMU: kvm_slot_get_dirty_log()).
    /// [`Fault::GetErrorIgnored`]: what S held is taken for what GET has brought. [`Fault::SmmNotSynced`]: only the main address space is asked.
    /// [`Fault::HvfProtectsAtSync`]: under HVF, all pages are protected.
    ///
    /// # Panics
    /// When the mode has no K, logging is off, or the last copy was not merged.
    pub fn get(&mut self, ctx: &mut Ctx<'_>) {
        assert!(self.mode != LogMode::Tcg && self.logging, "GET without a log");
        assert!(self.merged, "GET over a copy that was not merged");
        if self.mode == LogMode::Hvf {
            self.main.wp.fill();
            self.protect_all();
            ctx.emit(Event::DirtyGet { pages: 0 });
            return;
        }
        if self.failing_gets > 0 {
            self.failing_gets -= 1;
            self.merged = !ctx.faults.on(Fault::GetErrorIgnored);
            ctx.emit(Event::DirtyGet { pages: 0 });
            return;
        }
        let mut got = DirtyBitmap::new(self.protected.pages());
        let clears = matches!(self.mode, LogMode::GetClears | LogMode::Ring);
        let smm = self.smm.as_mut().filter(|_| !ctx.faults.on(Fault::SmmNotSynced));
        let mut pages = 0;
        for log in [Some(&mut self.main), smm].into_iter().flatten() {
            log.s.copy_from(&log.k);
            pages += log.s.count();
            if clears {
                log.wp.merge(&log.k);
                got.merge(&log.k);
                log.k.reset();
            }
        }
        self.merged = false;
        if clears {
            self.protected.merge(&got);
            self.protected_any = true;
        }
        ctx.emit(Event::DirtyGet { pages });
    }

    /// Merges S into D.
    /// [`Fault::HostPageAsOne`]: a bit of K is taken for one target page.
    ///
    /// # Panics
    /// When no GET precedes.
    pub fn merge(&mut self, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        assert!(!self.merged, "merge without a GET");
        self.merged = true;
        let firsts = self.host_page > 1 && ctx.faults.on(Fault::HostPageAsOne);
        let smm = self.smm.as_mut().filter(|_| !ctx.faults.on(Fault::SmmNotSynced));
        let mut pages = 0;
        for log in [Some(&mut self.main), smm].into_iter().flatten() {
            pages += match firsts {
                true => {
                    log.s.ones().filter(|pfn| pfn.0.is_multiple_of(self.host_page)).map(|pfn| d.mark(PageRange::page(pfn))).count() as u64
                }
                false => d.merge(&log.s) + d.merge(&log.s_unmerged),
            };
            log.s_unmerged.reset();
            if self.mode == LogMode::Ring {
                // The reaper adds to S: what D has must not come again (QEMU: kvm_slot_reset_dirty_pages()).
                log.s.reset();
            }
        }
        ctx.emit(Event::DirtyMerge { pages });
    }

    /// CLEAR: clears K and protects, for those pages of the range that S has; then takes them out of S, so that a second user of the log
    /// cannot clear them again. The call reaches the kernel in whole words; the bits outside the range are masked out. Under HVF the range is protected.
    ///
    /// [`Fault::ClearTailUnmasked`]: the rest of the range's last word is cleared in K whether in S or not. The real defect passed S itself
    /// for the tail, thus only bits that S had; but S is merged into D as a whole right behind GET, so in a VM of one slot and one consumer
    /// of D those bits are safe and nothing is lost. What it broke is the promise that a CLEAR touches nobody else's pages; the fault
    /// breaks that promise in the way that this model can see. [`Fault::ClearFirstSlot`]: the range ends with the slot of its first page.
    /// [`Fault::SlotLosesS`]: a slot that was recreated has no S to clear from.
    ///
    /// # Panics
    /// When the mode has no CLEAR or logging is off.
    pub fn clear(&mut self, range: PageRange, ctx: &mut Ctx<'_>) {
        assert!(self.has_clear(), "CLEAR without a log");
        let range = self.whole_units(self.main.k.clip(range));
        let mut cleared = 0;
        let mut crashed = false;
        let mut protected = std::mem::replace(&mut self.protected, DirtyBitmap::new(0));
        let (merged, hvf) = (self.merged, self.mode == LogMode::Hvf);
        for log in [Some(&mut self.main), self.smm.as_mut()].into_iter().flatten() {
            if hvf && ctx.faults.on(Fault::HvfProtectsAtSync) {
                continue;
            }
            if hvf {
                cleared += range.count - log.wp.count_range(range);
                log.wp.set_range(range);
                protected.set_range(range);
                continue;
            }
            let parts = log.parts(range);
            let parts = if ctx.faults.on(Fault::ClearFirstSlot) { parts.get(..1).unwrap_or(&[]) } else { &parts };
            for (slot, part) in parts {
                crashed |= !slot.has_s;
                let (k, wp, s, s_unmerged) = (&mut log.k, &mut log.wp, &mut log.s, &mut log.s_unmerged);
                let mut protect = |at: usize, bits: u64| {
                    wp.set_word(at, bits);
                    protected.set_word(at, bits);
                };
                cleared += k.clear_masked(*part, Some(s), &mut protect);
                if let (true, Some(tail)) = (ctx.faults.on(Fault::ClearTailUnmasked), Log::tail(*slot, *part)) {
                    cleared += k.clear_masked(tail, None, &mut protect);
                }
                s.clear_masked(*part, None, |at, bits| {
                    if !merged {
                        s_unmerged.set_word(at, bits);
                    }
                });
            }
        }
        self.protected = protected;
        self.protected_any |= cleared > 0;
        ctx.emit(Event::DirtyClear { range, cleared });
        if crashed {
            ctx.crash("kvm_log_clear_one_slot: assertion failed, the slot has no dirty bitmap");
        }
    }

    /// Returns the whole pages of the host's in a range (QEMU: kvm_align_section()); those at the end of memory count as whole.
    fn whole_units(&self, range: PageRange) -> PageRange {
        let count = self.unit(Pfn(0)).count;
        let first = range.first.0.next_multiple_of(count);
        let end = if range.end().0 == self.main.k.pages() { range.end().0 } else { range.end().0 - range.end().0 % count };
        PageRange::new(Pfn(first), end.saturating_sub(first))
    }

    /// The slot of a page is deleted and created again, as when the guest changes who sees a part of its memory; no vCPU runs meanwhile (QEMU:
    /// kvm_region_commit(), kvm_set_phys_mem()). Its log is collected before. Differs: with rings the S of all slots is merged.
    /// [`Fault::SlotDeleteDropsLog`]: it is not. [`Fault::SlotLosesS`]: the new slot has no S.
    pub fn replace_slot(&mut self, pfn: Pfn, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        match self.mode {
            LogMode::ManualClear { .. } | LogMode::GetClears | LogMode::Ring => {}
            LogMode::Hvf | LogMode::Tcg => return,
        }
        let range = self.main.slot(pfn).range;
        if self.logging && !ctx.faults.on(Fault::SlotDeleteDropsLog) {
            self.collect_slot(range, d, ctx);
        }
        self.main.delete(pfn);
        ctx.emit(Event::SlotDelete { range });
        self.main.create(pfn, !(self.logging && ctx.faults.on(Fault::SlotLosesS)));
        if self.logging {
            // The pages of a new slot are not mapped: the first store to each is seen, whatever the log starts with.
            self.main.wp.set_range(range);
            self.protected.set_range(range);
            self.protected_any = true;
            if self.mode == (LogMode::ManualClear { initially_set: true }) {
                self.main.k.set_range(range);
            }
        }
        ctx.emit(Event::SlotCreate { range });
    }

    fn collect_slot(&mut self, range: PageRange, d: &mut DirtyMemory, ctx: &mut Ctx<'_>) {
        if self.has_rings() {
            self.reap(ctx);
            if self.awaits_reset() {
                self.ring_reset(ctx);
            }
            let backup = self.main.k.ones().filter(|pfn| range.contains(*pfn)).collect::<Vec<_>>();
            for pfn in backup {
                self.main.s.set(pfn);
            }
            self.merge(d, ctx);
        } else {
            let dirty: Vec<Pfn> = self.main.k.ones().filter(|pfn| range.contains(*pfn)).collect();
            ctx.emit(Event::DirtyGet { pages: dirty.len() as u64 });
            dirty.iter().for_each(|pfn| d.mark(PageRange::page(*pfn)));
            ctx.emit(Event::DirtyMerge { pages: dirty.len() as u64 });
        }
    }

    /// D was exchanged into B: under TCG the cleaned pages must trap again (QEMU: system/physmem.c tlb_reset_dirty_range_all()).
    pub fn d_cleaned(&mut self, at: usize, bits: u64) {
        match self.mode {
            LogMode::Tcg if self.logging => {
                self.tlbs.cleaned(at, bits);
                self.protected.set_word(at, bits);
                self.protected_any = true;
            }
            LogMode::Tcg | LogMode::ManualClear { .. } | LogMode::GetClears | LogMode::Ring | LogMode::Hvf => {}
        }
    }

    /// Returns the pages that became protected since the last call (under TCG: clean in D): the next store to them must be trapped.
    pub fn take_protected(&mut self) -> Vec<PageRange> {
        if !std::mem::take(&mut self.protected_any) {
            return Vec::new();
        }
        let ranges = self.protected.ranges();
        self.protected.reset();
        ranges
    }

    fn protect_all(&mut self) {
        self.protected.fill();
        self.protected_any = true;
    }
}

/// Largest host page of which K has one bit, target pages: 64 KiB.
const UNIT_MAX: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dirty::testing::Desk;

    const MANUAL: LogMode = LogMode::ManualClear { initially_set: false };

    fn started(mode: LogMode, pages: u64, desk: &mut Desk) -> (Accelerator, DirtyMemory) {
        let mut accel = Accelerator::new(mode, pages);
        let mut d = DirtyMemory::new(pages);
        d.exchange_into(&mut DirtyBitmap::new(pages), |_, _| ());
        d.set_tracking(true);
        accel.log_start(&mut desk.ctx());
        (accel, d)
    }

    fn store(accel: &mut Accelerator, pfn: Pfn, d: &mut DirtyMemory) -> Option<Level> {
        accel.guest_store(Store::plain(0, pfn), d, &Faults::default())
    }

    #[test]
    fn initially_set_protects_nothing_until_the_clear() {
        let mut desk = Desk::new(&[]);
        let (mut accel, mut d) = started(LogMode::ManualClear { initially_set: true }, 128, &mut desk);
        assert_eq!(accel.take_protected(), []);
        assert!(accel.k(Pfn(5)) && !accel.wp(Pfn(5)));
        assert_eq!(store(&mut accel, Pfn(5), &mut d), None);
        accel.get(&mut desk.ctx());
        accel.merge(&mut d, &mut desk.ctx());
        accel.clear(PageRange::new(Pfn(0), 64), &mut desk.ctx());
        assert_eq!(accel.take_protected(), [PageRange::new(Pfn(0), 64)]);
        assert_eq!(store(&mut accel, Pfn(5), &mut d), Some(Level::K));
        assert_eq!(store(&mut accel, Pfn(5), &mut d), None);
        assert_eq!(store(&mut accel, Pfn(70), &mut d), None);
    }

    #[test]
    fn without_initially_set_all_pages_are_protected_at_the_start() {
        for mode in [MANUAL, LogMode::GetClears] {
            let mut desk = Desk::new(&[]);
            let (mut accel, d) = started(mode, 128, &mut desk);
            assert_eq!(accel.take_protected(), [PageRange::new(Pfn(0), 128)]);
            assert_eq!(accel.take_protected(), []);
            assert!(!accel.k(Pfn(0)));
            assert_eq!(accel.would_mark(Store::plain(0, Pfn(0)), &d), Some(Level::K));
        }
    }

    #[test]
    fn manual_get_leaves_k_so_that_a_later_store_shares_its_bit() {
        let mut desk = Desk::new(&[]);
        let (mut accel, mut d) = started(MANUAL, 64, &mut desk);
        store(&mut accel, Pfn(3), &mut d);
        accel.get(&mut desk.ctx());
        assert!(accel.k(Pfn(3)) && accel.s(Pfn(3)) && accel.unmerged(Pfn(3)));
        assert_eq!(store(&mut accel, Pfn(3), &mut d), None);
        accel.merge(&mut d, &mut desk.ctx());
        assert!(d.test(Pfn(3)) && !accel.unmerged(Pfn(3)));
    }

    #[test]
    fn get_clears_records_a_store_behind_the_get_by_itself() {
        let mut desk = Desk::new(&[]);
        let (mut accel, mut d) = started(LogMode::GetClears, 64, &mut desk);
        store(&mut accel, Pfn(3), &mut d);
        accel.take_protected();
        accel.get(&mut desk.ctx());
        assert!(!accel.k(Pfn(3)) && accel.s(Pfn(3)) && accel.wp(Pfn(3)));
        assert_eq!(accel.take_protected(), [PageRange::page(Pfn(3))]);
        assert_eq!(store(&mut accel, Pfn(3), &mut d), Some(Level::K));
    }

    #[test]
    fn clear_touches_only_pages_of_its_range_that_s_has() {
        let mut desk = Desk::new(&[]);
        let (mut accel, mut d) = started(MANUAL, 128, &mut desk);
        for pfn in [5, 40, 100] {
            store(&mut accel, Pfn(pfn), &mut d);
        }
        accel.get(&mut desk.ctx());
        accel.merge(&mut d, &mut desk.ctx());
        store(&mut accel, Pfn(6), &mut d);
        desk.take_events();
        accel.clear(PageRange::new(Pfn(0), 10), &mut desk.ctx());
        assert_eq!(desk.take_events(), [Event::DirtyClear { range: PageRange::new(Pfn(0), 10), cleared: 1 }]);
        assert!(!accel.k(Pfn(5)) && accel.wp(Pfn(5)) && !accel.s(Pfn(5)));
        assert!(accel.k(Pfn(6)) && accel.k(Pfn(40)) && accel.s(Pfn(40)) && accel.k(Pfn(100)));
    }

    #[test]
    fn a_page_cleared_once_is_not_cleared_again_for_the_same_get() {
        let mut desk = Desk::new(&[]);
        let (mut accel, mut d) = started(MANUAL, 64, &mut desk);
        store(&mut accel, Pfn(5), &mut d);
        accel.get(&mut desk.ctx());
        accel.merge(&mut d, &mut desk.ctx());
        accel.clear(PageRange::new(Pfn(0), 64), &mut desk.ctx());
        store(&mut accel, Pfn(5), &mut d);
        accel.clear(PageRange::new(Pfn(0), 64), &mut desk.ctx());
        assert!(accel.k(Pfn(5)));
    }

    #[test]
    fn an_unmasked_tail_takes_bits_that_nobody_merged() {
        let mut desk = Desk::new(&[Fault::ClearTailUnmasked]);
        let (mut accel, mut d) = started(MANUAL, 128, &mut desk);
        accel.get(&mut desk.ctx());
        accel.merge(&mut d, &mut desk.ctx());
        for pfn in [5, 40, 64] {
            store(&mut accel, Pfn(pfn), &mut d);
        }
        accel.clear(PageRange::new(Pfn(0), 10), &mut desk.ctx());
        assert!(accel.k(Pfn(5)) && !accel.k(Pfn(40)) && accel.wp(Pfn(40)) && accel.k(Pfn(64)));
        store(&mut accel, Pfn(40), &mut d);
        accel.clear(PageRange::new(Pfn(0), 64), &mut desk.ctx());
        assert!(accel.k(Pfn(40)), "a whole word has no tail");
    }

    #[test]
    fn a_clear_between_get_and_merge_leaves_the_merge_whole() {
        let mut desk = Desk::new(&[]);
        let (mut accel, mut d) = started(MANUAL, 64, &mut desk);
        store(&mut accel, Pfn(5), &mut d);
        accel.get(&mut desk.ctx());
        accel.clear(PageRange::new(Pfn(0), 64), &mut desk.ctx());
        assert!(!accel.k(Pfn(5)) && accel.unmerged(Pfn(5)));
        desk.take_events();
        accel.merge(&mut d, &mut desk.ctx());
        assert_eq!(desk.take_events(), [Event::DirtyMerge { pages: 1 }]);
        assert!(d.test(Pfn(5)));
    }

    #[test]
    fn tcg_marks_d_and_traps_again_what_the_sync_cleaned() {
        let mut desk = Desk::new(&[]);
        let (mut accel, mut d) = started(LogMode::Tcg, 128, &mut desk);
        accel.take_protected();
        assert_eq!(store(&mut accel, Pfn(70), &mut d), Some(Level::D));
        assert_eq!(store(&mut accel, Pfn(70), &mut d), None);
        d.exchange_into(&mut DirtyBitmap::new(128), |at, bits| accel.d_cleaned(at, bits));
        assert_eq!(accel.take_protected(), [PageRange::page(Pfn(70))]);
        assert_eq!(accel.would_mark(Store::plain(0, Pfn(70)), &d), Some(Level::D));
        accel.log_stop(true, &mut desk.ctx());
        assert_eq!(accel.would_mark(Store::plain(0, Pfn(70)), &d), None);
    }
}

//! The balloon device: options, state, registers, reset.
//!
//! QEMU: hw/virtio/virtio-balloon.c virtio_balloon_device_realize(), _reset(), _get_config(), _set_config(), _set_status().

use super::hinting::Hinting;
use super::iothread::Iothread;
use super::main_loop::MainLoop;
use super::partial::Partial;
use super::protocol::{Numbering, Protocol};
use super::request::Request;
use super::stats::Stats;
use super::unplug::Ties;
use super::walk::Walker;
use crate::event::{Actor, CmdId, Event, HintStatus, LockId, PageRange, Pfn};
use crate::fault::{Fault, Faults};
use crate::fold::{Fold, Tag};
use crate::memory::GuestRam;
use crate::migration::notifier::PrecopyNotifier;
use crate::step::Ctx;
use crate::transport::{Make, TransportOptions, VirtQueue, VirtioMmio, Written};
use wire::balloon::{self, config, feature, queue_size};
use wire::platform::PAGE_SIZE;
use wire::virtio::{isr, mmio};

/// Whose device it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// A hint clears bits of the migration's bitmaps.
    Qemu,
    /// A hint discards its pages at once, migration or not, and DONE follows the driver's stop sign by itself (`acknowledge_on_stop`).
    /// Firecracker: src/vmm/src/devices/virtio/balloon/device.rs process_free_page_hinting_queue(), start_hinting(). Its docs/ballooning.md
    /// warns (commit 1a431856d) that a guest which reuses a page before the hint is consumed finds zeros there.
    Firecracker,
    /// No statistics and no hints; inflated and reported pages are dropped. Cloud Hypervisor: virtio-devices/src/balloon.rs.
    CloudHypervisor,
}

/// Features that Cloud Hypervisor never offers (virtio-devices/src/balloon.rs Balloon::new()).
const UNKNOWN_TO_CLOUD_HYPERVISOR: u64 =
    feature::MUST_TELL_HOST | feature::STATS_VQ | feature::FREE_PAGE_HINT | feature::PAGE_POISON | feature::HINT_WAIT_ON_ACK;

/// What a balloon device is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalloonOptions {
    /// Offered feature bits, those of the ring among them. VERSION_1 is always added, and STATS_VQ by profile qemu.
    pub features: u64,
    /// Whose device it is.
    pub profile: Profile,
    /// How it talks to the driver.
    pub protocol: Protocol,
    /// How its queues are numbered.
    pub numbering: Numbering,
    /// Size of the inflate, deflate and statistics queues, entries.
    pub queue_size: u16,
    /// Size of the hint queue, entries.
    pub hint_queue_size: u16,
    /// The host asks for statistics this often, nanoseconds; 0: never.
    pub stats_interval_ns: u64,
    /// Pages that the host wants in the balloon at boot, 4 KiB each.
    pub target_pages: u32,
    /// The device says DONE by itself when the driver has no more to hint (profile firecracker; otherwise nobody asks).
    pub acknowledge_on_stop: bool,
    /// What it is built into.
    pub machine: Machine,
}

/// The machine around a balloon device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// 4 KiB pages in a page of the host (QEMU: qemu_ram_pagesize()): nothing smaller can be discarded. A power of two.
    pub host_page: u64,
    /// The thread that serves the hint queue.
    pub iothread: IothreadOption,
    /// Page 0 is ROM.
    pub rom: bool,
    /// Nobody tells the balloon of pinned pages ([`crate::fault::Fault::PinnedDiscarded`]).
    pub ignores_pins: bool,
    /// The first page of each memory region but the first (profile cloud-hypervisor: what is told to the kernel of one is not told of the next).
    pub regions: Vec<u64>,
}

/// Whether there is a thread for the hint queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IothreadOption {
    /// There is.
    Present,
    /// There is none, so hints are not offered. Differs: QEMU refuses to make the device then.
    Missing,
    /// There is none, and the queue is there all the same ([`crate::fault::Fault::HintQueueWithoutIothread`]).
    MissingUnnoticed,
}

impl Default for Machine {
    /// Host pages as large as the balloon's, and a thread.
    fn default() -> Self {
        Self { host_page: 1, iothread: IothreadOption::Present, rom: false, ignores_pins: false, regions: Vec::new() }
    }
}

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueRole {
    /// The guest gives pages.
    Inflate,
    /// The guest takes pages back.
    Deflate,
    /// Memory statistics.
    Stats,
    /// Free page hints; requests for them and responses, in the interfaces that have such.
    FreePage,
    /// Free page reports.
    Reporting,
    /// None: an index that numbering by the specification leaves free.
    Absent,
}

impl BalloonOptions {
    /// Returns the features that the device offers. QEMU: virtio_balloon_get_features() adds the statistics to whatever was asked for.
    pub fn offered(&self) -> u64 {
        let features = match self.machine.iothread {
            IothreadOption::Present => self.features,
            IothreadOption::Missing | IothreadOption::MissingUnnoticed => self.features & !self.hint_feature(),
        };
        match self.profile {
            Profile::Qemu => features | feature::STATS_VQ,
            Profile::Firecracker => features,
            Profile::CloudHypervisor => features & !UNKNOWN_TO_CLOUD_HYPERVISOR,
        }
    }

    fn size_of(&self, role: QueueRole) -> u16 {
        match role {
            QueueRole::Inflate | QueueRole::Deflate | QueueRole::Stats => self.queue_size,
            QueueRole::FreePage => self.hint_queue_size,
            QueueRole::Reporting => queue_size::REPORTING,
            QueueRole::Absent => 0,
        }
    }

    /// Returns the size of the configuration space, bytes. QEMU: virtio_balloon_config_size().
    /// Firecracker's always ends behind the id, and Cloud Hypervisor's behind `actual`.
    pub fn config_bytes(&self) -> usize {
        let offered = self.offered();
        let end = if matches!(self.protocol, Protocol::Requests(_)) {
            config::FREE_PAGE_HINT_CMD_ID
        } else if offered & feature::PAGE_POISON != 0 {
            config::BYTES
        } else if offered & feature::FREE_PAGE_HINT != 0 || self.profile == Profile::Firecracker {
            config::POISON_VAL
        } else {
            config::FREE_PAGE_HINT_CMD_ID
        };
        usize::try_from(end).expect("at most 16")
    }

    fn transport(&self) -> TransportOptions {
        TransportOptions {
            make: match self.profile {
                Profile::Qemu | Profile::CloudHypervisor => Make::Qemu,
                Profile::Firecracker => Make::Firecracker,
            },
            device_id: balloon::DEVICE_ID,
            features: self.offered(),
            queue_sizes: self.queues().into_iter().map(|role| self.size_of(role)).collect(),
            config_isr: match self.profile {
                // QEMU: virtio_notify_config() sets both causes, so that a driver looks at its rings, too.
                Profile::Qemu => isr::CONFIG_CHANGE | isr::USED_BUFFER,
                Profile::Firecracker | Profile::CloudHypervisor => isr::CONFIG_CHANGE,
            },
        }
    }
}

/// The configuration space as bytes, for the largest layout.
type ConfigBytes = [u8; config::BYTES as usize];

/// What the device keeps beside its transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalloonState {
    /// Pages that the host wants in the balloon, 4 KiB each.
    pub(super) num_pages: u32,
    /// Pages that the driver says it holds, 4 KiB each.
    pub(super) actual: u32,
    /// What the guest says it writes into free pages.
    pub(super) poison_val: u32,
    /// What the configuration was when it was last read or written. QEMU: `vdev->config`; a write changes some bytes of it, then the whole
    /// is taken.
    pub(super) config: ConfigBytes,
    /// The VM runs.
    pub(super) vm_running: bool,
    /// The host may not discard pages (QEMU: virtio_balloon_inhibited(), for pinned memory and the like).
    pub(super) inhibited: bool,
    /// The same for as long as a migration wants it; set anew before each look.
    pub(super) held_back: bool,
    /// Free page hinting.
    pub(super) hinting: Hinting,
    /// The host's requests for hints.
    pub(super) request: Request,
    /// The host's own look for free pages.
    pub(super) walker: Walker,
    /// The thread that serves the hint queue.
    pub(super) iothread: Iothread,
    /// The handlers of the other queues.
    pub(super) main_loop: MainLoop,
    /// Statistics.
    pub(super) stats: Stats,
    /// A page of the host that was inflated in part.
    pub(super) partial: Option<Partial>,
    /// Who knows of the device.
    pub(super) ties: Ties,
}

impl BalloonState {
    fn new(options: &BalloonOptions) -> Self {
        Self {
            num_pages: options.target_pages,
            actual: 0,
            poison_val: 0,
            config: ConfigBytes::default(),
            vm_running: true,
            inhibited: false,
            held_back: false,
            hinting: Hinting::new(options.profile),
            request: Request::default(),
            walker: Walker::default(),
            iothread: Iothread::new(),
            main_loop: MainLoop::new(),
            stats: Stats::default(),
            partial: None,
            ties: Ties::of(options),
        }
    }
}

/// A balloon device behind virtio-mmio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalloonDevice {
    pub(super) options: BalloonOptions,
    /// What each queue is for, by index.
    roles: Vec<QueueRole>,
    pub(super) transport: VirtioMmio,
    pub(super) state: BalloonState,
}

impl BalloonDevice {
    /// Returns a device as after power-on.
    ///
    /// # Panics
    /// When a page of the host is no power of two of the balloon's.
    pub fn new(options: BalloonOptions) -> Self {
        assert!(options.machine.host_page.is_power_of_two(), "{} balloon pages in a host page", options.machine.host_page);
        let transport = VirtioMmio::new(options.transport());
        let state = BalloonState::new(&options);
        Self { roles: options.queues(), options, transport, state }
    }

    /// Adds its state to a hash, as it is at this time: deadlines count from there.
    pub(crate) fn fold(&self, now_ns: u64, fold: &mut Fold) {
        let Self { options: _, roles: _, transport, state } = self;
        transport.fold(fold);
        let BalloonState {
            num_pages,
            actual,
            poison_val,
            config,
            vm_running,
            inhibited,
            held_back: _,
            hinting,
            request,
            walker,
            iothread,
            main_loop,
            stats,
            partial,
            ties,
        } = state;
        // The other bytes are filled in anew before anybody looks at them.
        let kept = (&config[span_of(config::ACTUAL)], &config[span_of(config::POISON_VAL)]);
        fold.add(Tag::BalloonTarget, u64::from(*num_pages));
        fold.add_part(Tag::BalloonDriver, &(*actual, *poison_val, kept));
        fold.add_each(Tag::BalloonTruths, [*vm_running, *inhibited]);
        hinting.fold(fold);
        request.fold(fold);
        walker.fold(fold);
        iothread.fold(fold);
        main_loop.fold(fold);
        stats.fold(now_ns, fold);
        fold.add_part(Tag::Partial, partial);
        fold.add_part(Tag::Ties, ties);
    }

    /// Returns whose device it is.
    pub fn profile(&self) -> Profile {
        self.options.profile
    }

    /// Returns the transport, to look at.
    pub fn transport(&self) -> &VirtioMmio {
        &self.transport
    }

    /// Returns whether the interrupt line rose since the last call.
    pub fn take_irq(&mut self) -> bool {
        self.transport.take_irq()
    }

    /// Returns the pages that the driver says it holds, 4 KiB each.
    pub fn actual(&self) -> u32 {
        self.state.actual
    }

    /// Returns the pages that the host wants in the balloon, 4 KiB each.
    pub fn num_pages(&self) -> u32 {
        self.state.num_pages
    }

    /// Returns whether a driver that is up, or has given up, has not brought the balloon to its target; one that may deflate when memory is out need not.
    pub fn misses_target(&self) -> bool {
        let bound =
            (self.transport.driver_ok() || self.transport.given_up()) && !self.transport.negotiated(wire::balloon::feature::DEFLATE_ON_OOM);
        bound && self.state.num_pages != self.state.actual
    }

    /// Returns the state of hinting.
    pub fn hint_status(&self) -> HintStatus {
        self.state.hinting.status()
    }

    /// Forbids the host to discard pages, or allows it again. QEMU: ram_block_discard_disable().
    pub fn set_inhibited(&mut self, inhibited: bool) {
        self.state.inhibited = inhibited;
    }

    /// Says whether a migration forbids it. QEMU: virtio_balloon_inhibited() asks for incoming postcopy and for background snapshots.
    /// [`Fault::InhibitLastWins`]: when it does not any more, nobody else's ban counts.
    pub fn set_held_back(&mut self, held_back: bool, faults: &Faults) {
        if self.state.held_back && !held_back && self.state.inhibited && faults.on(Fault::InhibitLastWins) {
            self.state.inhibited = false;
        }
        self.state.held_back = held_back;
    }

    /// Returns the pages of rings that a thread's next move uses, and those that it writes; none when it has none. Differs: pages of buffers are left out.
    pub fn pages_in_use(&self, actor: Actor, now_ns: u64) -> Option<([PageRange; 3], PageRange)> {
        let queue = if actor == Actor::Iothread { self.iothread_queue() } else { self.main_loop_queue(now_ns) };
        self.transport.queue(queue?).ring_pages()
    }

    /// Returns the pages that the rings of all live queues lie on: their loading looks at the indices. QEMU: virtio_load().
    pub(super) fn loaded_pages(&self) -> Vec<Pfn> {
        let queues = (0..).zip(&self.roles).filter(|(_, role)| **role != QueueRole::Absent);
        let rings = queues.filter_map(|(queue, _)| self.transport.queue(queue).ring_pages());
        rings.flat_map(|([_, driver, device], _)| [driver.first, device.first]).collect()
    }

    pub(super) fn may_discard(&self) -> bool {
        !self.state.inhibited && !self.state.held_back
    }

    /// The device goes on in another process, with what was saved of it: its threads and timers are new there, and they look at every queue
    /// when the VM starts. QEMU: virtio_load(), virtio_device_start_ioeventfd_impl().
    pub fn arrive(&mut self, running: bool, ctx: &mut Ctx<'_>) {
        (self.state.iothread, self.state.main_loop) = (Iothread::new(), MainLoop::new());
        self.vm_state_change(running, ctx);
        for (queue, role) in (0..).zip(&self.roles) {
            let ready = self.transport.driver_ok() && *role != QueueRole::Absent && self.transport.queue(queue).ready();
            match role {
                QueueRole::FreePage if ready => self.state.iothread.schedule(),
                QueueRole::Inflate | QueueRole::Deflate | QueueRole::Stats | QueueRole::Reporting if ready => {
                    self.state.main_loop.schedule(queue);
                }
                QueueRole::Inflate
                | QueueRole::Deflate
                | QueueRole::Stats
                | QueueRole::Reporting
                | QueueRole::FreePage
                | QueueRole::Absent => {}
            }
        }
        if self.state.stats.poll_at_ns().is_some() {
            self.state.stats.rearm(self.options.stats_interval_ns, ctx.now_ns);
        }
        if self.options.profile == Profile::Firecracker {
            self.restored(ctx);
        }
    }

    /// Sets the balloon's target, 4 KiB pages; at most all of RAM. Called with the BQL held. QEMU: virtio_balloon_to_target().
    pub fn set_target(&mut self, pages: u32, ctx: &mut Ctx<'_>) {
        let most = u32::try_from(ctx.ram.pages()).unwrap_or(u32::MAX);
        self.state.num_pages = pages.min(most);
        self.transport.notify_config(ctx);
    }

    pub(super) fn role(&self, queue: u16) -> Option<QueueRole> {
        self.roles.get(usize::from(queue)).copied()
    }

    /// Returns a live queue through which the guest tells of pages by lists: for inflation, deflation, or reports.
    pub fn page_queue(&self, queue: u16) -> Option<&VirtQueue> {
        match self.role(queue)? {
            QueueRole::Inflate | QueueRole::Deflate | QueueRole::Reporting => {
                Some(self.transport.queue(queue)).filter(|queue| queue.ready())
            }
            QueueRole::Stats | QueueRole::FreePage | QueueRole::Absent => None,
        }
    }

    pub(super) fn queue_of(&self, role: QueueRole) -> Option<u16> {
        let index = self.roles.iter().position(|other| *other == role)?;
        Some(u16::try_from(index).expect("at most five queues"))
    }

    /// Raises the used-buffer interrupt if the driver wants it. QEMU: virtio_notify().
    pub(super) fn notify_queue(&mut self, queue: u16, ctx: &mut Ctx<'_>) {
        if self.should_notify(queue, ctx.ram) {
            self.transport.notify_used(ctx);
        }
    }

    /// Returns whether an element's return interrupts the driver. Firecracker: each handler works its queue off, then calls signal_used_queue() once, which
    /// looks at no flag of the driver's.
    pub(super) fn should_notify(&mut self, queue: u16, ram: &GuestRam) -> bool {
        match self.options.profile {
            Profile::Qemu | Profile::CloudHypervisor => self.transport.queue_mut(queue).should_notify(ram),
            Profile::Firecracker => self.transport.queue(queue).ready() && !self.transport.has_available(queue, ram),
        }
    }

    /// Drops the contents of pages in RAM: they read as zeros from now on, and no dirty log sees it.
    /// QEMU: ram_block_discard_range(); Firecracker: discard_range().
    pub(super) fn discard(&self, range: PageRange, ctx: &mut Ctx<'_>) {
        assert!(range.end().0 <= ctx.ram.pages(), "discard of {range} outside RAM");
        ctx.emit(Event::HostDiscard { range });
        for pfn in range.pages().filter(|pfn| !ctx.ram.is_zero(*pfn)) {
            ctx.ram.write_unlogged(pfn.address(), &[0; PAGE_SIZE as usize]);
        }
    }

    // ---- registers

    /// Returns the locks that an access to the registers needs, outermost first. A notification is an ioeventfd and needs none. A reset
    /// that ends a hint round needs the device's own lock, too; whether it does is read without it, as QEMU does.
    pub fn mmio_locks(&self, offset: u64, write: Option<u32>) -> &'static [LockId] {
        match write {
            Some(_) if offset == mmio::QUEUE_NOTIFY => &[],
            Some(value) if offset == mmio::STATUS && value & 0xff == 0 => self.reset_locks(),
            Some(_) | None => &[LockId::Bql],
        }
    }

    /// Returns the locks that a reset needs, outermost first.
    pub fn reset_locks(&self) -> &'static [LockId] {
        match self.reset_stops_hinting() {
            true => &[LockId::Bql, LockId::FreePage],
            false => &[LockId::Bql],
        }
    }

    /// Returns whether the driver has taken the feature of the hint queue. A host that looks by itself asks nobody.
    pub(super) fn hints_negotiated(&self) -> bool {
        self.walk().is_some() || self.transport.negotiated(self.options.hint_feature())
    }

    pub(crate) fn reset_stops_hinting(&self) -> bool {
        self.walk().is_none() && self.hints_negotiated() && self.hint_status() != HintStatus::Stop
    }

    /// Reads a register as a vCPU does. Control registers take aligned 32-bit accesses alone (VIRTIO 1.2 §4.2.2.2), others read 0;
    /// the configuration space may be read with any natural width, and reads all ones behind its end, as in QEMU.
    pub fn mmio_read(&mut self, offset: u64, len: u32, ctx: &mut Ctx<'_>) -> u32 {
        if !self.is_plugged() {
            return u32::MAX >> (32 - 8 * len.clamp(1, 4));
        }
        match offset.checked_sub(mmio::CONFIG) {
            Some(offset) => self.read_config(offset, len, ctx),
            None if len == 4 && offset.is_multiple_of(4) => self.transport.read(offset),
            None => 0,
        }
    }

    /// Writes a register as a vCPU does. The caller holds [`BalloonDevice::mmio_locks`].
    pub fn mmio_write(&mut self, offset: u64, len: u32, value: u32, ctx: &mut Ctx<'_>) {
        if !self.is_plugged() {
            return;
        }
        if let Some(offset) = offset.checked_sub(mmio::CONFIG) {
            return self.write_config(offset, len, value, ctx);
        }
        if len != 4 || !offset.is_multiple_of(4) {
            return;
        }
        match self.transport.write(offset, value, ctx) {
            Written::Handled => {}
            Written::Notified(queue) => {
                ctx.emit(Event::DeviceKick { queue });
                self.kick(queue, ctx);
            }
            Written::Reset => self.reset_after_status(ctx),
            // QEMU: virtio_device_start_ioeventfd_impl() looks at every queue once; Firecracker: notify_queue_events().
            Written::DriverOk => {
                if self.options.profile == Profile::Firecracker && ctx.faults.on(Fault::DoneOnActivation) {
                    self.hint_given_back(ctx);
                }
                for queue in self.transport.ready_queues().collect::<Vec<_>>() {
                    self.kick(queue, ctx);
                }
            }
        }
    }

    /// Wakes whoever serves a queue. Differs: QEMU's main loop passes a kick of the hint queue on to the iothread; here it goes there.
    fn kick(&mut self, queue: u16, ctx: &mut Ctx<'_>) {
        match self.role(queue) {
            Some(QueueRole::FreePage) if self.options.machine.iothread == IothreadOption::MissingUnnoticed => {
                ctx.crash("the hint queue is kicked, and has no bottom half to schedule");
            }
            Some(QueueRole::FreePage) => self.state.iothread.schedule(),
            Some(QueueRole::Inflate | QueueRole::Deflate | QueueRole::Stats | QueueRole::Reporting) => self.state.main_loop.schedule(queue),
            Some(QueueRole::Absent) | None => {}
        }
    }

    /// Resets the device as the machine does. The caller holds [`BalloonDevice::reset_locks`]. QEMU: virtio_reset(), which sets the status
    /// to 0 before anything else.
    pub fn reset(&mut self, ctx: &mut Ctx<'_>) {
        assert_eq!(self.transport.write(mmio::STATUS, 0, ctx), Written::Reset, "status 0 means reset");
        self.reset_after_status(ctx);
    }

    /// QEMU: virtio_balloon_device_reset(), then the rest of virtio_reset(). The status is 0 by now, so the driver is not told that hinting
    /// stopped. The balloon's size and the command id survive. Firecracker: Balloon::_reset(): neither does, so ids begin anew.
    pub(super) fn reset_after_status(&mut self, ctx: &mut Ctx<'_>) {
        if self.reset_stops_hinting() {
            self.hint_stop(ctx);
        }
        if self.options.profile == Profile::Firecracker {
            self.state.actual = 0;
            self.state.hinting.begin_anew();
        }
        // The held buffers are forgotten with their rings.
        self.state.stats = Stats::default();
        self.state.request = Request::default();
        self.state.poison_val = 0;
        self.state.main_loop.forget_kicks();
        self.forget_partial(ctx);
        self.transport.reset();
    }

    // ---- the configuration space

    /// Returns what the configuration shows as the command id. START reads as STOP: the field is simply not filled in then.
    /// QEMU: virtio_balloon_get_config(). Firecracker shows the id until DONE. A host that sends requests, or looks by itself, shows none.
    pub fn config_cmd_id(&self) -> CmdId {
        let hinting = &self.state.hinting;
        if let Some(id) = hinting.overwritten() {
            return id;
        }
        match (hinting.status(), self.options.profile) {
            _ if !self.options.protocol.has_cmd_id() => CmdId(balloon::CMD_ID_STOP),
            (HintStatus::Requested, _) | (HintStatus::Start, Profile::Firecracker) => hinting.cmd_id(),
            (HintStatus::Stop, _) | (HintStatus::Start, Profile::Qemu | Profile::CloudHypervisor) => CmdId(balloon::CMD_ID_STOP),
            (HintStatus::Done, _) => CmdId(balloon::CMD_ID_DONE),
        }
    }

    /// QEMU: virtio_balloon_get_config().
    fn config(&self) -> ConfigBytes {
        let mut bytes = ConfigBytes::default();
        let words = [self.state.num_pages, self.state.actual, self.config_cmd_id().0, self.state.poison_val];
        for (field, word) in bytes.chunks_exact_mut(4).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// QEMU: virtio_config_modern_readl() and its narrower siblings.
    fn read_config(&mut self, offset: u64, len: u32, ctx: &mut Ctx<'_>) -> u32 {
        let Some(span) = self.config_span(offset, len) else { return self.config_behind_its_end(len) };
        self.state.config = self.config();
        let id = span_of(config::FREE_PAGE_HINT_CMD_ID);
        if span.start < id.end && id.start < span.end {
            ctx.emit(Event::ConfigCmdId { id: self.config_cmd_id() });
        }
        let mut word = [0; 4];
        word[..span.len()].copy_from_slice(&self.state.config[span]);
        u32::from_le_bytes(word)
    }

    /// QEMU: virtio_config_modern_readl(). Firecracker: read_config() fills with zeros.
    fn config_behind_its_end(&self, len: u32) -> u32 {
        match self.options.profile {
            Profile::Qemu | Profile::CloudHypervisor => u32::MAX >> (32 - 8 * len.clamp(1, 4)),
            Profile::Firecracker => 0,
        }
    }

    /// Takes what the driver may write; the other fields keep their values. QEMU: virtio_balloon_set_config(). Firecracker: write_config() copies whatever
    /// comes over its configuration, the host's target and the command id too, once the driver is there. Cloud Hypervisor: write_config() takes `actual`,
    /// as a whole, and nothing else.
    fn write_config(&mut self, offset: u64, len: u32, value: u32, ctx: &Ctx<'_>) {
        assert_eq!(ctx.locks.holder(LockId::Bql), Some(ctx.actor), "{} writes the configuration without the BQL", ctx.actor);
        let Some(span) = self.config_span(offset, len) else { return };
        match self.options.profile {
            Profile::Qemu => {}
            Profile::Firecracker if self.transport.takes_config() => return self.overwrite_config(span, value),
            Profile::CloudHypervisor if span == span_of(config::ACTUAL) => {}
            Profile::Firecracker | Profile::CloudHypervisor => return,
        }
        let len = span.len();
        self.state.config[span].copy_from_slice(&value.to_le_bytes()[..len]);
        let word = |field| u32::from_le_bytes(self.state.config[span_of(field)].try_into().expect("four bytes"));
        let (actual, poison_val) = (word(config::ACTUAL), word(config::POISON_VAL));
        self.state.actual = actual;
        self.state.poison_val = if self.transport.negotiated(self.options.poison_feature()) { poison_val } else { 0 };
    }

    fn overwrite_config(&mut self, span: std::ops::Range<usize>, value: u32) {
        let before = self.config();
        let mut after = before;
        after[span.clone()].copy_from_slice(&value.to_le_bytes()[..span.len()]);
        let word = |bytes: &ConfigBytes, field| u32::from_le_bytes(bytes[span_of(field)].try_into().expect("four bytes"));
        self.state.num_pages = word(&after, config::NUM_PAGES);
        self.state.actual = word(&after, config::ACTUAL);
        if self.transport.negotiated(self.options.poison_feature()) {
            self.state.poison_val = word(&after, config::POISON_VAL);
        }
        let id = config::FREE_PAGE_HINT_CMD_ID;
        if word(&after, id) != word(&before, id) {
            self.state.hinting.overwrite(CmdId(word(&after, id)));
        }
    }

    fn config_span(&self, offset: u64, len: u32) -> Option<std::ops::Range<usize>> {
        if !matches!(len, 1 | 2 | 4) {
            return None;
        }
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        (end <= self.options.config_bytes()).then_some(start..end)
    }
}

fn span_of(field: u64) -> std::ops::Range<usize> {
    let start = usize::try_from(field).expect("at most 12");
    start..start + 4
}

#[cfg(test)]
mod tests;

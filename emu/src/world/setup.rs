//! From a scenario to a world at its first instruction.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use host::balloon::BalloonOptions;
use host::devices::DeviceOptions;
use host::devices::vhost::VhostOptions;
use host::devices::virtio_mem::VirtioMemOptions;
use host::dirty::accel::{LogMode, TrackingOptions};
use host::dirty::ram_list::BlockOptions;
use host::event::Pfn;
use host::fault::{Fault, Faults};
use host::lock::Locks;
use host::memory::GuestRam;
use host::migration::pace::{FirstRound, MigrationOptions};
use host::step::Watch;
use host::vmm::{Vmm, VmmOptions};
use wire::platform::{BOOT_INFO, BootInfo, boot_flag};
use xxhash_rust::xxh3::Xxh3;

use crate::image::Image;
use crate::oracle::{Oracle, OracleOptions, Told};
use crate::scenario::model::{DirtyLog, Migration, Numbering, Profile, RamBlock, Scenario, Tracking, VirtioMem, Walk};
use crate::search::system::Objects;
use crate::vcpu::Machine;
use crate::world::blocked::Blocked;
use crate::world::gates::Gates;
use crate::world::guest::Vcpu;
use crate::world::inject::InjectionState;
use crate::world::pages::NamedPages;
use crate::world::rules::GuestRules;
use crate::world::spin::Spins;
use crate::world::{RunOptions, State, Window, World, hosts_of};

/// What stands in page 0 where that is ROM: a far jump to the firmware's start.
const ROM: [u8; 5] = [0xea, 0x5b, 0xe0, 0x00, 0xf0];

/// Numbers of values that a kernel's tasks write, less than 2 to the power of this.
const RESET_SHIFT: u32 = 40;

impl World {
    /// Returns a world at its first instruction. For a search, what may happen can, and no rate is estimated or kept, for time stands still.
    pub(crate) fn new(scenario: &Arc<Scenario>, options: &RunOptions, searched: bool) -> World {
        let image = guest_image();
        let ram = Arc::new(GuestRam::new(scenario.guest.ram_bytes));
        let vcpus = usize::from(scenario.guest.vcpus);
        let hosts = hosts_of(scenario);
        let machine = Machine::new(Arc::clone(&ram), image, vcpus);
        let mut faults: Faults = scenario.faults.iter().chain(&options.faults).copied().collect();
        faults.add_asked(Fault::ALL.iter().copied().filter(|fault| fault.guest_bit().is_some()).collect());
        let oracle = Oracle::new(OracleOptions {
            hints_first: scenario.migration.hints_first,
            pages: ram.pages(),
            channels: scenario.migration.encoding.channels > 0,
            vcpus: scenario.guest.vcpus,
            ram_bytes: ram.bytes(),
            hints_stay_free: scenario.guest.driver.hints_stay_free(),
            free_pages_are_read: scenario.guest.page_poison,
            rom: scenario.host.rom,
            throttle_trigger: u64::from(scenario.migration.throttle.trigger),
            told: told(scenario, searched),
        });
        let injections = scenario.injections.len() + if searched { scenario.may.len() } else { 0 };
        let state = State {
            vcpus: (0..vcpus).map(|_| Vcpu::new()).collect(),
            vmm: Vmm::new(&vmm_options(scenario, &faults, searched)),
            locks: Locks::new(scenario.host.all_locks),
            watch: Watch::default(),
            gates: Gates::new(scenario),
            pages: NamedPages::new(scenario),
            injections: vec![InjectionState::Waiting; injections],
            start: scenario.migration.start.as_ref().map(|_| InjectionState::Waiting),
            oracle,
            times_ns: vec![0; vcpus + hosts.len()],
            now_ns: 0,
            steps: 0,
            ready: false,
            works: 0,
            resets: 0,
            inject_stub: 0,
            hints: 0,
            backlog: vec![VecDeque::new(); vcpus],
            crash: None,
            blocked: Blocked::new(vcpus + hosts.len()),
            spins: Spins::new(vcpus + hosts.len()),
            host_crashed: false,
            window: Window::Ahead,
            counts: None,
        };
        let mut world = World {
            scenario: Arc::clone(scenario),
            faults,
            image,
            hosts,
            ram,
            machine,
            costs: scenario.costs.clone(),
            allocations: scenario.allocation_names().into_iter().map(str::to_owned).collect(),
            may: searched,
            lean: false,
            rules: (!searched).then(|| Box::new(GuestRules::new(scenario, scenario.guest.ram_bytes >> wire::platform::PAGE_SHIFT))),
            trace: Vec::new(),
            digest: Xxh3::new(),
            used: Objects::default(),
            happened: Vec::new(),
            state,
        };
        for range in world.state.vmm.devices.discarded() {
            world.state.oracle.plug(range, false);
        }
        if scenario.host.rom {
            world.ram.write_unlogged(0, &ROM);
        }
        world.write_boot_info();
        world.write_tasks();
        let named: Vec<Pfn> = world.state.pages.frames.values().copied().collect();
        for pfn in named {
            world.watch_page(pfn);
        }
        world
    }

    pub(super) fn write_boot_info(&mut self) {
        let guest = &self.scenario.guest;
        let flag = |on: bool, bit: u64| if on { bit } else { 0 };
        let info = BootInfo {
            magic: BootInfo::MAGIC,
            ram_bytes: guest.ram_bytes - self.scenario.host.untold_bytes(),
            vcpus: u32::from(guest.vcpus),
            dialect: guest.driver.number(),
            features_refused: guest.features_refused,
            flags: flag(guest.page_poison, boot_flag::PAGE_POISON)
                | flag(guest.init_on_alloc, boot_flag::INIT_ON_ALLOC)
                | flag(guest.init_on_free, boot_flag::INIT_ON_FREE)
                | flag(guest.late_probe, boot_flag::LATE_PROBE)
                | flag(guest.manners.deflate_silently, boot_flag::DEFLATE_SILENTLY)
                | flag(guest.manners.hint_in_two, boot_flag::HINT_IN_TWO)
                | flag(guest.manners.start_with_hint, boot_flag::START_WITH_HINT)
                | flag(guest.manners.short_stop_id, boot_flag::SHORT_STOP_ID)
                | flag(guest.queue_numbering == Numbering::Spec, boot_flag::SPEC_QUEUES),
            corrected: guest.corrected,
            faults: self.faults.all_on().iter().filter_map(|fault| fault.guest_bit()).fold(0, |all, bit| all | bit),
            hint_array: u64::from(guest.hint_array),
        };
        let BootInfo { magic, ram_bytes, vcpus, dialect, features_refused, flags, corrected, faults, hint_array } = info;
        let mut bytes = Vec::with_capacity(size_of::<BootInfo>());
        bytes.extend(magic.to_le_bytes());
        bytes.extend(ram_bytes.to_le_bytes());
        bytes.extend(vcpus.to_le_bytes());
        bytes.extend(dialect.to_le_bytes());
        bytes.extend(features_refused.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(corrected.to_le_bytes());
        bytes.extend(faults.to_le_bytes());
        bytes.extend(hint_array.to_le_bytes());
        assert_eq!(bytes.len(), size_of::<BootInfo>());
        self.ram.write_unlogged(BOOT_INFO, &bytes);
    }

    pub(super) fn write_tasks(&mut self) {
        let scenario = Arc::clone(&self.scenario);
        let operations = scenario.guest.tasks.iter().flat_map(|task| task.operations.iter().map(|operation| (task.vcpu, operation)));
        for (id, (vcpu, operation)) in (0..).zip(operations) {
            // No kernel writes what one before it has written.
            let op = self.task_op(operation, id + 1 + (self.state.resets << RESET_SHIFT), id);
            self.push_task(usize::from(vcpu), op);
        }
        // The tasks look at their mailboxes when they start; nobody has to ring before.
        for vcpu in &mut self.state.vcpus {
            vcpu.interrupts.clear();
        }
    }
}

fn vmm_options(scenario: &Scenario, faults: &Faults, searched: bool) -> VmmOptions {
    let host = &scenario.host;
    VmmOptions {
        pages: scenario.guest.ram_bytes >> wire::platform::PAGE_SHIFT,
        blocks: blocks(scenario),
        log: match host.dirty_log {
            DirtyLog::ManualClear => LogMode::ManualClear { initially_set: host.initially_set },
            DirtyLog::GetClears => LogMode::GetClears,
            DirtyLog::Ring => LogMode::Ring,
            DirtyLog::Hvf => LogMode::Hvf,
            DirtyLog::Tcg => LogMode::Tcg,
        },
        tracking: tracking_options(scenario),
        devices: DeviceOptions {
            vhost: VhostOptions { log_ack_ns: host.devices.vhost_log_ack_ns, queues: host.devices.vhost_queues },
            vfio: host.devices.vfio,
            iommu: host.devices.iommu,
            virtio_mem: host.virtio_mem.as_ref().map(|mem| virtio_mem(mem, faults)),
        },
        balloon: BalloonOptions {
            features: host.features,
            profile: match host.profile {
                Profile::Qemu => host::balloon::Profile::Qemu,
                Profile::Firecracker => host::balloon::Profile::Firecracker,
                Profile::CloudHypervisor => host::balloon::Profile::CloudHypervisor,
            },
            protocol: host::balloon::Protocol::of(
                scenario.guest.driver,
                scenario.guest.corrected,
                match host.walk {
                    Walk::Naive => host::balloon::Walk::Naive,
                    Walk::Corrected => host::balloon::Walk::Corrected,
                },
            ),
            numbering: match host.queue_numbering {
                Numbering::Dense => host::balloon::Numbering::Dense,
                Numbering::Spec => host::balloon::Numbering::Spec,
            },
            queue_size: host.queue_size,
            hint_queue_size: host.hint_queue_size,
            stats_interval_ns: host.stats_interval_ns,
            target_pages: host.balloon_pages,
            acknowledge_on_stop: host.acknowledge_on_stop,
            machine: host::balloon::Machine {
                host_page: u64::from(host.host_page),
                iothread: iothread(host.iothread, faults),
                rom: host.rom,
                ignores_pins: host.devices.vfio && faults.on(Fault::PinnedDiscarded),
                regions: regions(&host.blocks),
            },
        },
        migration: MigrationOptions {
            bandwidth: scenario.migration.bandwidth,
            max_bandwidth: scenario.migration.max_bandwidth,
            downtime_limit_ns: scenario.migration.downtime_limit_ns,
            encoding: scenario.migration.encoding,
            rounds_min: scenario.migration.rounds_min,
            chunk_shift: host.chunk_shift,
            throttle: scenario.migration.throttle,
            limit: scenario.migration.limit,
            switchover: scenario.migration.switchover,
            complete_before_sync: scenario.migration.complete_before_sync,
            modes: scenario.migration.modes.clone(),
            hints_first: scenario.migration.hints_first,
            first_round: match host.profile {
                Profile::Qemu | Profile::Firecracker => FirstRound::All,
                Profile::CloudHypervisor => FirstRound::Populated,
            },
            paced: !searched,
        },
    }
}

/// Returns what an operator has told of the switchover; where time stands still it does not count.
fn told(scenario: &Scenario, searched: bool) -> Option<Told> {
    let Migration { switchover, downtime_limit_ns, rounds_min, .. } = &scenario.migration;
    let bytes = u128::from(switchover.bandwidth) * u128::from(*downtime_limit_ns) / 1_000_000_000;
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    (switchover.bandwidth > 0 && !searched).then_some(Told { bytes, rounds_min: *rounds_min })
}

/// Returns where memory regions begin, but the first: each RAM block is one.
fn regions(blocks: &[RamBlock]) -> Vec<u64> {
    let mut ends: Vec<u64> = blocks
        .iter()
        .scan(0, |end, block| {
            *end += block.pages;
            Some(*end)
        })
        .collect();
    ends.pop();
    ends
}

/// Returns whether a balloon finds an iothread, and whether it notices that it does not.
fn iothread(present: bool, faults: &Faults) -> host::balloon::IothreadOption {
    match present {
        true => host::balloon::IothreadOption::Present,
        false if faults.on(Fault::HintQueueWithoutIothread) => host::balloon::IothreadOption::MissingUnnoticed,
        false => host::balloon::IothreadOption::Missing,
    }
}

fn block_options(block: &RamBlock) -> BlockOptions {
    let RamBlock { name, pages, offset, room, ignored } = block;
    BlockOptions { name: name.clone(), pages: *pages, offset: *offset, room: *room, ignored: *ignored }
}

/// Returns the RAM blocks; memory that is plugged and unplugged is one behind the others.
fn blocks(scenario: &Scenario) -> Vec<BlockOptions> {
    let host = &scenario.host;
    let mut blocks = host.blocks.clone();
    if let Some(mem) = &host.virtio_mem {
        let block = |name: &str, pages, offset| RamBlock { name: name.to_owned(), pages, offset, room: 0, ignored: false };
        if blocks.is_empty() {
            blocks.push(block("pc.ram", (scenario.guest.ram_bytes >> wire::platform::PAGE_SHIFT) - mem.pages, 0));
        }
        blocks.push(block(VirtioMem::NAME, mem.pages, RamBlock::offset_behind(&blocks)));
    }
    blocks.iter().map(block_options).collect()
}

fn virtio_mem(mem: &VirtioMem, faults: &Faults) -> VirtioMemOptions {
    let VirtioMem { pages, block_pages, memslot_pages, plugged } = mem;
    VirtioMemOptions {
        pages: *pages,
        block_pages: *block_pages,
        memslot_pages: *memslot_pages,
        plugged: plugged.clone(),
        index_by_count: faults.on(Fault::DiscardIndex),
    }
}

fn tracking_options(scenario: &Scenario) -> TrackingOptions {
    let Tracking { ring_size, reap_interval_ns, slots, smm } = &scenario.host.tracking;
    TrackingOptions {
        vcpus: scenario.guest.vcpus,
        ring_size: *ring_size,
        reap_interval_ns: *reap_interval_ns,
        host_page: scenario.host.host_page,
        slots: slots.iter().copied().map(Pfn).collect(),
        smm: *smm,
    }
}

/// Returns the guest's image, parsed once.
fn guest_image() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(Image::guest)
}

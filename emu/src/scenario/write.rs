//! Writes a scenario as a file: what [`super::parse`] reads back into the same values. What equals a default is left out, so that a file made
//! by a search says only what it is about.

use std::fmt::{Display, Write};

use host::dirty::command::TrackingCommand;
use host::dirty::limit::LimitOptions;
use host::event::Actor;
use host::fault::Fault;
use host::migration::encoding::EncodingOptions;
use host::migration::postcopy::Modes;
use host::migration::throttle::{SwitchoverOptions, ThrottleOptions};
use host::step::Costs;
use wire::balloon::seed_feature;
use wire::platform::PAGE_SIZE;
use wire::switch::correct;

use super::model::{
    Action, BlockedExpect, Command, CountExpect, Devices, DirtyLog, Driver, Expect, Found, Grain, Guest, Host, How, Injection, Limits,
    Manners, Migration, Operation, Order, Pattern, RamBlock, Scenario, Search, SpunExpect, Target, Task, Tracking, Trigger, Vary,
    VirtioMem,
};
use super::units::{self, RATES, SIZES, TIMES};
use super::words::FEATURES;

/// Returns a scenario file's text with a comment on top, each of its lines behind a `#`.
pub fn to_toml_with_comment(scenario: &Scenario, comment: &str) -> String {
    let mut text = String::new();
    for line in comment.lines() {
        // TOML refuses control characters even there.
        let line = line.replace(|c: char| c.is_control() && c != '\t', " ");
        text.push_str(format!("# {line}").trim_end());
        text.push('\n');
    }
    text + &to_toml(scenario)
}

/// Returns a scenario file's text.
pub fn to_toml(scenario: &Scenario) -> String {
    let Scenario {
        about,
        witness,
        faults,
        guest,
        host,
        migration,
        pages,
        injections,
        may,
        orders,
        search,
        vary,
        expect,
        costs,
        limits,
        found,
    } = scenario;
    let mut out = Lines::default();
    out.key("about", quoted(about));
    out.unless(witness.is_empty(), "witness", || fault_list(witness));
    out.unless(faults.is_empty(), "faults", || fault_list(faults));
    write_guest(&mut out, guest);
    write_host(&mut out, host, guest.driver);
    write_migration(&mut out, migration);
    if !pages.is_empty() {
        out.header("[pages]");
        for (name, spec) in pages {
            out.key(name, quoted(&spec.to_string()));
        }
    }
    injections.iter().for_each(|injection| write_injection(&mut out, "[[inject]]", injection));
    may.iter().for_each(|injection| write_injection(&mut out, "[[may]]", injection));
    for Order { chain } in orders {
        out.header("[[order]]");
        out.key("chain", list(chain.iter().map(|pattern| quoted(&pattern.to_string()))));
    }
    write_search(&mut out, search);
    write_vary(&mut out, vary);
    write_expect(&mut out, expect);
    write_costs(&mut out, costs);
    write_limits(&mut out, limits);
    found.iter().for_each(|found| write_found(&mut out, found));
    out.text
}

/// The file so far. A header is written with its first key only.
#[derive(Debug, Default)]
struct Lines {
    text: String,
    header: Option<&'static str>,
}

impl Lines {
    /// Begins a table that is left out when it gets no key.
    fn table(&mut self, header: &'static str) {
        self.header = Some(header);
    }

    /// Begins a table.
    fn header(&mut self, header: &'static str) {
        self.table(header);
        self.flush();
    }

    fn flush(&mut self) {
        if let Some(header) = self.header.take() {
            self.line(&format!("\n{header}"));
        }
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn key(&mut self, key: &str, value: impl Display) {
        self.flush();
        self.line(&format!("{key} = {value}"));
    }

    /// Writes a key unless its value goes without saying.
    fn unless<T: Display>(&mut self, default: bool, key: &str, value: impl FnOnce() -> T) {
        if !default {
            self.key(key, value());
        }
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list<T: Display>(elements: impl IntoIterator<Item = T>) -> String {
    let elements: Vec<String> = elements.into_iter().map(|element| element.to_string()).collect();
    format!("[{}]", elements.join(", "))
}

fn fault_list(faults: &[Fault]) -> String {
    list(faults.iter().map(|fault| quoted(fault.name())))
}

/// Names feature bits; some mean something else to the drivers that talk through a request queue.
fn feature_list(bits: u64, driver: Driver) -> String {
    let known = FEATURES.iter().fold(0, |all, (_, bit, _)| all | bit);
    assert_eq!(bits & !known, 0, "a feature bit without a name");
    let seed = seed_feature::PAGE_RANGE | seed_feature::HOST_REQ_VQ;
    let requests = matches!(driver, Driver::V6 | Driver::V8 | Driver::V10);
    let mut named = 0;
    let (merged, posted) = FEATURES.split_at(FEATURES.len() - 2);
    let first = if requests { posted } else { &[] };
    let names = first.iter().chain(merged).filter(|(_, bit, _)| {
        let wanted = bits & bit & !named != 0;
        named |= bit & seed;
        wanted
    });
    list(names.map(|(name, _, _)| quoted(name)))
}

fn size(bytes: u64) -> String {
    quoted(&units::format(bytes, SIZES))
}

fn time(ns: u64) -> String {
    quoted(&units::format(ns, TIMES))
}

fn rate(bytes_per_second: u64) -> String {
    quoted(&units::format(bytes_per_second, RATES))
}

fn patterns(patterns: &[Pattern]) -> String {
    match patterns {
        [one] => quoted(&one.to_string()),
        many => list(many.iter().map(|pattern| quoted(&pattern.to_string()))),
    }
}

fn write_guest(out: &mut Lines, guest: &Guest) {
    let default = Guest::default();
    let Guest {
        ram_bytes,
        vcpus,
        driver,
        corrected,
        hint_array,
        queue_numbering,
        features_refused,
        page_poison,
        init_on_alloc,
        init_on_free,
        late_probe,
        manners,
        tasks,
    } = guest;
    out.table("[guest]");
    out.unless(*ram_bytes == default.ram_bytes, "ram", || size(*ram_bytes));
    out.unless(*vcpus == default.vcpus, "vcpus", || vcpus);
    out.unless(*driver == default.driver, "driver", || quoted(driver.name()));
    out.unless(*corrected == default.corrected, "corrected", || {
        list(correct::ALL.iter().filter(|(bit, _, _)| corrected & bit != 0).map(|(_, name, _)| quoted(name)))
    });
    out.unless(*hint_array == default.hint_array, "hint_array", || hint_array);
    out.unless(*queue_numbering == default.queue_numbering, "queue_numbering", || quoted(queue_numbering.name()));
    out.unless(*page_poison == default.page_poison, "page_poison", || page_poison);
    out.unless(*init_on_alloc == default.init_on_alloc, "init_on_alloc", || init_on_alloc);
    out.unless(*init_on_free == default.init_on_free, "init_on_free", || init_on_free);
    out.unless(*late_probe == default.late_probe, "late_probe", || late_probe);
    let Manners { deflate_silently, hint_in_two, start_with_hint, short_stop_id } = manners;
    out.unless(!deflate_silently, "deflate_silently", || deflate_silently);
    out.unless(!hint_in_two, "hint_in_two", || hint_in_two);
    out.unless(!start_with_hint, "start_with_hint", || start_with_hint);
    out.unless(!short_stop_id, "short_stop_id", || short_stop_id);
    out.unless(*features_refused == default.features_refused, "refuse", || feature_list(*features_refused, *driver));
    for Task { vcpu, operations } in tasks {
        out.header("[[guest.task]]");
        out.key("on", quoted(&Actor::Vcpu(*vcpu).to_string()));
        let mut lines = String::from("[\n");
        for operation in operations {
            writeln!(lines, "  {},", operation_table(operation)).expect("writing to a string");
        }
        lines.push(']');
        out.key("do", lines);
    }
}

/// Returns a key of an inline table that stands behind another, nothing if its value goes without saying.
fn unless(default: bool, key: &str, value: impl Display) -> String {
    if default { String::new() } else { format!(", {key} = {value}") }
}

fn operation_table(operation: &Operation) -> String {
    let of_page = |page: u64| unless(page == 0, "page", page);
    let body = match operation {
        Operation::Alloc { name, order, atomic } => {
            format!("alloc = {}{}{}", quoted(name), unless(*order == 0, "order", order), unless(!atomic, "atomic", true))
        }
        Operation::Free { name, in_interrupt } => format!("free = {}{}", quoted(name), unless(!in_interrupt, "in_interrupt", true)),
        Operation::Write { name, page, byte } => format!("write = {}, byte = {byte:#04x}{}", quoted(name), of_page(*page)),
        Operation::Verify { name, page, byte } => format!("verify = {}, byte = {byte:#04x}{}", quoted(name), of_page(*page)),
        Operation::Fill { name, pages } => format!("fill = {}, size = {}", quoted(name), size(pages * PAGE_SIZE)),
        Operation::Release { name, every } => format!("release = {}{}", quoted(name), unless(*every == 1, "every", every)),
        Operation::StartZone { zone } => format!("start_zone = {zone}"),
        Operation::ListFree { order } => format!("list_free = {order}"),
        Operation::Shrink { pages } => format!("shrink = {}", size(pages * PAGE_SIZE)),
        Operation::Oom => "oom = true".to_owned(),
        Operation::Compact { order, busy } => {
            format!("compact = true{}{}", unless(*order == 0, "order", order), unless(*busy == 0, "busy", busy))
        }
        Operation::Evacuate => "evacuate = true".to_owned(),
        Operation::Sleep { ns } => format!("sleep = {}", time(*ns)),
        Operation::Churn { times, seed } => format!("churn = {times}{}", unless(*seed == 0, "seed", seed)),
        Operation::Unbind => "unbind = true".to_owned(),
        Operation::Bind => "bind = true".to_owned(),
        Operation::GetPage { pfn } => format!("get_page = {pfn:#x}"),
        Operation::PutPage { pfn } => format!("put_page = {pfn:#x}"),
        Operation::FailAlloc { nth } => format!("fail_alloc = {nth}"),
        Operation::Freeze => "freeze = true".to_owned(),
        Operation::Restore => "restore = true".to_owned(),
        Operation::Shutdown => "shutdown = true".to_owned(),
        Operation::Reboot => "reboot = true".to_owned(),
        Operation::EmergencyRestart => "emergency_restart = true".to_owned(),
        Operation::NoteMemory => "note_memory = true".to_owned(),
        Operation::CompareMemory => "compare_memory = true".to_owned(),
        Operation::Panic => "panic = true".to_owned(),
        Operation::NullStore => "null_store = true".to_owned(),
        Operation::WildStore { address } => format!("wild_store = {address:#x}"),
        Operation::JumpToData => "jump_to_data = true".to_owned(),
    };
    format!("{{ {body} }}")
}

fn write_host(out: &mut Lines, host: &Host, driver: Driver) {
    let default = Host::of(host.profile, driver);
    let Host {
        profile,
        dirty_log,
        chunk_shift,
        initially_set,
        tracking: Tracking { ring_size, reap_interval_ns, slots, smm },
        features,
        queue_numbering,
        walk,
        hint_queue_size,
        queue_size,
        balloon_pages,
        stats_interval_ns,
        host_page,
        iothread,
        rom,
        acknowledge_on_stop,
        all_locks,
        devices,
        blocks,
        virtio_mem,
    } = host;
    let manual = *dirty_log == DirtyLog::ManualClear;
    out.table("[host]");
    out.unless(*profile == super::model::Profile::Qemu, "profile", || quoted(profile.name()));
    out.unless(*dirty_log == default.dirty_log, "dirty_log", || quoted(dirty_log.name()));
    out.unless(!manual || *chunk_shift == default.chunk_shift, "chunk", || size(PAGE_SIZE << chunk_shift));
    out.unless(!manual || *initially_set, "initially_set", || initially_set);
    out.unless(*ring_size == default.tracking.ring_size, "ring_size", || ring_size);
    out.unless(*reap_interval_ns == default.tracking.reap_interval_ns, "reap_interval", || time(*reap_interval_ns));
    out.unless(slots.is_empty(), "slots", || list(slots.iter().map(|first| size(first * PAGE_SIZE))));
    out.unless(!smm, "smm", || smm);
    out.unless(*features == default.features, "features", || feature_list(*features, driver));
    out.unless(*queue_numbering == default.queue_numbering, "queue_numbering", || quoted(queue_numbering.name()));
    out.unless(*walk == default.walk, "walk", || quoted(walk.name()));
    out.unless(*hint_queue_size == default.hint_queue_size, "hint_queue_size", || hint_queue_size);
    out.unless(*queue_size == default.queue_size, "queue_size", || queue_size);
    out.unless(*balloon_pages == default.balloon_pages, "balloon", || size(u64::from(*balloon_pages) * PAGE_SIZE));
    out.unless(*stats_interval_ns == default.stats_interval_ns, "stats_interval", || time(*stats_interval_ns));
    out.unless(!rom, "rom", || rom);
    out.unless(*acknowledge_on_stop, "acknowledge_on_stop", || acknowledge_on_stop);
    out.unless(!all_locks, "all_locks", || all_locks);
    out.unless(*iothread == default.iothread, "iothread", || iothread);
    out.unless(*host_page == default.host_page, "host_page", || size(u64::from(*host_page) * PAGE_SIZE));
    let Devices { vhost_log_ack_ns, vhost_queues, vfio, iommu } = devices;
    out.unless(*vhost_queues == 0, "vhost_queues", || vhost_queues);
    out.unless(!vfio, "vfio", || vfio);
    out.unless(!iommu, "iommu", || iommu);
    vhost_log_ack_ns.iter().for_each(|ack_ns| out.key("vhost_log_ack", time(*ack_ns)));
    write_blocks(out, blocks);
    virtio_mem.iter().for_each(|mem| write_virtio_mem(out, mem));
}

fn write_blocks(out: &mut Lines, blocks: &[RamBlock]) {
    for (index, block) in blocks.iter().enumerate() {
        let RamBlock { name, pages, offset, room, ignored } = block;
        out.header("[[host.blocks]]");
        out.key("name", quoted(name));
        out.key("pages", pages);
        out.unless(*offset == RamBlock::offset_behind(&blocks[..index]), "offset", || offset);
        out.unless(*room == 0, "room", || room);
        out.unless(!ignored, "ignored", || ignored);
    }
}

fn write_virtio_mem(out: &mut Lines, mem: &VirtioMem) {
    let VirtioMem { pages, block_pages, memslot_pages, plugged } = mem;
    out.header("[host.virtio_mem]");
    out.key("size", size(pages * PAGE_SIZE));
    out.key("block", size(block_pages * PAGE_SIZE));
    out.unless(memslot_pages == pages, "memslot", || size(memslot_pages * PAGE_SIZE));
    out.unless(plugged.is_empty(), "plugged", || list(plugged));
}

fn write_migration(out: &mut Lines, migration: &Migration) {
    let default = Migration::default();
    let Migration {
        start,
        bandwidth,
        max_bandwidth,
        downtime_limit_ns,
        encoding,
        rounds_min,
        throttle,
        limit,
        switchover,
        complete_before_sync,
        hints_first,
        modes,
    } = migration;
    out.table("[migration]");
    out.unless(*start == default.start, "start", || start.as_ref().map_or_else(|| quoted("never"), start_value));
    out.unless(*bandwidth == default.bandwidth, "bandwidth", || rate(*bandwidth));
    let most = || if *max_bandwidth == 0 { quoted("unlimited") } else { rate(*max_bandwidth) };
    out.unless(*max_bandwidth == default.max_bandwidth, "max_bandwidth", most);
    out.unless(*downtime_limit_ns == default.downtime_limit_ns, "downtime_limit", || time(*downtime_limit_ns));
    write_encoding(out, encoding);
    out.unless(*rounds_min == default.rounds_min, "rounds_min", || rounds_min);
    write_throttle(out, throttle);
    write_limit(out, *limit);
    let SwitchoverOptions { pause, bandwidth } = switchover;
    out.unless(!pause, "pause_before_switchover", || pause);
    out.unless(*bandwidth == 0, "switchover_bandwidth", || rate(*bandwidth));
    out.unless(!complete_before_sync, "complete_before_sync", || complete_before_sync);
    out.unless(!hints_first, "hints_first", || hints_first);
    let Modes { run_on, postcopy, max_postcopy_bandwidth, preempt, release_ram, snapshot } = modes;
    out.unless(!preempt, "postcopy_preempt", || preempt);
    out.unless(!release_ram, "release_ram", || release_ram);
    out.unless(!snapshot, "snapshot", || snapshot);
    out.unless(!run_on, "run_on", || run_on);
    out.unless(!postcopy, "postcopy", || postcopy);
    out.unless(*max_postcopy_bandwidth == 0, "max_postcopy_bandwidth", || rate(*max_postcopy_bandwidth));
}

fn write_encoding(out: &mut Lines, encoding: &EncodingOptions) {
    let default = EncodingOptions::default();
    let EncodingOptions { zero_pages, xbzrle_pages, channels, compression, zero_copy, mapped_ram, destination_ram, poisoned } = encoding;
    out.unless(*zero_pages == default.zero_pages, "zero_pages", || quoted(zero_pages.name()));
    out.unless(*xbzrle_pages == default.xbzrle_pages, "xbzrle", || xbzrle_pages);
    out.unless(*channels == default.channels, "multifd_channels", || channels);
    out.unless(*compression == default.compression, "multifd_compression", || quoted(compression.name()));
    out.unless(!zero_copy, "zero_copy", || zero_copy);
    out.unless(!mapped_ram, "mapped_ram", || mapped_ram);
    out.unless(*destination_ram == default.destination_ram, "destination_ram", || quoted(destination_ram.name()));
    poisoned.iter().for_each(|pfn| out.key("poisoned_page", format!("{:#x}", pfn.0)));
}

fn write_throttle(out: &mut Lines, throttle: &ThrottleOptions) {
    let default = ThrottleOptions::default();
    let ThrottleOptions { auto_converge, trigger, initial, increment, max, tailslow } = throttle;
    let number = |value: u32, default: u32, key: &str| (value != default).then(|| format!("{key} = {value}"));
    let parts = [
        auto_converge.then(|| "auto_converge = true".to_owned()),
        number(*trigger, default.trigger, "trigger"),
        number(*initial, default.initial, "initial"),
        number(*increment, default.increment, "increment"),
        number(*max, default.max, "max"),
        tailslow.then(|| "tailslow = true".to_owned()),
    ];
    out.unless(*throttle == default, "throttle", || braces(&parts));
}

fn write_limit(out: &mut Lines, limit: LimitOptions) {
    let default = LimitOptions::default();
    let LimitOptions { on, rate, period_ns } = limit;
    let parts = [
        on.then(|| "on = true".to_owned()),
        (rate != default.rate).then(|| format!("rate = {rate}")),
        (period_ns != default.period_ns).then(|| format!("period = {}", time(period_ns))),
    ];
    out.unless(limit == default, "dirty_limit", || braces(&parts));
}

fn start_value(trigger: &Trigger) -> String {
    let Trigger { at_ns, after, delay_ns, delay_insns } = trigger;
    assert_eq!(*delay_insns, 0, "no vCPU starts a migration");
    match (at_ns, after.as_slice(), delay_ns) {
        (Some(at_ns), [], 0) => time(*at_ns),
        (None, [one], 0) => quoted(&one.to_string()),
        _ => {
            let mut parts = Vec::new();
            parts.extend((!after.is_empty()).then(|| format!("after = {}", patterns(after))));
            parts.extend(at_ns.map(|at_ns| format!("at = {}", time(at_ns))));
            parts.extend((*delay_ns > 0).then(|| format!("delay = {}", time(*delay_ns))));
            format!("{{ {} }}", parts.join(", "))
        }
    }
}

fn write_injection(out: &mut Lines, header: &'static str, injection: &Injection) {
    let Injection { name, action, by, trigger, before } = injection;
    let Trigger { at_ns, after, delay_ns, delay_insns } = trigger;
    out.header(header);
    if let Some(name) = name {
        out.key("name", quoted(name));
    }
    let (key, value) = action_entry(action);
    out.key(key, value);
    let implied = matches!(action, Action::Monitor(_) | Action::ClearLog { .. });
    out.unless(implied, "by", || quoted(&by.to_string()));
    if let Some(at_ns) = at_ns {
        out.key("at", time(*at_ns));
    }
    out.unless(after.is_empty(), "after", || patterns(after));
    out.unless(before.is_empty(), "before", || patterns(before));
    out.unless(*delay_ns == 0, "delay", || time(*delay_ns));
    out.unless(*delay_insns == 0, "delay_insns", || delay_insns);
}

fn write_search(out: &mut Lines, search: &Search) {
    let Search { from, until, grain, check_mm } = search;
    out.table("[search]");
    for (key, pattern) in [("from", from), ("until", until)] {
        if let Some(pattern) = pattern {
            out.key(key, quoted(&pattern.to_string()));
        }
    }
    out.unless(*grain == Grain::default(), "grain", || quoted(grain.name()));
    out.unless(*check_mm == 0, "check_mm", || check_mm);
}

fn write_vary(out: &mut Lines, vary: &Vary) {
    let Vary { profile, dirty_log, chunk_shift, hint_queue_size, queue_size, vcpus, driver, faults } = vary;
    out.table("[vary]");
    out.unless(profile.is_empty(), "profile", || list(profile.iter().map(|profile| quoted(profile.name()))));
    out.unless(dirty_log.is_empty(), "dirty_log", || list(dirty_log.iter().map(|log| quoted(log.name()))));
    out.unless(chunk_shift.is_empty(), "chunk", || list(chunk_shift.iter().map(|shift| size(PAGE_SIZE << shift))));
    out.unless(hint_queue_size.is_empty(), "hint_queue_size", || list(hint_queue_size));
    out.unless(queue_size.is_empty(), "queue_size", || list(queue_size));
    out.unless(vcpus.is_empty(), "vcpus", || list(vcpus));
    out.unless(driver.is_empty(), "driver", || list(driver.iter().map(|driver| quoted(driver.name()))));
    out.unless(faults.is_empty(), "faults", || fault_list(faults));
}

fn write_found(out: &mut Lines, found: &Found) {
    let Found { scenario, seed, strategy, schedules } = found;
    out.header("[found]");
    out.key("scenario", quoted(scenario));
    out.key("seed", quoted(seed));
    out.key("strategy", quoted(strategy));
    out.key("schedules", schedules);
}

/// Returns the key and the value that say what an injection does.
fn action_entry(action: &Action) -> (&'static str, String) {
    match action {
        Action::Write { page, offset, byte, zero, pages, target, how } => {
            let into = unless(*target == Target::Buffer, "into", quoted(target.name()));
            let queue = if let Target::UsedRing(queue) = target { unless(*queue == 0, "queue", queue) } else { String::new() };
            let how = unless(*how == How::default(), "how", quoted(how.name()));
            let zero = if *zero { ", zero = true" } else { "" };
            let (offset, pages) = (unless(*offset == 0, "offset", offset), unless(*pages == 1, "pages", pages));
            ("write", format!("{{ page = {}, byte = {byte:#04x}{zero}{offset}{pages}{into}{queue}{how} }}", quoted(page)))
        }
        Action::Task(operation) => ("task", operation_table(operation)),
        Action::Monitor(command) => ("monitor", command_value(*command)),
        Action::ClearLog { page, pages, sync } => {
            let (pages, sync) = (unless(*pages == 1, "pages", pages), unless(!sync, "sync", sync));
            ("clear_log", format!("{{ page = {}{pages}{sync} }}", quoted(page)))
        }
        Action::RepeatId => ("repeat_id", true.to_string()),
        Action::VhostQueue { page, queue } => {
            ("vhost_queue", format!("{{ page = {}{} }}", quoted(page), unless(*queue == 0, "queue", queue)))
        }
        Action::Iommu { map, page, pages } => {
            let key = if *map { "iommu_map" } else { "iommu_unmap" };
            (key, format!("{{ page = {}{} }}", quoted(page), unless(*pages == 1, "pages", pages)))
        }
    }
}

/// Returns what an injection does and by whom, as its file writes it.
pub fn injection_text(injection: &Injection) -> String {
    let (key, value) = action_entry(&injection.action);
    match injection.action {
        Action::Monitor(_) | Action::ClearLog { .. } => format!("{key} = {value}"),
        Action::Write { .. } | Action::Task(_) | Action::RepeatId | Action::VhostQueue { .. } | Action::Iommu { .. } => {
            format!("{key} = {value}, by {}", injection.by)
        }
    }
}

fn command_value(command: Command) -> String {
    match command {
        Command::Migrate => quoted("migrate"),
        Command::Cancel => quoted("cancel"),
        Command::Stop => quoted("stop"),
        Command::Cont => quoted("cont"),
        Command::Balloon { pages } => format!("{{ balloon = {} }}", size(u64::from(pages) * PAGE_SIZE)),
        Command::ResizeMem { pages } => format!("{{ requested_size = {} }}", size(pages * PAGE_SIZE)),
        Command::ResetDevice => quoted("reset-device"),
        Command::SystemReset => quoted("system-reset"),
        Command::Unplug => quoted("unplug-balloon"),
        Command::GrowBlock => quoted("grow-block"),
        Command::BreakLink => quoted("break-link"),
        Command::StartPostcopy => quoted("start-postcopy"),
        Command::Recover => quoted("recover"),
        Command::Continue => quoted("continue"),
        Command::PostcopyRam { on: true } => quoted("postcopy-ram-on"),
        Command::PostcopyRam { on: false } => quoted("postcopy-ram-off"),
        Command::StallLink => quoted("stall-link"),
        Command::ResumeLink => quoted("resume-link"),
        Command::Yank => quoted("yank"),
        Command::Tracking(TrackingCommand::SetLimit { cpu, rate }) => match cpu {
            Some(cpu) => format!("{{ vcpu_dirty_limit = {rate}, cpu = {cpu} }}"),
            None => format!("{{ vcpu_dirty_limit = {rate} }}"),
        },
        Command::Tracking(command) => quoted(command.name()),
    }
}

fn write_expect(out: &mut Lines, expect: &Expect) {
    let Expect { verdict, blame, sent, rounds, cmd_ids, destination_cmd_id, events, irq_off_insns, blocked, spun } = expect;
    out.header("[expect]");
    out.key("verdict", quoted(verdict.name()));
    if let Some(blame) = blame {
        out.key("blame", quoted(blame.name()));
    }
    if let Some(rounds) = rounds {
        out.key("rounds", rounds);
    }
    if let Some(ids) = cmd_ids {
        out.key("cmd_ids", list(ids.iter().map(|id| format!("{id:#x}"))));
    }
    if let Some(id) = destination_cmd_id {
        out.key("destination_cmd_id", format!("{id:#x}"));
    }
    if let Some(count) = irq_off_insns {
        out.key("irq_off_insns", count_table(*count));
    }
    for BlockedExpect { who, on, ns } in blocked {
        out.header("[[expect.blocked]]");
        out.key("who", quoted(who));
        for (key, value) in [("on", on.map(quoted)), ("min", ns.min.map(time)), ("max", ns.max.map(time))] {
            if let Some(value) = value {
                out.key(key, value);
            }
        }
    }
    for SpunExpect { who, ns } in spun {
        out.header("[[expect.spun]]");
        out.key("who", quoted(who));
        for (key, value) in [("min", ns.min.map(time)), ("max", ns.max.map(time))] {
            if let Some(value) = value {
                out.key(key, value);
            }
        }
    }
    if !sent.is_empty() {
        out.header("[expect.sent]");
        for (page, facts) in sent {
            let last = facts.last.map(|byte| format!("last = {byte:#04x}"));
            out.key(page, braces(&[last, facts.min.map(|min| format!("min = {min}")), facts.max.map(|max| format!("max = {max}"))]));
        }
    }
    if !events.is_empty() {
        out.header("[expect.events]");
        for (event, count) in events {
            out.key(&quoted(event), count_table(*count));
        }
    }
}

fn count_table(count: CountExpect) -> String {
    braces(&[count.min.map(|min| format!("min = {min}")), count.max.map(|max| format!("max = {max}"))])
}

fn braces(parts: &[Option<String>]) -> String {
    let parts: Vec<&str> = parts.iter().flatten().map(String::as_str).collect();
    format!("{{ {} }}", parts.join(", "))
}

fn write_costs(out: &mut Lines, costs: &Costs) {
    let Costs {
        guest_step_ns,
        exit_ns,
        tracked_store_ns,
        irq_ns,
        lock_ns,
        element_ns,
        sync_word_ns,
        clear_ns,
        page_ns,
        state_ns,
        vm_stop_ns,
        setup_ns,
        return_path_ns,
    } = costs;
    let default = Costs::default();
    out.table("[costs]");
    out.unless(*guest_step_ns == default.guest_step_ns, "guest_step", || time(*guest_step_ns));
    out.unless(*exit_ns == default.exit_ns, "exit", || time(*exit_ns));
    out.unless(*tracked_store_ns == default.tracked_store_ns, "tracked_store", || time(*tracked_store_ns));
    out.unless(*irq_ns == default.irq_ns, "irq", || time(*irq_ns));
    out.unless(*lock_ns == default.lock_ns, "lock", || time(*lock_ns));
    out.unless(*element_ns == default.element_ns, "element", || time(*element_ns));
    out.unless(*sync_word_ns == default.sync_word_ns, "sync_word", || time(*sync_word_ns));
    out.unless(*clear_ns == default.clear_ns, "clear", || time(*clear_ns));
    out.unless(*page_ns == default.page_ns, "page", || time(*page_ns));
    out.unless(*state_ns == default.state_ns, "state", || time(*state_ns));
    out.unless(*vm_stop_ns == default.vm_stop_ns, "vm_stop", || time(*vm_stop_ns));
    out.unless(*setup_ns == default.setup_ns, "setup", || time(*setup_ns));
    out.unless(*return_path_ns == default.return_path_ns, "return_path", || time(*return_path_ns));
}

fn write_limits(out: &mut Lines, limits: &Limits) {
    let Limits { time_ns, steps, step_insns, check_mm } = limits;
    let default = Limits::default();
    out.table("[limits]");
    out.unless(*time_ns == default.time_ns, "time", || time(*time_ns));
    out.unless(*steps == default.steps, "steps", || steps);
    out.unless(*step_insns == default.step_insns, "step_insns", || step_insns);
    out.unless(*check_mm == default.check_mm, "check_mm", || check_mm);
}

#[cfg(test)]
mod tests {
    use super::super::{arbitrary::arb_scenario, lint, parse};
    use super::*;
    use host::event::EventKind;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(scenario in arb_scenario()) {
            let text = to_toml(&scenario);
            match parse("scenario.toml", &text) {
                Ok(read) => prop_assert_eq!(read, scenario),
                Err(diagnostics) => prop_assert!(false, "{}\n{}", diagnostics, text),
            }
        }
    }

    proptest! {
        #[test]
        fn a_comment_changes_nothing(scenario in arb_scenario(), comment in any::<String>()) {
            let text = to_toml_with_comment(&scenario, &comment);
            prop_assert!(text.lines().filter(|line| line.starts_with('#')).count() >= comment.lines().count());
            match parse("scenario.toml", &text) {
                Ok(read) => prop_assert_eq!(read, scenario),
                Err(diagnostics) => prop_assert!(false, "{}\n{}", diagnostics, text),
            }
        }
    }

    #[test]
    fn a_comment_stands_on_top() {
        let scenario = parse("scenario.toml", "about = \"nothing\"").expect("a scenario");
        let text = to_toml_with_comment(&scenario, "Found by a search.\n\nSeed 7.");
        assert_eq!(text, format!("# Found by a search.\n#\n# Seed 7.\n{}", to_toml(&scenario)));
    }

    #[test]
    fn a_found_scenario_is_short() {
        let event = |kind, page: Option<&str>, nth| Pattern::Event { kind, page: page.map(str::to_owned), nth };
        let file =
            "about = \"found\"\n[pages]\nP = \"first page of hint 1\"\n[[inject]]\nwrite = { page = \"P\", byte = 0xdd }\nby = \"dma\"\n";
        let mut scenario = parse("scenario.toml", file).expect("a scenario");
        let chains = [
            vec![event(EventKind::HintPop, Some("P"), 1), Pattern::Injection(0), event(EventKind::HintApply, Some("P"), 1)],
            vec![event(EventKind::GuestWrite, Some("P"), 2), event(EventKind::DirtyClear, Some("P"), 1)],
        ];
        scenario.orders = chains.into_iter().map(|chain| Order { chain }).collect();
        scenario.expect.verdict = crate::outcome::Verdict::LostPage;
        let (neutral, seed) = ("scenarios/neutral.toml".to_owned(), "0x7f".to_owned());
        scenario.found = Some(Found { scenario: neutral, seed, strategy: "pos".to_owned(), schedules: 12 });
        let text = to_toml(&scenario);
        assert!(text.contains("chain = [\"hint.pop(P)\", \"inject[0]\", \"hint.apply(P)\"]\n"), "{text}");
        assert!(text.contains("chain = [\"guest.write(P)#2\", \"dirty.clear(P)\"]\n"), "{text}");
        assert_eq!(parse("found.toml", &text), Ok(scenario));
        assert!(text.lines().count() <= 30, "{text}");
        assert!(lint("found.toml", &text).is_empty(), "{}", lint("found.toml", &text));
    }

    #[test]
    fn a_scenario_of_defaults_is_written_in_few_words() {
        let scenario = parse("scenario.toml", "about = \"nothing\"").expect("a scenario");
        assert_eq!(to_toml(&scenario), "about = \"nothing\"\n\n[expect]\nverdict = \"pass\"\n");
        assert!(lint("scenario.toml", &to_toml(&scenario)).is_empty());
    }
}

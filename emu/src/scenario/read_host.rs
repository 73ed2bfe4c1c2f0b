//! Reads `[host]`, `[migration]`, `[costs]` and `[limits]`.

use host::dirty::limit::LimitOptions;
use host::event::Pfn;
use host::migration::encoding::{Compression, DestinationRam, EncodingOptions, ZeroPages};
use host::migration::postcopy::Modes;
use host::migration::throttle::{SwitchoverOptions, ThrottleOptions};
use host::step::Costs;
use wire::platform::PAGE_SIZE;

use super::diagnostic::Diagnostic;
use super::model::{Devices, DirtyLog, Driver, Host, Limits, Migration, Numbering, Profile, Tracking, Trigger, VirtioMem, Walk};
use super::read::{Fields, Reader, Value};
use super::read_guest::table_of;
use super::vocabulary;

impl<'d> Reader<'d> {
    /// Reads `[host]`; needs the guest's memory. What is not said is as the guest's driver wants it.
    pub(super) fn host(&mut self, root: &Fields<'d>, driver: Driver) -> Host {
        let qemu = Host::of(Profile::Qemu, driver);
        let Some(fields) = root.get("host").and_then(|value| self.fields(table_of(root, "host"), value)) else { return qemu };
        let default = Host::of(self.word(&fields, "profile", Profile::ALL).unwrap_or(qemu.profile), driver);
        let dirty_log = self.word(&fields, "dirty_log", DirtyLog::ALL).unwrap_or(default.dirty_log);
        let queue_size = |size: Option<u64>, default| size.map_or(default, |size| u16::try_from(size).expect("the range ends at 1024"));
        let virtio_mem = self.virtio_mem(&fields);
        let host = Host {
            profile: default.profile,
            dirty_log,
            chunk_shift: self.chunk_shift(&fields).unwrap_or(default.chunk_shift),
            initially_set: self.flag(&fields, "initially_set").unwrap_or(dirty_log == DirtyLog::ManualClear),
            tracking: self.tracking(&fields),
            features: self.feature_bits(&fields, "features").unwrap_or(default.features),
            queue_numbering: self.word(&fields, "queue_numbering", Numbering::ALL).unwrap_or(default.queue_numbering),
            walk: self.word(&fields, "walk", Walk::ALL).unwrap_or(default.walk),
            hint_queue_size: queue_size(self.integer(&fields, "hint_queue_size"), default.hint_queue_size),
            queue_size: queue_size(self.integer(&fields, "queue_size"), default.queue_size),
            balloon_pages: self.balloon_pages(&fields).unwrap_or(default.balloon_pages),
            stats_interval_ns: self.time(&fields, "stats_interval").unwrap_or(default.stats_interval_ns),
            rom: self.flag(&fields, "rom").unwrap_or(default.rom),
            acknowledge_on_stop: self.flag(&fields, "acknowledge_on_stop").unwrap_or(default.acknowledge_on_stop),
            all_locks: self.flag(&fields, "all_locks").unwrap_or(default.all_locks),
            iothread: self.flag(&fields, "iothread").unwrap_or(default.iothread),
            blocks: self.blocks(&fields),
            host_page: self.host_page(&fields, virtio_mem.as_ref()).unwrap_or(default.host_page),
            virtio_mem,
            devices: self.devices(&fields),
        };
        if dirty_log != DirtyLog::ManualClear {
            self.only_with_manual_clear(&fields, dirty_log);
        }
        host
    }

    /// What tracking needs beside the log's kind.
    fn tracking(&mut self, fields: &Fields<'d>) -> Tracking {
        let default = Tracking::default();
        Tracking {
            reap_interval_ns: self.time(fields, "reap_interval").unwrap_or(default.reap_interval_ns),
            slots: self.several(fields, "slots").into_iter().map(|bytes| bytes / PAGE_SIZE).collect(),
            smm: self.flag(fields, "smm").unwrap_or(default.smm),
            ring_size: self
                .integer(fields, "ring_size")
                .map_or(default.ring_size, |size| u32::try_from(size).expect("the range ends below")),
        }
    }

    fn only_with_manual_clear(&mut self, fields: &Fields<'d>, dirty_log: DirtyLog) {
        for key in ["chunk", "initially_set"] {
            let Some(span) = fields.key_span(key) else { continue };
            let message = format!("`{key}` needs dirty_log = \"manual-clear\"");
            let mut diagnostic = Diagnostic::error(span, message).label(format!("has no meaning with {}", dirty_log.name()));
            diagnostic = match fields.get("dirty_log") {
                Some(log) => diagnostic.related(log.span(), "the log is this"),
                None => diagnostic.note("the log comes from the profile"),
            };
            self.report(diagnostic);
        }
    }

    /// Pages per chunk as a power of two.
    fn chunk_shift(&mut self, fields: &Fields<'d>) -> Option<u8> {
        let bytes = self.size(fields, "chunk")?;
        let shift = u8::try_from((bytes / PAGE_SIZE).ilog2()).expect("a logarithm of 64 bits");
        assert!((6..=31).contains(&shift), "the key's range gives 6..=31, not {shift}");
        Some(shift)
    }

    /// 4 KiB pages in a page of the host.
    fn host_page(&mut self, fields: &Fields<'d>, mem: Option<&VirtioMem>) -> Option<u16> {
        let bytes = self.size(fields, "host_page")?;
        if mem.is_some_and(|mem| mem.block_pages * PAGE_SIZE < bytes) {
            let diagnostic = Diagnostic::error(fields.span_of("host_page"), "a page of the host is larger than a block of virtio-mem");
            self.report(diagnostic.label("a block could not be unplugged"));
        }
        Some(u16::try_from(bytes / PAGE_SIZE).expect("the key's range ends at 2 MiB"))
    }

    fn devices(&mut self, fields: &Fields<'d>) -> Devices {
        let queues = self.integer(fields, "vhost_queues").unwrap_or(0);
        let devices = Devices {
            vhost_log_ack_ns: self.time(fields, "vhost_log_ack"),
            vhost_queues: u8::try_from(queues).expect("the range ends at 8"),
            vfio: self.flag(fields, "vfio").unwrap_or(false),
            iommu: self.flag(fields, "iommu").unwrap_or(false),
        };
        self.devices = devices.clone();
        devices
    }

    /// The balloon's size in 4 KiB pages, checked against the guest's memory.
    pub(super) fn balloon_pages(&mut self, fields: &Fields<'d>) -> Option<u32> {
        let bytes = self.size(fields, "balloon")?;
        let bytes = self.check_in_ram(fields, "balloon", bytes)?;
        Some(u32::try_from(bytes / PAGE_SIZE).expect("memory ends far below"))
    }

    /// Reads `[migration]`.
    pub(super) fn migration(&mut self, root: &Fields<'d>) -> Migration {
        let default = Migration::default();
        let Some(fields) = root.get("migration").and_then(|value| self.fields(table_of(root, "migration"), value)) else { return default };
        let start = fields.get("start").and_then(|value| self.start(&fields, value));
        let postcopy = self.flag(&fields, "postcopy").unwrap_or(default.modes.postcopy);
        let migration = Migration {
            start: start.unwrap_or(default.start),
            bandwidth: self.rate(&fields, "bandwidth").unwrap_or(default.bandwidth),
            max_bandwidth: self.rate(&fields, "max_bandwidth").unwrap_or(default.max_bandwidth),
            downtime_limit_ns: self.time(&fields, "downtime_limit").unwrap_or(default.downtime_limit_ns),
            encoding: self.encoding(&fields, postcopy),
            modes: Modes {
                run_on: self.flag(&fields, "run_on").unwrap_or(default.modes.run_on),
                preempt: self.flag(&fields, "postcopy_preempt").unwrap_or(default.modes.preempt),
                release_ram: self.flag(&fields, "release_ram").unwrap_or(default.modes.release_ram),
                snapshot: self.flag(&fields, "snapshot").unwrap_or(default.modes.snapshot),
                postcopy,
                max_postcopy_bandwidth: self.rate(&fields, "max_postcopy_bandwidth").unwrap_or(default.modes.max_postcopy_bandwidth),
            },
            throttle: self.throttle(&fields),
            limit: self.limit(&fields),
            switchover: SwitchoverOptions {
                pause: self.flag(&fields, "pause_before_switchover").unwrap_or(false),
                bandwidth: self.rate(&fields, "switchover_bandwidth").unwrap_or(0),
            },
            complete_before_sync: self.flag(&fields, "complete_before_sync").unwrap_or(default.complete_before_sync),
            hints_first: self.flag(&fields, "hints_first").unwrap_or(default.hints_first),
            rounds_min: self
                .integer(&fields, "rounds_min")
                .map_or(default.rounds_min, |rounds| u32::try_from(rounds).expect("the range ends below")),
        };
        let Migration { modes, encoding, throttle, switchover, .. } = &migration;
        if let Some((key, why)) = modes.refused(encoding, throttle.auto_converge, switchover.pause) {
            self.report(Diagnostic::error(fields.span_of(key), why).label("does not go together"));
        }
        migration
    }

    /// Reads how pages are written.
    fn encoding(&mut self, fields: &Fields<'d>, postcopy: bool) -> EncodingOptions {
        let default = EncodingOptions::default();
        let encoding = EncodingOptions {
            zero_pages: self.zero_pages(fields).unwrap_or(default.zero_pages),
            xbzrle_pages: self
                .integer(fields, "xbzrle")
                .map_or(default.xbzrle_pages, |pages| u32::try_from(pages).expect("the range ends below")),
            channels: self
                .integer(fields, "multifd_channels")
                .map_or(default.channels, |count| u8::try_from(count).expect("the range ends below")),
            compression: self.word(fields, "multifd_compression", Compression::ALL).unwrap_or(default.compression),
            zero_copy: self.flag(fields, "zero_copy").unwrap_or(default.zero_copy),
            mapped_ram: self.flag(fields, "mapped_ram").unwrap_or(default.mapped_ram),
            poisoned: self.integer(fields, "poisoned_page").map(Pfn),
            destination_ram: self.word(fields, "destination_ram", DestinationRam::ALL).unwrap_or(default.destination_ram),
        };
        if let Some((key, why)) = encoding.refused(postcopy) {
            let diagnostic = Diagnostic::error(fields.span_of(key), why).label("does not go together");
            self.report(diagnostic);
        }
        encoding
    }

    /// A way to find zero pages, or whether they are looked for at all.
    fn zero_pages(&mut self, fields: &Fields<'d>) -> Option<ZeroPages> {
        match fields.get("zero_pages")?.get_ref().as_bool() {
            Some(true) => Some(ZeroPages::Legacy),
            Some(false) => Some(ZeroPages::None),
            None => self.word(fields, "zero_pages", ZeroPages::ALL),
        }
    }

    fn throttle(&mut self, fields: &Fields<'d>) -> ThrottleOptions {
        let default = ThrottleOptions::default();
        let Some(fields) = fields.get("throttle").and_then(|value| self.fields(table_of(fields, "throttle"), value)) else {
            return default;
        };
        let mut percent = |key, default| self.integer(&fields, key).map_or(default, |percent| u32::try_from(percent).expect("at most 100"));
        let (trigger, initial) = (percent("trigger", default.trigger), percent("initial", default.initial));
        let (increment, max) = (percent("increment", default.increment), percent("max", default.max));
        let auto_converge = self.flag(&fields, "auto_converge").unwrap_or(default.auto_converge);
        let tailslow = self.flag(&fields, "tailslow").unwrap_or(default.tailslow);
        ThrottleOptions { auto_converge, trigger, initial, increment, max, tailslow }
    }

    fn limit(&mut self, fields: &Fields<'d>) -> LimitOptions {
        let default = LimitOptions::default();
        let Some(fields) = fields.get("dirty_limit").and_then(|value| self.fields(table_of(fields, "dirty_limit"), value)) else {
            return default;
        };
        let rate = self.integer(&fields, "rate").map_or(default.rate, |rate| u32::try_from(rate).expect("the range ends below"));
        let period_ns = self.time(&fields, "period").unwrap_or(default.period_ns);
        LimitOptions { on: self.flag(&fields, "on").unwrap_or(default.on), rate, period_ns }
    }

    /// What QEMU would refuse of the limit, once all is read (QEMU: migration/options.c migrate_caps_check()).
    pub(super) fn check_limit(&mut self, root: &Fields<'d>, dirty_log: DirtyLog, throttle: &ThrottleOptions) {
        let why = match (dirty_log, throttle.auto_converge) {
            (DirtyLog::Ring, false) => return,
            (DirtyLog::Ring, true) => "auto-converge and the limit exclude each other",
            _ => "the limit needs `dirty_log = \"ring\"`",
        };
        let span = root.get("migration").map(|value| value.span()).unwrap_or_default();
        self.report(Diagnostic::error(span, why).label("does not go together"));
    }

    /// Returns when the migration starts: `Some(None)` for never.
    fn start(&mut self, fields: &Fields<'d>, value: &'d Value<'d>) -> Option<Option<Trigger>> {
        if value.get_ref().is_table() {
            let fields = self.fields(&vocabulary::START, value)?;
            return Some(Some(self.trigger(&fields).0));
        }
        match value.get_ref().as_str() {
            Some("never") => Some(None),
            Some(text) if text.starts_with(|c: char| c.is_ascii_digit()) => {
                let vocabulary::Kind::Time(range) = vocabulary::START.key("at").kind else { unreachable!("`at` is a time") };
                let at_ns = self.quantity(value, "start", super::units::TIMES, range)?;
                Some(Some(Trigger { at_ns: Some(at_ns), ..Trigger::default() }))
            }
            Some(_) => self.pattern(value).map(|pattern| Some(Trigger { after: vec![pattern], ..Trigger::default() })),
            None => {
                let expected = "an event, a time, \"never\", or a table with after, at and delay";
                assert_eq!(fields.table.key("start").name, "start");
                self.wrong_type(value, expected);
                None
            }
        }
    }

    /// Reads `[costs]`.
    pub(super) fn costs(&mut self, root: &Fields<'d>) -> Costs {
        let default = Costs::default();
        let Some(fields) = root.get("costs").and_then(|value| self.fields(table_of(root, "costs"), value)) else { return default };
        let mut cost = |key, default| self.time(&fields, key).unwrap_or(default);
        Costs {
            guest_step_ns: cost("guest_step", default.guest_step_ns),
            exit_ns: cost("exit", default.exit_ns),
            tracked_store_ns: cost("tracked_store", default.tracked_store_ns),
            irq_ns: cost("irq", default.irq_ns),
            lock_ns: cost("lock", default.lock_ns),
            element_ns: cost("element", default.element_ns),
            sync_word_ns: cost("sync_word", default.sync_word_ns),
            clear_ns: cost("clear", default.clear_ns),
            page_ns: cost("page", default.page_ns),
            state_ns: cost("state", default.state_ns),
            vm_stop_ns: cost("vm_stop", default.vm_stop_ns),
            setup_ns: cost("setup", default.setup_ns),
            return_path_ns: cost("return_path", default.return_path_ns),
        }
    }

    /// Reads `[limits]`.
    pub(super) fn limits(&mut self, root: &Fields<'d>) -> Limits {
        let default = Limits::default();
        let Some(fields) = root.get("limits").and_then(|value| self.fields(table_of(root, "limits"), value)) else { return default };
        Limits {
            time_ns: self.time(&fields, "time").unwrap_or(default.time_ns),
            steps: self.integer(&fields, "steps").unwrap_or(default.steps),
            step_insns: self.integer(&fields, "step_insns").unwrap_or(default.step_insns),
            check_mm: self.integer(&fields, "check_mm").unwrap_or(default.check_mm),
        }
    }
}

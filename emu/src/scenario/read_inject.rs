//! Reads what the scenario does and asks for: `[pages]`, `[[inject]]`, `[[order]]`, `[expect]`.

use std::collections::BTreeMap;
use std::ops::Range as Span;

use host::dirty::command::TrackingCommand;
use host::event::{Actor, EventKind};
use wire::platform::{PAGE_SHIFT, PAGE_SIZE};

use super::contradiction::Edge;
use super::diagnostic::{Diagnostic, nearest};
use super::model::{
    Action, BlockedExpect, Command, CountExpect, Expect, How, Injection, Order, PageName, PageSpec, Pattern, SentExpect, SpunExpect,
    Target, Trigger,
};
use super::read::{Fields, Reader, Value, in_order};
use super::read_guest::table_of;
use super::vocabulary::{self, Kind};
use super::words;
use crate::outcome::Verdict;

/// Events with their places.
pub(super) type Places = Vec<(Pattern, Span<usize>)>;

impl<'d> Reader<'d> {
    /// Reads `[pages]`.
    pub(super) fn pages(&mut self, root: &Fields<'d>) -> BTreeMap<PageName, PageSpec> {
        let Some(value) = root.get("pages") else { return BTreeMap::new() };
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong_type(value, "a table");
            return BTreeMap::new();
        };
        let mut pages = BTreeMap::new();
        for (name, spec) in in_order(entries) {
            if let Some(spec) = self.page_spec(spec) {
                pages.insert(name.get_ref().as_ref().to_owned(), spec);
            }
        }
        pages
    }

    /// Reads `[[inject]]`; needs the pages, to know where a write ends.
    pub(super) fn injections(&mut self, root: &Fields<'d>, pages: &BTreeMap<PageName, PageSpec>) -> Vec<Injection> {
        let Some(value) = root.get("inject") else { return Vec::new() };
        let table = table_of(root, "inject");
        let mut injections = Vec::new();
        for (index, element) in self.list(value).into_iter().enumerate() {
            let Some(fields) = self.fields(table, element) else { continue };
            let (injection, after, before) = self.injection(&fields, pages);
            for (pattern, span) in after {
                self.edges.push(Edge { from: pattern, to: Pattern::Injection(index), span });
            }
            for (pattern, span) in before {
                self.edges.push(Edge { from: Pattern::Injection(index), to: pattern, span });
            }
            injections.extend(injection);
        }
        injections
    }

    /// Returns an injection, and the events that it comes after and before, with their places.
    pub(super) fn injection(&mut self, fields: &Fields<'d>, pages: &BTreeMap<PageName, PageSpec>) -> (Option<Injection>, Places, Places) {
        let name = fields.get("name").map(|value| self.injection_name(value));
        let (trigger, after) = self.trigger(fields);
        let delay_insns = self.integer(fields, "delay_insns").unwrap_or(0);
        let before = self.patterns(fields, "before");
        let trigger = Trigger { delay_insns, ..trigger };
        let injection = self.deed(fields, pages).map(|(action, by)| {
            let before = before.iter().map(|(pattern, _)| pattern.clone()).collect();
            Injection { name: name.flatten(), action, by, trigger, before }
        });
        (injection, after, before)
    }

    /// Returns what an injection does, and who does it.
    fn deed(&mut self, fields: &Fields<'d>, pages: &BTreeMap<PageName, PageSpec>) -> Option<(Action, Actor)> {
        let key = self.action_key(fields)?;
        let by = self.actor(fields, key);
        let action = self.action(fields, key, pages, by);
        self.check_delays(fields, by);
        Some((action?, by?))
    }

    fn injection_name(&mut self, value: &'d Value<'d>) -> Option<String> {
        let text = self.string(value)?;
        if EventKind::ALL.iter().any(|kind| kind.name() == text) {
            let message = format!("`{text}` is an event's name");
            self.report(Diagnostic::error(value.span(), message).label("choose another"));
            return None;
        }
        self.new_name(text, value.span(), "an injection")
    }

    /// Returns the trigger without its count of instructions, and its events with their places.
    pub(super) fn trigger(&mut self, fields: &Fields<'d>) -> (Trigger, Places) {
        let after = self.patterns(fields, "after");
        let at_ns = self.time(fields, "at");
        let delay_ns = self.time(fields, "delay").unwrap_or(0);
        for key in ["delay", "delay_insns"] {
            let Some(span) = fields.key_span(key).filter(|_| fields.table.has(key)) else { continue };
            if fields.get("after").is_none() {
                let message = format!("`{key}` needs `after`");
                self.report(Diagnostic::error(span, message).label("behind which event?").note("it counts from the last event of `after`"));
            }
        }
        let events = after.iter().map(|(pattern, _)| pattern.clone()).collect();
        (Trigger { at_ns, after: events, delay_ns, delay_insns: 0 }, after)
    }

    /// Returns the key of an injection's only action.
    fn action_key(&mut self, fields: &Fields<'d>) -> Option<&'static str> {
        let mut given: Vec<(&'static str, Span<usize>)> =
            vocabulary::ACTIONS.iter().filter_map(|key| fields.key_span(key).map(|span| (*key, span))).collect();
        given.sort_by_key(|(_, span)| span.start);
        match given.as_slice() {
            [(key, _)] => Some(key),
            [] => {
                let actions: Vec<String> = vocabulary::ACTIONS.iter().map(|key| format!("`{key}`")).collect();
                let message = format!("an injection needs one of {}", actions.join(", "));
                self.report(Diagnostic::error(fields.span.clone(), message).label("does nothing"));
                None
            }
            [(first, first_span), (second, second_span), ..] => {
                let message = format!("one injection does one thing, not `{first}` and `{second}`");
                let diagnostic = Diagnostic::error(second_span.clone(), message).label("a second one");
                self.report(diagnostic.related(first_span.clone(), "the first").note("write two [[inject]] tables"));
                None
            }
        }
    }

    /// Returns who makes an action.
    fn actor(&mut self, fields: &Fields<'d>, action: &str) -> Option<Actor> {
        let vcpus = (0..self.vcpus).map(Actor::Vcpu);
        let fitting: Vec<Actor> = match action {
            "write" if self.devices.vfio => vcpus.chain([Actor::Dma, Actor::Vhost, Actor::Vfio]).collect(),
            "write" => vcpus.chain([Actor::Dma, Actor::Vhost]).collect(),
            "task" | "repeat_id" | "vhost_queue" | "iommu_map" | "iommu_unmap" => vcpus.collect(),
            "monitor" => vec![Actor::MainLoop],
            "clear_log" => vec![Actor::Display],
            _ => unreachable!("`{action}` is no action"),
        };
        let names: Vec<String> = fitting.iter().map(Actor::to_string).collect();
        let listed = names.join(", ");
        let Some(value) = fields.get("by") else {
            if let [only @ (Actor::MainLoop | Actor::Display)] = fitting.as_slice() {
                return Some(*only);
            }
            let message = format!("`{action}` needs `by`");
            let span = fields.key_span(action).unwrap_or_else(|| fields.span.clone());
            self.report(Diagnostic::error(span, message).label("by whom?").note(format!("who can: {listed}")));
            return None;
        };
        let text = self.string(value)?;
        let found = names.iter().position(|name| name == text).map(|index| fitting[index]);
        if found.is_none() {
            let everybody = ["dma", "vhost", "vfio", "display", "main-loop"];
            let known = everybody.contains(&text) || (0..self.vcpus).any(|vcpu| Actor::Vcpu(vcpu).to_string() == text);
            let message = if known { format!("`{text}` cannot do `{action}`") } else { format!("unknown actor `{text}`") };
            let suggestion = if known { None } else { nearest(text, names.iter().map(String::as_str)) };
            let label = if known { "does not fit" } else { "not known" };
            let diagnostic = Diagnostic::error(self.inner(value), message).label(label).note(format!("who can: {listed}"));
            self.report(diagnostic.suggest(suggestion));
        }
        if let Some(Actor::Vcpu(vcpu)) = found {
            self.speak_of_vcpu(vcpu, value.span());
        }
        found
    }

    fn action(&mut self, fields: &Fields<'d>, key: &str, pages: &BTreeMap<PageName, PageSpec>, by: Option<Actor>) -> Option<Action> {
        let value = fields.get(key)?;
        match key {
            "write" => {
                let write = self.fields(table_of(fields, key), value)?;
                let page = self.page_of(&write);
                let byte = self.integer(&write, "byte").map(|byte| u8::try_from(byte).expect("the range ends at 255"));
                let zero = write.get("zero").is_some();
                if zero {
                    self.only_true(&write, "zero");
                    if byte.is_some_and(|byte| byte != 0) {
                        let diagnostic = Diagnostic::error(write.span_of("byte"), "a store of zeros has no other byte");
                        self.report(diagnostic.label("not 0"));
                    }
                }
                let offset = self.integer(&write, "offset").unwrap_or(0);
                let count = self.integer(&write, "pages").unwrap_or(1);
                if let (Some(Actor::Vcpu(_)), 2..) = (by, count) {
                    let diagnostic = Diagnostic::error(write.span_of("pages"), "a vCPU's store writes one page").label("more than one");
                    self.report(diagnostic.note("writes over several pages are made by dma or vhost"));
                }
                let target = self.target(&write, by);
                let how = self.word(&write, "how", How::ALL).unwrap_or_default();
                if by.is_some_and(|by| !how.fits(by)) {
                    let message = format!("no store of {} is `{}`", by.expect("checked"), how.name());
                    self.report(Diagnostic::error(write.span_of("how"), message).label("does not fit"));
                }
                let page = page?;
                self.check_end(&write, &page, count, pages);
                Some(Action::Write { page, offset, byte: byte?, zero, pages: count, target: target?, how })
            }
            "task" => self.operation(value).map(Action::Task),
            "monitor" => self.command(value).map(Action::Monitor),
            "clear_log" => {
                let clear = self.fields(table_of(fields, key), value)?;
                let page = self.page_of(&clear);
                let count = self.integer(&clear, "pages").unwrap_or(1);
                let sync = self.flag(&clear, "sync").unwrap_or(false);
                let page = page?;
                self.check_end(&clear, &page, count, pages);
                Some(Action::ClearLog { page, pages: count, sync })
            }
            "repeat_id" => {
                self.only_true(fields, key);
                Some(Action::RepeatId)
            }
            "vhost_queue" => {
                let ring = self.fields(table_of(fields, key), value)?;
                let page = self.page_of(&ring);
                let queue = self.queue(&ring);
                let queue = self.vhost_queue(&ring, queue);
                Some(Action::VhostQueue { page: page?, queue: queue? })
            }
            "iommu_map" | "iommu_unmap" => {
                let mapping = self.fields(table_of(fields, key), value)?;
                let page = self.page_of(&mapping);
                let count = self.integer(&mapping, "pages").unwrap_or(1);
                if !self.devices.iommu {
                    let span = fields.key_span(key).unwrap_or_else(|| fields.span.clone());
                    self.report(Diagnostic::error(span, format!("`{key}` needs iommu = true in [host]")).label("there is no IOMMU"));
                }
                let page = page?;
                self.check_end(&mapping, &page, count, pages);
                Some(Action::Iommu { map: key == "iommu_map", page, pages: count })
            }
            _ => unreachable!("`{key}` is no action"),
        }
    }

    /// Returns the queue that a table speaks of.
    fn queue(&mut self, fields: &Fields<'d>) -> u8 {
        u8::try_from(self.integer(fields, "queue").unwrap_or(0)).expect("the range ends at 7")
    }

    /// Returns a queue if the vhost device has it.
    fn vhost_queue(&mut self, fields: &Fields<'d>, queue: u8) -> Option<u8> {
        if queue >= self.devices.vhost_queues {
            let message = format!("the vhost device has {} queues", self.devices.vhost_queues);
            self.report(
                Diagnostic::error(fields.span_of("queue"), message).label("not one of them").note("vhost_queues in [host] says how many"),
            );
            return None;
        }
        Some(queue)
    }

    /// Returns what a device's write is about.
    fn target(&mut self, fields: &Fields<'d>, by: Option<Actor>) -> Option<Target> {
        let queue = self.queue(fields);
        let target = self.word(fields, "into", &[Target::Buffer, Target::UsedRing(queue), Target::AvailEvent]).unwrap_or_default();
        let whose = match target {
            Target::Buffer => return Some(target),
            Target::UsedRing(_) => Actor::Vhost,
            Target::AvailEvent => Actor::Dma,
        };
        if by.is_some_and(|by| by != whose) {
            let message = format!("`{}` is written by {whose}", target.name());
            self.report(Diagnostic::error(fields.span_of("into"), message).label("by somebody else here"));
            return None;
        }
        match target {
            Target::UsedRing(_) => self.vhost_queue(fields, queue).map(Target::UsedRing),
            Target::Buffer | Target::AvailEvent => Some(target),
        }
    }

    fn page_of(&mut self, fields: &Fields<'d>) -> Option<PageName> {
        let value = fields.get("page")?;
        let name = self.string(value)?;
        self.known_page(name, self.inner(value))
    }

    /// Notes a range of pages that leaves the memory, as far as that is known before the run.
    fn check_end(&mut self, fields: &Fields<'d>, page: &str, count: u64, pages: &BTreeMap<PageName, PageSpec>) {
        let frames = self.ram_bytes >> PAGE_SHIFT;
        let first = match pages.get(page) {
            Some(PageSpec::Pfn(first)) => *first,
            Some(PageSpec::Hint { .. } | PageSpec::Allocation { .. }) | None => 0,
        };
        if count > frames - first {
            let label = match frames - first {
                1 => "it is the last page of memory".to_owned(),
                room => format!("memory ends {room} pages from there"),
            };
            self.report(Diagnostic::error(fields.span_of("pages"), "the pages leave the guest's memory").label(label));
        }
    }

    /// A command with particulars.
    fn command_of(&mut self, fields: &Fields<'d>, value: &'d Value<'d>) -> Option<Command> {
        let small = |number| u32::try_from(number).expect("the range ends below");
        let cpu = self.integer(fields, "cpu").map(|cpu| u8::try_from(cpu).expect("the range ends below"));
        let rate = self.integer(fields, "vcpu_dirty_limit").map(small);
        let pages = self.balloon_pages(fields);
        match (fields.get("balloon").is_some(), fields.get("vcpu_dirty_limit").is_some()) {
            (true, false) if fields.get("cpu").is_none() => pages.map(|pages| Command::Balloon { pages }),
            (false, true) => rate.map(|rate| Command::Tracking(TrackingCommand::SetLimit { cpu, rate })),
            (true | false, true | false) => {
                let diagnostic =
                    Diagnostic::error(value.span(), "a command is either `balloon`, or `vcpu_dirty_limit` with or without `cpu`");
                self.report(diagnostic.label("which one?"));
                None
            }
        }
    }

    fn command(&mut self, value: &'d Value<'d>) -> Option<Command> {
        if value.get_ref().as_table().is_some_and(|table| table.contains_key("requested_size")) {
            return self.resize_mem(value);
        }
        if value.get_ref().is_table() {
            let fields = self.fields(&vocabulary::COMMAND, value)?;
            return self.command_of(&fields, value);
        }
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_type(value, "a command, or { balloon = \"4 MiB\" }");
            return None;
        };
        match text {
            "migrate" => Some(Command::Migrate),
            "cancel" => Some(Command::Cancel),
            "stop" => Some(Command::Stop),
            "cont" => Some(Command::Cont),
            "reset-device" => Some(Command::ResetDevice),
            "system-reset" => Some(Command::SystemReset),
            "unplug-balloon" => Some(Command::Unplug),
            "grow-block" => Some(Command::GrowBlock),
            "break-link" => Some(Command::BreakLink),
            "start-postcopy" => Some(Command::StartPostcopy),
            "recover" => Some(Command::Recover),
            "continue" => Some(Command::Continue),
            "postcopy-ram-on" => Some(Command::PostcopyRam { on: true }),
            "postcopy-ram-off" => Some(Command::PostcopyRam { on: false }),
            "stall-link" => Some(Command::StallLink),
            "resume-link" => Some(Command::ResumeLink),
            "yank" => Some(Command::Yank),
            _ if TrackingCommand::from_name(text).is_some() => TrackingCommand::from_name(text).map(Command::Tracking),
            "balloon" => {
                let diagnostic = Diagnostic::error(value.span(), "`balloon` needs a size").label("how much?");
                self.report(diagnostic.suggest(Some("{ balloon = \"4 MiB\" }")));
                None
            }
            _ => {
                let names: Vec<&str> = words::COMMANDS.iter().map(|(name, _)| *name).collect();
                self.unknown(self.inner(value), "command", text, &names);
                None
            }
        }
    }

    fn resize_mem(&mut self, value: &'d Value<'d>) -> Option<Command> {
        let fields = self.fields(&vocabulary::RESIZE_MEM, value)?;
        let pages = self.size(&fields, "requested_size")? / PAGE_SIZE;
        if self.virtio_mem_pages.is_some_and(|all| pages <= all) {
            return Some(Command::ResizeMem { pages });
        }
        let message = "`requested_size` is more than virtio-mem has";
        self.report(Diagnostic::error(fields.span_of("requested_size"), message).label("virtio_mem in [host] says how much"));
        None
    }

    fn check_delays(&mut self, fields: &Fields<'d>, by: Option<Actor>) {
        if let (Some(span), Some(Actor::Dma | Actor::Vhost | Actor::Vfio | Actor::Display | Actor::MainLoop)) =
            (fields.key_span("delay_insns"), by)
        {
            let diagnostic = Diagnostic::error(span, "`delay_insns` counts a vCPU's instructions").label("no vCPU makes this injection");
            self.report(diagnostic.note("use `delay` for time"));
        }
    }

    /// Reads `[[order]]`.
    pub(super) fn orders(&mut self, root: &Fields<'d>) -> Vec<Order> {
        let Some(value) = root.get("order") else { return Vec::new() };
        let table = table_of(root, "order");
        let mut orders = Vec::new();
        for element in self.list(value) {
            let Some(fields) = self.fields(table, element) else { continue };
            orders.extend(fields.get("chain").and_then(|chain| self.chain(chain)));
        }
        orders
    }

    fn chain(&mut self, value: &'d Value<'d>) -> Option<Order> {
        let elements = self.list(value);
        if elements.len() < 2 && value.get_ref().is_array() {
            let message = "a chain needs two events";
            self.report(Diagnostic::error(value.span(), message).label(format!("{} here", elements.len())));
            return None;
        }
        let count = elements.len();
        let chain: Vec<(Pattern, Span<usize>)> =
            elements.into_iter().filter_map(|element| self.pattern(element).map(|pattern| (pattern, element.span()))).collect();
        if chain.len() < count {
            return None;
        }
        for pair in chain.windows(2) {
            let [(from, first), (to, second)] = pair else { unreachable!("windows of two") };
            self.edges.push(Edge { from: from.clone(), to: to.clone(), span: first.start..second.end });
        }
        let chain: Vec<Pattern> = chain.into_iter().map(|(pattern, _)| pattern).collect();
        (chain.len() > 1).then_some(Order { chain })
    }

    /// Reads `[expect]`.
    pub(super) fn expect(&mut self, root: &Fields<'d>) -> Expect {
        let default = Expect::default();
        let Some(fields) = root.get("expect").and_then(|value| self.fields(table_of(root, "expect"), value)) else { return default };
        let id = |id: u64| u32::try_from(id).expect("the range ends at 32 bits");
        let verdict = self.word(&fields, "verdict", Verdict::ALL).unwrap_or(default.verdict);
        let blame = self.word(&fields, "blame", words::BLAMES);
        if let (Some(blame), Verdict::Pass) = (blame, verdict) {
            let message = format!("nobody is to blame for a run that passes, not the {}", blame.name());
            let diagnostic = Diagnostic::error(fields.span_of("blame"), message).label("who is blamed");
            self.report(match fields.get("verdict") {
                Some(verdict) => diagnostic.related(verdict.span(), "for this"),
                None => diagnostic.note("without `verdict`, the run is to pass"),
            });
        }
        Expect {
            verdict,
            blame,
            sent: self.sent(&fields),
            rounds: self.integer(&fields, "rounds"),
            cmd_ids: self.cmd_ids(&fields),
            destination_cmd_id: self.integer(&fields, "destination_cmd_id").map(id),
            events: self.event_counts(&fields),
            irq_off_insns: self.irq_off_insns(&fields),
            blocked: self.blocked(&fields),
            spun: self.spun(&fields),
        }
    }

    fn blocked(&mut self, fields: &Fields<'d>) -> Vec<BlockedExpect> {
        let Some(value) = fields.get("blocked") else { return Vec::new() };
        let mut all = Vec::new();
        for element in self.list(value) {
            let Some(entry) = self.fields(table_of(fields, "blocked"), element) else { continue };
            let who = self.word(&entry, "who", words::WAITERS);
            let on = self.word(&entry, "on", &words::held_up_by());
            let ns = CountExpect { min: self.time(&entry, "min"), max: self.time(&entry, "max") };
            all.extend(who.map(|who| BlockedExpect { who, on, ns }));
        }
        all
    }

    fn spun(&mut self, fields: &Fields<'d>) -> Vec<SpunExpect> {
        let Some(value) = fields.get("spun") else { return Vec::new() };
        let mut all = Vec::new();
        for element in self.list(value) {
            let Some(entry) = self.fields(table_of(fields, "spun"), element) else { continue };
            let who = self.word(&entry, "who", words::WAITERS);
            let ns = CountExpect { min: self.time(&entry, "min"), max: self.time(&entry, "max") };
            all.extend(who.map(|who| SpunExpect { who, ns }));
        }
        all
    }

    fn irq_off_insns(&mut self, fields: &Fields<'d>) -> Option<CountExpect> {
        let entry = self.fields(table_of(fields, "irq_off_insns"), fields.get("irq_off_insns")?)?;
        let (min, max) = self.min_max(&entry);
        Some(CountExpect { min, max })
    }

    fn cmd_ids(&mut self, fields: &Fields<'d>) -> Option<Vec<u32>> {
        let value = fields.get("cmd_ids")?;
        let Kind::Integers(range) = fields.table.key("cmd_ids").kind else { unreachable!("a list of integers") };
        let ids = self.list(value).into_iter().filter_map(|element| self.integer_in(element, "cmd_ids", range));
        Some(ids.map(|id| u32::try_from(id).expect("the range ends at 32 bits")).collect())
    }

    fn sent(&mut self, fields: &Fields<'d>) -> BTreeMap<PageName, SentExpect> {
        let mut sent = BTreeMap::new();
        for (name, span, entry) in self.entries(fields, "sent") {
            let page = self.known_page(name, span);
            let Some(entry) = self.fields(table_of(fields, "sent"), entry) else { continue };
            let last = self.integer(&entry, "last").map(|byte| u8::try_from(byte).expect("the range ends at 255"));
            let (min, max) = self.min_max(&entry);
            if let (Some(_), Some(0)) = (last, max) {
                let diagnostic = Diagnostic::error(entry.span_of("last"), "a page that is never sent has no last copy");
                self.report(diagnostic.label("what its last copy holds").related(entry.span_of("max"), "never sent"));
            }
            sent.extend(page.map(|page| (page, SentExpect { last, min, max })));
        }
        sent
    }

    fn event_counts(&mut self, fields: &Fields<'d>) -> BTreeMap<String, CountExpect> {
        let mut events = BTreeMap::new();
        for (name, span, entry) in self.entries(fields, "events") {
            if !EventKind::ALL.iter().any(|kind| kind.name() == name) {
                self.unknown_event_key(name, span);
                continue;
            }
            let Some(entry) = self.fields(table_of(fields, "events"), entry) else { continue };
            let (min, max) = self.min_max(&entry);
            events.insert(name.to_owned(), CountExpect { min, max });
        }
        events
    }

    fn unknown_event_key(&mut self, name: &str, span: Span<usize>) {
        let known = words::events();
        let known: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        if known.iter().any(|event| event.split('.').next() == Some(name)) {
            let diagnostic = Diagnostic::error(span, format!("`{name}` is the beginning of an event's name")).label("not an event");
            self.report(diagnostic.note("a key with a dot needs quotes: \"hint.apply\" = { min = 1 }"));
        } else {
            self.unknown(span, "event", name, &known);
        }
    }

    /// Returns the entries of a table whose keys are free, with the keys' places.
    fn entries(&mut self, fields: &Fields<'d>, key: &str) -> Vec<(&'d str, Span<usize>, &'d Value<'d>)> {
        let Some(value) = fields.get(key) else { return Vec::new() };
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong_type(value, "a table");
            return Vec::new();
        };
        let bare = |span: Span<usize>| {
            let quoted = self.text[span.clone()].starts_with(['"', '\'']) && span.len() >= 2;
            if quoted { span.start + 1..span.end - 1 } else { span }
        };
        in_order(entries).into_iter().map(|(name, value)| (name.get_ref().as_ref(), bare(name.span()), value)).collect()
    }

    fn min_max(&mut self, fields: &Fields<'d>) -> (Option<u64>, Option<u64>) {
        let (min, max) = (self.integer(fields, "min"), self.integer(fields, "max"));
        if let (Some(least), Some(most)) = (min, max)
            && least > most
        {
            let diagnostic = Diagnostic::error(fields.span_of("max"), "`max` is below `min`").label(format!("at most {most}"));
            self.report(diagnostic.related(fields.span_of("min"), format!("at least {least}")));
        }
        (min, max)
    }
}

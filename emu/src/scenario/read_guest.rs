//! Reads `[guest]`, its tasks and their operations.

use std::collections::BTreeMap;
use std::ops::Range as Span;

use wire::platform::{IMAGE_END_MAX, PAGE_SIZE};
use wire::switch::correct;

use super::diagnostic::{Diagnostic, nearest};
use super::model::{Driver, Guest, Manners, Numbering, Operation, Task};
use super::read::{Fields, Reader, Value, in_order};
use super::vocabulary::{self, Table};
use super::words;

impl<'d> Reader<'d> {
    /// Reads `[guest]`. Memory and vCPUs are known to the reader afterwards.
    pub(super) fn guest(&mut self, root: &Fields<'d>) -> Guest {
        let default = Guest::default();
        let Some(fields) = root.get("guest").and_then(|value| self.fields(table_of(root, "guest"), value)) else { return default };
        self.ram_bytes = self.size(&fields, "ram").unwrap_or(default.ram_bytes);
        self.vcpus = self.integer(&fields, "vcpus").map_or(default.vcpus, |vcpus| u8::try_from(vcpus).expect("the range ends below"));
        Guest {
            ram_bytes: self.ram_bytes,
            vcpus: self.vcpus,
            driver: self.word(&fields, "driver", Driver::ALL).unwrap_or(default.driver),
            corrected: self.corrections(&fields).unwrap_or(default.corrected),
            hint_array: self
                .integer(&fields, "hint_array")
                .map_or(default.hint_array, |entries| u16::try_from(entries).expect("a page's worth")),
            queue_numbering: self.word(&fields, "queue_numbering", Numbering::ALL).unwrap_or(default.queue_numbering),
            features_refused: self.feature_bits(&fields, "refuse").unwrap_or(default.features_refused),
            page_poison: self.flag(&fields, "page_poison").unwrap_or(default.page_poison),
            init_on_alloc: self.flag(&fields, "init_on_alloc").unwrap_or(default.init_on_alloc),
            init_on_free: self.flag(&fields, "init_on_free").unwrap_or(default.init_on_free),
            late_probe: self.flag(&fields, "late_probe").unwrap_or(default.late_probe),
            manners: Manners {
                deflate_silently: self.flag(&fields, "deflate_silently").unwrap_or(default.manners.deflate_silently),
                hint_in_two: self.flag(&fields, "hint_in_two").unwrap_or(default.manners.hint_in_two),
                start_with_hint: self.flag(&fields, "start_with_hint").unwrap_or(default.manners.start_with_hint),
                short_stop_id: self.flag(&fields, "short_stop_id").unwrap_or(default.manners.short_stop_id),
            },
            tasks: self.tasks(&fields),
        }
    }

    fn corrections(&mut self, fields: &Fields<'d>) -> Option<u64> {
        let bits: Vec<u64> = correct::ALL.iter().map(|(bit, _, _)| *bit).collect();
        self.words(fields, "corrected", &bits).map(|given| given.into_iter().fold(0, |all, bit| all | bit))
    }

    /// Returns the bits of a list of features.
    pub(super) fn feature_bits(&mut self, fields: &Fields<'d>, key: &str) -> Option<u64> {
        let bits: Vec<u64> = words::FEATURES.iter().map(|(_, bit, _)| *bit).collect();
        self.words(fields, key, &bits).map(|given| given.into_iter().fold(0, |all, bit| all | bit))
    }

    fn tasks(&mut self, guest: &Fields<'d>) -> Vec<Task> {
        let Some(value) = guest.get("task") else { return Vec::new() };
        let table = table_of(guest, "task");
        let mut seen: BTreeMap<u8, Span<usize>> = BTreeMap::new();
        let mut tasks = Vec::new();
        for element in self.list(value) {
            let Some(fields) = self.fields(table, element) else { continue };
            let vcpu = fields.get("on").and_then(|on| self.vcpu(on));
            if let Some(vcpu) = vcpu {
                let span = fields.span_of("on");
                match seen.get(&vcpu) {
                    Some(first) => {
                        let message = format!("vcpu{vcpu} has two tasks");
                        let diagnostic = Diagnostic::error(span, message).label("again").related(first.clone(), "first here");
                        self.report(diagnostic.note("put all of a vCPU's operations in one list"));
                    }
                    None => {
                        seen.insert(vcpu, span);
                    }
                }
            }
            let operations = fields.get("do").map(|list| self.operations(list));
            if let (Some(vcpu), Some(operations)) = (vcpu, operations) {
                tasks.push(Task { vcpu, operations });
            }
        }
        tasks
    }

    fn operations(&mut self, value: &'d Value<'d>) -> Vec<Operation> {
        let elements = self.list(value);
        if elements.is_empty() && value.get_ref().is_array() {
            self.report(Diagnostic::error(value.span(), "a task needs an operation").label("none here"));
        }
        elements.into_iter().filter_map(|element| self.operation(element)).collect()
    }

    /// Returns the index of a vCPU of this guest from its name.
    pub(super) fn vcpu(&mut self, value: &'d Value<'d>) -> Option<u8> {
        let text = self.string(value)?;
        let index = text.strip_prefix("vcpu").and_then(|index| index.parse::<u8>().ok());
        match index.filter(|index| *index < self.vcpus && text == format!("vcpu{index}")) {
            Some(index) => {
                self.speak_of_vcpu(index, value.span());
                Some(index)
            }
            None => {
                let names: Vec<String> = (0..self.vcpus).map(|index| format!("vcpu{index}")).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                self.unknown(self.inner(value), "vCPU", text, &names);
                None
            }
        }
    }

    /// Keeps in mind where the last of the vCPUs is spoken of first.
    pub(super) fn speak_of_vcpu(&mut self, vcpu: u8, span: Span<usize>) {
        if self.last_vcpu.as_ref().is_none_or(|(last, _)| *last < vcpu) {
            self.last_vcpu = Some((vcpu, span));
        }
    }

    /// Returns a task operation.
    pub(super) fn operation(&mut self, value: &'d Value<'d>) -> Option<Operation> {
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong_type(value, "an operation, such as { alloc = \"A\" }");
            return None;
        };
        let verbs: Vec<(&'static Table, Span<usize>)> = in_order(entries)
            .into_iter()
            .filter_map(|(key, _)| {
                let table = vocabulary::OPERATIONS.iter().find(|table| table.keys[0].name == key.get_ref().as_ref());
                table.map(|table| (table, key.span()))
            })
            .collect();
        match verbs.as_slice() {
            [] => {
                self.no_verb(value);
                None
            }
            [(table, _)] => {
                let fields = self.fields(table, value)?;
                self.operation_of(&fields)
            }
            [(first, first_span), (second, second_span), ..] => {
                let message = format!("one operation does one thing, not `{}` and `{}`", first.keys[0].name, second.keys[0].name);
                let diagnostic =
                    Diagnostic::error(second_span.clone(), message).label("a second one").related(first_span.clone(), "the first");
                self.report(diagnostic.note("put each in braces of its own"));
                None
            }
        }
    }

    fn no_verb(&mut self, value: &'d Value<'d>) {
        let names: Vec<&str> = vocabulary::OPERATIONS.iter().map(|table| table.keys[0].name).collect();
        let first = value.get_ref().as_table().and_then(|entries| in_order(entries).into_iter().next());
        let diagnostic = match first {
            Some((key, _)) => {
                let suggestion = nearest(key.get_ref(), names.iter().copied());
                Diagnostic::error(key.span(), format!("unknown operation `{}`", key.get_ref())).label("not known").suggest(suggestion)
            }
            None => Diagnostic::error(value.span(), "an operation does something").label("nothing here"),
        };
        self.report(diagnostic.note(format!("operations: {}", names.join(", "))));
    }

    fn operation_of(&mut self, fields: &Fields<'d>) -> Option<Operation> {
        let verb = fields.table.keys[0].name;
        let byte = |number: Option<u64>| number.map(|byte| u8::try_from(byte).expect("the range ends at 255"));
        let pages = |bytes: Option<u64>| bytes.map(|bytes| bytes / PAGE_SIZE);
        Some(match verb {
            "alloc" => {
                let name = self.new_allocation(fields, verb);
                let order = byte(self.integer_or(fields, "order", 0));
                let atomic = self.flag(fields, "atomic").unwrap_or(false);
                Operation::Alloc { name: name?, order: order?, atomic }
            }
            "free" => {
                let in_interrupt = self.flag(fields, "in_interrupt").unwrap_or(false);
                Operation::Free { name: self.block(fields, verb)?.0, in_interrupt }
            }
            "write" | "verify" => {
                let block = self.block(fields, verb);
                let byte = byte(self.integer(fields, "byte"));
                let page = self.integer_or(fields, "page", 0);
                let ((name, order), page, byte) = (block?, page?, byte?);
                self.check_page_of_block(fields, page, order)?;
                if verb == "write" { Operation::Write { name, page, byte } } else { Operation::Verify { name, page, byte } }
            }
            "fill" => {
                let name = self.new_allocation(fields, verb);
                let pages = pages(self.size_in_ram(fields, "size"))?;
                Operation::Fill { name: name?, pages }
            }
            "release" => {
                let name = self.filled(fields, verb);
                let every = self.integer_or(fields, "every", 1)?;
                Operation::Release { name: name?, every }
            }
            "start_zone" => Operation::StartZone { zone: self.integer(fields, verb)? },
            "list_free" => Operation::ListFree { order: self.integer(fields, verb)? },
            "shrink" => Operation::Shrink { pages: pages(self.size(fields, verb))? },
            "compact" => {
                self.only_true(fields, verb);
                let order = byte(self.integer_or(fields, "order", 0));
                let busy = self.integer_or(fields, "busy", 0);
                Operation::Compact { order: order?, busy: busy? }
            }
            "sleep" => Operation::Sleep { ns: self.time(fields, verb)? },
            "churn" => {
                let times = self.integer(fields, verb);
                let seed = self.integer_or(fields, "seed", 0)?;
                Operation::Churn { times: times?, seed }
            }
            "get_page" => Operation::GetPage { pfn: self.integer(fields, verb)? },
            "put_page" => Operation::PutPage { pfn: self.integer(fields, verb)? },
            "fail_alloc" => Operation::FailAlloc { nth: self.integer(fields, verb)? },
            "wild_store" => Operation::WildStore { address: self.wild_address(fields, verb)? },
            "oom" | "evacuate" | "unbind" | "bind" | "freeze" | "restore" | "shutdown" | "reboot" | "emergency_restart" | "note_memory"
            | "compare_memory" | "panic" | "null_store" | "jump_to_data" => {
                self.only_true(fields, verb);
                bare_operation(verb)
            }
            _ => unreachable!("`{verb}` is no operation"),
        })
    }

    /// Returns an integer, the default when the key is absent, `None` when its value is bad.
    fn integer_or(&mut self, fields: &Fields<'d>, key: &str, default: u64) -> Option<u64> {
        if fields.get(key).is_none() { Some(default) } else { self.integer(fields, key) }
    }

    fn new_allocation(&mut self, fields: &Fields<'d>, key: &str) -> Option<String> {
        let value = fields.get(key)?;
        let name = self.string(value)?;
        self.new_name(name, value.span(), "an allocation")
    }

    /// Returns an allocated block's name and order.
    fn block(&mut self, fields: &Fields<'d>, key: &str) -> Option<(String, u32)> {
        let value = fields.get(key)?;
        let name = self.string(value)?;
        self.allocated_block(name, self.inner(value)).map(|order| (name.to_owned(), order))
    }

    /// Returns the largest order that an `alloc` gives to a name.
    pub(super) fn allocated_block(&mut self, name: &str, span: Span<usize>) -> Option<u32> {
        match self.names.allocations.get(name).cloned() {
            // An order out of range is noted where it stands.
            Some(super::names::Allocated { order: Some(order), .. }) => {
                Some(u32::try_from(order).unwrap_or(u32::MAX).min(wire::layout::MAX_PAGE_ORDER))
            }
            Some(other) => {
                let message = format!("`{name}` is no block");
                let diagnostic = Diagnostic::error(span, message).label("a block comes from `alloc`");
                self.report(diagnostic.related(other.span, "`fill` makes a list of pages"));
                None
            }
            None => {
                self.unknown_allocation(name, span);
                None
            }
        }
    }

    /// Returns the name of a list of pages.
    fn filled(&mut self, fields: &Fields<'d>, key: &str) -> Option<String> {
        let value = fields.get(key)?;
        let name = self.string(value)?;
        match self.names.allocations.get(name).cloned() {
            Some(allocated) if allocated.filled => Some(name.to_owned()),
            Some(other) => {
                let message = format!("`{name}` is no list of pages");
                let diagnostic = Diagnostic::error(value.span(), message).label("`release` takes what `fill` made");
                self.report(diagnostic.related(other.span, "`alloc` makes a block"));
                None
            }
            None => {
                self.unknown_allocation(name, self.inner(value));
                None
            }
        }
    }

    fn unknown_allocation(&mut self, name: &str, span: Span<usize>) {
        let names: Vec<&str> = self.names.allocations.keys().copied().collect();
        self.unknown(span, "allocation", name, &names);
    }

    fn check_page_of_block(&mut self, fields: &Fields<'d>, page: u64, order: u32) -> Option<()> {
        let pages = 1u64 << order;
        if page < pages {
            return Some(());
        }
        let message = format!("the block has no page {page}");
        self.report(Diagnostic::error(fields.span_of("page"), message).label(format!("order {order}: its pages are 0 to {}", pages - 1)));
        None
    }

    fn size_in_ram(&mut self, fields: &Fields<'d>, key: &str) -> Option<u64> {
        let bytes = self.size(fields, key)?;
        self.check_in_ram(fields, key, bytes)
    }

    /// Returns the size unless it is more than the guest's memory.
    pub(super) fn check_in_ram(&mut self, fields: &Fields<'d>, key: &str, bytes: u64) -> Option<u64> {
        if bytes <= self.ram_bytes {
            return Some(bytes);
        }
        let ram = super::units::format(self.ram_bytes, super::units::SIZES);
        let message = format!("`{key}` is more than the guest has");
        self.report(Diagnostic::error(fields.span_of(key), message).label(format!("the guest's memory is {ram}")));
        None
    }

    fn wild_address(&mut self, fields: &Fields<'d>, key: &str) -> Option<u64> {
        let address = self.integer(fields, key)?;
        if (IMAGE_END_MAX..self.ram_bytes).contains(&address) {
            let diagnostic = Diagnostic::error(fields.span_of(key), "the address can be written").label("this is memory");
            self.report(diagnostic.note("a wild store goes outside anything writable; to store to memory, write to a named page"));
            return None;
        }
        Some(address)
    }
}

/// Returns the operation of a verb that says all.
fn bare_operation(verb: &str) -> Operation {
    match verb {
        "oom" => Operation::Oom,
        "evacuate" => Operation::Evacuate,
        "unbind" => Operation::Unbind,
        "bind" => Operation::Bind,
        "freeze" => Operation::Freeze,
        "restore" => Operation::Restore,
        "shutdown" => Operation::Shutdown,
        "reboot" => Operation::Reboot,
        "emergency_restart" => Operation::EmergencyRestart,
        "note_memory" => Operation::NoteMemory,
        "compare_memory" => Operation::CompareMemory,
        "panic" => Operation::Panic,
        "null_store" => Operation::NullStore,
        "jump_to_data" => Operation::JumpToData,
        _ => unreachable!("`{verb}` takes arguments"),
    }
}

/// Returns what the language says of a key that holds a table, or tables.
pub(super) fn table_of(fields: &Fields<'_>, key: &str) -> &'static Table {
    use vocabulary::Kind;
    let (Kind::Table(table) | Kind::Tables(table) | Kind::PerPage(table) | Kind::PerEvent(table)) = fields.table.key(key).kind else {
        unreachable!("`{key}` holds no table")
    };
    table
}

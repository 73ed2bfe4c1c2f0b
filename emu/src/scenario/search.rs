//! What a scenario leaves to a search: where the search may choose, what it may do, in which settings, and where a found scenario came from.
//!
//! A plain run makes nothing of it: it takes the scenario's own values and the default schedule.

use host::event::EventKind;
use host::fault::Fault;

use super::model::{DirtyLog, Driver, Host, Pattern, Profile, Scenario};

/// Between which events a search is free, and how finely it chooses (`[search]`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Search {
    /// Event from which on the search chooses who moves; `None`: [`Search::start`]'s default.
    pub from: Option<Pattern>,
    /// Event behind which the default schedule goes on; `None`: the search chooses to the end.
    pub until: Option<Pattern>,
    /// What a scheduling point is between the two.
    pub grain: Grain,
    /// The rules of the guest's free lists are checked in one of so many states behind a vCPU's move; 0: at the end of schedules alone.
    pub check_mm: u64,
}

impl Search {
    /// Returns the event from which on the search chooses: the driver is up, if the file says nothing.
    pub fn start(&self) -> Pattern {
        self.from.clone().unwrap_or(Pattern::Event { kind: EventKind::GuestReady, page: None, nth: 1 })
    }
}

/// How finely a search chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Grain {
    /// At each event and each lock.
    #[default]
    Event,
    /// Before each guest instruction, too.
    Instruction,
}

impl Grain {
    /// Every grain.
    pub const ALL: &'static [Grain] = &[Grain::Event, Grain::Instruction];

    /// Returns the name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            Grain::Event => "event",
            Grain::Instruction => "instruction",
        }
    }
}

/// Values that a search draws settings from (`[vary]`). An empty list leaves the scenario's own value alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vary {
    /// Of `host.profile`.
    pub profile: Vec<Profile>,
    /// Of `host.dirty_log`.
    pub dirty_log: Vec<DirtyLog>,
    /// Of `host.chunk`: pages as a power of two. Without meaning where the log is none with manual clear.
    pub chunk_shift: Vec<u8>,
    /// Of `host.hint_queue_size`.
    pub hint_queue_size: Vec<u16>,
    /// Of `host.queue_size`.
    pub queue_size: Vec<u16>,
    /// Of `guest.vcpus`.
    pub vcpus: Vec<u8>,
    /// Of `guest.driver`.
    pub driver: Vec<Driver>,
    /// At most one of these is on, beside the scenario's own.
    pub faults: Vec<Fault>,
}

impl Vary {
    /// Returns whether nothing varies.
    pub fn is_empty(&self) -> bool {
        *self == Vary::default()
    }

    /// Returns the number of values that each list gives, in the order of the fields.
    fn choices(&self) -> [u64; 8] {
        let Vary { profile, dirty_log, chunk_shift, hint_queue_size, queue_size, vcpus, driver, faults } = self;
        let values = |length: usize| u64::try_from(length.max(1)).expect("a list in memory");
        [
            values(profile.len()),
            values(dirty_log.len()),
            values(chunk_shift.len()),
            values(hint_queue_size.len()),
            values(queue_size.len()),
            values(vcpus.len()),
            values(driver.len()),
            values(faults.len() + 1),
        ]
    }

    /// Returns the dirty logs that some variant of a host has.
    pub(super) fn dirty_logs(&self, host: &Host) -> Vec<DirtyLog> {
        if !self.dirty_log.is_empty() {
            return self.dirty_log.clone();
        }
        let own = std::slice::from_ref(&host.profile);
        let profiles = if self.profile.is_empty() { own } else { &self.profile };
        profiles.iter().map(|profile| host.varied(*profile, None, [Driver::Hint; 2]).dirty_log).collect()
    }
}

/// Where a scenario that a search wrote came from (`[found]`). Nothing depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The scenario that was searched.
    pub scenario: String,
    /// Seed of the schedule that failed.
    pub seed: String,
    /// Strategy that drew it.
    pub strategy: String,
    /// Schedules tried until then.
    pub schedules: u64,
}

impl Host {
    /// Returns the host under another profile, with this log if one is given, when the guest's driver changes from one to the other. What is as the
    /// old one's users get it without asking becomes what the new one's get; what only manual clear knows takes its default when the log comes to
    /// that or leaves it.
    pub fn varied(&self, profile: Profile, dirty_log: Option<DirtyLog>, drivers: [Driver; 2]) -> Host {
        let [from, to] = drivers;
        let (old, new) = (Host::of(self.profile, from), Host::of(profile, to));
        let mut host = Host { profile, ..self.clone() };
        if host.features == old.features {
            host.features = new.features;
        }
        if host.hint_queue_size == old.hint_queue_size {
            host.hint_queue_size = new.hint_queue_size;
        }
        if host.queue_size == old.queue_size {
            host.queue_size = new.queue_size;
        }
        let followed = if self.dirty_log == old.dirty_log { new.dirty_log } else { self.dirty_log };
        host.dirty_log = dirty_log.unwrap_or(followed);
        let manual = host.dirty_log == DirtyLog::ManualClear;
        if manual != (self.dirty_log == DirtyLog::ManualClear) {
            host.chunk_shift = Host::CHUNK_SHIFT;
            host.initially_set = manual;
        }
        host
    }
}

impl Scenario {
    /// Switches faults on, beside those that are.
    pub fn add_faults(&mut self, faults: &[Fault]) {
        for fault in faults {
            if !self.faults.contains(fault) {
                self.faults.push(*fault);
            }
        }
    }

    /// Returns the number of ways to draw from each list of [`Vary`], at least 1.
    pub fn variants_count(&self) -> u64 {
        self.vary.choices().iter().product()
    }

    /// Returns the scenario with one value drawn from each list, which leaves nothing to vary. All indices below
    /// [`Scenario::variants_count`] give all combinations; the first list turns fastest, and those without a fault come first. Two variants
    /// are alike where a value has no meaning beside another, as a chunk has none without manual clear; and nobody is limited without rings.
    pub fn variant(&self, index: u64) -> Scenario {
        let count = self.variants_count();
        assert!(index < count, "variant {index} of {count}");
        let mut rest = index;
        let digits = self.vary.choices().map(|choices| {
            let digit = rest % choices;
            rest /= choices;
            usize::try_from(digit).expect("an index into a list")
        });
        assert_eq!(rest, 0, "the digits hold the whole index");
        let [profile, dirty_log, chunk_shift, hint_queue_size, queue_size, vcpus, driver, fault] = digits;
        let (vary, mut variant) = (&self.vary, Scenario { vary: Vary::default(), ..self.clone() });
        let profile = vary.profile.get(profile).copied().unwrap_or(self.host.profile);
        let driver = vary.driver.get(driver).copied().unwrap_or(self.guest.driver);
        variant.host = self.host.varied(profile, vary.dirty_log.get(dirty_log).copied(), [self.guest.driver, driver]);
        let (guest, host) = (&mut variant.guest, &mut variant.host);
        if host.dirty_log == DirtyLog::ManualClear {
            host.chunk_shift = vary.chunk_shift.get(chunk_shift).copied().unwrap_or(host.chunk_shift);
        }
        variant.migration.limit.on &= host.dirty_log == DirtyLog::Ring;
        host.hint_queue_size = vary.hint_queue_size.get(hint_queue_size).copied().unwrap_or(host.hint_queue_size);
        host.queue_size = vary.queue_size.get(queue_size).copied().unwrap_or(host.queue_size);
        guest.vcpus = vary.vcpus.get(vcpus).copied().unwrap_or(guest.vcpus);
        guest.driver = driver;
        // Digit 0 is no fault.
        let fault = fault.checked_sub(1).map(|index| vary.faults[index]);
        variant.faults.extend(fault.filter(|fault| !self.faults.contains(fault)));
        variant
    }
}

#[cfg(test)]
mod tests {
    use super::super::arbitrary::arb_scenario;
    use super::super::{parse, to_toml};
    use super::*;
    use proptest::prelude::*;

    fn scenario(text: &str) -> Scenario {
        parse("scenario.toml", &format!("about = \"x\"\n{text}")).unwrap_or_else(|problems| panic!("{problems}"))
    }

    proptest! {
        #[test]
        fn every_variant_is_a_scenario(scenario in arb_scenario(), index: prop::sample::Index) {
            let count = scenario.variants_count();
            prop_assert_eq!(count == 1, scenario.vary.choices().iter().all(|choices| *choices == 1));
            let variant = scenario.variant(index.index(usize::try_from(count).expect("few")) as u64);
            prop_assert!(variant.vary.is_empty());
            prop_assert_eq!(variant.variants_count(), 1);
            let text = to_toml(&variant);
            match parse("variant.toml", &text) {
                Ok(read) => prop_assert_eq!(read, variant),
                Err(diagnostics) => prop_assert!(false, "{}\n{}", diagnostics, text),
            }
        }

        #[test]
        fn without_choices_the_variant_is_the_scenario(scenario in arb_scenario()) {
            let scenario = Scenario { vary: Vary::default(), ..scenario };
            prop_assert_eq!(scenario.variant(0), scenario);
        }
    }

    #[test]
    fn every_combination_is_drawn_once() {
        let file =
            "[vary]\nprofile = [\"qemu\", \"firecracker\"]\nhint_queue_size = [16, 32, 64]\nvcpus = [1, 2]\nfaults = [\"hint-no-done\"]\n";
        let scenario = scenario(file);
        assert_eq!(scenario.variants_count(), 2 * 3 * 2 * 2);
        let all: Vec<Scenario> = (0..24).map(|index| scenario.variant(index)).collect();
        for (index, variant) in all.iter().enumerate() {
            assert!(!all[..index].contains(variant), "{index}");
        }
        assert_eq!((all[0].host.profile, all[1].host.profile), (Profile::Qemu, Profile::Firecracker), "the first list turns fastest");
        assert_eq!((all[0].host.hint_queue_size, all[2].host.hint_queue_size), (16, 32));
        assert!(all[..12].iter().all(|variant| variant.faults.is_empty()), "first without the fault");
        assert!(all[12..].iter().all(|variant| variant.faults == [Fault::HintNoDone]));
    }

    #[test]
    fn defaults_follow_the_profile_and_other_settings_stay() {
        let plain = scenario("[vary]\nprofile = [\"firecracker\"]");
        assert_eq!(plain.variant(0).host, Host::of(Profile::Firecracker, Driver::Hint));
        let own = scenario(
            "[host]\nhint_queue_size = 8\nfeatures = [\"free-page-hint\", \"page-reporting\"]\n[vary]\nprofile = [\"firecracker\"]",
        );
        let variant = own.variant(0).host;
        assert_eq!((variant.hint_queue_size, variant.features), (8, own.host.features));
        assert_eq!(variant.queue_size, 256);
    }

    #[test]
    fn a_chunk_outlives_a_change_of_profile() {
        let file =
            "[host]\nchunk = \"256 KiB\"\n[vary]\nprofile = [\"qemu\", \"firecracker\"]\ndirty_log = [\"manual-clear\", \"get-clears\"]\n";
        let variants: Vec<Host> = (0..4).map(|index| scenario(file).variant(index).host).collect();
        assert!(variants[..2].iter().all(|host| host.chunk_shift == 6 && host.initially_set), "{variants:?}");
        assert!(variants[2..].iter().all(|host| host.chunk_shift == Host::CHUNK_SHIFT && !host.initially_set), "{variants:?}");
    }

    #[test]
    fn a_fault_is_drawn_beside_the_scenario_s_own() {
        let scenario = scenario("faults = [\"hint-no-done\"]\n[vary]\nfaults = [\"hint-no-done\", \"hint-keeps-k\"]\n");
        let drawn: Vec<Vec<Fault>> = (0..3).map(|index| scenario.variant(index).faults).collect();
        assert_eq!(drawn, [vec![Fault::HintNoDone], vec![Fault::HintNoDone], vec![Fault::HintNoDone, Fault::HintKeepsK]]);
    }

    #[test]
    fn a_search_begins_when_the_driver_is_up() {
        assert_eq!(scenario("").search.start().to_string(), "guest.ready");
        assert_eq!(scenario("[search]\nfrom = \"hint.pop#2\"").search.start().to_string(), "hint.pop#2");
    }
}

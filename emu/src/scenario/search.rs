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
        profiles.iter().map(|profile| host.varied(*profile, None).dirty_log).collect()
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
    /// Returns the host under another profile, with this log if one is given. What is as the old profile's users get it without asking becomes
    /// what the new one's get; what only manual clear knows takes its default when the log comes to that or leaves it.
    pub fn varied(&self, profile: Profile, dirty_log: Option<DirtyLog>) -> Host {
        let (old, new) = (Host::of_profile(self.profile), Host::of_profile(profile));
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
    /// Returns the number of ways to draw from each list of [`Vary`], at least 1.
    pub fn variants_count(&self) -> u64 {
        self.vary.choices().iter().product()
    }

    /// Returns the scenario with one value drawn from each list, which leaves nothing to vary. All indices below
    /// [`Scenario::variants_count`] give all combinations; the first list turns fastest, and those without a fault come first. Two variants
    /// are alike where a value has no meaning beside another, as a chunk has none without manual clear.
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
        variant.host = self.host.varied(profile, vary.dirty_log.get(dirty_log).copied());
        let (guest, host) = (&mut variant.guest, &mut variant.host);
        if host.dirty_log == DirtyLog::ManualClear {
            host.chunk_shift = vary.chunk_shift.get(chunk_shift).copied().unwrap_or(host.chunk_shift);
        }
        host.hint_queue_size = vary.hint_queue_size.get(hint_queue_size).copied().unwrap_or(host.hint_queue_size);
        host.queue_size = vary.queue_size.get(queue_size).copied().unwrap_or(host.queue_size);
        guest.vcpus = vary.vcpus.get(vcpus).copied().unwrap_or(guest.vcpus);
        guest.driver = vary.driver.get(driver).copied().unwrap_or(guest.driver);
        // Digit 0 is no fault.
        let fault = fault.checked_sub(1).map(|index| vary.faults[index]);
        variant.faults.extend(fault.filter(|fault| !self.faults.contains(fault)));
        variant
    }
}

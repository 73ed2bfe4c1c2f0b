//! Where faults come from: the catalogues of real bugs, their ids, and what of them cannot be switched on here.

use super::Fault;

/// Whose bug a fault is. The catalogues have ids of their own, and some look alike: B04 is QEMU's, B4 is Linux's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Catalogue {
    /// QEMU's history, and that of other VMMs.
    Vmm,
    /// Bugs of Linux's balloon driver, page allocator and virtio core.
    Linux,
    /// Flaws of interfaces that were posted and never merged.
    Posted,
    /// None: edits of QEMU that were tried against real guests.
    Mutation,
}

/// Systems of [`Catalogue::Vmm`], as sources begin.
const VMMS: &[&str] = &["QEMU", "Firecracker", "Cloud Hypervisor", "Propolis", "e2b"];

/// Entries of [`Catalogue::Vmm`] that are no faults here: id, what it was, why not.
pub const NOT_HERE: &[(&str, &str, &str)] = &[
    (
        "H08",
        "the first round's scan ignores B",
        "nothing that it did can be told from the scan of today: it offered every page, and the step behind it refused those that a hint had cleared \
         (QEMU 1a37352277 says so, and takes it out), so no page was sent too many and none too few. It cost the time of a look at each",
    ),
    (
        "H17",
        "the configuration grows though hinting is off",
        "needs two versions of a PCI device: the size decides that of a BAR, and the transport here has none",
    ),
    ("B08", "a frame number above 8 TiB loses its sign", "guest memory here ends long before"),
    (
        "Q09",
        "a page that was asked for ends the scan's round too early",
        "nothing to see: a page that was asked for is in B when it is taken, so it is sent, and that ends the search which had gone around; the next one \
         starts its own round, and the mark that was left standing is never looked at",
    ),
    (
        "Q14",
        "the version of the list of blocks is read without order",
        "blocks stand for a whole run here, and a host step sees all that was written before it",
    ),
    (
        "E05",
        "the cache of differences is resized while it is used",
        "its size is an option of a run; a thread's pointers into it are not modelled",
    ),
    ("E06", "the AVX-512 encoder writes behind its buffer", "differences are computed by their meaning here, not by vector code"),
    (
        "E08",
        "the first zeros of a page that arrive on a channel are not written",
        "so it is in QEMU since 9.1, and nothing has to be switched on: [findings/first-zeros-on-a-channel.md](findings/first-zeros-on-a-channel.md)",
    ),
    ("E18", "compression threads write to the main stream", "the old compression threads left QEMU with 9.1, and are not modelled"),
    (
        "P03",
        "two threads write to one stream object",
        "the return path's thread only queues what is asked for: the migration thread alone writes to the channels, so none has two writers",
    ),
    (
        "C03",
        "the throttle climbs to its end for no reason",
        "migration of disks, during whose first pass RAM makes no progress, left QEMU with 9.1; checkpoints of COLO, each of which starts the account anew, \
         are not modelled",
    ),
    (
        "C06",
        "a timer syncs in the middle of a round",
        "nothing to switch on: it is a feature, and modelled; what it means for hints is the model's to show",
    ),
    (
        "X01",
        "a hinted page is used again before the device took the hint",
        "nothing to switch on: Linux and VMMs ship it, and `scenarios/fail/matrix` and `scenarios/search` show it; the mend that was proposed, \
         HINT_WAIT_ON_ACK, can be negotiated",
    ),
    (
        "X04",
        "of a chain only the first descriptor is looked at",
        "it concerns frame numbers that are spread over several descriptors, and Linux puts them into one, as every driver does that is known: \
         no guest here would notice. That all descriptors are looked at is tested beside the device",
    ),
];

impl Fault {
    /// Returns the fault of that name.
    pub fn from_name(name: &str) -> Option<Fault> {
        Fault::ALL.iter().copied().find(|fault| fault.name() == name)
    }

    /// Returns whose bug it is.
    pub fn catalogue(self) -> Catalogue {
        if self.id() == "-" {
            Catalogue::Mutation
        } else if self.guest_bit().is_some() {
            Catalogue::Linux
        } else if self.vmm().is_some() {
            Catalogue::Vmm
        } else {
            Catalogue::Posted
        }
    }

    /// Returns the id with the system that it is of, as "QEMU B04" and "Linux B4"; empty: it has none.
    pub fn label(self) -> String {
        match self.catalogue() {
            Catalogue::Vmm => format!("{} {}", self.vmm().expect("it is a VMM's"), self.id()),
            Catalogue::Linux => format!("Linux {}", self.id()),
            Catalogue::Posted => format!("posted {}", self.id()),
            Catalogue::Mutation => String::new(),
        }
    }

    fn vmm(self) -> Option<&'static str> {
        VMMS.iter().copied().find(|vmm| self.source().starts_with(vmm))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Letters of the catalogue of VMMs, and how many entries each has. P08 was added when the others were checked at the source.
    const LETTERS: [(char, u32); 11] =
        [('H', 19), ('B', 11), ('K', 20), ('Q', 14), ('E', 19), ('P', 8), ('V', 10), ('C', 7), ('S', 3), ('X', 7), ('L', 2)];

    fn catalogued() -> BTreeSet<String> {
        LETTERS.iter().flat_map(|(letter, count)| (1..=*count).map(move |number| format!("{letter}{number:02}"))).collect()
    }

    /// Ids of faults; an entry of the catalogue with two bugs in it has an `a` and a `b`.
    fn shown() -> BTreeSet<&'static str> {
        let vmms = Fault::ALL.iter().filter(|fault| fault.catalogue() == Catalogue::Vmm);
        vmms.map(|fault| fault.id().trim_end_matches(|c: char| c.is_ascii_lowercase())).collect()
    }

    #[test]
    fn names_are_unique_and_found_again() {
        for fault in Fault::ALL {
            assert_eq!(Fault::from_name(fault.name()), Some(*fault));
        }
    }

    #[test]
    fn every_id_is_in_the_catalogue_that_its_source_names() {
        let catalogued = catalogued();
        for id in shown() {
            assert!(catalogued.contains(id), "{id} is in no catalogue of a VMM's bugs");
        }
        for fault in Fault::ALL.iter().filter(|fault| matches!(fault.catalogue(), Catalogue::Linux | Catalogue::Posted)) {
            let letter = if fault.catalogue() == Catalogue::Linux { 'B' } else { 'S' };
            let number = fault.id().strip_prefix(letter).and_then(|number| number.parse::<u32>().ok());
            let number = number.unwrap_or_else(|| panic!("{}: {} is no id of its catalogue", fault.name(), fault.id()));
            assert_eq!(fault.id(), format!("{letter}{number}"), "{}: those of the other catalogue have two digits", fault.name());
        }
    }

    #[test]
    fn every_entry_is_either_here_or_not_here() {
        let shown = shown();
        let not_here: BTreeSet<&str> = NOT_HERE.iter().map(|(id, ..)| *id).collect();
        assert_eq!(not_here.len(), NOT_HERE.len(), "each id once");
        let catalogued = catalogued();
        let stray: Vec<&&str> = not_here.iter().filter(|id| !catalogued.contains(**id)).collect();
        assert!(stray.is_empty(), "in no catalogue: {stray:?}");
        let both: Vec<&&str> = not_here.intersection(&shown).collect();
        assert!(both.is_empty(), "here, though said to be missing: {both:?}");
        let neither: Vec<&String> =
            catalogued.iter().filter(|id| !shown.contains(id.as_str()) && !not_here.contains(id.as_str())).collect();
        assert!(neither.is_empty(), "nobody says why it is missing: {neither:?}");
    }
}

//! The rows: what VIRTIO asks of a balloon's driver and device, in our words, and who is asked.
//!
//! C1 to C52 are the requirements of "Traditional Memory Balloon Device", G1 to G15 those of the basic facilities and of virtio-mmio that an emulator
//! can check. B41 and B42 are no requirements of the specification's but promises of Linux's virtio core to its drivers, each broken once.

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Driver,
    Device,
    /// Both together.
    Runs,
}

use Side::{Device, Driver};

/// A requirement.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: &'static str,
    /// Whom the text asks.
    pub(crate) who: &'static [Side],
    pub(crate) level: &'static str,
    pub(crate) requirement: &'static str,
    /// What there is to know about the row: why a side is not tested, an erratum, another version.
    pub(crate) note: &'static str,
}

const fn row(id: &'static str, who: &'static [Side], level: &'static str, requirement: &'static str, note: &'static str) -> Row {
    Row { id, who, level, requirement, note }
}

const BOTH: &[Side] = &[Driver, Device];
const DRIVER: &[Side] = &[Driver];
const DEVICE: &[Side] = &[Device];

/// Every row, in order.
pub(crate) const ROWS: &[Row] = &[
    row("C1", DRIVER, "SHOULD", "accept MUST_TELL_HOST where it is offered", ""),
    row("C2", DRIVER, "SHOULD", "give PAGE_POISON up unless deflated pages are filled at once", ""),
    row("C3", DRIVER, "MUST NOT", "accept PAGE_REPORTING without PAGE_POISON when free pages are expected to keep their values", ""),
    row("C4", DEVICE, "MAY", "refuse FEATURES_OK to a driver that declines MUST_TELL_HOST", "the driver copes with both"),
    row(
        "C5",
        DEVICE,
        "MUST",
        "(legacy) support drivers that did not take MUST_TELL_HOST",
        "legacy: there is no legacy device here, and a legacy driver is refused. QEMU goes on with one",
    ),
    row(
        "C6",
        BOTH,
        "MUST",
        "(legacy) keep the configuration little-endian all the same",
        "legacy: the driver does not drive such a device. Of modern ones the fields are little-endian anyway",
    ),
    row("C7", DRIVER, "SHOULD", "supply pages while num_pages is above actual", ""),
    row("C8", DRIVER, "MAY", "take pages back when num_pages is below actual", "the device copes with a driver that does not"),
    row(
        "C9",
        DRIVER,
        "MUST NOT",
        "without DEFLATE_ON_OOM: use pages of the balloon while num_pages is not below actual",
        "an erratum: the text has the comparison the other way round, against C8",
    ),
    row("C10", DRIVER, "MAY", "with DEFLATE_ON_OOM: use pages of the balloon when the system needs them", "the device copes"),
    row("C11", DRIVER, "MUST", "announce on the deflate queue the pages that it is about to use", ""),
    row("C12", DRIVER, "MUST NOT", "with MUST_TELL_HOST: use them before the device has acknowledged that", ""),
    row("C13", DRIVER, "MAY", "without MUST_TELL_HOST: use them before that", "the driver never does; the device copes with one that does"),
    row("C14", DRIVER, "MUST NOT", "use pages between their inflation and its acknowledgement", ""),
    row("C15", DRIVER, "MUST NOT", "deflate pages before their inflation is acknowledged", ""),
    row(
        "C16",
        DRIVER,
        "MUST",
        "write actual after the number of pages has changed, for several changes at once if it likes",
        "the device shows what was written last",
    ),
    row(
        "C17",
        DEVICE,
        "MAY",
        "change a page from the moment its inflation is seen to its acknowledgement, with MUST_TELL_HOST to that of its deflation",
        "the driver copes; the device changes nothing outside that time",
    ),
    row(
        "C18",
        DRIVER,
        "SHOULD, MUST",
        "(legacy) ignore the used length; write actual in one access",
        "legacy, but our driver does the same with a modern device",
    ),
    row(
        "C19",
        DEVICE,
        "SHOULD NOT",
        "(legacy) consume actual before its last byte is written",
        "not tested: legacy devices alone, and the driver writes it in one access (C18)",
    ),
    row("C20", DRIVER, "MUST", "make at most one statistics buffer available", "the device copes with a second one"),
    row("C21", DRIVER, "MUST", "make one available once it is up, and again after each use", ""),
    row("C22", DRIVER, "MUST", "put a statistic into the first buffer already", ""),
    row("C23", DRIVER, "MUST", "make the buffer a multiple of a record long", "an erratum: the text says 6 bytes, a record has 10"),
    row("C24", DRIVER, "MAY, MUST", "send any tags in any order, but the same ones each time", "the device copes with any"),
    row(
        "C25",
        DEVICE,
        "MUST",
        "ignore tags that it does not know",
        "their order is C24's. A Firecracker before November 2025 (pull request 5516) took an unknown tag for an error and asked no more",
    ),
    row(
        "C26",
        BOTH,
        "MUST",
        "keep statistics little-endian",
        "the device is not tested: ours counts records and looks at no value. Nor are legacy devices, which have the guest's order and a first buffer without meaning",
    ),
    row("C27", DRIVER, "MUST", "send ids in readable buffers of exactly 4 bytes", ""),
    row("C28", DRIVER, "MUST", "begin a round of hints with a buffer that holds the current id", ""),
    row("C29", DRIVER, "MUST NOT", "expose more than one buffer with the current id", ""),
    row("C30", DRIVER, "SHOULD", "supply pages while the id is 2 or more", ""),
    row("C31", DRIVER, "SHOULD", "stop supplying when the id is STOP or DONE", ""),
    row("C32", DRIVER, "MUST", "end a round with a buffer that holds STOP when there are no more pages", ""),
    row(
        "C33",
        DRIVER,
        "MAY",
        "release hinted pages at any time, used or not",
        "the device copes; what becomes of the page is C40's affair",
    ),
    row("C34", DRIVER, "MUST", "take the contents of hinted pages for uninitialised", ""),
    row("C35", DRIVER, "MUST", "initialise hinted pages that it releases before DONE", ""),
    row("C36", DRIVER, "SHOULD", "release all hinted pages on DONE", ""),
    row("C37", DEVICE, "SHOULD", "set the id to STOP whenever it cannot use hints", ""),
    row("C38", DEVICE, "MUST NOT", "use an id again before the STOP buffer for it has come", "tested: it uses none again at all"),
    row("C39", DEVICE, "MUST", "ignore pages behind an id that is not the current one", ""),
    row(
        "C40",
        DEVICE,
        "MAY",
        "change a hinted page that the guest has not written since the id was issued",
        "and no other: the rule on which all of hinting rests",
    ),
    row("C41", DEVICE, "MUST NOT", "change hinted pages behind DONE", ""),
    row("C42", DEVICE, "MUST", "set the id to DONE when it needs the hinted pages no more", ""),
    row(
        "C43",
        BOTH,
        "MUST",
        "(legacy) keep the id in the guest's own order of bytes",
        "not tested: legacy devices alone, which neither side is or drives (C6, G12)",
    ),
    row("C44", DRIVER, "MUST", "with PAGE_POISON: fill deflated pages with poison_val when they are used again", ""),
    row("C45", DRIVER, "MUST", "write poison_val before DRIVER_OK", ""),
    row("C46", DRIVER, "MUST NOT", "change poison_val behind DRIVER_OK", ""),
    row("C47", DRIVER, "MUST", "take reported pages for uninitialised; with PAGE_POISON, fill them before they are reported", ""),
    row("C48", DRIVER, "MUST NOT", "use reported pages before the report is acknowledged", ""),
    row(
        "C49",
        DEVICE,
        "MUST NOT",
        "with PAGE_POISON: leave a reported page with another value than poison_val; without, change it behind the acknowledgement",
        "",
    ),
    row("C50", DRIVER, "MUST NOT", "notify of available buffers before DRIVER_OK", ""),
    row("C51", DEVICE, "MUST NOT", "consume buffers before DRIVER_OK", "the driver copes with a device that waits, too"),
    row(
        "C52",
        DRIVER,
        "SHOULD, MAY",
        "report large pages, whenever it likes behind DRIVER_OK, and leave them alone afterwards",
        "the device copes",
    ),
    row(
        "G1",
        BOTH,
        "MUST",
        "initialise in order: reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK, set-up, DRIVER_OK; FAILED and DEVICE_NEEDS_RESET as meant",
        "",
    ),
    row(
        "G2",
        BOTH,
        "MUST",
        "accept nothing that is not offered or lacks its prerequisite; never clear FEATURES_OK; look whether it stays",
        "our device refuses FEATURES_OK where it has to, but as Firecracker's; QEMU, too, leaves features out without a word (read)",
    ),
    row(
        "G3",
        BOTH,
        "MUST",
        "know the transport's feature bits, VERSION_1 above all",
        "packed rings, in-order use, notification data and queue resets are known by number alone: neither side has them. EVENT_IDX and ACCESS_PLATFORM the driver gives up; of the former Linux would not",
    ),
    row("G4", BOTH, "MUST", "keep to the split ring's sizes and alignments", ""),
    row(
        "G5",
        BOTH,
        "MUST",
        "only raise the available index, by what fits; chains without loops, readable before writable, below 2^32 bytes",
        "",
    ),
    row(
        "G6",
        BOTH,
        "MUST",
        "write a buffer before the index that covers it; report as used length what was written",
        "barriers do nothing that a test could see on x86, where stores are seen in order; what is tested is the order",
    ),
    row("G7", BOTH, "MUST NOT", "alter a buffer or a descriptor while it is exposed; write to readable buffers", ""),
    row(
        "G8",
        BOTH,
        "MUST",
        "suppress notifications and interrupts as asked, and put up with more of them",
        "the driver takes no EVENT_IDX; the device does",
    ),
    row(
        "G9",
        BOTH,
        "MUST",
        "change the generation with the configuration; read wide fields between two looks at it",
        "the balloon has no wide fields",
    ),
    row("G10", BOTH, "MUST NOT", "touch rings behind a reset; start from old ones", ""),
    row("G11", BOTH, "MUST", "have, and use, the registers of virtio-mmio version 2 as they are", ""),
    row("G12", BOTH, "MUST", "(legacy) have three more registers", "legacy: tested is that they are neither there nor used"),
    row("G13", BOTH, "MUST", "access control registers with aligned words, the configuration with natural widths", ""),
    row("G14", BOTH, "MUST", "wait until a queue is let go; leave a device alone whose magic, version or type is another", ""),
    row("G15", BOTH, "MUST", "process an interrupt, then acknowledge the causes that were seen", ""),
    row("B41", DRIVER, "Linux", "write VERSION_1 back before the driver validates its features", ""),
    row("B42", DRIVER, "Linux", "keep a configuration change that comes before the driver listens", ""),
];

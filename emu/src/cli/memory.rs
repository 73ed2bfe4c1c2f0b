//! How much memory a search may take: what the system says, read from the texts that it says it in.

/// Part of what is free that a search takes at most without being told.
const FREE_PARTS: (u64, u64) = (3, 4);

/// What is known of the memory of the machine and of this process.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// What a search may take if nobody says otherwise, bytes.
    pub usual_bytes: u64,
    /// Returns what this process has in memory, bytes, where that is known.
    pub resident_bytes: fn() -> Option<u64>,
}

/// Enough for any test.
#[cfg(test)]
pub(super) const UNLIMITED: Memory = Memory { usual_bytes: 1 << 40, resident_bytes: || None };

/// Bounds that somebody sets for a group of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimit {
    /// Most bytes that it may take.
    pub limit_bytes: u64,
    /// Bytes that it takes now.
    pub used_bytes: u64,
}

impl GroupLimit {
    /// Reads what a control group's files say; no limit is none. What is only kept of files that were read is free.
    pub fn read(limit: &str, used: &str, statistics: &str) -> Option<Self> {
        let value = |name: &str| statistics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok());
        let cached = value("total_inactive_file").or_else(|| value("inactive_file")).unwrap_or(0);
        let used: u64 = used.trim().parse().ok()?;
        Some(Self { limit_bytes: limit.trim().parse().ok()?, used_bytes: used.saturating_sub(cached) })
    }
}

/// Returns half of the memory that there is for this process, but no more than most of what is free: `meminfo` is Linux' text of that name.
pub fn usual_bytes(meminfo: &str, groups: &[GroupLimit]) -> Option<u64> {
    let own = field(meminfo, "MemTotal:").zip(field(meminfo, "MemAvailable:"));
    let of_groups = groups.iter().map(|group| (group.limit_bytes, group.limit_bytes.saturating_sub(group.used_bytes)));
    let (of, parts) = FREE_PARTS;
    own.into_iter().chain(of_groups).map(|(all, free)| (all / 2).min(free / parts * of)).min()
}

/// Returns what the text of a process' status says that it has in memory.
pub fn resident_bytes(status: &str) -> Option<u64> {
    field(status, "VmRSS:")
}

/// Returns the value of a line such as `MemTotal:       24103636 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = rest.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kibibytes.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       16777216 kB\nMemFree:          100 kB\nMemAvailable:   12582912 kB\n";

    #[test]
    fn half_of_the_memory_is_taken_unless_less_is_free() {
        assert_eq!(usual_bytes(MEMINFO, &[]), Some(8 << 30));
        assert_eq!(usual_bytes(&MEMINFO.replace("12582912", "4194304"), &[]), Some(3 << 30));
        assert_eq!(usual_bytes("something else", &[]), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        assert_eq!(GroupLimit::read("max\n", "5", ""), None, "no limit");
        let wide = GroupLimit::read("4294967296\n", "1024\n", "").expect("a limit");
        let tight = GroupLimit::read("2147483648", "1895825408", "cache 7\ninactive_file 16777216\n").expect("a limit");
        let known = [wide, tight];
        assert_eq!(usual_bytes(MEMINFO, &known[..1]), Some(2 << 30));
        assert_eq!(usual_bytes(MEMINFO, &known), Some(192 << 20), "three quarters of the 256 MiB that are left");
    }

    #[test]
    fn a_status_says_what_is_in_memory() {
        assert_eq!(resident_bytes("VmPeak:\t  900 kB\nVmRSS:\t     512 kB\n"), Some(512 << 10));
        assert_eq!(resident_bytes("VmRSS: none"), None);
    }
}

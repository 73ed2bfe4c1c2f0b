//! `lostpage`: the process around [`emu::cli`]. Environment, streams and signals are touched here and nowhere else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::thread::available_parallelism;

use emu::cli::memory::{self, GroupLimit, Memory};
use emu::cli::{self, Engine, Environment, Screen, Status};

fn main() -> ExitCode {
    cli::install_guard();
    let (mut out, mut err) = (anstream::stdout(), anstream::stderr());
    let mut screen = Screen::new(&mut out, &mut err);
    let mut environment = Environment {
        ci: is_ci(std::env::var("CI").ok().as_deref()),
        processors: available_parallelism().map_or(1, usize::from),
        memory: Memory { usual_bytes: usual_bytes(), resident_bytes },
        on_interrupt: &mut catch_interrupts,
        engine: Engine::new(),
    };
    // A panic here has said what it has to say; the status tells it apart from a lost page.
    let status = catch_unwind(AssertUnwindSafe(|| cli::main(std::env::args_os(), &mut environment, &mut screen)));
    ExitCode::from(status.unwrap_or(Status::OwnDefect).code())
}

/// What insta takes for CI, so that both keep their hands off the same snapshots.
fn is_ci(value: Option<&str>) -> bool {
    !matches!(value, None | Some("" | "0" | "false"))
}

/// What a search may take where the system does not say how much there is.
const MEMORY_UNKNOWN_BYTES: u64 = 1 << 30;

/// Returns what a search may take if nobody says otherwise.
fn usual_bytes() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    memory::usual_bytes(&read("/proc/meminfo"), &group_limits(&read("/proc/self/cgroup"))).unwrap_or(MEMORY_UNKNOWN_BYTES)
}

/// Returns the limits of the control groups that hold this process, version 2 or 1, from its own group up.
fn group_limits(groups: &str) -> Vec<GroupLimit> {
    let read = |folder: &Path, limit: &str, used: &str| {
        let [limit, used, statistics] = [limit, used, "memory.stat"].map(|name| std::fs::read_to_string(folder.join(name)).ok());
        GroupLimit::read(&limit?, &used?, &statistics.unwrap_or_default())
    };
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let (root, limit, used) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
            _ => continue,
        };
        let own = Path::new(root).join(group.trim_start_matches('/'));
        limits.extend(own.ancestors().take_while(|folder| folder.starts_with(root)).filter_map(|folder| read(folder, limit, used)));
    }
    limits
}

fn resident_bytes() -> Option<u64> {
    memory::resident_bytes(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// How often a user may ask before the process ends on the spot. A supervisor such as `timeout` asks twice: the process, then its group.
const PATIENCE: u32 = 2;

/// Calls the handler at each Ctrl-C, and in the end stops the process, which may hang in a pipe that nobody reads: every file is whole at
/// any time.
fn catch_interrupts(mut handler: Box<dyn FnMut() + Send>) {
    let mut asked = 0;
    let result = ctrlc::set_handler(move || {
        if asked == PATIENCE {
            std::process::exit(i32::from(Status::Interrupted.code()));
        }
        asked += 1;
        handler();
    });
    // Without it Ctrl-C kills the process as it would any other.
    drop(result);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ci_is_what_insta_takes_for_it() {
        assert!(is_ci(Some("true")) && is_ci(Some("1")));
        assert!(!is_ci(None) && !is_ci(Some("")) && !is_ci(Some("false")) && !is_ci(Some("0")));
    }
}

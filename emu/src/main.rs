//! `lostpage`: the process around [`emu::cli`]. Environment, streams and signals are touched here and nowhere else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::thread::available_parallelism;

use emu::cli::{self, Engine, Environment, Screen, Status};

fn main() -> ExitCode {
    cli::install_guard();
    let (mut out, mut err) = (anstream::stdout(), anstream::stderr());
    let mut screen = Screen::new(&mut out, &mut err);
    let mut environment = Environment {
        ci: is_ci(std::env::var("CI").ok().as_deref()),
        processors: available_parallelism().map_or(1, usize::from),
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

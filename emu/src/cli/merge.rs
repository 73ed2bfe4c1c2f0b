//! `lostpage merge OUT DIR…`: the results of one search, put together.

use std::path::{Path, PathBuf};

use super::results::join;
use super::screen::Screen;
use super::{Problem, Status};
use crate::report::counted;
use crate::search::block::BlockResult;

/// Merges result folders.
pub(super) fn merge(into: &Path, folders: &[PathBuf], screen: &mut Screen<'_>) -> Status {
    match join::<BlockResult>(into, folders) {
        Ok(joined) => {
            joined.notes.iter().for_each(|note| screen.err(&format!("note: {note}\n")));
            let summary = joined.summary;
            let parts = if summary.shards.is_whole() { "all shards".to_string() } else { format!("shards {}", summary.shards) };
            let blocks = counted(summary.outline.blocks, "block");
            screen.out(&format!("{}: {blocks} of {parts}; {}\n", into.display(), summary.missing));
            Status::AsExpected
        }
        Err(problems) => {
            problems.into_iter().for_each(|problem| screen.err(&Problem::plain(problem).text));
            screen.err("nothing was merged\n");
            Status::BadInput
        }
    }
}

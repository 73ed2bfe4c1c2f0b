//! One run at a time in a result folder.
//!
//! The lock is the operating system's, on a file that stays: it ends with the process that holds it, however that ends. A file whose mere existence is
//! the lock would outlive a killed run, and two runs that both find its owner gone could both take it over. What stands in the file, the owner's
//! process id, is for the error message alone.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process;

/// Name of the file.
pub(super) const NAME: &str = "lock";

/// A folder that nobody else writes to, until this is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes a folder for this process.
    ///
    /// # Errors
    /// When another one has it, or the lock cannot be taken; a sentence.
    pub(super) fn take(folder: &Path) -> Result<Self, String> {
        let path = folder.join(NAME);
        let failed =
            |error: io::Error| format!("{}: cannot be locked: {error}; results need a folder that can be written to", path.display());
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // Only the message is poorer without it.
                let _ = file.read_to_string(&mut owner);
                let owner = if owner.is_empty() { String::new() } else { format!(", process {},", owner.trim_end()) };
                return Err(format!("{}: another run{owner} works in this folder: wait for it, or name another folder", folder.display()));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).map_err(failed)?;
        file.write_all(format!("{}\n", process::id()).as_bytes()).map_err(failed)?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
        // The lock goes with the open file, but a process that is just being started from here may hold a copy of that for a moment.
        let _ = self.file.unlock();
    }
}

//! Where words go: results to standard output, everything else to standard error.

use std::io::{self, Write};

/// The two streams. A reader that goes away (`lostpage run | head`) ends the output, not the work.
pub struct Screen<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    /// Why the output could not be written, if it was not the reader's wish.
    failed: Option<io::Error>,
    open: bool,
}

impl<'a> Screen<'a> {
    /// Returns a screen on two streams.
    pub fn new(out: &'a mut dyn Write, err: &'a mut dyn Write) -> Self {
        Self { out, err, failed: None, open: true }
    }

    /// Writes a part of the result.
    pub fn out(&mut self, text: &str) {
        if !self.open {
            return;
        }
        if let Err(error) = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            self.open = false;
            if error.kind() != io::ErrorKind::BrokenPipe {
                self.failed = Some(error);
            }
        }
    }

    /// Writes a remark. Where even that fails nobody is left to be told.
    pub fn err(&mut self, text: &str) {
        let _ = self.err.write_all(text.as_bytes()).and_then(|()| self.err.flush());
    }

    /// Returns why the result could not be written, once.
    pub fn take_failure(&mut self) -> Option<io::Error> {
        self.failed.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure_but_a_full_disk_is() {
        for (kind, fails) in [(io::ErrorKind::BrokenPipe, false), (io::ErrorKind::StorageFull, true)] {
            let (mut out, mut err) = (Broken(kind), Vec::new());
            let mut screen = Screen::new(&mut out, &mut err);
            screen.out("result");
            screen.out("more");
            assert_eq!(screen.take_failure().is_some(), fails, "{kind}");
        }
    }
}

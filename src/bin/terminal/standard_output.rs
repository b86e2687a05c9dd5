//! Standard output whose reader may stop early.

use std::{
    io::{Error, ErrorKind, Result, Stdout, Write},
    sync::atomic::{AtomicBool, Ordering},
};

static IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Standard output. Once the reader has closed the pipe, it drops what is written: the reader has what it
/// wanted, and files, exit codes and later work do not depend on it.
pub fn stdout() -> impl Write {
    Output(std::io::stdout())
}

/// Whether the reader has closed the pipe.
pub fn stdout_is_closed() -> bool {
    IS_CLOSED.load(Ordering::Relaxed)
}

struct Output(Stdout);

/// What was written, or `dropped` if the pipe is closed.
fn unless_closed<T>(written: Result<T>, dropped: T) -> Result<T> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            IS_CLOSED.store(true, Ordering::Relaxed);
            Ok(dropped)
        }
        written => written
            .map_err(|error| Error::new(error.kind(), format!("cannot write to standard output: {error}"))),
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        unless_closed(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        unless_closed(self.0.flush(), ())
    }
}

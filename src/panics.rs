//! Turns panics of other libraries, which a hostile file may cause, into values.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Runs code of another library. `None` if it panicked.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Option<T> {
    let outer = CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    CAUGHT.set(outer);
    result.ok()
}

/// Whether this library will catch a panic of the current thread and return it as an error. A decoder or a
/// runtime can panic on a damaged file; the panic hook of a program can stay silent about it:
///
/// ```
/// let report = std::panic::take_hook();
/// std::panic::set_hook(Box::new(move |panic| {
///     if !cac::panic_is_caught() {
///         report(panic);
///     }
/// }));
/// ```
///
/// A program built with `panic = "abort"` ends at such a panic.
#[must_use]
pub fn panic_is_caught() -> bool {
    CAUGHT.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_values_and_threads_are_marked_meanwhile() {
        assert!(!panic_is_caught());
        assert_eq!(caught(panic_is_caught), Some(true));
        assert_eq!(caught(|| caught(|| panic!("inner")).is_none() && panic_is_caught()), Some(true));
        assert_eq!(caught(|| -> () { panic!("outer") }), None);
        assert!(!panic_is_caught());
        assert!(!caught(|| std::thread::scope(|s| s.spawn(panic_is_caught).join().unwrap())).unwrap());
    }
}

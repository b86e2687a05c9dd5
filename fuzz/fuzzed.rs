//! Shared by all libFuzzer targets.

#[path = "targets.rs"]
mod targets;

/// Lets the library catch the panics of decoders, and aborts on any other.
pub fn begin() {
    let _ = std::panic::take_hook();
    std::panic::set_hook(Box::new(|panic| {
        if !cac::panic_is_caught() {
            eprintln!("{panic}");
            std::process::abort();
        }
    }));
}

/// Passes an input to the reader with this name.
pub fn read(name: &str, bytes: &[u8]) {
    let (_, read) = targets::TARGETS.iter().find(|(other, _)| *other == name).expect("a reader");
    read(bytes);
}

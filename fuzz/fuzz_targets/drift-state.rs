#![no_main]

#[path = "../fuzzed.rs"]
mod fuzzed;

libfuzzer_sys::fuzz_target!(init: fuzzed::begin(), |bytes: &[u8]| fuzzed::read("drift-state", bytes));

//! Reads damaged files. Each reader of `fuzz/targets.rs` gets the files of its corpus, and then mutations of
//! them. None may cause a panic, an abort, more memory than [`memory`] allows, or more time than
//! [`MAX_TIME`].
//!
//! A reader runs in a process of its own, so that an abort is a failure with a name. `MUTATIONS` is the
//! number of mutations for each reader (10,000), `MUTATION_SEED` their seed (0), `MUTATION_SECONDS` the time
//! for each reader instead of the number. Arguments select readers by parts of their names. `--corpus DIR`
//! writes the corpora into a folder.

mod corpus;
mod mutate;
#[path = "../../fuzz/targets.rs"]
mod targets;

use std::{
    alloc::System,
    env,
    fmt::Display,
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitCode, Stdio},
    str::FromStr,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use cap::Cap;
use targets::{TARGETS, Target};

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// The limits between two inputs, in wall-clock and in processor time.
const MAX_TIME: Duration = Duration::from_secs(60);
const MAX_PROCESSOR_TIME: Duration = Duration::from_secs(10);
/// After this many failures, a reader is abandoned.
const MAX_FAILURES: usize = 10;
/// The variable with a child's job: the reader, and the number of its first input.
const JOB: &str = "MUTATION_JOB";
/// The variable with the file of a child's stderr, to which a reader must not print.
const PRINTED: &str = "MUTATION_PRINTED";

/// The maximum memory for an input, in bytes.
fn memory(target: &str, length: usize) -> usize {
    let fixed = if target == "image" { 1024 << 20 } else { 64 << 20 };
    fixed + 64 * length
}

fn main() -> ExitCode {
    if let Ok(job) = env::var(JOB) {
        let (name, first) = job.split_once(':').expect("NAME:NUMBER");
        let target = TARGETS.iter().find(|(other, _)| *other == name).expect("a reader");
        read_all(target, first.parse().expect("a number"));
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [flag, folder] = &arguments[..]
        && flag == "--corpus"
    {
        write_corpora(Path::new(folder));
        return ExitCode::SUCCESS;
    }
    // The other flags are those of Rust's test harness.
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |(name, _): &&Target| wanted.is_empty() || wanted.iter().any(|part| name.contains(*part));
    let chosen: Vec<&Target> = TARGETS.iter().filter(is_wanted).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if chosen.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("{}", row(["reader", "inputs", "accepted", "seconds", "slowest ms", "peak MiB"]));
    let queue = Mutex::new(chosen.into_iter());
    let failures = Mutex::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let next = || queue.lock().unwrap().next();
                while let Some((name, _)) = next() {
                    *failures.lock().unwrap() += watch(name);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    if failures > 0 {
        println!("{failures} failures, whose inputs are in target/mutations");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// A row of the table.
fn row([name, numbers @ ..]: [&str; 6]) -> String {
    let numbers = numbers.map(|number| format!("{number:>12}"));
    format!("{name:<16}{}", numbers.concat())
}

/// A number in the environment.
fn setting<T: FromStr<Err: Display>>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

fn seed() -> u64 {
    setting("MUTATION_SEED").unwrap_or(0)
}

/// An input by its number: the files of the corpus come first.
fn input(corpus: &[Vec<u8>], number: u64) -> Vec<u8> {
    match corpus.get(number as usize) {
        Some(file) => file.clone(),
        None => mutate::mutated(corpus, seed(), number),
    }
}

/// In a child: reads all inputs from the first on, and writes the number of each into a file before it is
/// read.
fn read_all(&(name, read): &Target, first: u64) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !cac::panic_is_caught() {
            report(panic);
            process::abort();
        }
    }));
    let corpus = corpus::of(name);
    let mut progress = File::create(progress_file(process::id())).unwrap();
    let printed = env::var(PRINTED).unwrap();
    let begun = Instant::now();
    let seconds = setting("MUTATION_SECONDS").map(Duration::from_secs);
    let last = corpus.len() as u64 + setting("MUTATIONS").unwrap_or(10_000);
    let (mut accepted, mut number, mut slowest, mut peak) = (0, first, Duration::ZERO, 0);
    while seconds.map_or(number < last, |seconds| begun.elapsed() < seconds) {
        progress.seek(SeekFrom::Start(0)).and(progress.write_all(&number.to_le_bytes())).unwrap();
        let bytes = input(&corpus, number);
        let allocated = MEMORY.allocated();
        MEMORY.set_limit(allocated + memory(name, bytes.len())).unwrap();
        let started = Instant::now();
        let is_accepted = read(&bytes);
        slowest = slowest.max(started.elapsed());
        MEMORY.set_limit(usize::MAX).unwrap();
        assert_eq!(fs::metadata(&printed).unwrap().len(), 0, "the reader printed something");
        accepted += u64::from(is_accepted);
        peak = peak.max(MEMORY.max_allocated().saturating_sub(allocated));
        number += 1;
        assert!(accepted > 0 || number != corpus.len() as u64, "no file of the corpus is accepted");
    }
    println!("{} {accepted} {} {}", number - first, slowest.as_millis(), peak >> 20);
}

/// The file into which a child writes the number of its input.
fn progress_file(child: u32) -> PathBuf {
    temporary_folder().join(format!("cac-mutations-{child}"))
}

/// A RAM disk, if there is one.
fn temporary_folder() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { env::temp_dir() }
}

/// Runs a reader in children, one after each failure. Returns the number of failures.
fn watch(name: &str) -> usize {
    let begun = Instant::now();
    let (mut first, mut failures) = (0, 0);
    while failures < MAX_FAILURES {
        let printed = tempfile::NamedTempFile::new().unwrap();
        let child = Command::new(env::current_exe().unwrap())
            .env(JOB, format!("{name}:{first}"))
            .env(PRINTED, printed.path())
            .env("TMPDIR", temporary_folder())
            .stdout(Stdio::piped())
            .stderr(printed.reopen().unwrap())
            .spawn()
            .unwrap();
        let progress = progress_file(child.id());
        let (counts, fault) = outcome(child, &progress);
        let report = String::from_utf8_lossy(&fs::read(printed.path()).unwrap()).into_owned();
        let number = current(&progress);
        let _ = fs::remove_file(&progress);
        let Some(fault) = fault else {
            let counts: Vec<&str> = counts.split_whitespace().collect();
            let seconds = begun.elapsed().as_secs_f64();
            let [inputs, accepted, slowest, peak] = counts[..] else { panic!("{name}: {counts:?}") };
            println!("{}", row([name, inputs, accepted, &format!("{seconds:.1}"), slowest, peak]));
            return failures;
        };
        failures += 1;
        let Some(number) = number else {
            println!("{name}: {fault}\n{report}");
            return failures;
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/mutations");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{name}-{}-{number}", seed()));
        fs::write(&path, input(&corpus::of(name), number)).unwrap();
        println!("{name}, input {number} of seed {}: {fault}; saved as {}\n{report}", seed(), path.display());
        first = number + 1;
    }
    failures
}

/// The number of the input that a child reads.
fn current(progress: &Path) -> Option<u64> {
    Some(u64::from_le_bytes(fs::read(progress).ok()?.try_into().ok()?))
}

/// Waits for a child. Returns what it printed, and its fault if it has one.
fn outcome(mut child: Child, progress: &Path) -> (String, Option<String>) {
    let mut number = None;
    let (mut since, mut processor_time) = (Instant::now(), Duration::ZERO);
    let fault = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break (!status.success()).then(|| status.to_string());
        }
        let (next, used) = (current(progress), used_by(child.id()).unwrap_or_default());
        if next != number {
            (number, since, processor_time) = (next, Instant::now(), used);
        } else if since.elapsed() > MAX_TIME || used.saturating_sub(processor_time) > MAX_PROCESSOR_TIME {
            child.kill().unwrap();
            break Some(format!("it took more than {:.0?}", since.elapsed()));
        }
        thread::sleep(Duration::from_millis(20));
    };
    (String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned(), fault)
}

/// The processor time of a process, if Linux reports it: fields 14 and 15 in hundredths of a second.
fn used_by(process: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(10 * ticks))
}

/// Writes the corpus of each reader into a folder of its name, for libFuzzer.
fn write_corpora(folder: &Path) {
    for (name, _) in TARGETS {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).unwrap();
        for (number, bytes) in corpus::of(name).iter().enumerate() {
            fs::write(folder.join(number.to_string()), bytes).unwrap();
        }
    }
}

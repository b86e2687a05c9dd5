//! The terminal code of both programs: flags, progress, errors with hints, data sets and
//! starting weights by name.

pub mod data;
pub mod hint;
mod parsers;
mod progress;
mod standard_output;
pub mod weights;

use std::{borrow::Cow, fmt, path::Path, process::ExitCode};

use cac::{
    data::{LeftOut, Split, unused_splits},
    image::EXTENSIONS,
    text::{first_few, on_one_line, shown},
};
pub use parsers::{InputArgs, by_variant, name_of, one_of, setting, unknown_source};
pub use progress::{Progress, say};
pub use standard_output::{stdout, stdout_is_closed};
pub use weights::{SOME_WEIGHTS, StartingWeights};

/// The environment variable in which `toolkit` passes its version to `toolkit-train`.
pub const VERSION_VARIABLE: &str = "CAC_TOOLKIT_VERSION";

/// An error of the program, with a hint.
#[derive(Debug)]
pub struct Advice {
    message: String,
    pub hint: String,
}

impl Advice {
    /// `message` is printed after `error: `, `hint` after `hint: `.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Advice {}

/// Silences panics that the library returns as errors; others are reported.
pub fn hide_caught_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !cac::panic_is_caught() {
            report(panic);
        }
    }));
}

/// Makes a file that exceeds a limit of the shell an error, as a full disk is. The signal would end the program
/// without a message.
pub fn report_file_limits() {
    #[cfg(unix)]
    {
        use std::sync::{Arc, atomic::AtomicBool};
        let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::<AtomicBool>::default());
    }
}

/// Prints which files were left out, if any: by their extension, or because they are in no class folder.
pub fn say_left_out(left_out: &LeftOut) {
    let (images, others): (Vec<_>, Vec<_>) =
        left_out.iter().partition(|(extension, _)| EXTENSIONS.contains(&extension.as_str()));
    let of = |(extension, count): (&String, &usize)| match extension.as_str() {
        "" => format!("{count} without an extension"),
        extension => format!("{count} .{extension}"),
    };
    let list: Vec<String> = others.into_iter().map(of).collect();
    if !list.is_empty() {
        say(format_args!("skipped files by extension: {}", list.join(", ")));
    }
    let loose: usize = images.into_iter().map(|(_, count)| count).sum();
    if loose > 0 {
        say(format_args!("images in no class folder, which are not used: {loose}"));
    }
    if ["heic", "heif", "avif"].iter().any(|&extension| left_out.contains_key(extension)) {
        say("HEIC and AVIF cannot be read: convert such photographs to JPEG or PNG");
    }
}

/// Prints which folders of a split's images are not used because another one is.
pub fn say_unused_splits(known: &Path, split: Split) {
    for folder in unused_splits(known, split) {
        let folder = shown(&folder);
        say(format_args!("not used: `{folder}`, because there is another folder of {split} images"));
    }
}

/// Prints which known classes have no test images, if any.
pub fn say_untested<'a>(classes: impl Iterator<Item = &'a str>) {
    let classes = first_few(classes.map(on_one_line));
    if !classes.is_empty() {
        say(format_args!("known classes without test images: {classes}"));
    }
}

/// Prints the error of a command, if any, and returns the exit code.
pub fn finish(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    let hint = match error.downcast_ref::<cac::Error>() {
        // Its message already contains the cause.
        Some(error) => {
            say(format_args!("error: {error}"));
            hint::of(error)
        }
        None => {
            say(format_args!("error: {error:#}"));
            error.downcast_ref::<Advice>().map(|advice| advice.hint.clone())
        }
    };
    if let Some(hint) = hint {
        say(format_args!("hint: {hint}"));
    }
    ExitCode::FAILURE
}

/// A path, quoted for a shell.
pub fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    if cfg!(windows) {
        return if text.contains(' ') { format!("\"{text}\"") } else { text.into_owned() };
    }
    shlex::try_quote(&text).unwrap_or(Cow::Borrowed(&text)).into_owned()
}

//! `toolkit drift`

use std::{
    io::{BufRead, Read, Write, stdin},
    path::Path,
    time::Instant,
};

use anyhow::{Context, bail};
use cac::{
    Bytes, Error, Provider, Scorer,
    data::{Dataset, Split},
    drift::{Monitor, Recent, StateFile, Status, StreamOrigin},
    eval::{self, score_file},
    files::sha256,
    model::{Inspection, Manifest},
    text::{not_counted, on_one_line, shown},
};
use rand::{SeedableRng, rngs::ChaCha8Rng, seq::SliceRandom};
use serde::Deserialize;

use super::{BUILT_IN, Unmet, print_json, read_model};
use crate::{
    cli::{DriftArgs, SCORE_COLUMN},
    terminal::{Progress, say, say_left_out, stdout},
};

/// The name of standard input.
const STDIN: &str = "-";

/// Where the scores of a call come from.
enum Input<'a> {
    /// The images of a folder, which a model scores.
    Images(&'a Path, Provider),
    /// A column of a score file.
    File(&'a Path, &'a str),
    /// Lines of standard input.
    Lines,
}

impl<'a> Input<'a> {
    fn of(args: &'a DriftArgs, path: &'a Path) -> anyhow::Result<Self> {
        let is_stdin = path == Path::new(STDIN);
        let is_folder = !is_stdin && path.is_dir();
        if args.provider.is_some() && !is_folder && (is_stdin || path.exists()) {
            bail!("--provider is for a folder of images; scores are read as they are");
        }
        if args.column.is_some() && (is_stdin || is_folder) {
            bail!("--column is for a score file");
        }
        Ok(match (is_stdin, is_folder) {
            (true, _) => Self::Lines,
            (false, true) => Self::Images(path, args.provider.unwrap_or_default()),
            (false, false) => Self::File(path, args.column.as_deref().unwrap_or(SCORE_COLUMN)),
        })
    }

    /// What scores images; `None` if scores are read.
    fn provider(&self) -> Option<Provider> {
        match self {
            Self::Images(_, provider) => Some(*provider),
            Self::File(..) | Self::Lines => None,
        }
    }

    fn read(&self, model: Bytes, origin: &str, skip_broken: bool) -> anyhow::Result<Stream> {
        match *self {
            Self::Images(folder, provider) => {
                score_images(&Scorer::named(model, origin, provider)?, folder, skip_broken)
            }
            Self::File(path, column) => Ok(Stream { scores: read_file(path, column)?, ..Stream::default() }),
            Self::Lines => read_lines(stdin().lock(), skip_broken),
        }
    }
}

/// Scores of images in their order.
#[derive(Debug, Default)]
struct Stream {
    scores: Vec<f32>,
    /// The names of the images, or empty.
    images: Vec<String>,
    /// Images that cannot be read.
    skipped: usize,
}

impl Stream {
    /// What tells a call with these images from others, in their order and shuffled: their names and scores. Scores
    /// alone may repeat.
    fn calls(&self) -> Option<[String; 2]> {
        let lines = self.images.iter().zip(&self.scores).map(|(image, score)| format!("{image:?} {score}\n"));
        let sum = (!self.images.is_empty()).then(|| sha256(lines.collect::<String>().as_bytes()))?;
        Some([sum.clone(), sum + " shuffled"])
    }

    /// Shuffles images that follow `earlier` ones.
    fn shuffle(&mut self, seed: u64, earlier: usize) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // The monitor draws from stream 0.
        random.set_stream(1 + earlier as u64);
        let mut order: Vec<usize> = (0..self.scores.len()).collect();
        order.shuffle(&mut random);
        self.scores = order.iter().map(|&place| self.scores[place]).collect();
        self.images = order.iter().filter_map(|&place| self.images.get(place).cloned()).collect();
    }
}

/// Continues a stream with more images, and prints whether it has drifted.
pub fn run(args: &DriftArgs) -> anyhow::Result<()> {
    let (model, path) = args.model_and_input()?;
    let input = Input::of(args, path)?;
    if model.is_none() {
        say(BUILT_IN);
    }
    let (bytes, origin) = read_model(model, &args.signature)?;
    let Inspection { manifest, sha256, threshold, .. } = Inspection::of(&bytes, &origin)?;
    let decision = &manifest.decision;
    if decision.is_per_class() {
        bail!(
            "`{origin}` has a threshold for each class, and no scores to compare with; export it without --per-class"
        );
    }
    let monitor = Monitor::new(decision.held_out_scores(), args.alpha, args.seed)?;
    // Before the images are scored, which takes long.
    let (mut file, mut monitor) = match &args.state {
        Some(path) => {
            let origin = StreamOrigin { model: sha256, score: decision.score.to_string() };
            let (file, monitor) = StateFile::open(path, origin, monitor)?;
            (Some(file), monitor)
        }
        None => (None, monitor),
    };
    let mut stream = input.read(bytes, &origin, args.skip_broken)?;
    let doubt = match input.provider() {
        Some(provider) => provider.doubt_of_held_out(&manifest),
        None => manifest.doubt_of_held_out(),
    };
    if doubt.is_some() {
        monitor.withdraw_guarantee();
    }
    let call = file.as_ref().zip(stream.calls()).map(|(file, calls)| this_call(file, calls, args.shuffle));
    let (call, is_counted) = call.transpose()?.unzip();
    let is_counted = is_counted == Some(true);
    let counted = if is_counted { stream.scores.len() } else { 0 };
    let earlier = monitor.status().images.saturating_sub(counted);
    if args.shuffle {
        stream.shuffle(args.seed, earlier);
    }
    if is_counted {
        say("the last call counted these images; they are not counted twice");
    } else {
        stream.scores.iter().for_each(|&score| monitor.push(score));
    }
    let window = args.window.map_or(stream.scores.len(), std::num::NonZeroUsize::get);
    let alarm = monitor.status().alarm.and_then(|alarm| alarm.checked_sub(earlier + 1));
    let result = Found {
        status: monitor.status(),
        alarm: alarm.and_then(|place| stream.images.get(place).cloned()),
        recent: monitor.recent(window, threshold).context("there are no scores")?,
        stream,
        held_out: monitor.held_out(),
        manifest: &manifest,
        doubt,
        keep: decision.threshold.as_ref().and_then(|chosen| chosen.share_kept_by(threshold)),
    };
    if args.json {
        result.print_json()?;
    } else {
        result.print()?;
    }
    // Last, so that a failed call can be repeated.
    if let Some(file) = file.as_mut().filter(|_| !is_counted) {
        file.write(&monitor, call.as_deref())?;
    }
    result.verdict()
}

/// This call, and whether the state has counted it: `calls` are those with its images in order and shuffled.
fn this_call(
    file: &StateFile,
    [in_order, shuffled]: [String; 2],
    is_shuffled: bool,
) -> anyhow::Result<(String, bool)> {
    let (this, other) = if is_shuffled { (shuffled, in_order) } else { (in_order, shuffled) };
    if file.has_counted(&other) {
        bail!("the last call counted these images in another order; start a new stream with another --state");
    }
    let is_counted = file.has_counted(&this);
    Ok((this, is_counted))
}

/// A line of `score --json`.
#[derive(Deserialize)]
struct ScoredLine {
    image: String,
    verdict: Option<Scored>,
    error: Option<String>,
}

/// The verdict in such a line.
#[derive(Deserialize)]
struct Scored {
    score: Option<f32>,
}

/// Reads one score per line, or what `score --json` prints.
fn read_lines(mut lines: impl BufRead, skip_broken: bool) -> anyhow::Result<Stream> {
    /// The maximum length of a line, in bytes: that of a map of many places.
    const LONGEST: u64 = 1 << 22;
    let (mut stream, mut bytes) = (Stream::default(), Vec::new());
    for number in 1.. {
        bytes.clear();
        let failed = || format!("cannot read line {number} of standard input");
        if lines.by_ref().take(LONGEST + 1).read_until(b'\n', &mut bytes).with_context(failed)? == 0 {
            break;
        }
        if bytes.len() as u64 > LONGEST {
            bail!("line {number} of standard input has more than {LONGEST} bytes");
        }
        let line = std::str::from_utf8(&bytes).with_context(failed)?;
        // Windows programs begin a text with a byte order mark.
        let text = line.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            continue;
        }
        if text.starts_with('{') {
            let line: ScoredLine = serde_json::from_str(text)
                .with_context(|| format!("line {number} of standard input is not one of `score --json`"))?;
            match (line.verdict, line.error) {
                (Some(verdict), _) => {
                    stream.images.push(line.image);
                    // JSON has no NaN and no infinity; both count as the greatest score.
                    stream.scores.push(verdict.score.unwrap_or(f32::INFINITY));
                }
                (None, Some(error)) if skip_broken => {
                    say(error);
                    stream.skipped += 1;
                }
                (None, error) => {
                    let error =
                        error.unwrap_or_else(|| format!("`{}` has no verdict", on_one_line(&line.image)));
                    bail!("line {number} of standard input: {error}");
                }
            }
            continue;
        }
        match text.parse::<f32>() {
            Ok(score) if !score.is_nan() => stream.scores.push(score),
            _ => bail!("line {number} of standard input: `{}` is not a score", on_one_line(text)),
        }
    }
    if stream.scores.is_empty() {
        bail!("standard input has no scores");
    }
    if !stream.images.is_empty() && stream.images.len() < stream.scores.len() {
        bail!("standard input has both scores and lines of `score --json`");
    }
    Ok(stream)
}

/// The scores of a score file. A model's scores are in single precision.
fn read_file(path: &Path, column: &str) -> anyhow::Result<Vec<f32>> {
    Ok(score_file::read_scores(path, column)?.into_iter().map(|score| score as f32).collect())
}

/// Scores the images of a folder, in the order of their paths.
fn score_images(scorer: &Scorer, folder: &Path, skip_broken: bool) -> anyhow::Result<Stream> {
    let images = Dataset::unknown(folder, Split::Test, &scorer.decision().input)?;
    say_left_out(images.left_out());
    let start = Instant::now();
    let mut bar = Progress::new(format!("scoring `{}`", shown(folder)), images.len());
    let (mut stream, mut broken) = (Stream::default(), Vec::new());
    let scored = eval::scores(scorer, &images, |indices, scores, errors| {
        stream.scores.extend(scores);
        stream.images.extend(indices.iter().map(|&index| images.name(index)));
        broken.extend(errors);
        let done = stream.scores.len() + broken.len();
        bar.update(done, &format!("{:.0} images/s", done as f64 / start.elapsed().as_secs_f64()));
    });
    bar.finish();
    scored?;
    if !broken.is_empty() && !skip_broken {
        return Err(Error::BrokenImages { errors: broken }.into());
    }
    broken.iter().for_each(say);
    stream.skipped = broken.len();
    if stream.scores.is_empty() {
        bail!("none of the {} images in `{}` can be read", stream.skipped, shown(folder));
    }
    Ok(stream)
}

/// What is printed.
struct Found<'a> {
    status: Status,
    /// The name of the image that raised the alarm, if it is one of this call.
    alarm: Option<String>,
    recent: Recent,
    stream: Stream,
    held_out: usize,
    manifest: &'a Manifest,
    /// Why the held-out scores may not be those of new known images.
    doubt: Option<&'static str>,
    /// The share of known images that the threshold in use was chosen to keep.
    keep: Option<f64>,
}

impl Found<'_> {
    /// Fails with what an alarm means.
    fn verdict(&self) -> anyhow::Result<()> {
        if self.status.alarm.is_none() {
            return Ok(());
        }
        let finding = "drift: the images no longer resemble those that the threshold was chosen for";
        let hint = "look at the images; if they are sorted, as by class, start a new stream with --shuffle; if they show the known \
                    classes under new conditions, use `toolkit recalibrate`";
        Err(Unmet { findings: vec![finding.to_owned()], hint: Some(hint) }.into())
    }

    /// The share of known images that the threshold in use keeps at least, with 95 % confidence; absent
    /// without a promise.
    fn kept_at_least(&self) -> Option<f64> {
        self.manifest.kept_at_least(self.keep?, self.doubt)
    }

    /// What may make false alarms more frequent than `alpha`, unless the guarantee is withdrawn anyway.
    fn cautions(&self) -> Vec<String> {
        if self.status.guaranteed { self.manifest.cautions_of_held_out() } else { Vec::new() }
    }

    fn print_json(&self) -> anyhow::Result<()> {
        let mut line = serde_json::to_value(self.status)?;
        line["drift"] = self.status.alarm.is_some().into();
        line["alarm_image"] = self.alarm.as_deref().into();
        line["doubt"] = self.doubt.into();
        line["cautions"] = self.cautions().into();
        line["new_images"] = self.stream.scores.len().into();
        line["skipped"] = self.stream.skipped.into();
        line["held_out_images"] = self.held_out.into();
        line["recent"] = serde_json::to_value(self.recent)?;
        line["keep"] = self.keep.into();
        line["kept_at_least"] = self.kept_at_least().into();
        print_json(&line)
    }

    fn print(&self) -> anyhow::Result<()> {
        let Self { status, recent, stream, held_out, .. } = self;
        let mut out = stdout();
        let images = status.images;
        match status.alarm {
            Some(alarm) => {
                let name = self.alarm.as_deref().map(|name| format!(", `{}`", on_one_line(name)));
                writeln!(out, "drift: alarm at image {alarm} of {images}{}", name.unwrap_or_default())?;
            }
            None => writeln!(out, "no alarm in {images} images")?,
        }
        let [now, greatest] = [status.log10_martingale, status.greatest_log10_martingale].map(power);
        let needed = needed(status.alpha);
        writeln!(out, "martingale   {now}, highest so far {greatest}; alarm at {needed}")?;
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        let [low, high] = <[f64; 2]>::from(recent.share_unknown_interval).map(percent);
        let expected = self.keep.map_or(String::new(), |keep| {
            let share = percent(1.0 - keep);
            match self.kept_at_least() {
                Some(bound) => {
                    let most = percent(1.0 - bound);
                    format!(
                        "; of known images, at most {share} on average, and at most {most} with 95 % confidence"
                    )
                }
                None => format!("; of the images that the threshold was chosen from, at most {share}"),
            }
        });
        writeln!(
            out,
            "unknown      {} of the last {} images (95 % interval {low} to {high}){expected}",
            percent(recent.share_unknown),
            recent.images,
        )?;
        let test = recent.kolmogorov_smirnov;
        writeln!(
            out,
            "difference   {:.3} (Kolmogorov-Smirnov, p {}) between these and {held_out} held-out scores",
            test.statistic,
            probability(test.p_value)
        )?;
        if let Some(sentence) = not_counted(stream.skipped) {
            writeln!(out, "{sentence}")?;
        }
        if !status.guaranteed {
            let doubt = self.doubt.unwrap_or("earlier images of the stream were scored on another provider");
            writeln!(out, "note: alpha does not bound the probability of a false alarm: {doubt}")?;
        }
        for caution in self.cautions() {
            writeln!(out, "note: {caution}")?;
        }
        Ok(())
    }
}

/// The martingale value at which the alarm is raised.
fn needed(alpha: f64) -> String {
    let number = 1.0 / alpha;
    match number {
        ..1e6 => format!("{number:.1}").trim_end_matches(".0").to_owned(),
        // The inverse of a tiny alpha is infinite.
        _ => power(-alpha.log10()),
    }
}

/// A positive number by its decimal logarithm.
fn power(log10: f64) -> String {
    let number = 10_f64.powf(log10);
    match log10 {
        -3.0..2.0 => format!("{number:.3}"),
        2.0..6.0 => format!("{number:.0}"),
        _ => format!("10^{log10:.1}"),
    }
}

fn probability(p: f64) -> String {
    match p {
        ..1e-300 => "< 1e-300".to_owned(),
        ..0.01 => format!("= {p:.0e}"),
        _ => format!("= {p:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarm_thresholds_have_no_needless_digits() {
        let found = [0.5, 0.05, 0.03, 0.01, 1e-4, 1e-9, 1e-320].map(needed);
        assert_eq!(found, ["2", "20", "33.3", "100", "10000", "10^9.0", "10^320.0"]);
    }

    #[test]
    fn lines_are_scores() {
        let lines = |text: &str| read_lines(text.as_bytes(), false).map_err(|error| error.to_string());
        let read = |text: &str| lines(text).map(|stream| stream.scores);
        assert_eq!(read("\u{feff}1\n\n -2.5e3\r\n+inf\n0"), Ok(vec![1.0, -2500.0, f32::INFINITY, 0.0]));
        for (text, reason) in [
            ("", "standard input has no scores"),
            ("\n  \n", "standard input has no scores"),
            ("1\n\nnan\n", "line 3 of standard input: `nan` is not a score"),
            (&"1".repeat((1 << 22) + 1), "line 1 of standard input has more than 4194304 bytes"),
            ("1,2\n", "line 1 of standard input: `1,2` is not a score"),
            ("score\n1\n", "line 1 of standard input: `score` is not a score"),
        ] {
            assert_eq!(read(text).unwrap_err(), reason);
        }
        assert!(
            read_lines(&b"1\n\xff\n"[..], false).unwrap_err().to_string().starts_with("cannot read line 2")
        );
    }

    #[test]
    fn numbers_of_any_size_are_short() {
        assert_eq!(
            [-0.5, 2.0, 0.0, 5.5, 300.26, -7.0].map(power),
            ["0.316", "100", "1.000", "316228", "10^300.3", "10^-7.0"]
        );
        assert_eq!([1.0, 0.012, 3.54e-45, 0.0].map(probability), ["= 1.00", "= 0.01", "= 4e-45", "< 1e-300"]);
    }
}

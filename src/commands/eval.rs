//! `toolkit eval`

use std::{
    collections::BTreeMap,
    io::{Write, stdout},
    path::Path,
    time::Instant,
};

use anyhow::{Context, bail};
use cac::{
    dataset::{Dataset, UnknownSet, open_test},
    eval::{self, Agreement, Evaluation},
    manifest::Manifest,
    score_file,
    scorer::Scorer,
};

use super::{check_folder, open_scorer, print_json};
use crate::{
    cli::EvalArgs,
    progress::{Progress, say},
};

/// A model on a provider.
struct Run<'a> {
    name: String,
    /// `None` for the one that is built in.
    model: Option<&'a Path>,
    scorer: Scorer,
}

/// Measures every model on every provider, and compares each with the first.
pub fn run(args: &EvalArgs) -> anyhow::Result<()> {
    // Whether every model can be read, every provider be used and the file be written is known before any picture is
    // read.
    if let Some(path) = &args.scores {
        check_folder(path)?;
    }
    let runs = open_runs(args)?;
    let first_run = runs.first().context("no provider")?;
    let manifest = first_run.scorer.manifest();
    let own = manifest.score;
    let is_threshold_used = args.score.is_empty() || args.score.contains(&own);
    if (args.scorer.threshold.is_some() || args.scorer.keep.is_some()) && !is_threshold_used {
        bail!("a threshold is for the model's own score, `{own}`, which is not among those of --score");
    }
    if (1..args.score.len()).any(|index| args.score[..index].contains(&args.score[index])) {
        bail!("--score names a score twice");
    }
    let (known, unknown) = test_pictures(args, manifest)?;
    if unknown.is_empty() {
        say("without --unknown NAME=DIR only the known pictures are measured");
    }
    let total = known.len() + unknown.iter().map(|set| set.pictures.len()).sum::<usize>();

    let mut first: Option<Evaluation> = None;
    for Run { name, model, scorer } in &runs {
        let start = Instant::now();
        let mut bar = Progress::new(format!("scoring with {name}"), total);
        let settings = args.report.settings(None);
        let evaluation = eval::evaluate(scorer, &known, &unknown, &args.score, &settings, |done| {
            let rate = done as f64 / start.elapsed().as_secs_f64();
            bar.update(done, &format!("{rate:.0} pictures/s"));
        });
        bar.finish();
        let evaluation = evaluation?;
        let placement = scorer.placement().unwrap_or_else(|error| {
            say(format_args!("it is not known where the operators ran: {error}"));
            BTreeMap::new()
        });
        let agreements: Vec<Agreement> =
            first.iter().flat_map(|first| first.agreement(&evaluation)).collect();
        if args.scorer.json {
            for (index, table) in evaluation.tables.iter().enumerate() {
                let mut line = serde_json::to_value(table)?;
                line["model"] = model.map(Path::to_string_lossy).into();
                line["provider"] = evaluation.provider.clone().into();
                line["pictures"] = evaluation.pictures.into();
                line["seconds"] = evaluation.seconds.into();
                line["operators"] = serde_json::to_value(&placement)?;
                if let Some(agreement) = agreements.get(index) {
                    line["agreement"] = serde_json::to_value(agreement)?;
                }
                print_json(&line)?;
            }
        } else {
            print_evaluation(&evaluation, &agreements, &first_run.name, &placement)?;
        }
        first.get_or_insert(evaluation);
    }
    if let (Some(path), Some(evaluation)) = (&args.scores, &first) {
        write_scores(path, evaluation, &known, &unknown)?;
    }
    Ok(())
}

/// Opens every model on every provider; they must be such that they can be compared.
fn open_runs(args: &EvalArgs) -> anyhow::Result<Vec<Run<'_>>> {
    let models: Vec<Option<&Path>> = match &args.model[..] {
        [] => vec![None],
        models => models.iter().map(|model| Some(model.as_path())).collect(),
    };
    let mut runs: Vec<Run> = Vec::new();
    for &model in &models {
        for &provider in &args.provider {
            let name = match model {
                Some(model) if models.len() > 1 => format!("{} on {provider}", model.display()),
                _ => provider.to_string(),
            };
            let scorer = open_scorer(model, &args.scorer, provider)?;
            if let Some(first) = runs.first() {
                let (one, other) = (first.scorer.manifest(), scorer.manifest());
                let size = |manifest: &Manifest| (manifest.input.height, manifest.input.width);
                if one.classes != other.classes || size(one) != size(other) || one.score != other.score {
                    bail!("{name} has other classes, another size or another score than {}", first.name);
                }
            }
            runs.push(Run { name, model, scorer });
        }
    }
    Ok(runs)
}

/// The known and the unknown test pictures; where none are given those of the training.
fn test_pictures(args: &EvalArgs, manifest: &Manifest) -> anyhow::Result<(Dataset, Vec<UnknownSet>)> {
    let (height, width) = (manifest.input.height, manifest.input.width);
    let training = manifest.training.as_ref().filter(|_| args.known.is_none());
    let known = match (&args.known, training) {
        (Some(known), _) => known,
        (None, Some(training)) if training.known.exists() => &training.known,
        (None, Some(training)) => {
            bail!(
                "the pictures that it was trained on, `{}`, are not here; give --known DIR and --unknown NAME=DIR",
                training.known.display()
            )
        }
        (None, None) => bail!("the model does not tell its training data; give --known"),
    };
    let unknown = match training {
        Some(training) if args.unknown.is_empty() => &training.unknown,
        _ => &args.unknown,
    };
    let protocol = args.protocol.or(training.and_then(|training| training.protocol));
    let (known, unknown) = open_test(known, unknown, protocol.as_ref(), height, width)?;
    Ok((known.align(&manifest.classes)?, unknown))
}

fn print_evaluation(
    evaluation: &Evaluation,
    agreements: &[Agreement],
    first: &str,
    placement: &BTreeMap<String, usize>,
) -> anyhow::Result<()> {
    let Evaluation { provider, pictures, seconds, tables } = evaluation;
    let mut out = stdout();
    for (index, table) in tables.iter().enumerate() {
        let threshold = table.threshold.map_or(String::new(), |threshold| format!(", threshold {threshold}"));
        writeln!(out, "score {}{threshold}\n{}", table.score, table.report)?;
        if let Some(agreement) = agreements.get(index) {
            let Agreement { greatest_score_difference, label_flips, unknown_flips, .. } = agreement;
            writeln!(
                out,
                "against {first}: scores differ by {greatest_score_difference:.1e} at most, {label_flips} \
                 other classes, {unknown_flips} other verdicts"
            )?;
        }
    }
    let rate = *pictures as f64 / seconds;
    writeln!(out, "{pictures} pictures in {seconds:.1} s, {rate:.0} pictures/s, on {provider}")?;
    for (provider, count) in placement {
        writeln!(out, "operators on {provider}: {count}")?;
    }
    writeln!(out)?;
    Ok(())
}

/// Writes the scores of all pictures that an evaluation has seen.
fn write_scores(
    path: &Path,
    evaluation: &Evaluation,
    known: &Dataset,
    unknown: &[UnknownSet],
) -> anyhow::Result<()> {
    let scores: Vec<_> = evaluation.tables.iter().map(|table| table.score).collect();
    let names = ["known"].into_iter().chain(unknown.iter().map(|set| set.name.as_str()));
    let labels = [known].into_iter().chain(unknown.iter().map(|set| &set.pictures)).map(Dataset::labels);
    let sets: Vec<score_file::Set> = names
        .zip(labels)
        .enumerate()
        .map(|(index, (name, labels))| {
            let scored = evaluation.tables.iter().map(|table| &table.scored[index]).collect();
            score_file::Set { name, labels, scored }
        })
        .collect();
    Ok(score_file::write(path, &scores, &sets)?)
}

//! Runs that are killed, stopped or fail, and their resumption.

use super::*;

/// The events of a log without timings.
fn timeless(log: &Path) -> Vec<Value> {
    let mut events = lines(&fs::read_to_string(log).unwrap());
    for event in &mut events {
        event.as_object_mut().unwrap().retain(|key, _| key != "seconds" && key != "images_per_second");
    }
    events
}

// Together, these settings cover everything that is stateful or random.

#[test]
fn a_run_killed_at_any_moment_resumes_to_the_same_weights() {
    resumes_to_the_same_weights(
        "--ema=0.9 --augment=affine --optimizer=sgd --learning-rate=0.01 --schedule=one-cycle \
         --degrade=0.3 --pixmix=0.5 --outliers=scrambled --batch-size=2 --json",
    );
}

#[test]
fn a_killed_run_with_adam_and_dropout_resumes_to_the_same_weights() {
    resumes_to_the_same_weights(
        "--optimizer=adam --schedule=cosine --dropout=0.3 --trim=0.3 --outliers=none --batch-size=4 --json",
    );
}

#[test]
fn a_killed_run_with_frozen_layers_resumes_to_the_same_weights() {
    resumes_to_the_same_weights(
        "--freeze --backbone backbone --ema=0.9 --outliers=scrambled --batch-size=4 --test-every=1 --json",
    );
}

#[test]
fn a_killed_run_with_two_learning_rates_resumes_to_the_same_weights() {
    resumes_to_the_same_weights(
        "--backbone backbone --backbone-rate=0.2 --batch-norm=running --augment=resized-crop --optimizer=muon \
         --batch-size=4 --json",
    );
}

fn resumes_to_the_same_weights(recipe: &str) {
    use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
    use std::io::{BufRead, BufReader};

    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    if recipe.contains("--backbone") {
        stdout(&toolkit(at, &[&SMALL[..], &["--run", "backbone"]].concat()));
    }
    let args = [&SMALL[..], &recipe.split_whitespace().collect::<Vec<_>>()].concat();
    stdout(&toolkit(at, &[&args[..], &["--run", "whole"]].concat()));
    if recipe.contains("--ema") && !recipe.contains("--freeze") {
        let whole = RunFolder::new(at.join("whole"));
        let state = Weights::read(whole.states().unwrap().last().unwrap()).unwrap();
        let kept = Weights::read(&whole.checkpoint(CheckpointKind::Last)).unwrap().network().unwrap();
        let weight = |weights: &Weights, name: &str| weights.get(name).unwrap().values.clone();
        assert!(weight(&kept, "fc.weight") == weight(&state, "ema.fc.weight"));
        assert!(weight(&kept, "fc.weight") != weight(&state, "fc.weight"));
    }
    // The killed run computes its own.
    features_in(&at.join("whole")).iter().for_each(|file| fs::remove_file(file).unwrap());

    // A failed test prints the seed, so that its kills can be repeated.
    let seed: u64 = std::env::var("KILL_SEED")
        .map_or_else(|_| std::process::id().into(), |seed| seed.parse().expect("KILL_SEED is a number"));
    println!("KILL_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut kills = 0;
    let mut args = [&args[..], &["--run", "killed", "--save-every", "0"]].concat();
    loop {
        let mut child = Command::new(env!("CARGO_BIN_EXE_toolkit"))
            .args(&args)
            .current_dir(at)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The run is killed some lines later, at a random moment.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // The first run may be killed before its first step.
        let count = random.random_range(if kills == 0 { 1..2 } else { 2..6 });
        let read = lines.by_ref().take(count).count();
        if read == count && kills < 8 {
            std::thread::sleep(std::time::Duration::from_millis(random.random_range(0..40)));
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            // A checkpoint is the old or the new one, never a mixture.
            for file in CheckpointKind::ALL.map(|which| RunFolder::new(at.join("killed")).checkpoint(which)) {
                assert!(!file.exists() || Checkpoint::read(&file).is_ok(), "seed {seed}: {}", file.display());
            }
            args = vec!["train", "--resume", "killed", "--json", "--save-every", "0"];
        } else {
            assert!(lines.all(|line| line.is_ok()) && child.wait().unwrap().success());
            break;
        }
    }
    assert!(kills >= 3, "seed {seed}: {kills} kills");
    for file in ["checkpoint.safetensors", "checkpoint-last.safetensors"] {
        let read = |run: &str| fs::read(at.join(run).join(file)).unwrap();
        assert!(read("whole") == read("killed"), "seed {seed}: {file} after {kills} kills");
    }
    assert_eq!(timeless(&at.join("whole/log.jsonl")), timeless(&at.join("killed/log.jsonl")));
    let states = fs::read_dir(at.join("killed")).unwrap();
    let is_state = |name: &str| name.starts_with("state-");
    assert_eq!(
        states.filter(|file| is_state(file.as_ref().unwrap().file_name().to_str().unwrap())).count(),
        2
    );
    // A finished run has nothing left to do.
    let again = toolkit(at, &["train", "--resume", "killed"]);
    assert!(stdout(&again).contains("accuracy"));
}

#[test]
fn a_damaged_state_falls_back_to_the_previous_one() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    stdout(&toolkit(at, &[&SMALL[..], &["--run", "run", "--save-every", "0"]].concat()));
    let expected = fs::read(at.join("run/checkpoint-last.safetensors")).unwrap();
    // The last epoch has to be repeated.
    let mut states: Vec<PathBuf> = fs::read_dir(at.join("run"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("state-"))
        .collect();
    states.sort();
    let whole = fs::read(&states[1]).unwrap();
    fs::write(&states[1], &whole[..whole.len() / 2]).unwrap();
    fs::remove_file(at.join("run/checkpoint-last.safetensors")).unwrap();
    let resumed = toolkit(at, &["train", "--resume", "run"]);
    let said = stderr(&resumed);
    assert!(
        said.contains("resuming from the state before the newest: ") && said.contains("state-"),
        "{said}"
    );
    assert!(fs::read(at.join("run/checkpoint-last.safetensors")).unwrap() == expected);

    let resume = |folder: &str| crate::commands::error(&toolkit(at, &["train", "--resume", folder]));
    assert!(resume("colours").contains("holds no run that can be resumed"));
    assert!(resume("nowhere").contains("cannot read `nowhere`"));
    assert_eq!(toolkit(at, &["train", "--resume", "run", "--epochs", "9"]).status.code(), Some(2));
    // The same number of images, but one has changed; the best checkpoint has the outputs for the test
    // images.
    for split in ["test", "train"] {
        let red = at.join("colours").join(split).join("red");
        let saved: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(&red)
            .unwrap()
            .map(|file| file.unwrap().path())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        images(&at.join("colours").join(split), "red", [201, 30, 30], 1);
        let message = resume("run");
        assert!(
            message.contains("its images, classes, outliers or test images have changed"),
            "{split}: {message}"
        );
        saved.into_iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }
    // A damaged state is not kept instead of an earlier one.
    let damaged = at.join("run/state-000099-00000000.safetensors");
    fs::write(&damaged, "damaged").unwrap();
    stdout(&toolkit(at, &["train", "--resume", "run"]));
    assert!(!damaged.exists() && states.iter().all(|state| state.exists()));
}

#[test]
fn a_test_image_that_moves_to_the_next_set_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    for (set, colour) in [("near", [200, 30, 200]), ("far", [30, 200, 30])] {
        images(at, set, colour, 4);
    }
    let sets = ["--unknown", "near=near", "--unknown", "far=far", "--epochs", "1", "--run", "run"];
    stdout(&toolkit(at, &[&SMALL[..], &sets].concat()));
    // The last of one set becomes the first of the next.
    fs::rename(at.join("near/3.png"), at.join("far/-1.png")).unwrap();
    let message = error(&toolkit(at, &["train", "--resume", "run"]));
    assert!(message.contains("its images, classes, outliers or test images have changed"), "{message}");
    fs::rename(at.join("far/-1.png"), at.join("near/3.png")).unwrap();
    stdout(&toolkit(at, &["train", "--resume", "run"]));
}

#[test]
fn a_run_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    let args = [&SMALL[..], &["--epochs", "1", "--run", "a run"]].concat();
    stdout(&toolkit(at, &args));
    let files = || {
        let entries = fs::read_dir(at.join("a run")).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect::<BTreeMap<_, _>>()
    };
    let before = files();
    let refused = toolkit(at, &args);
    assert_eq!(error(&refused), "error: `a run` holds a run, or files that one would replace");
    let message = stderr(&refused);
    assert!(message.contains("hint: resume it with `toolkit train --resume 'a run'`, or"), "{message}");
    assert!(files() == before);

    // Nor is the log of one whose checkpoints were removed.
    fs::create_dir(at.join("pruned")).unwrap();
    fs::copy(at.join("a run/log.jsonl"), at.join("pruned/log.jsonl")).unwrap();
    let args = [&SMALL[..], &["--epochs", "1", "--run", "pruned"]].concat();
    let refused = toolkit(at, &args);
    assert_eq!(error(&refused), "error: `pruned` holds a run, or files that one would replace");
    assert!(
        stderr(&refused).contains("hint: it has checkpoints, a log or settings: choose another folder"),
        "{}",
        stderr(&refused)
    );

    // Nor are the settings that it would start with.
    fs::create_dir(at.join("settings")).unwrap();
    fs::write(at.join("settings/settings.toml"), "# mine\nseed = 5\n").unwrap();
    let refused = toolkit(at, &["train", "--config", "settings/settings.toml", "--run", "settings"]);
    assert!(
        error(&refused).ends_with("is the file of --config, and --run would replace it"),
        "{}",
        error(&refused)
    );
    assert_eq!(fs::read_to_string(at.join("settings/settings.toml")).unwrap(), "# mine\nseed = 5\n");

    // Nor by the library.
    let settings: TrainSettings = serde_json::from_slice(&before[&at.join("a run/resolved.json")]).unwrap();
    let run = RunFolder::new(at.join("a run"));
    let refused = train(&settings, None, &run, Duration::from_secs(60), &AtomicBool::new(false), |_| {});
    assert!(matches!(refused, Err(Error::HoldsRun { .. })), "{refused:?}");
    assert!(files() == before);
}

#[test]
fn a_run_stopped_after_its_last_epoch_resumes_with_the_features() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    let known = at.join("colours").display().to_string();
    let args = ["--known", &known, "--epochs", "1", "--held-out", "0.9", "--run", "whole"];
    stdout(&toolkit(at, &[&SMALL[..], &args].concat()));
    let settings = fs::read(at.join("whole/resolved.json")).unwrap();
    let settings: TrainSettings = serde_json::from_slice(&settings).unwrap();
    let run = RunFolder::new(at.join("run"));
    let (stop, save_every) = (AtomicBool::new(false), Duration::from_secs(60));
    let outcome = train(&settings, None, &run, save_every, &stop, |event| {
        if matches!(event, Event::Finishing { .. }) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::WithoutFeatures);
    assert!(!run.settings().exists(), "no user gave any");
    let best = || Checkpoint::read(&run.checkpoint(CheckpointKind::Best)).unwrap();
    assert!(best().test.is_some() && best().features.is_none());

    stop.store(false, Ordering::Relaxed);
    let path = run.checkpoint(CheckpointKind::Best);
    let tested = fs::read(&path).unwrap();
    Checkpoint { test: None, ..best() }.write(&path).unwrap();
    let untested = resume(&run, save_every, &stop, |_| ()).unwrap_err().to_string();
    assert!(untested.ends_with("it lacks the test of its epoch"), "{untested}");
    fs::write(&path, tested).unwrap();
    let mut finishing = Vec::new();
    let outcome = resume(&run, save_every, &stop, |event| {
        if let Event::Finishing { done, images } = event {
            finishing.push((*done, *images));
        }
    });
    assert!(matches!(outcome, Ok(Outcome::Finished(_))), "{outcome:?}");
    assert!(finishing.last().is_some_and(|(done, images)| done == images), "{finishing:?}");
    let checkpoint = best();
    let features = checkpoint.features.as_ref().unwrap();

    // They are those that the exported model computes from the same images, degraded or not.
    let model = at.join("model.onnx");
    export::export(&checkpoint, &ExportOptions::default(), &model).unwrap();
    let scorer = Scorer::open(&model, Provider::Cpu).unwrap();
    let images = Dataset::known(Path::new(&known), Split::Train, &settings.input).unwrap();
    let options = EvaluateOptions { keep_features: true, ..EvaluateOptions::default() };
    let computed = |images: &Dataset| outputs(&scorer, images, options, |_| {}).unwrap().features.unwrap();
    let differs = |one: ArrayView1<f32>, other: ArrayView1<f32>| {
        one.iter().zip(other).any(|(one, other)| (one - other).abs() > 1e-4 * other.abs().max(1.0))
    };
    let plain = computed(&images);
    let find = |row| plain.rows().into_iter().position(|other| !differs(row, other)).unwrap();
    let calibrating: Vec<usize> = features.calibrating.rows().into_iter().map(find).collect();
    assert_eq!(calibrating.len(), 39);
    let mirrored = &checkpoint.mirrored.as_ref().unwrap().features.degraded;
    assert_eq!((features.degraded.len(), mirrored.len()), (3, 3));
    for (index, degradation) in Degradation::ALL.into_iter().enumerate() {
        let degraded = images.clone().degraded(degradation);
        let views =
            [(&degraded, &features.degraded[index]), (&degraded.clone().mirrored(), &mirrored[index])];
        for (images, (found_degradation, found)) in views {
            let computed = computed(images);
            assert_eq!((found.nrows(), *found_degradation), (39, degradation));
            for (row, &image) in found.rows().into_iter().zip(&calibrating) {
                assert!(!differs(row, computed.row(image)), "{degradation:?} {image}");
            }
            assert!(calibrating.iter().any(|&image| differs(plain.row(image), computed.row(image))));
        }
    }
}

#[test]
fn an_unwritable_checkpoint_ends_the_run_and_keeps_its_states() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    stdout(&toolkit(at, &[&SMALL[..], &["--run", "run", "--save-every", "0"]].concat()));
    let run = RunFolder::new(at.join("run"));
    let last = run.checkpoint(CheckpointKind::Last);
    let expected = fs::read(&last).unwrap();
    // The last epoch is to be tested again, and its checkpoint cannot replace a folder.
    let newest = run.states().unwrap().pop().unwrap();
    fs::remove_file(newest).unwrap();
    fs::remove_file(&last).unwrap();
    fs::create_dir(&last).unwrap();
    let states = run.states().unwrap();
    let output = toolkit(at, &["train", "--resume", "run"]);
    let message = "error: cannot write `run/checkpoint-last.safetensors`: it exists and is not a file";
    assert_eq!(crate::commands::error(&output), message);
    assert!(!states.is_empty() && run.states().unwrap() == states);
    fs::remove_dir(&last).unwrap();
    stdout(&toolkit(at, &["train", "--resume", "run"]));
    assert!(fs::read(&last).unwrap() == expected);
    // As after a kill between the last save and the removal of older states.
    fs::copy(run.states().unwrap().pop().unwrap(), run.state(1, 1)).unwrap();
    stdout(&toolkit(at, &["train", "--resume", "run"]));
    assert_eq!(run.states().unwrap().len(), 2);
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_that_cannot_be_saved_ends_before_it_trains() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    // Nobody can create a folder there, not even root. The data does not exist either, which is found later.
    let error = crate::commands::error(&toolkit(at, &["train", "--known", "missing", "--run", "/proc/run"]));
    assert!(error.starts_with("error: cannot write `/proc/run`: "), "{error}");

    two_colours(at);
    // Files are limited to 100 blocks, which is less than a state needs.
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_toolkit")])
        .args(SMALL)
        .args(["--run", "run"])
        .current_dir(at)
        .output()
        .unwrap();
    let error = crate::commands::error(&output);
    assert!(error.starts_with("error: cannot write `run/state-000001-00000000.safetensors`: "), "{error}");
    assert!(!stderr(&output).contains("training on"));
    // With enough space, the same command trains.
    stdout(&toolkit(at, &[&SMALL[..], &["--epochs=1", "--run", "run"]].concat()));
}

#[test]
fn divergence_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    two_colours(folder.path());
    // Without held-out images there is no held-out loss, and after few steps the training loss is finite.
    for (run, settings) in [
        ("loss", &["--learning-rate", "1e30"][..]),
        ("weights", &["--learning-rate", "1e38", "--held-out", "0", "--epochs", "1", "--batch-size", "64"]),
    ] {
        let output = toolkit(folder.path(), &[&SMALL[..], settings, &["--run", run]].concat());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{run}: {text}");
        assert!(text.contains("error: training diverged: ") && text.contains("hint: "), "{run}: {text}");
        assert!(text.contains("of epoch 1, at learning rate "), "{run}: {text}");
        // What was written before is finite.
        let run = RunFolder::new(folder.path().join(run));
        assert!(!run.checkpoint(CheckpointKind::Last).exists());
        for state in run.states().unwrap() {
            assert_eq!(Weights::read(&state).unwrap().not_finite(), None, "{}", state.display());
        }
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_the_current_weights() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    two_colours(at);
    let args = [&SMALL[..], &["--epochs=100000", "--json"]].concat();
    let mut child = Command::new(env!("CARGO_BIN_EXE_toolkit"))
        .args(args)
        .current_dir(at)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // From this event on, the run can be resumed.
    let mut events = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(events.any(|line| line.unwrap().contains("\"event\":\"start\"")));
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("error: interrupted in epoch ")
            && text.contains("hint: resume with `toolkit train --resume runs/1`"),
        "{text}"
    );
    // The checkpoint holds as many epochs as were finished.
    let epoch = text.split("error: interrupted in epoch ").nth(1).unwrap().lines().next().unwrap();
    let last = Checkpoint::read(&RunFolder::new(at.join("runs/1")).checkpoint(CheckpointKind::Last)).unwrap();
    let finished: Option<usize> = last.facts.training.unwrap().epoch;
    assert_eq!(finished.map(|finished| finished + 1), epoch.parse().ok());
    stdout(&toolkit(at, &["export", "model.onnx", "--last"]));
}

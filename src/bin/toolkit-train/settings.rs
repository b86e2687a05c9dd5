//! The settings of a run: one definition for flags, file and help, and the conversion to the library's
//! settings.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use cac::{
    arch::{Architecture, FAMILIES, Family},
    data::{DataFolder, KnownData, Protocol, PublishedSet, Role, Split, UnknownSource, exists},
    image::Input,
    method::{AnchorKind, KEEP, Loss, Variant, needed, usually_held_out},
    run::{Augment, BatchNorm, Device, FEW_IMAGES, Optimizer, Outliers, Recipe, Schedule, TrainingPrecision},
    text::{on_one_line, shown},
    train::{Backbone, MEMORY, TrainSettings, check_device},
};
use clap::{
    Arg, ArgMatches, Args, Command, CommandFactory, FromArgMatches, parser::ValueSource, value_parser,
};
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::terminal::{
    Advice, InputArgs, SOME_WEIGHTS, StartingWeights, by_variant,
    data::{TUTORIAL_KNOWN, dataset, set_names, tutorial_unknown, unknown_datasets},
    name_of, one_of, say, setting, unknown_source,
};

/// The headings of the flags in `--help`.
const DATA: &str = "Data";
const NETWORK: &str = "Network";
const LOSS: &str = "Loss and outliers";
const SCHEDULE: &str = "Schedule and optimizer";
const AUGMENTATION: &str = "Augmentation";
pub const RUN: &str = "Run";

/// The settings of a run.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// Known classes: the name of a published data set (see below), train/CLASS/*.png and test/CLASS/*.png,
    /// or an unpacked data set: CIFAR-10, CIFAR-100, SVHN, MNIST and others in IDX, Tiny ImageNet, NumPy
    /// arrays; by default cifar10
    #[arg(help_heading = DATA, long, value_name = "DIR|NAME")]
    known: Option<PathBuf>,
    /// Share of the known images to test on, above 0 and below 1, if they have no test split, as
    /// in CLASS/*.png; drawn per class, the same in every run
    #[arg(help_heading = DATA, long, value_name = "SHARE")]
    held_out_test: Option<f64>,
    /// Unknown test images: NAME=DIR, the name of a published data set, gaussian-noise[:COUNT] or
    /// uniform-noise[:COUNT]; repeatable. By default textures, if --known is not given either
    #[arg(help_heading = DATA, long, value_name = "NAME=DIR|NAME", value_parser = unknown_source)]
    #[serde(default)]
    unknown: Vec<UnknownSource>,
    /// Folder of the published data sets; by default that in CAC_DATA, else ~/.cache/cac-toolkit/data
    #[arg(help_heading = DATA, long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Published split of ten classes, to train on six and test on the other four as unknown: cac-2020,
    /// cac-2021 or arpl-2021, each /0 to /4
    #[arg(help_heading = DATA, long, value_name = "NAME/TRIAL", value_parser = setting::<Protocol>)]
    protocol: Option<Protocol>,
    /// Class of --known to leave out of the training and to test on as unknown; repeatable
    #[arg(help_heading = DATA, long, value_name = "CLASS")]
    #[serde(default)]
    unknown_class: Vec<String>,
    /// Starting weights: a file (safetensors, .pt or .pth), a run folder (its best checkpoint) or the name of
    /// published weights (see below); the last layer is replaced. By default random, or imagenet32-nocifar if
    /// neither --known nor a network is given
    #[arg(help_heading = NETWORK, long, value_name = "FILE|NAME")]
    backbone: Option<PathBuf>,

    /// The loss: cac (Class Anchor Clustering), or cross-entropy (plain classification, to make a backbone)
    #[arg(help_heading = LOSS, long, value_enum, default_value_t = Objective::Cac)]
    loss: Objective,
    /// Definition of the CAC loss and, without outliers, of the rejection score
    #[arg(help_heading = LOSS, long, value_parser = one_of(&[Variant::Paper, Variant::PytorchOod]), default_value = "paper")]
    variant: Variant,
    #[arg(help_heading = LOSS, long, value_name = "X", help = format!("Length of the anchors; by default {}", by_variant(|loss| loss.magnitude)))]
    magnitude: Option<f64>,
    #[arg(help_heading = LOSS, long, value_name = "X", help = format!("Weight of the anchor term; by default {}", by_variant(|loss| loss.weight)))]
    weight: Option<f64>,
    /// Unknown images that training keeps away from all anchors: a folder, the training split of a data set,
    /// the name of a published one, or the known training images `scrambled`, for classes that differ in
    /// shape; `scrambled,DIR` alternates both. By default scrambled; none with --freeze, cross-entropy or a
    /// backbone trained on photographs, or if a step has no room for one and --outlier-share is not set
    #[arg(help_heading = LOSS, long, value_name = "DIR|NAME|scrambled|scrambled,DIR|none")]
    outliers: Option<Outliers>,
    #[arg(help_heading = LOSS, long, value_name = "SHARE", help = by_recipe("Outliers per known image in a step, 0 to 16",
        |recipe| recipe.outlier_share))]
    outlier_share: Option<f64>,
    #[arg(help_heading = LOSS, long, value_name = "X", help = by_recipe("Weight of the outlier term in the loss",
        |recipe| recipe.outlier_weight))]
    outlier_weight: Option<f64>,
    #[arg(help_heading = DATA, long, value_name = "SHARE",
        help = by_recipe(&format!("Share of the known training images held out to choose the threshold, the score and the best \
        epoch, 0 to below 1; raised to {0} images, or to {1} if {0} are over a fifth of all; with 0 the last epoch counts as best",
        usually_held_out(), needed(KEEP)), |recipe| recipe.held_out))]
    held_out: Option<f64>,
    /// Anchors for testing and export; by default class-means for paper without outliers, else fixed
    #[arg(help_heading = LOSS, long, value_parser = one_of(&AnchorKind::ALL))]
    anchors: Option<AnchorKind>,
    #[arg(help_heading = LOSS, long, value_name = "N", help = by_recipe("Number of training images for class means, drawn at \
        random, at least one of each class; 0 for all", |recipe| recipe.anchor_images))]
    anchor_images: Option<usize>,

    /// The input of the network
    #[command(flatten, next_help_heading = NETWORK)]
    #[serde(flatten)]
    input: InputArgs,
    /// The network and its sizes
    #[command(flatten, next_help_heading = NETWORK)]
    #[serde(flatten)]
    network: Network,

    /// Train only the last layer, on features that the frozen layers compute once; needs a backbone. The
    /// default for a backbone trained on photographs, with few training images
    #[arg(help_heading = NETWORK, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    freeze: Option<bool>,
    #[arg(help_heading = NETWORK, long, value_name = "SHARE", help = by_recipe("Learning rate of all layers but the last as a share of \
        --learning-rate, 0 to 1", |recipe| recipe.backbone_rate))]
    backbone_rate: Option<f64>,
    #[arg(help_heading = NETWORK, long, value_parser = one_of(&BatchNorm::ALL), help = by_recipe("Batch-norm statistics in training: \
        those of the batch, or the backbone's running ones, kept fixed",
        |recipe| name_of(&recipe.batch_norm)))]
    batch_norm: Option<BatchNorm>,
    #[arg(help_heading = SCHEDULE, long, value_name = "N", help = by_recipe("Passes over the training images", |recipe| recipe.epochs))]
    epochs: Option<usize>,
    #[arg(help_heading = SCHEDULE, long, value_name = "N", help = by_recipe("Known images per step", |recipe| recipe.batch_size))]
    batch_size: Option<usize>,
    #[arg(help_heading = SCHEDULE, long, value_parser = one_of(&Optimizer::ALL), help = by_recipe("The optimizer",
        |recipe| name_of(&recipe.optimizer)))]
    optimizer: Option<Optimizer>,
    #[arg(help_heading = SCHEDULE, long, value_name = "X", help = learning_rates())]
    learning_rate: Option<f64>,
    #[arg(help_heading = SCHEDULE, long, value_parser = one_of(&Schedule::ALL), help = by_recipe("The learning-rate schedule",
        |recipe| name_of(&recipe.schedule)))]
    schedule: Option<Schedule>,
    #[arg(help_heading = SCHEDULE, long, value_name = "EPOCHS", help = by_recipe("Warm-up length in epochs; with one-cycle 0 \
        means 30 % of the run", |recipe| recipe.warm_up))]
    warm_up: Option<f64>,
    #[arg(help_heading = SCHEDULE, long, value_name = "X", help = by_recipe("Decoupled weight decay of convolutions and the last layer",
        |recipe| recipe.weight_decay))]
    weight_decay: Option<f64>,
    #[arg(help_heading = AUGMENTATION, long, value_parser = one_of(&Augment::ALL), help = by_recipe("The augmentation of training images",
        |recipe| name_of(&recipe.augment)))]
    augment: Option<Augment>,
    /// Do not mirror training images, e.g. for digits or text; the default for `mnist` and `svhn`
    #[arg(help_heading = AUGMENTATION, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    no_mirror: Option<bool>,
    #[arg(help_heading = AUGMENTATION, long, value_name = "SHARE", help = by_recipe("Probability that an image, \
        known or an outlier, is reduced and enlarged, gets noise, or is compressed as JPEG, each drawn on its own; 0 to 1",
        |recipe| recipe.degrade))]
    degrade: Option<f64>,
    #[arg(help_heading = AUGMENTATION, long, value_name = "SHARE", help = by_recipe("Share of the images of a step, outliers \
        too, that are mixed with generated fractals (PixMix), 0 to 1", |recipe| recipe.pixmix))]
    pixmix: Option<f64>,
    #[arg(help_heading = LOSS, long, value_name = "SHARE", help = by_recipe("Share of the known images of a step, those with \
        the largest loss, to leave out as mislabelled; 0 to below 1", |recipe| recipe.trim))]
    trim: Option<f64>,
    #[arg(help_heading = SCHEDULE, long, value_name = "DECAY", help = by_recipe("Decay of the exponential moving average (EMA) \
        of the weights, which is tested and saved; 0 for no EMA", |recipe| recipe.ema))]
    ema: Option<f64>,
    #[arg(help_heading = RUN, long, value_name = "N", help = format!(
        "Epochs between tests, which choose the best weights; the last epoch is always tested. By default {}, \
         with --freeze {}", test_every(false), test_every(true)))]
    test_every: Option<usize>,
    /// Seed of initial weights, data order, augmentation, dropout and held-out images
    #[arg(help_heading = RUN, long, value_name = "N", default_value_t = Recipe::default().seed, value_parser = value_parser!(u64).range(..=i64::MAX as u64))]
    seed: u64,
    /// Training device: cpu, cuda or cuda:N
    #[arg(help_heading = RUN, long, default_value_t = Device::Cpu, value_parser = setting::<Device>)]
    device: Device,
    /// The precision of activations in training; auto is bf16 on a CPU with AMX and on an AMD CPU with
    /// AVX512-BF16 unless only the last layer is trained, else f32
    #[arg(help_heading = RUN, long, value_enum, default_value_t = Precision::Auto)]
    precision: Precision,
    /// Memory for decoded images in MiB (2^20 bytes); images that do not fit are decoded whenever they are
    /// needed
    #[arg(help_heading = DATA, long, value_name = "MiB", default_value_t = MEMORY >> 20)]
    memory: u64,
    /// Skip images that cannot be read; otherwise the run fails and lists them
    #[arg(help_heading = DATA, long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    skip_broken: Option<bool>,
}

/// The help of the learning rate, whose default depends on the optimizer, the variant of the loss and the
/// recipe.
fn learning_rates() -> String {
    let [adam, sgd] = [Optimizer::Adam, Optimizer::Sgd]
        .map(|optimizer| by_variant(|loss| optimizer.learning_rate(loss.variant)));
    // In single precision, without the digits that the division rounds.
    let shares = other_recipes().map(|(when, recipe)| {
        let with = if recipe.optimizer == Optimizer::Muon { " with muon" } else { "" };
        format!("{} times that {when}{with}", rate_share(&recipe, recipe.optimizer) as f32)
    });
    format!(
        "The peak learning rate; by default with adam {adam}; with sgd or muon {sgd}; {}",
        shares.join(", ")
    )
}

/// The default number of epochs between tests.
fn test_every(freeze: bool) -> usize {
    if freeze { 5 } else { 1 }
}

/// The learning rate of a recipe with an optimizer, as a share of the default one. The rate of a recipe for
/// Muon applies to no other optimizer.
fn rate_share(recipe: &Recipe, optimizer: Optimizer) -> f64 {
    if recipe.optimizer == Optimizer::Muon && optimizer != Optimizer::Muon {
        return 1.0;
    }
    recipe.learning_rate / Recipe::default().learning_rate
}

/// The recipes other than the default one, and when they are used.
fn other_recipes() -> [(&'static str, Recipe); 3] {
    [
        ("with --freeze", Recipe::of_last_layer()),
        ("for a cifar-net", Recipe::of_cifar_net()),
        ("for a backbone trained on photographs", Recipe::fine_tuning()),
    ]
}

/// The help of a flag whose default depends on the recipe.
fn by_recipe<T: fmt::Display + PartialEq>(what: &str, default: impl Fn(&Recipe) -> T) -> String {
    let usual = default(&Recipe::default());
    let others = other_recipes()
        .map(|(when, recipe)| (when, default(&recipe)))
        .into_iter()
        .filter(|(_, value)| *value != usual);
    let others: String = others.map(|(when, value)| format!(", {when} {value}")).collect();
    format!("{what}; by default {usual}{others}")
}

/// The objective of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Objective {
    Cac,
    CrossEntropy,
}

/// The precision of activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Precision {
    Auto,
    F32,
    Bf16,
}

/// The network family, and the settings of all families by flag name.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Network {
    #[serde(skip_serializing_if = "Option::is_none")]
    arch: Option<String>,
    #[serde(flatten)]
    settings: BTreeMap<String, Number>,
}

/// Writes whole numbers as integers in a file.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(untagged)]
enum Number {
    Whole(i64),
    Real(f64),
}

/// The minimum height of the images of a network for photographs, in pixels.
const PHOTOGRAPHS: usize = 96;
/// The starting weights of pytorch-ood's CAC tutorial, for runs on its data.
const BACKBONE: &str = "imagenet32-nocifar";
/// The name of that tutorial's settings for `--config`, and the settings.
const TUTORIAL: (&str, &str) = ("tutorial", include_str!("../../../examples/tutorial.toml"));

/// The settings as given by flags and file.
#[derive(Debug, Clone)]
pub struct Given {
    table: Table,
    /// The names of the typed settings.
    typed: Vec<String>,
}

/// The command of a program with these settings.
pub fn command<Cli: CommandFactory>() -> Command {
    Cli::command().after_help(format!("{SOME_WEIGHTS}\nPublished data sets: {}", set_names()))
}

/// A network trained on photographs that a laptop can fine-tune.
pub const OF_PHOTOGRAPHS: &str = "timm/tf_efficientnet_lite0.in1k";

/// The network and what it starts from, in a line.
pub fn network(settings: &TrainSettings) -> String {
    let TrainSettings { architecture, input, backbone, .. } = settings;
    let weights = match backbone {
        Some(backbone) => format!("weights of `{}`", on_one_line(&backbone.name)),
        None => "random weights".to_owned(),
    };
    format!("network {architecture}, images of {} x {} pixels, {weights}", input.width, input.height)
}

/// Whether the images are photographs that the network reads at a small size, without a backbone.
pub fn shrinks_photographs(settings: &TrainSettings) -> anyhow::Result<bool> {
    let TrainSettings { known, data, input, backbone, .. } = settings;
    if backbone.is_some() || input.height >= PHOTOGRAPHS {
        return Ok(false);
    }
    // Published sets are of small images.
    if PublishedSet::meant_by(&known.path).is_some() {
        return Ok(false);
    }
    let folder = data.resolve(&known.path, &[Role::Known(Split::Train), Role::Known(Split::Test)])?;
    let images = known.at(&folder).training(input)?;
    // One that cannot be read is an error later.
    let first = images.thumbnail(0, PHOTOGRAPHS);
    Ok(first.is_ok_and(|image| image.width().max(image.height()) as usize >= PHOTOGRAPHS))
}

/// Downloads the published data sets of a run, unless they are there.
pub fn fetch_data(settings: &TrainSettings) -> anyhow::Result<()> {
    let data = &settings.data;
    dataset(&settings.known.path, data, &[Role::Known(Split::Train), Role::Known(Split::Test)])?;
    unknown_datasets(&settings.unknown, data)?;
    if let Some(folder) = settings.recipe.outliers.folder() {
        dataset(folder, data, &[Role::Unknown(Split::Train)])?;
    }
    Ok(())
}

/// The settings of a file, overridden by those of the command line.
pub fn given(matches: &ArgMatches, file: Option<&Path>) -> anyhow::Result<Given> {
    let typed = Settings::from_arg_matches(matches).unwrap_or_else(|error| error.exit());
    let mut typed = Table::try_from(&typed).context("the settings cannot be written as TOML")?;
    typed.retain(|name, _| matches.value_source(&name.replace('-', "_")) == Some(ValueSource::CommandLine));
    let mut table = match file {
        Some(file) => read(file)?,
        None => Table::new(),
    };
    let names = typed.keys().cloned().collect();
    table.extend(typed);
    Ok(Given { table, typed: names })
}

/// The maximum length of a settings file, in bytes.
const LARGEST: u64 = 1 << 20;

/// Reads and checks the settings in a file.
fn read(file: &Path) -> anyhow::Result<Table> {
    if file == Path::new(TUTORIAL.0) {
        return parse(TUTORIAL.1, file);
    }
    let mut text = String::new();
    let read = File::open(file).and_then(|opened| opened.take(LARGEST + 1).read_to_string(&mut text));
    read.map_err(|error| {
        let message = format!("cannot read `{}`: {error}", shown(file));
        Advice::new(message, format!("give a settings file, or `{}`, which is built in", TUTORIAL.0))
    })?;
    if text.len() as u64 > LARGEST {
        bail!("`{}` is larger than {LARGEST} bytes, the limit of a settings file", shown(file));
    }
    parse(&text, file)
}

/// The settings in the text of a file, which errors name.
fn parse(text: &str, file: &Path) -> anyhow::Result<Table> {
    // On one line: TOML's own messages show lines of the file.
    let not_toml = |error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|&byte| byte == b'\n').count();
        anyhow!("`{}` is not TOML: line {line}: {}", shown(file), error.message().replace('\n', " "))
    };
    let table: Table = text.parse().map_err(not_toml)?;
    let command = Settings::augment_args(Command::new("settings"));
    for name in table.keys() {
        if !command.get_arguments().any(|arg| arg.get_long() == Some(name)) {
            bail!("`{}`: `{name}` is not a setting; see `toolkit train --help`", shown(file));
        }
    }
    // Check the values here, so that an error names the file.
    with_defaults(&table).map_err(|error| {
        let reason = error.to_string().trim_end().replace('\n', " ");
        anyhow!("`{}` does not hold usable settings: {}", shown(file), without_types(&reason))
    })?;
    Ok(table)
}

/// What TOML's reader expects, without Rust's names of types.
fn without_types(reason: &str) -> String {
    let names = [
        ("usize", "a whole number from 0 up"),
        ("u64", "a whole number from 0 up"),
        ("i64", "a whole number"),
        ("f64", "a number"),
        ("f32", "a number"),
        ("a sequence", "an array"),
        ("a map", "a table"),
    ];
    names.iter().fold(reason.to_owned(), |reason, (name, meaning)| {
        reason.replace(&format!("expected {name}"), &format!("expected {meaning}"))
    })
}

/// All settings: those given, and defaults.
fn with_defaults(given: &Table) -> anyhow::Result<Settings> {
    let matches = Settings::augment_args(Command::new("settings")).get_matches_from([""]);
    let defaults = Settings::from_arg_matches(&matches).expect("every setting is optional");
    let mut all = Table::try_from(&defaults).expect("defaults are UTF-8");
    all.extend(given.clone());
    Ok(all.try_into()?)
}

impl Given {
    /// The names of the settings that were typed.
    pub fn typed(&self) -> &[String] {
        &self.typed
    }

    /// Converts the settings to the library's.
    pub fn resolve(&self) -> anyhow::Result<TrainSettings> {
        let settings = with_defaults(&self.table)?.resolve()?;
        self.check_used(&settings)?;
        Ok(settings)
    }

    /// Refuses typed settings that this training does not use. A file may hold them for other flags.
    fn check_used(&self, settings: &TrainSettings) -> anyhow::Result<()> {
        let is_cac = settings.loss.variant != Variant::CrossEntropy;
        let has_outliers = settings.recipe.has_outliers();
        // A share of 0 asks for none.
        let has_share = has_outliers || settings.recipe.outlier_share == 0.0;
        let of_outliers = "--outliers, and this training has none";
        let owners = [
            ("variant", is_cac, "--loss cac"),
            ("magnitude", is_cac, "--loss cac"),
            ("weight", is_cac, "--loss cac"),
            ("outlier-share", has_share, of_outliers),
            ("outlier-weight", has_outliers, of_outliers),
            ("anchor-images", settings.anchors == AnchorKind::ClassMeans, "--anchors class-means"),
            ("no-mirror", settings.recipe.augment != Augment::None, "--augment, and this training has none"),
        ];
        match owners
            .iter()
            .find(|(name, is_used, _)| !is_used && self.typed.iter().any(|typed| typed == name))
        {
            Some((name, _, owner)) => bail!("--{name} requires {owner}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Given {
    /// As TOML that `--config` reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table.fmt(f)
    }
}

/// What a training begins with.
struct Start {
    architecture: Architecture,
    /// The input of the weights, or the usual one of the network.
    input: Input,
    backbone: Option<Backbone>,
}

impl Start {
    /// Whether there are weights trained on photographs.
    fn is_of_photographs(&self) -> bool {
        self.backbone.is_some() && self.input.height >= PHOTOGRAPHS
    }
}

impl Settings {
    fn resolve(&self) -> anyhow::Result<TrainSettings> {
        let is_tutorial = self.known.is_none();
        let known = KnownData {
            held_out_test: self.held_out_test,
            protocol: self.protocol,
            ..KnownData::new(self.known.clone().unwrap_or(TUTORIAL_KNOWN.into()))
        }
        .with_unknown_classes(&self.unknown_class);
        let unknown = match &self.unknown[..] {
            [] if is_tutorial => vec![tutorial_unknown()],
            given => given.to_vec(),
        };
        let data = DataFolder::new(self.data.as_deref());
        let loss = self.loss()?;
        // Before weights are downloaded, which takes long.
        check_device(self.device)?;
        let is_local = |path: &Path| PublishedSet::meant_by(path).is_none();
        let folders = unknown.iter().filter_map(UnknownSource::path);
        for folder in folders.chain(self.outliers.as_ref().and_then(Outliers::folder)) {
            if is_local(folder) && !exists(folder) {
                // A name may be that of a published set, misspelt.
                dataset(folder, &data, &[Role::Unknown(Split::Test)])?;
                std::fs::metadata(folder).with_context(|| format!("cannot read `{}`", shown(folder)))?;
            }
        }
        let is_published = !is_local(&known.path);
        let images = if is_published { None } else { Some(count_images(&known, &data)?) };
        let start = self.start(is_tutorial)?;
        let usual = match (self.freeze, Recipe::of_network(&start.architecture)) {
            (Some(true), _) => Recipe::of_last_layer(),
            (_, Some(own)) => own,
            _ if !start.is_of_photographs() => Recipe::default(),
            (Some(false), _) => Recipe::fine_tuning(),
            (None, _) if self.needs_all_layers(&loss) => Recipe::fine_tuning(),
            (None, _) => choose_recipe(images.map_or_else(|| count_images(&known, &data), Ok)?),
        };
        let freeze = usual.freeze;
        let recipe = self.recipe(usual, &loss);
        let Start { architecture, input, backbone } = start;
        Ok(TrainSettings {
            known,
            data,
            unknown,
            backbone,
            architecture: if freeze { self.without_dropout(architecture)? } else { architecture },
            input: self.input.applied_to(input),
            loss,
            anchors: self.anchors.unwrap_or(loss.anchor_kind(recipe.has_outliers())),
            recipe,
            device: self.device,
            test_every: self.test_every.unwrap_or(test_every(freeze)),
            memory: self.memory.saturating_mul(1 << 20),
            skip_broken: self.skip_broken.unwrap_or(false),
        })
    }

    /// The network, its usual input, and the starting weights, which are downloaded if they have a name, and
    /// fit the network.
    fn start(&self, is_tutorial: bool) -> anyhow::Result<Start> {
        // Any other network would not fit its weights.
        let is_usual =
            self.network.arch.is_none() && self.network.settings.keys().all(|name| name == "dropout");
        let default = (is_tutorial && is_usual).then(|| PathBuf::from(BACKBONE));
        let Some(name) = self.backbone.as_ref().or(default.as_ref()) else {
            let architecture = self.network.resolve(None)?;
            return Ok(Start { input: architecture.default_input(), architecture, backbone: None });
        };
        let StartingWeights { weights, input } = StartingWeights::read(name)?;
        let architecture = self.network.resolve(Some(weights.recognize()?.architecture))?;
        let input = input.unwrap_or(architecture.default_input());
        weights.network()?.check_backbone_of(&architecture, &self.input.applied_to(input))?;
        let (name, file) = (name.to_string_lossy().into_owned(), weights.path().to_owned());
        Ok(Start { input, architecture, backbone: Some(Backbone { name, file }) })
    }

    /// The recipe with the given settings.
    fn recipe(&self, usual: Recipe, loss: &Loss) -> Recipe {
        let backbone_rate = self.backbone_rate.unwrap_or(usual.backbone_rate);
        let optimizer = match (self.optimizer, usual.optimizer) {
            // Muon is useless if no convolution is trained.
            (None, Optimizer::Muon) if backbone_rate == 0.0 => Optimizer::Sgd,
            (given, usual_one) => given.unwrap_or(usual_one),
        };
        let learning_rate = rate_share(&usual, optimizer) * optimizer.learning_rate(loss.variant);
        let mut recipe = Recipe {
            epochs: self.epochs.unwrap_or(usual.epochs),
            batch_size: self.batch_size.unwrap_or(usual.batch_size),
            optimizer,
            learning_rate: self.learning_rate.unwrap_or(learning_rate),
            freeze: usual.freeze,
            backbone_rate,
            batch_norm: self.batch_norm.unwrap_or(usual.batch_norm),
            schedule: self.schedule.unwrap_or(usual.schedule),
            warm_up: self.warm_up.unwrap_or(usual.warm_up),
            weight_decay: self.weight_decay.unwrap_or(usual.weight_decay),
            augment: self.augment.unwrap_or(usual.augment),
            mirror: !self.no_mirror.unwrap_or_else(|| self.is_of_digits()),
            degrade: self.degrade.unwrap_or(usual.degrade),
            pixmix: self.pixmix.unwrap_or(usual.pixmix),
            trim: self.trim.unwrap_or(usual.trim),
            ema: self.ema.unwrap_or(usual.ema),
            outliers: usual.outliers,
            outlier_share: self.outlier_share.unwrap_or(usual.outlier_share),
            outlier_weight: self.outlier_weight.unwrap_or(usual.outlier_weight),
            held_out: self.held_out.unwrap_or(usual.held_out),
            anchor_images: self.anchor_images.unwrap_or(usual.anchor_images),
            seed: self.seed,
            precision: match self.precision {
                Precision::Auto if backbone_rate == 0.0 => TrainingPrecision::F32,
                Precision::Auto => TrainingPrecision::fastest_on(self.device),
                Precision::F32 => TrainingPrecision::F32,
                Precision::Bf16 => TrainingPrecision::Bf16,
            },
        };
        // Cross-entropy needs no outliers, and a small step has no room for one; if a share is given, that is
        // an error.
        let is_share_given = self.outlier_share.is_some_and(|share| share != 0.0);
        let is_without = self.loss == Objective::CrossEntropy
            || (recipe.outliers_per_step(recipe.batch_size) == 0 && !is_share_given);
        let default = if is_without { Outliers::None } else { recipe.outliers };
        recipe.outliers = self.outliers.clone().unwrap_or(default);
        recipe
    }

    /// Whether the known images are a published data set of digits.
    fn is_of_digits(&self) -> bool {
        self.known.as_deref().and_then(PublishedSet::meant_by).is_some_and(PublishedSet::is_of_digits)
    }

    /// A network without default dropout, which some have in layers that are not trained.
    fn without_dropout(&self, network: Architecture) -> anyhow::Result<Architecture> {
        let drops = network.settings().any(|(name, share)| name == "dropout" && share > 0.0);
        let is_given = self.network.settings.contains_key("dropout");
        Ok(if drops && !is_given { network.with("dropout", 0.0)? } else { network })
    }

    /// Whether a given setting asks for more than the last layer.
    fn needs_all_layers(&self, loss: &Loss) -> bool {
        self.recipe(Recipe::of_last_layer(), loss).check().is_err()
            || self.network.settings.get("dropout").is_some_and(|share| share.value() > 0.0)
    }

    /// The loss; magnitude and weight are by default those of the variant.
    fn loss(&self) -> anyhow::Result<Loss> {
        match self.loss {
            Objective::Cac if self.variant == Variant::CrossEntropy => {
                bail!("variant = \"cross-entropy\" does not define a CAC loss; use loss = \"cross-entropy\"")
            }
            Objective::Cac => {
                let Loss { variant, magnitude, weight } = Loss::new(self.variant);
                let magnitude = self.magnitude.unwrap_or(magnitude);
                Ok(Loss { variant, magnitude, weight: self.weight.unwrap_or(weight) })
            }
            Objective::CrossEntropy => Ok(Loss::new(Variant::CrossEntropy)),
        }
    }
}

/// The number of known training images, which are listed but not decoded.
fn count_images(known: &KnownData, data: &DataFolder) -> anyhow::Result<usize> {
    let folder = dataset(&known.path, data, &[Role::Known(Split::Train), Role::Known(Split::Test)])?;
    Ok(known.at(&folder).training(&Input::default())?.len())
}

/// The recipe for a number of photographs to train on; the choice is printed.
fn choose_recipe(images: usize) -> Recipe {
    if images <= FEW_IMAGES {
        say(format_args!(
            "with only {images} images, only the last layer is trained (--freeze); --freeze=false trains all layers"
        ));
        Recipe::of_last_layer()
    } else {
        say(format_args!(
            "with {images} images, all layers are trained (--freeze=false); --freeze trains only the last layer, in a fraction of the time"
        ));
        Recipe::fine_tuning()
    }
}

impl Number {
    fn value(self) -> f64 {
        match self {
            Self::Whole(value) => value as f64,
            Self::Real(value) => value,
        }
    }
}

impl Network {
    /// The network: by default that of the backbone, if there is one.
    fn resolve(&self, backbone: Option<Architecture>) -> anyhow::Result<Architecture> {
        let family = self.arch.as_deref().or(backbone.as_ref().map(|found| found.family().name));
        let family = family.unwrap_or(FAMILIES[0].name);
        let start = match backbone {
            Some(found) if found.family().name == family => found,
            _ => Architecture::new(family, &[])?,
        };
        self.settings.iter().try_fold(start, |network, (flag, &value)| {
            let name = flag.replace('-', "_");
            if !network.family().settings.iter().any(|setting| setting.name == name) {
                let owners = owners(&name).map(|(family, _)| family.name).collect::<Vec<_>>().join(" and ");
                bail!("--{flag} is a setting of {owners}, but the network is a {family}");
            }
            Ok(network.with(&name, value.value())?)
        })
    }
}

/// The families that have a setting, with its definition.
fn owners(setting: &str) -> impl Iterator<Item = (&'static Family, &'static cac::arch::Setting)> {
    let of = move |family: &'static Family| {
        family.settings.iter().find(|other| other.name == setting).map(|setting| (family, setting))
    };
    FAMILIES.iter().filter_map(of)
}

/// The names of all settings of families, without duplicates.
fn setting_names() -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for setting in FAMILIES.iter().flat_map(|family| family.settings) {
        if !names.contains(&setting.name) {
            names.push(setting.name);
        }
    }
    names
}

impl Args for Network {
    /// A flag for the family, and one for each setting of any family.
    fn augment_args(command: Command) -> Command {
        let names: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
        let families: Vec<String> =
            FAMILIES.iter().map(|family| format!("{} ({})", family.name, family.about)).collect();
        let arch = Arg::new("arch").long("arch").value_name("NAME").value_parser(names).help(format!(
            "Network family; by default that of the backbone, else {}: {}",
            FAMILIES[0].name,
            families.join(", ")
        ));
        let settings = setting_names().into_iter().map(|name| {
            let meanings = owners(name).map(|(family, setting)| {
                let mut about = setting.about.to_owned();
                about[..1].make_ascii_lowercase();
                format!("{} (default {}): {about}", family.name, setting.default)
            });
            // No tensor tells it.
            let is_implied = name != "dropout";
            let implied = "; with a backbone, by default the value that its tensors imply";
            let help = format!(
                "{}{}",
                meanings.collect::<Vec<_>>().join("; "),
                if is_implied { implied } else { "" }
            );
            let flag = name.replace('_', "-");
            Arg::new(name).long(flag).value_name("X").value_parser(value_parser!(f64)).help(help)
        });
        command
            .group(clap::ArgGroup::new("Network").multiple(true))
            .args([arch].into_iter().chain(settings).map(|arg| arg.group("Network")))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Network {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let number = |name: &&'static str| {
            let value = *matches.get_one::<f64>(name)?;
            let is_whole = value.fract() == 0.0 && value.abs() < 1e15;
            Some((
                name.replace('_', "-"),
                if is_whole { Number::Whole(value as i64) } else { Number::Real(value) },
            ))
        };
        let settings = setting_names().iter().filter_map(number).collect();
        Ok(Self { arch: matches.get_one::<String>("arch").cloned(), settings })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "../../../tests/mutations/mutate.rs"]
mod mutate;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suggested_weights_exist() {
        assert!(cac::weights::PublishedWeights::named(OF_PHOTOGRAPHS).is_some());
    }

    #[test]
    fn errors_name_no_types_of_rust() {
        for (text, meant) in [
            ("batch-size = -1", "expected a whole number from 0 up in `batch-size`"),
            ("learning-rate = true", "expected a number in `learning-rate`"),
            ("unknown = 3", "expected an array in `unknown`"),
        ] {
            let error = parse(text, Path::new("run.toml")).unwrap_err().to_string();
            assert!(error.ends_with(meant), "{error}");
        }
    }

    #[test]
    fn the_usual_backbone_is_for_the_usual_network() {
        let table = Table::from_iter([("depth".to_owned(), toml::Value::from(28))]);
        let settings = Given { table, typed: Vec::new() }.resolve().unwrap();
        assert_eq!(
            (settings.architecture.to_string(), settings.backbone),
            ("WideResNet-28-2".to_owned(), None)
        );
    }

    #[test]
    fn damaged_settings_files_are_refused_or_resolved() {
        let all = Table::try_from(with_defaults(&Table::new()).unwrap()).unwrap().to_string();
        let corpus = [
            TUTORIAL.1,
            &all,
            "known = \"animals\"\nunknown = [\"a=b\", \"gaussian-noise\"]\nmean = [0.5, 0.4, 0.3]",
        ]
        .map(|text| text.as_bytes().to_vec());
        let folder = tempfile::tempdir().unwrap();
        for class in ["train/cat", "train/dog", "test/cat"] {
            std::fs::create_dir_all(folder.path().join(class)).unwrap();
            std::fs::write(folder.path().join(class).join("1.png"), "").unwrap();
        }
        let known = folder.path().to_str().unwrap();
        let mut accepted = 0;
        for number in 0..2_000 {
            let bytes = mutate::mutated(&corpus, 0, number);
            let Ok(mut table) = parse(&String::from_utf8_lossy(&bytes), Path::new("settings.toml")) else {
                continue;
            };
            // Weights would be downloaded.
            table.insert("known".to_owned(), known.into());
            table.remove("backbone");
            if let Ok(settings) = (Given { table, typed: Vec::new() }).resolve() {
                accepted += usize::from(settings.check().is_ok());
            }
        }
        assert!((100..1_900).contains(&accepted), "{accepted}");
    }
}

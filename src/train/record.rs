//! The training record of a model file.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::TrainSettings;
use crate::{
    data::{KnownData, PublishedSet},
    model::Training,
    run::Outliers,
    weights::PublishedWeights,
};

impl TrainSettings {
    /// The record of a run without what its images and its epochs add: its settings, and what else determines the
    /// bits of the weights: libtorch's version and number of threads. Data sets, outliers and backbones are
    /// recorded by name, by path if it stays below the current folder, else by the path's last component: a
    /// record reveals no folder of this machine or user.
    pub(super) fn record(&self) -> Training {
        let unknown = self.unknown.iter().map(|source| match source.path() {
            Some(path) => source.at(Path::new(&portable(path))),
            None => source.clone(),
        });
        let mut recipe = self.recipe.clone();
        if let Some(folder) = recipe.outliers.folder() {
            recipe.outliers = recipe.outliers.with_folder(Path::new(&portable(folder)));
        }
        let Value::Object(recipe) = json!(recipe) else { unreachable!("a recipe is an object") };
        let KnownData { path, held_out_test, protocol, unknown_classes } = &self.known;
        Training {
            known: Some(portable(path)),
            held_out_test: *held_out_test,
            protocol: *protocol,
            unknown_classes: Some(unknown_classes.clone()).filter(|classes| !classes.is_empty()),
            unknown: Some(unknown.collect()),
            backbone: self.backbone.as_ref().map(|backbone| portable(Path::new(&backbone.name))),
            device: Some(self.device.to_string()),
            threads: usize::try_from(tch::get_num_threads()).ok(),
            loader_threads: Some(rayon::current_num_threads()),
            libtorch: option_env!("CAC_LIBTORCH").map(str::to_owned),
            test_every: Some(self.test_every),
            recipe,
            ..Training::default()
        }
    }
}

/// A path as recorded in a model file: unchanged if it stays below the current folder, else its last
/// component, so that a file reveals no home folder, cache or user. A folder named like a published data
/// set, or like a kind of outliers, is recorded as `./NAME`, not to be mistaken for that.
fn portable(path: &Path) -> String {
    let is_below = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if is_below {
        return path.display().to_string();
    }
    let last = path.file_name().map_or_else(|| "data".into(), |name| name.to_string_lossy());
    let is_folder = Outliers::from(&*last).folder() == Some(Path::new(&*last));
    let means_more = PublishedSet::meant_by(Path::new(&*last)).is_some() || !is_folder;
    if means_more { format!("./{last}") } else { last.into_owned() }
}

/// What the backbone of a run was trained on, as far as known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Lineage {
    /// Whether it was trained on the run's held-out images.
    pub held_out_seen: bool,
    /// Whether it was trained on classes of the data set that are unknown in this run.
    pub unknown_seen: bool,
    /// What it was trained on, and the backbones before it.
    pub ancestors: Vec<Training>,
}

impl Lineage {
    /// The lineage of a run with this record and these unknown classes, from a backbone with that record, which
    /// has learned those classes, if they are known.
    pub fn new(
        run: &Training,
        backbone: &Training,
        has_held_out: bool,
        learned: Option<&[String]>,
        unknown: &[String],
    ) -> Self {
        let held_out_seen = has_held_out && has_seen_held_out(run, backbone);
        let unknown_seen = has_seen_unknown(run, backbone, learned, unknown);
        Self { held_out_seen, unknown_seen, ancestors: ancestors(backbone) }
    }

    /// The lineage of a run on a published data set, if that is known, from published weights.
    pub fn of_published(
        weights: &PublishedWeights,
        known: Option<&PublishedSet>,
        has_held_out: bool,
        has_unknown: bool,
    ) -> Self {
        let is_learned = known.is_some_and(|known| weights.learned.contains(&known.name));
        let record = |name: &&str| Training { known: Some((*name).to_owned()), ..Training::default() };
        let ancestors = weights.learned.iter().map(record).collect();
        let [held_out_seen, unknown_seen] = [has_held_out, has_unknown].map(|has| has && is_learned);
        Self { held_out_seen, unknown_seen, ancestors }
    }

    /// Adds it to the record of a run.
    pub fn add_to(&self, record: &mut Training) {
        record.held_out_seen = self.held_out_seen.then_some(true);
        record.unknown_seen = self.unknown_seen.then_some(true);
        record.ancestors = Some(self.ancestors.clone()).filter(|ancestors| !ancestors.is_empty());
    }
}

/// What a backbone was trained on, and the backbones before it: the [split](Training::split) of each.
fn ancestors(of_backbone: &Training) -> Vec<Training> {
    let mut all = of_backbone.ancestors.clone().unwrap_or_default();
    let split = of_backbone.split();
    if !all.contains(&split) {
        all.push(split);
    }
    all
}

/// Whether a backbone, or one of its ancestors, has learned from held-out images: it was trained on another
/// division of the same data set, or had itself seen that division's held-out images. A record without
/// ancestors, as written by 0.1 and early 0.2, does not say of which data set.
fn has_seen_held_out(record: &Training, of_backbone: &Training) -> bool {
    let own = record.split();
    let is_unclear = of_backbone.held_out_seen == Some(true) && of_backbone.ancestors.is_none();
    is_unclear || ancestors(of_backbone).iter().any(|other| other.known == own.known && *other != own)
}

/// Whether a backbone that has learned these classes, or one of its ancestors, was trained on classes that are
/// unknown in the run. A file that does not name its classes, and an ancestor, has learned those of its data set.
fn has_seen_unknown(
    record: &Training,
    of_backbone: &Training,
    learned: Option<&[String]>,
    unknown: &[String],
) -> bool {
    let Some(own) = record.known_data().filter(KnownData::has_unknown_classes) else { return false };
    let is_seen = |other: &KnownData| {
        let leaves_out = |class| other.unknown_classes.contains(class);
        other.protocol != own.protocol || !own.unknown_classes.iter().all(leaves_out)
    };
    let of_run = record.split().known;
    let has_seen =
        |split: &Training| split.known == of_run && split.known_data().is_some_and(|other| is_seen(&other));
    of_backbone.ancestors.iter().flatten().any(has_seen)
        || match learned {
            Some(learned) => unknown.iter().any(|class| learned.contains(class)),
            None => has_seen(&of_backbone.split()),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arch::FAMILIES, data::DataFolder, run::Recipe, train::Backbone};

    #[test]
    fn local_folders_are_not_revealed() {
        for (path, name) in [
            ("data/cifar-10", "data/cifar-10"),
            ("./cats", "./cats"),
            ("/home/bob/cats", "cats"),
            ("../bob/cats/", "cats"),
            ("data/../../bob/cats", "cats"),
            ("..", "data"),
            ("/", "data"),
            ("cifar10", "cifar10"),
            ("cifar10/", "cifar10/"),
            ("/home/bob/cifar10", "./cifar10"),
            ("/home/bob/scrambled", "./scrambled"),
            ("/home/bob/scrambled,cats", "./scrambled,cats"),
            ("../none", "./none"),
        ] {
            assert_eq!(portable(Path::new(path)), name, "{path}");
        }
    }

    #[test]
    fn published_weights_have_seen_the_data_set_they_were_trained_on() {
        let weights = PublishedWeights::named("cifar10-pt").unwrap();
        let of = |set: &str, has_held_out: bool| {
            let lineage = Lineage::of_published(weights, PublishedSet::named(set), has_held_out, true);
            assert_eq!(lineage.ancestors.len(), 1);
            [lineage.held_out_seen, lineage.unknown_seen]
        };
        assert_eq!(of("cifar10", true), [true, true]);
        assert_eq!(of("cifar10", false), [false, true]);
        assert_eq!(of("cifar100", true), [false, false]);
        // Also with another training run in between.
        let lineage = Lineage::of_published(weights, None, true, false);
        assert!(!lineage.unknown_seen);
        let mut dogs = Training::from(json!({ "known": "dogs", "seed": 3 }).as_object().unwrap().clone());
        lineage.add_to(&mut dogs);
        let own = json!({ "known": "cifar10", "seed": 1, "images": 49_000 });
        assert!(has_seen_held_out(&Training::from(own.as_object().unwrap().clone()), &dogs));
    }

    #[test]
    fn a_backbone_has_seen_the_unknown_classes_that_it_was_trained_on() {
        let record = |fields: Value| Training::from(fields.as_object().unwrap().clone());
        let unknown = ["cat", "dog"].map(str::to_owned);
        let own = record(json!({ "known": "pets", "unknown_classes": unknown }));
        for (backbone, is_seen) in [
            (json!({ "known": "data/pets" }), true),
            (json!({ "known": "pets", "unknown_classes": ["cat"] }), true),
            (json!({ "known": "pets", "unknown_classes": ["bird", "cat", "dog"] }), false),
            (json!({ "known": "pets", "unknown_classes": ["cat", "dog"], "protocol": "cac-2020/0" }), true),
            (json!({ "known": "photos" }), false),
            (json!({ "known": "photos", "ancestors": [{ "known": "pets" }] }), true),
        ] {
            assert_eq!(
                has_seen_unknown(&own, &record(backbone.clone()), None, &unknown),
                is_seen,
                "{backbone}"
            );
        }
        // The classes say more than the name of the data.
        let pets = record(json!({ "known": "pets" }));
        for (learned, is_seen) in [(["bird", "dog"], true), (["bird", "wolf"], false)] {
            let learned = learned.map(str::to_owned);
            assert_eq!(has_seen_unknown(&own, &pets, Some(&learned), &unknown), is_seen, "{learned:?}");
        }
        assert!(!has_seen_unknown(&pets, &pets, None, &[]));
    }

    #[test]
    fn a_backbone_from_another_split_has_seen_the_held_out_images() {
        let record = |fields: Value| Training::from(fields.as_object().unwrap().clone());
        let own = json!({ "known": "cats", "seed": 1, "held_out": 0.1, "images": 90, "epochs": 5 });
        for (name, value, is_seen) in [
            ("epochs", json!(50), false),
            ("held_out", json!(0.08), false),
            ("known", json!("dogs"), false),
            ("known", json!("data/cats"), false),
            ("seed", json!(2), true),
            ("images", json!(91), true),
            ("protocol", json!("cac-2020/0"), true),
            ("unknown_classes", json!(["lions"]), true),
            ("held_out_seen", json!(true), true),
        ] {
            let mut other = own.clone();
            other[name] = value;
            assert_eq!(has_seen_held_out(&record(own.clone()), &record(other)), is_seen, "{name}");
        }
        // Written before ancestors were recorded.
        let earlier = record(json!({ "known": "dogs", "held_out_seen": true }));
        assert!(has_seen_held_out(&record(own), &earlier));

        // Cats, then dogs, then the cats again.
        let cats = |seed: u64| json!({ "known": "cats", "seed": seed, "images": 90 });
        for (seed, is_seen) in [(1, false), (2, true)] {
            let first = ancestors(&record(cats(1)));
            let dogs =
                record(json!({ "known": "dogs", "seed": 3, "held_out_seen": true, "ancestors": first }));
            assert_eq!(ancestors(&dogs).len(), 2);
            assert_eq!(has_seen_held_out(&record(cats(seed)), &dogs), is_seen);
            // What the second run had seen of its own images does not affect others.
            assert!(!has_seen_held_out(&record(json!({ "known": "birds" })), &dogs));
        }
    }

    #[test]
    fn records_reveal_no_local_paths() {
        let settings = TrainSettings {
            known: KnownData { held_out_test: Some(0.25), ..KnownData::new("/home/bob/cats") },
            unknown: ["dogs=/home/bob/dogs", "gaussian-noise:5", "textures", "a=textures", "b=/bob/textures"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
            data: DataFolder::new(Some(Path::new("/home/bob/data"))),
            backbone: Some(Backbone { name: "/home/bob/w.pt".to_owned(), file: "/home/bob/w.pt".into() }),
            recipe: Recipe { outliers: "scrambled,/home/bob/others".into(), ..Recipe::default() },
            skip_broken: true,
            ..TrainSettings::new("animals", FAMILIES[0].default_member())
        };
        let record = settings.record();
        let text = record.to_string();
        let [data, recipe] = record.parts();
        let fields = |part: &str| part.split(", ").count();
        assert_eq!(fields(&recipe), json!(settings.recipe).as_object().unwrap().len(), "{recipe}");
        assert_eq!(fields(&data), 9, "{data}");
        assert!(!text.contains("bob"), "{text}");
        for part in [
            "known cats",
            "unknown dogs=dogs gaussian-noise:5 textures a=textures b=./textures",
            "outliers scrambled,others",
            "backbone w.pt",
            "test every 1",
            "held out test 0.25",
            "precision f32",
            &format!("threads {}", tch::get_num_threads()),
            &format!("loader threads {}", rayon::current_num_threads()),
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let libtorch = record.libtorch.unwrap();
        assert!(
            libtorch.split('.').filter(|number| number.parse::<u32>().is_ok()).count() == 3,
            "{libtorch}"
        );
    }
}

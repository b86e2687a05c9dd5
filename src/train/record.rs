//! The training record of a model file.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::TrainSettings;
use crate::{
    data::{KnownData, PublishedSet, UnknownSet},
    model::{ANCESTORS, HELD_OUT_SEEN, Training, UNKNOWN_SEEN},
    run::portable,
    weights::PublishedWeights,
};

impl TrainSettings {
    /// Records the run: its settings; the numbers of training images, of known test images if held out, and
    /// of images that cannot be read; the epoch after which the weights were taken; and what else determines
    /// the bits of the weights: libtorch's version and number of threads. Data sets, outliers and backbones
    /// are recorded by name, by path if it stays below the current folder, else by the path's last
    /// component: a record reveals no folder of this machine or user.
    pub(super) fn record(&self, images: usize, tested: usize, skipped: usize, epoch: usize) -> Training {
        let unknown = self.unknown.iter().map(|text| match UnknownSet::folder(text) {
            Some((name, folder)) => format!("{name}={}", portable(Path::new(folder))),
            None => text.clone(),
        });
        let Value::Object(mut fields) = json!(self.recipe) else { unreachable!("a recipe is an object") };
        let mut insert = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        if let Some(folder) = self.recipe.outliers.folder() {
            let outliers = self.recipe.outliers.with_folder(Path::new(&portable(folder)));
            insert("outliers", outliers.to_string().into());
        }
        insert("known", portable(&self.known.path).into());
        if let Some(share) = self.known.held_out_test {
            insert("held_out_test", share.into());
            insert("test_images", tested.into());
        }
        insert("unknown", unknown.collect());
        insert("device", json!(self.device));
        insert("threads", tch::get_num_threads().into());
        insert("loader_threads", rayon::current_num_threads().into());
        if let Some(version) = option_env!("CAC_LIBTORCH") {
            insert("libtorch", version.into());
        }
        insert("images", images.into());
        if skipped > 0 {
            insert("skipped", skipped.into());
        }
        insert("epoch", epoch.into());
        insert("test_every", self.test_every.into());
        if let Some(protocol) = self.known.protocol {
            insert("protocol", json!(protocol));
        }
        if !self.known.unknown_classes.is_empty() {
            insert("unknown_classes", json!(self.known.unknown_classes));
        }
        if let Some(backbone) = &self.backbone {
            insert("backbone", portable(Path::new(&backbone.name)).into());
        }
        Training::new(fields)
    }
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
        let record = |name: &&str| Training::new([("known".to_owned(), json!(name))].into_iter().collect());
        let ancestors = weights.learned.iter().map(record).collect();
        let [held_out_seen, unknown_seen] = [has_held_out, has_unknown].map(|has| has && is_learned);
        Self { held_out_seen, unknown_seen, ancestors }
    }

    /// Adds it to the record of a run.
    pub fn add_to(&self, record: &mut Training) {
        if self.held_out_seen {
            record.insert(HELD_OUT_SEEN, true.into());
        }
        if self.unknown_seen {
            record.insert(UNKNOWN_SEEN, true.into());
        }
        if !self.ancestors.is_empty() {
            record.insert(ANCESTORS, json!(self.ancestors));
        }
    }
}

/// What a backbone was trained on, and the backbones before it: the [split](Training::split) of each.
fn ancestors(of_backbone: &Training) -> Vec<Training> {
    let mut all: Vec<Training> = of_backbone.get(ANCESTORS).unwrap_or_default();
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
    let known = |split: &Training| split.get::<String>("known");
    let is_unclear =
        of_backbone.get(HELD_OUT_SEEN) == Some(true) && of_backbone.get::<Vec<Training>>(ANCESTORS).is_none();
    is_unclear || ancestors(of_backbone).iter().any(|other| known(other) == known(&own) && *other != own)
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
    let known = |split: &Training| split.get::<String>("known");
    let of_run = known(&record.split());
    let has_seen =
        |split: &Training| known(split) == of_run && split.known_data().is_some_and(|other| is_seen(&other));
    let before: Vec<Training> = of_backbone.get(ANCESTORS).unwrap_or_default();
    before.iter().any(has_seen)
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
        let mut dogs = Training::new(json!({ "known": "dogs", "seed": 3 }).as_object().unwrap().clone());
        lineage.add_to(&mut dogs);
        let own = json!({ "known": "cifar10", "seed": 1, "images": 49_000 });
        assert!(has_seen_held_out(&Training::new(own.as_object().unwrap().clone()), &dogs));
    }

    #[test]
    fn a_backbone_has_seen_the_unknown_classes_that_it_was_trained_on() {
        let record = |fields: Value| Training::new(fields.as_object().unwrap().clone());
        let unknown = ["cat", "dog"].map(str::to_owned);
        let own = record(json!({ "known": "pets", "unknown_classes": unknown }));
        for (backbone, is_seen) in [
            (json!({ "known": "data/pets" }), true),
            (json!({ "known": "pets", "unknown_classes": ["cat"] }), true),
            (json!({ "known": "pets", "unknown_classes": ["bird", "cat", "dog"] }), false),
            (json!({ "known": "pets", "unknown_classes": ["cat", "dog"], "protocol": "cac-2020/0" }), true),
            (json!({ "known": "photos" }), false),
            (json!({ "known": "photos", ANCESTORS: [{ "known": "pets" }] }), true),
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
        let record = |fields: Value| Training::new(fields.as_object().unwrap().clone());
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
            (HELD_OUT_SEEN, json!(true), true),
        ] {
            let mut other = own.clone();
            other[name] = value;
            assert_eq!(has_seen_held_out(&record(own.clone()), &record(other)), is_seen, "{name}");
        }
        // Written before ancestors were recorded.
        let earlier = record(json!({ "known": "dogs", HELD_OUT_SEEN: true }));
        assert!(has_seen_held_out(&record(own), &earlier));

        // Cats, then dogs, then the cats again.
        let cats = |seed: u64| json!({ "known": "cats", "seed": seed, "images": 90 });
        for (seed, is_seen) in [(1, false), (2, true)] {
            let first = ancestors(&record(cats(1)));
            let dogs = record(json!({ "known": "dogs", "seed": 3, HELD_OUT_SEEN: true, ANCESTORS: first }));
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
                .map(str::to_owned)
                .to_vec(),
            data: DataFolder::new(Some(Path::new("/home/bob/data"))),
            backbone: Some(Backbone { name: "/home/bob/w.pt".to_owned(), file: "/home/bob/w.pt".into() }),
            recipe: Recipe { outliers: "scrambled,/home/bob/others".into(), ..Recipe::default() },
            skip_broken: true,
            ..TrainSettings::new("animals", FAMILIES[0].default_member())
        };
        let record = settings.record(7, 5, 2, 3);
        let text = record.to_string();
        let [data, recipe] = record.parts();
        let fields = |part: &str| part.split(", ").count();
        assert_eq!(fields(&recipe), json!(settings.recipe).as_object().unwrap().len(), "{recipe}");
        assert_eq!(fields(&data), 13, "{data}");
        assert!(!text.contains("bob"), "{text}");
        for part in [
            "known cats",
            "unknown dogs=dogs gaussian-noise:5 textures a=textures b=./textures",
            "outliers scrambled,others",
            "backbone w.pt",
            "images 7",
            "test every 1",
            "held out test 0.25",
            "test images 5",
            "skipped 2",
            "precision f32",
            &format!("threads {}", tch::get_num_threads()),
            &format!("loader threads {}", rayon::current_num_threads()),
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(record.get::<usize>("epoch"), Some(3));
        assert_eq!(record.get::<usize>("unknown"), None);
        let libtorch = record.get::<String>("libtorch").unwrap();
        assert!(
            libtorch.split('.').filter(|number| number.parse::<u32>().is_ok()).count() == 3,
            "{libtorch}"
        );
    }
}

//! The network and the data of a run, and what is computed with both.

use std::path::Path;

use ndarray::Array2;
use tch::{Device, Kind, TchError, Tensor, nn};

use super::{Precision, Settings, Start, loss, net, net::Network, torch};
use crate::{
    cac::{self, AnchorKind, Scored},
    checkpoint::{
        ANCHORS, CHECK_IMAGES, CHECK_LOGITS, Checkpoint, HELD_OUT_LOGITS, TEST_KNOWN_LABELS,
        TEST_KNOWN_LOGITS, test_unknown_logits,
    },
    dataset::{Dataset, Protocol, UnknownSet, open_test, open_training, shuffled},
    error::Result,
    manifest::{FORMAT_VERSION, Input, Manifest, Training, producer},
    metrics::Bootstrap,
    preprocess,
    report::{self, Report},
    weights::Weights,
};

/// Pictures in a batch where nothing is learned.
const TEST_BATCH: usize = 64;
/// Pictures for the self-check of an export.
const CHECK_PICTURES: usize = 8;

/// The network with the data of a run.
pub(super) struct Run<'a> {
    settings: &'a Settings,
    pub store: nn::VarStore,
    network: Network,
    /// The anchors while training, for libtorch and for us.
    anchor_tensor: Tensor,
    fixed_anchors: Array2<f32>,
    known: Dataset,
    /// The training pictures as indices into `known`.
    pub order: Vec<usize>,
    held_out: Vec<usize>,
    known_test: Dataset,
    unknown_tests: Vec<UnknownSet>,
}

/// What a test after an epoch gave.
pub(super) struct Tested {
    anchors: Array2<f32>,
    /// The logits of the known pictures.
    known: Array2<f32>,
    /// The logits of each unknown set.
    unknown: Vec<Array2<f32>>,
    /// The logits of the held-out pictures.
    held_out: Array2<f32>,
    pub report: Report,
}

impl<'a> Run<'a> {
    /// Reads the data and makes the network; one that is resumed gets its weights later.
    pub fn new(settings: &'a Settings, device: Device, start: Start) -> Result<Self> {
        let Settings { loss, architecture, input: Input { height, width, .. }, training, precision } =
            settings;
        let protocol = training.protocol.as_deref().map(str::parse::<Protocol>).transpose()?;
        let protocol = protocol.as_ref();
        let known = open_training(&training.known, protocol, *height, *width)?.load()?;
        let classes = known.classes().to_vec();
        let (known_test, unknown_tests) =
            open_test(&training.known, &training.unknown, protocol, *height, *width)?;
        let known_test = known_test.align(&classes)?.load()?;
        let unknown_tests = unknown_tests
            .into_iter()
            .map(|set| Ok(UnknownSet { pictures: set.pictures.load()?, ..set }))
            .collect::<Result<Vec<_>>>()?;
        let held_out = (training.held_out * known.len() as f64).ceil() as usize;
        let (held_out, order) = known.draw(held_out.min(known.len() - 1), training.seed);
        let layers = architecture.layers(classes.len())?;
        tch::manual_seed(training.seed as i64);
        let store = nn::VarStore::new(device);
        let mut network = Network::new(&store, layers, &settings.input).map_err(torch)?;
        if precision.resolved(&training.device) == Precision::Bf16 {
            network.training_kind = Kind::BFloat16;
        }
        if let Some(backbone) = training.backbone.as_ref().filter(|_| start == Start::New) {
            network.load(&Weights::read(backbone)?, true)?;
        }
        let fixed_anchors = cac::fixed_anchors(classes.len(), loss.magnitude);
        let anchor_tensor = matrix(&fixed_anchors, device).map_err(torch)?;
        Ok(Self {
            settings,
            store,
            network,
            anchor_tensor,
            fixed_anchors,
            known,
            order,
            held_out,
            known_test,
            unknown_tests,
        })
    }

    /// The loss of some pictures, with the seed of all that is random in it.
    pub fn training_loss(&self, indices: &[usize], seed: u64) -> Result<Tensor> {
        let labels = self.labels(indices);
        let pictures = self.pictures(&self.known, indices)?;
        let forward = || {
            let labels = Tensor::f_from_slice(&labels)?.f_to_device(self.store.device())?;
            let logits = self.network.forward(&pictures, Some(seed))?;
            loss::loss(&self.settings.loss, &logits, &labels, &self.anchor_tensor)
        };
        forward().map_err(torch)
    }

    /// The labels of known pictures.
    fn labels(&self, indices: &[usize]) -> Vec<i64> {
        indices.iter().map(|&index| self.known.labels()[index]).collect()
    }

    /// Pictures as bytes `[N, 3, H, W]` on the device.
    fn pictures(&self, dataset: &Dataset, indices: &[usize]) -> Result<Tensor> {
        let Input { height, width, .. } = self.settings.input;
        let bytes = dataset.batch(indices)?;
        let shape = [indices.len() as i64, 3, height as i64, width as i64];
        let tensor = || Tensor::f_from_slice(&bytes)?.f_view(shape)?.f_to_device(self.store.device());
        tensor().map_err(torch)
    }

    /// The logits `[N, C]` of pictures in evaluation.
    fn logits(&self, dataset: &Dataset, indices: &[usize]) -> Result<Array2<f32>> {
        let mut logits = Vec::new();
        for batch in indices.chunks(TEST_BATCH) {
            let pictures = self.pictures(dataset, batch)?;
            let batch = tch::no_grad(|| net::floats(&self.network.forward(&pictures, None)?));
            logits.extend(batch.map_err(torch)?);
        }
        let shape = (indices.len(), self.known.classes().len());
        Ok(Array2::from_shape_vec(shape, logits).expect("one row a picture"))
    }

    /// The anchors to test with: fixed ones, or class means over training pictures drawn with the seed.
    fn anchors(&self) -> Result<Array2<f32>> {
        let Settings { loss, training, .. } = self.settings;
        if loss.variant.anchor_kind() == AnchorKind::Fixed {
            return Ok(self.fixed_anchors.clone());
        }
        let count = if training.anchor_pictures == 0 { usize::MAX } else { training.anchor_pictures };
        let drawn = shuffled(self.order.len(), training.seed).into_iter().take(count);
        let indices: Vec<usize> = drawn.map(|i| self.order[i]).collect();
        let logits = self.logits(&self.known, &indices)?;
        Ok(cac::class_means(logits.view(), &self.labels(&indices), self.fixed_anchors.view()))
    }

    /// The test after an epoch.
    pub fn test(&self) -> Result<Tested> {
        let anchors = self.anchors()?;
        let all = |dataset: &Dataset| self.logits(dataset, &(0..dataset.len()).collect::<Vec<_>>());
        let known = all(&self.known_test)?;
        let unknown = self.unknown_tests.iter().map(|set| all(&set.pictures)).collect::<Result<Vec<_>>>()?;
        let score = self.settings.loss.variant.score();
        let names = self.unknown_tests.iter().map(|set| set.name.as_str());
        let scored: Vec<(&str, Scored)> = names
            .zip(unknown.iter().map(|logits| Scored::new(logits.view(), anchors.view(), score)))
            .collect();
        let known_scored = Scored::new(known.view(), anchors.view(), score);
        let settings =
            report::Settings { bootstrap: Some(Bootstrap::default()), ..report::Settings::default() };
        let report = Report::of(&known_scored, self.known_test.labels(), &scored, &settings)?;
        let held_out = self.logits(&self.known, &self.held_out)?;
        Ok(Tested { anchors, known, unknown, held_out, report })
    }

    /// The loss on held-out pictures with the anchors of training.
    pub fn held_out_loss(&self, tested: &Tested) -> Option<f64> {
        if self.held_out.is_empty() {
            return None;
        }
        let logits = tested.held_out.mapv(f64::from);
        let anchors = self.fixed_anchors.mapv(f64::from);
        Some(self.settings.loss.value(logits.view(), &self.labels(&self.held_out), anchors.view()))
    }

    /// Copies the network's tensors into a state.
    pub fn save(&self, weights: &mut Weights) -> Result<()> {
        self.network.save(weights).map_err(torch)
    }

    /// Goes on with the network of a state.
    pub fn load(&mut self, weights: &Weights) -> Result<()> {
        self.network.load(weights, false)
    }

    /// What export needs; in the middle of an epoch anchors are computed and there is no report.
    pub fn checkpoint(&self, epoch: usize, tested: Option<&Tested>) -> Result<Checkpoint> {
        let Settings { loss, architecture, input, training, .. } = self.settings;
        let anchors = tested.map_or_else(|| self.anchors(), |tested| Ok(tested.anchors.clone()))?;
        let mut weights = Weights::new(Path::new("checkpoint"));
        self.network.save(&mut weights).map_err(torch)?;
        let mut insert = |name: &str, array: &Array2<f32>| {
            weights.insert(name, array.shape(), array.iter().copied().collect());
        };
        insert(ANCHORS, &anchors);
        if let Some(tested) = tested {
            insert(HELD_OUT_LOGITS, &tested.held_out);
            insert(TEST_KNOWN_LOGITS, &tested.known);
            for (set, logits) in self.unknown_tests.iter().zip(&tested.unknown) {
                insert(&test_unknown_logits(&set.name), logits);
            }
        } else {
            insert(HELD_OUT_LOGITS, &self.logits(&self.known, &self.held_out)?);
        }
        let check: Vec<usize> = (0..self.known_test.len().min(CHECK_PICTURES)).collect();
        insert(CHECK_LOGITS, &self.logits(&self.known_test, &check)?);
        let pixels = self.known_test.batch(&check)?.into_iter().map(preprocess::unit).collect();
        weights.insert(CHECK_IMAGES, &[check.len(), 3, input.height, input.width], pixels);
        let labels: Vec<f32> = self.known_test.labels().iter().map(|&label| label as f32).collect();
        weights.insert(TEST_KNOWN_LABELS, &[labels.len()], labels);
        let training = Training { pictures: self.order.len(), epoch, ..training.clone() };
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            producer: producer(),
            classes: self.known.classes().to_vec(),
            input: *input,
            architecture: architecture.clone(),
            loss: *loss,
            anchors: loss.variant.anchor_kind(),
            score: loss.variant.score(),
            threshold: None,
            imported: None,
            training: Some(training),
            metrics: tested.map(|tested| tested.report.clone()),
        };
        Ok(Checkpoint { manifest, weights })
    }
}

fn matrix(array: &Array2<f32>, device: Device) -> std::result::Result<Tensor, TchError> {
    let (rows, columns) = (array.nrows() as i64, array.ncols() as i64);
    let values: Vec<f32> = array.iter().copied().collect();
    Tensor::f_from_slice(&values)?.f_view([rows, columns])?.f_to_device(device)
}

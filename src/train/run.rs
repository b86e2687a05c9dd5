//! The network of a run, and what is computed with it and the run's pictures.

use std::path::Path;

use ndarray::Array2;
use tch::{Device, Kind, TchError, Tensor, nn};

use super::{
    Precision, Settings,
    data::{Batch, Data},
    loss, net,
    net::Network,
    torch,
};
use crate::{
    cac::{self, AnchorKind, Score, Scored},
    checkpoint::{
        ANCHORS, CHECK_IMAGES, CHECK_LOGITS, Checkpoint, HELD_OUT_LOGITS, TEST_KNOWN_LABELS,
        TEST_KNOWN_LOGITS, test_unknown_logits,
    },
    dataset::{Dataset, shuffled},
    error::Result,
    manifest::{Input, Manifest, Training},
    metrics::Bootstrap,
    report::{self, Report},
    weights::Weights,
};

/// Pictures in a batch where nothing is learned.
const TEST_BATCH: usize = 64;
/// Pictures for the self-check of an export.
const CHECK_PICTURES: usize = 8;
/// What the names of the average's tensors begin with in a state.
const AVERAGE: &str = "average.";

/// The network of a run with what is computed with it.
pub(super) struct Run<'a> {
    settings: &'a Settings,
    data: &'a Data<'a>,
    pub store: nn::VarStore,
    network: Network,
    /// The moving average of the network's weights and statistics, and the store that owns them.
    average: Option<(nn::VarStore, Network)>,
    /// The anchors while training, for libtorch and for us.
    anchor_tensor: Tensor,
    fixed_anchors: Array2<f32>,
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
    /// Makes the network with random weights.
    pub fn new(settings: &'a Settings, data: &'a Data<'a>, device: Device) -> Result<Self> {
        let Settings { architecture, input, training, precision, loss, .. } = settings;
        let classes = data.known.classes().len();
        let layers = architecture.layers(classes)?;
        tch::manual_seed(training.seed as i64);
        let store = nn::VarStore::new(device);
        let mut network = Network::new(&store, layers.clone(), input).map_err(torch)?;
        if *precision == Precision::Bf16 {
            network.training_kind = Kind::BFloat16;
        }
        let average = (training.recipe.average > 0.0)
            .then(|| {
                let store = nn::VarStore::new(device);
                Network::new(&store, layers, input).map(|network| (store, network))
            })
            .transpose()
            .map_err(torch)?;
        let fixed_anchors = cac::fixed_anchors(classes, loss.magnitude);
        let anchor_tensor = matrix(&fixed_anchors, device).map_err(torch)?;
        Ok(Self { settings, data, store, network, average, anchor_tensor, fixed_anchors })
    }

    /// Begins with the backbone, if there is one.
    pub fn begin(&mut self) -> Result<()> {
        if let Some(backbone) = &self.settings.training.backbone {
            self.network.load(&Weights::read(backbone)?, "", true)?;
        }
        match &mut self.average {
            Some((_, average)) => average.approach(&self.network, 1.0).map_err(torch),
            None => Ok(()),
        }
    }

    /// The loss of a batch.
    pub fn training_loss(&self, batch: &Batch) -> Result<Tensor> {
        let Settings { loss, training: Training { recipe, .. }, .. } = self.settings;
        let forward = || {
            let labels = self.on_device(Tensor::f_from_slice(&batch.labels)?)?;
            let logits = self.network.forward(&self.pictures(&batch.pixels)?, Some(batch.seed))?;
            let (known, all) = (labels.size()[0], logits.size()[0]);
            let losses = loss::losses(loss, &logits.f_narrow(0, 0, known)?, &labels, &self.anchor_tensor)?;
            let mean = loss::trimmed_mean(&losses, recipe.trimmed_of(batch.labels.len()))?;
            if all == known {
                return Ok(mean);
            }
            let outliers = logits.f_narrow(0, known, all - known)?;
            let outliers = loss::outlier_loss(loss, &outliers, &self.anchor_tensor)?;
            mean.f_add(&outliers.f_mul_scalar(recipe.outlier_weight)?)
        };
        forward().map_err(torch)
    }

    /// Follows the weights with their average after a step, counted from 0 in the run: at first fast.
    pub fn follow(&mut self, step: usize) -> Result<()> {
        let Some((_, average)) = &mut self.average else { return Ok(()) };
        let past = self.settings.training.recipe.average.min((1.0 + step as f64) / (10.0 + step as f64));
        average.approach(&self.network, 1.0 - past).map_err(torch)
    }

    /// The network that is tested and kept.
    fn kept(&self) -> &Network {
        self.average.as_ref().map_or(&self.network, |(_, average)| average)
    }

    /// Pictures given as bytes `[N, 3, H, W]`, on the device.
    fn pictures(&self, pixels: &[u8]) -> std::result::Result<Tensor, TchError> {
        let Input { height, width, .. } = self.settings.input;
        let shape = [-1, 3, height as i64, width as i64];
        self.on_device(Tensor::f_from_slice(pixels)?.f_view(shape)?)
    }

    /// Brings a tensor to the device, without waiting for what a GPU is busy with.
    fn on_device(&self, tensor: Tensor) -> std::result::Result<Tensor, TchError> {
        let device = self.store.device();
        if !device.is_cuda() {
            return Ok(tensor);
        }
        // From pageable memory the copy would wait.
        tensor.f_pin_memory(device)?.f_to_device_(device, tensor.kind(), true, false)
    }

    /// The logits `[N, C]` of pictures in evaluation.
    fn logits(&self, dataset: &Dataset, indices: &[usize]) -> Result<Array2<f32>> {
        let mut logits = Vec::new();
        for batch in indices.chunks(TEST_BATCH) {
            let pixels = dataset.batch(batch)?;
            let batch = tch::no_grad(|| net::floats(&self.kept().forward(&self.pictures(&pixels)?, None)?));
            logits.extend(batch.map_err(torch)?);
        }
        let shape = (indices.len(), self.data.known.classes().len());
        Ok(Array2::from_shape_vec(shape, logits).expect("one row a picture"))
    }

    /// The anchors to test with: fixed ones, or class means over training pictures drawn with the seed.
    fn anchors(&self) -> Result<Array2<f32>> {
        let Settings { anchors, training, .. } = self.settings;
        if *anchors == AnchorKind::Fixed {
            return Ok(self.fixed_anchors.clone());
        }
        let count = if training.anchor_pictures == 0 { usize::MAX } else { training.anchor_pictures };
        let drawn = shuffled(self.data.training.len(), training.seed).into_iter().take(count);
        let indices: Vec<usize> = drawn.map(|i| self.data.training[i]).collect();
        let logits = self.logits(&self.data.known, &indices)?;
        Ok(cac::class_means(logits.view(), &self.data.labels(&indices), self.fixed_anchors.view()))
    }

    /// The rejection score that is tested and recorded.
    fn score(&self) -> Score {
        self.settings.training.recipe.score(&self.settings.loss)
    }

    /// The test after an epoch.
    pub fn test(&self) -> Result<Tested> {
        let anchors = self.anchors()?;
        let all = |dataset: &Dataset| self.logits(dataset, &(0..dataset.len()).collect::<Vec<_>>());
        let known = all(&self.data.known_test)?;
        let unknown =
            self.data.unknown_tests.iter().map(|set| all(&set.pictures)).collect::<Result<Vec<_>>>()?;
        let score = self.score();
        let names = self.data.unknown_tests.iter().map(|set| set.name.as_str());
        let scored: Vec<(&str, Scored)> = names
            .zip(unknown.iter().map(|logits| Scored::new(logits.view(), anchors.view(), score)))
            .collect();
        let known_scored = Scored::new(known.view(), anchors.view(), score);
        let settings =
            report::Settings { bootstrap: Some(Bootstrap::default()), ..report::Settings::default() };
        let report = Report::of(&known_scored, self.data.known_test.labels(), &scored, &settings)?;
        let held_out = self.logits(&self.data.known, &self.data.held_out)?;
        Ok(Tested { anchors, known, unknown, held_out, report })
    }

    /// The loss on held-out pictures with the anchors of training.
    pub fn held_out_loss(&self, tested: &Tested) -> Option<f64> {
        if self.data.held_out.is_empty() {
            return None;
        }
        let logits = tested.held_out.mapv(f64::from);
        let anchors = self.fixed_anchors.mapv(f64::from);
        Some(self.settings.loss.value(logits.view(), &self.data.labels(&self.data.held_out), anchors.view()))
    }

    /// Copies the network's tensors into a state, and those of its average.
    pub fn save(&self, weights: &mut Weights) -> Result<()> {
        self.network.save(weights, "").map_err(torch)?;
        match &self.average {
            Some((_, average)) => average.save(weights, AVERAGE).map_err(torch),
            None => Ok(()),
        }
    }

    /// Goes on with the network of a state.
    pub fn load(&mut self, weights: &Weights) -> Result<()> {
        self.network.load(weights, "", false)?;
        match &mut self.average {
            Some((_, average)) => average.load(weights, AVERAGE, false),
            None => Ok(()),
        }
    }

    /// What export needs; in the middle of an epoch anchors are computed and there is no report.
    pub fn checkpoint(&self, epoch: usize, tested: Option<&Tested>) -> Result<Checkpoint> {
        let Settings { loss, anchors: anchor_kind, architecture, input, training, .. } = self.settings;
        let anchors = tested.map_or_else(|| self.anchors(), |tested| Ok(tested.anchors.clone()))?;
        let mut weights = Weights::new(Path::new("checkpoint"));
        self.kept().save(&mut weights, "").map_err(torch)?;
        weights.insert_matrix(ANCHORS, &anchors);
        if let Some(tested) = tested {
            weights.insert_matrix(HELD_OUT_LOGITS, &tested.held_out);
            weights.insert_matrix(TEST_KNOWN_LOGITS, &tested.known);
            for (set, logits) in self.data.unknown_tests.iter().zip(&tested.unknown) {
                weights.insert_matrix(&test_unknown_logits(&set.name), logits);
            }
        } else {
            weights.insert_matrix(HELD_OUT_LOGITS, &self.logits(&self.data.known, &self.data.held_out)?);
        }
        let check: Vec<usize> = (0..self.data.known_test.len().min(CHECK_PICTURES)).collect();
        weights.insert_matrix(CHECK_LOGITS, &self.logits(&self.data.known_test, &check)?);
        let images = self.data.known_test.images(&check)?;
        weights.insert(CHECK_IMAGES, images.shape(), images.iter().copied().collect());
        let labels: Vec<f32> = self.data.known_test.labels().iter().map(|&label| label as f32).collect();
        weights.insert(TEST_KNOWN_LABELS, &[labels.len()], labels);
        let training = Training { pictures: self.data.training.len(), epoch, ..training.clone() };
        let classes = self.data.known.classes().to_vec();
        let manifest = Manifest {
            anchors: *anchor_kind,
            score: self.score(),
            training: Some(training),
            metrics: tested.map(|tested| tested.report.clone()),
            ..Manifest::new(classes, *input, architecture.clone(), *loss)
        };
        Ok(Checkpoint { manifest, weights })
    }
}

fn matrix(array: &Array2<f32>, device: Device) -> std::result::Result<Tensor, TchError> {
    let (rows, columns) = (array.nrows() as i64, array.ncols() as i64);
    let values: Vec<f32> = array.iter().copied().collect();
    Tensor::f_from_slice(&values)?.f_view([rows, columns])?.f_to_device(device)
}

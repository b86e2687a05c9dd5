//! The check that a graph resizes images byte for byte like [`image::pixels`](crate::image::pixels).

use image::{Rgb, RgbImage};
use ndarray::Array4;

use super::self_check::{greater, within};
use crate::{
    error::{Error, Result},
    image::{self as pixels, Fit, Frame, Input},
    model::{ResizeCheck, proto::Model},
    scorer::tract::{self, Resizer, cut},
};

/// Checks that a graph can resize to an input.
///
/// # Errors
/// [`Error::Setting`] if it would enlarge images to more pixels than an image may have.
pub(super) fn check_input(input: &Input) -> Result<()> {
    match (Frame::of(input), input.resize.fit) {
        (None, Fit::Crop { share }) => {
            Err(Error::setting("crop", share, "enlarges images to more pixels than an image may have"))
        }
        _ => Ok(()),
    }
}

/// Compares the resizing of a model with [`pixels::pixels`], on tract.
///
/// # Errors
/// [`Error::SelfCheck`] if a byte differs, [`Error::Runtime`] if tract fails.
pub(super) fn check(model: &Model, input: &Input, batch: Option<usize>) -> Result<ResizeCheck> {
    let failed = |reason| Error::Runtime { runtime: tract::NAME, reason };
    let (height, width) = (input.height, input.width);
    let batch = batch.unwrap_or(1);
    let resizer = Resizer::new(&cut(model, batch, [height, width]).0, batch);
    let mut checked = ResizeCheck::default();
    let mut greatest = 0.0;
    for [height, width] in sizes_to_check(height, width) {
        let image = formula(height, width);
        let bytes = image.as_raw().repeat(batch);
        let shape = (batch, height, width, 3);
        let images = Array4::from_shape_vec(shape, bytes).expect("copies of an image");
        let resized = resizer.run(images).map_err(failed)?;
        let resized = resized.to_plain_array_view::<f32>().map_err(|error| failed(error.to_string()))?;
        let expected = pixels::pixels(&image, input).repeat(batch);
        let differences = resized.iter().zip(&expected).map(|(a, &b)| f64::from((a - f32::from(b)).abs()));
        checked.images += 1;
        for difference in differences {
            checked.values += 1;
            checked.differing += usize::from(difference != 0.0);
            greatest = greater(greatest, difference);
        }
    }
    within("resized bytes", greatest, 0.0)?;
    Ok(checked)
}

/// Heights and widths of images for an input: smaller and larger ones, in portrait and landscape, and two
/// lines.
fn sizes_to_check(height: usize, width: usize) -> [[usize; 2]; 9] {
    [
        [height, width],
        [height / 2 + 1, width / 3 + 1],
        [2 * height, 2 * width],
        [height * 4 / 3, width * 5 / 4],
        [height * 5 / 2 + 3, width + 7],
        [height + 5, width * 5 / 2 + 1],
        [height * 3 + 1, width / 2],
        [1, width * 5],
        [height * 2, 3],
    ]
}

/// An image with all byte values and sharp edges.
fn formula(height: usize, width: usize) -> RgbImage {
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        Rgb([0, 1, 2].map(|channel| (7 * x * x + 13 * y * y + 5 * x * y + 101 * channel) as u8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Difference,
        image::{Filter, Resize},
        model::{
            builder::Builder,
            proto::element,
            resize::{resize, resizes_to},
        },
    };

    /// A model that only resizes.
    fn model(input: &Input) -> Model {
        let mut graph = Builder::default();
        graph.input("images", element::UINT8, &[None, None, None, Some(3)]);
        resize(&mut graph, input);
        Model::new(graph.finish("resize"), Vec::new())
    }

    fn inputs() -> impl Iterator<Item = Input> {
        let fits = [Fit::Stretch, Fit::Crop { share: 0.875 }, Fit::Crop { share: 0.9 }, Fit::Pad];
        let resizes = fits.into_iter().flat_map(|fit| Filter::ALL.map(|filter| Resize { fit, filter }));
        let sizes = [(32, 32), (20, 33)];
        let mean = [0.485, 0.456, 0.406];
        resizes.flat_map(move |resize| {
            sizes.map(|(height, width)| Input { resize, mean, ..Input::of_size(height, width) })
        })
    }

    #[test]
    fn the_graph_resizes_to_the_same_bytes() {
        for input in inputs() {
            let found = check(&model(&input), &input, None).unwrap();
            let expected = ResizeCheck { images: 9, values: 9 * input.values(), differing: 0 };
            assert_eq!(found, expected, "{input:?}");
        }
    }

    #[test]
    fn a_changed_graph_is_detected() {
        let input = inputs().next().unwrap();
        let mut changed = model(&input);
        assert!(resizes_to(&changed, &input));
        assert!(!resizes_to(&changed, &Input { width: input.width + 1, ..input }));
        let constants = &mut changed.graph.as_mut().unwrap().initializer;
        let half = constants.iter_mut().find(|tensor| tensor.name == "cac/resize/float/0.5").unwrap();
        half.raw_data = 0.25_f32.to_le_bytes().to_vec().into();
        assert!(!resizes_to(&changed, &input));
        let error = check(&changed, &input, Some(2)).unwrap_err();
        assert!(
            matches!(error, Error::SelfCheck { what: "resized bytes", difference: Difference::Value(2.0) }),
            "{error}"
        );
    }
}

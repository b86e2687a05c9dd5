//! The data that a model was trained on, as far as it is still there.

use std::path::{Path, PathBuf};

use cac::{
    data::{DataFolder, Dataset, KnownData, Role, Split, exists},
    image::Input,
    model::Training,
    text::shown,
};

use super::is_same_place;

/// The known images of a training.
pub enum Recorded {
    /// They cannot be read, for the reason in words.
    Lost(String),
    /// They are there.
    Found(Box<Found>),
    /// Their folder has changed, and perhaps which of its images are for tests: any may have been one to train on.
    Changed(Dataset),
}

/// Images of a training that are there.
pub struct Found {
    pub training: Dataset,
    /// `None` if there are no test images beside them.
    pub test: Option<Dataset>,
    /// Their folder, or their file.
    pub place: PathBuf,
}

/// Looks for the images of a training where the record says and, if they are not there, in another place. They are
/// recognised by their names, which earlier versions did not record.
pub fn recorded(
    record: &Training,
    trained: &KnownData,
    input: &Input,
    data: &DataFolder,
    other: &Path,
) -> Recorded {
    let place = data.resolve(&trained.path, &[Role::Known(Split::Train)]).ok().filter(|place| exists(place));
    let names = record.train_names.as_ref();
    let is_same = |found: &Found| names.is_none_or(|names| *names == found.training.names_checksum());
    let at_record = place.as_deref().map(|place| open(trained, input, place));
    let changed = match at_record {
        Some(Ok(found)) if is_same(&found) => return Recorded::Found(Box::new(found)),
        changed => changed,
    };
    let is_elsewhere = place.as_ref().is_none_or(|place| !is_same_place(place, other));
    if is_elsewhere
        && names.is_some()
        && let Ok(found) = open(trained, input, other)
        && is_same(&found)
    {
        return Recorded::Found(Box::new(found));
    }
    let lost = |why: &str| Recorded::Lost(format!("its training images, `{}`, {why}", shown(&trained.path)));
    match changed {
        None => lost("were not found"),
        Some(changed) => changed
            .and_then(|found| Dataset::unknown(&found.place, Split::Train, input))
            .map_or_else(|error| lost(&format!("cannot be read: {error}")), Recorded::Changed),
    }
}

/// Opens the training and the test images at a place.
fn open(trained: &KnownData, input: &Input, place: &Path) -> cac::Result<Found> {
    let at = trained.at(place);
    let (training, test) = match trained.held_out_test {
        Some(_) => at.both(&[], input).map(|(training, test)| (training, Some(test.known)))?,
        None => {
            let test = match at.test(&[], input) {
                Ok(test) => Some(test.known),
                // They may be elsewhere.
                Err(error) if error.is_of_missing_images() => None,
                Err(error) => return Err(error),
            };
            (at.training(input)?, test)
        }
    };
    Ok(Found { training, test, place: place.to_owned() })
}

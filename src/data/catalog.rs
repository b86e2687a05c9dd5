//! Published data sets by name, and where they are on this machine.

mod table;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use self::table::SETS;
#[cfg(feature = "train")]
use super::{KnownData, cifar, tiny_imagenet};
use super::{
    Split, UnknownSource,
    folder::{images_below, is_hidden},
};
use crate::{
    error::{Error, Result},
    files::cache,
    image::has_extension,
};

/// The environment variable with the folder of the data sets.
const FOLDER: &str = "CAC_DATA";

/// A published data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedSet {
    /// Its name.
    pub name: &'static str,
    /// What it holds, in a few words.
    pub about: &'static str,
    /// The numbers of training and test images. Unknown images are the test images.
    pub images: [usize; 2],
    /// The licence, or what the authors ask for.
    pub terms: &'static str,
    /// What to know about its use; may be empty.
    pub note: &'static str,
    /// The names of its parts, one of which a user names as `NAME:PART`; empty for a set used as a whole.
    pub parts: &'static [&'static str],
    /// The files to download.
    pub downloads: &'static [Download],
    /// Where its images are, below the folder of the data sets or below its own folder there: the first
    /// layout is that of the downloads.
    pub(super) layouts: &'static [PublishedLayout],
}

/// A file of a published data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Download {
    /// Its URLs, tried in order.
    pub urls: &'static [&'static str],
    /// Its name on a mirror and in the folder of the data set.
    pub file: &'static str,
    /// Its length in bytes, if it is published.
    pub bytes: Option<u64>,
    /// Its MD5 in hexadecimal, as published.
    pub md5: &'static str,
    /// Its SHA-256 in hexadecimal, if it is published. Otherwise it is recorded when the file is first seen.
    pub sha256: Option<&'static str>,
    /// What is unpacked from it, below the folder of the data set; the file itself if it is not an archive.
    pub holds: &'static str,
    /// The split that it is needed for; `None` for both.
    pub split: Option<Split>,
}

/// Where the images of a data set are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PublishedLayout {
    /// The relative path of the folder of known images.
    pub folder: &'static str,
    /// The folders of unknown training and test images, below it.
    unknown: [&'static str; 2],
    /// The files that a whole copy must have; none for a folder of images.
    pub parts: &'static [PublishedFile],
}

/// A file of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PublishedFile {
    pub file: &'static str,
    /// The split that it is needed for; `None` for both.
    pub split: Option<Split>,
    /// Its MD5, if that is published.
    pub md5: Option<&'static str>,
}

/// What a data set is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// As known classes.
    Known(Split),
    /// As unknown images.
    Unknown(Split),
}

impl Role {
    fn split(self) -> Split {
        match self {
            Self::Known(split) | Self::Unknown(split) => split,
        }
    }
}

impl PublishedSet {
    /// The data set with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        SETS.iter().find(|set| set.name == name)
    }

    /// Whether its classes are digits, whose mirror images belong to no class.
    #[must_use]
    pub fn is_of_digits(&self) -> bool {
        ["mnist", "svhn"].contains(&self.name)
    }

    /// The data set that a user's text names (it may also be a folder): `NAME`, or `NAME:PART` of a set with
    /// parts. Only the exact name means the data set, whether or not there is a folder of that name; `./NAME`
    /// and `NAME/` mean the folder.
    #[must_use]
    pub fn meant_by(text: &Path) -> Option<&'static Self> {
        let text = text.to_str()?;
        match text.split_once(':') {
            Some((name, _)) => Self::named(name).filter(|set| !set.parts.is_empty()),
            None => Self::named(text),
        }
    }

    /// The data set of known images: the one that is named, CIFAR's if the classes are its own, or some of them
    /// where others are unknown, or Tiny ImageNet's if the folder is one.
    #[cfg(feature = "train")]
    pub(crate) fn of_known(data: &KnownData, classes: &[String]) -> Option<&'static Self> {
        let (text, unknown) = (&*data.path, &data.unknown_classes);
        let are_of = |all: &[&str]| {
            classes.iter().chain(unknown).all(|class| all.contains(&&**class))
                && (data.protocol.is_some() || classes.len() + unknown.len() == all.len())
        };
        Self::meant_by(text).or_else(|| {
            if are_of(&cifar::CLASSES) {
                Self::named("cifar10")
            } else if are_of(&cifar::FINE_CLASSES) {
                Self::named("cifar100")
            } else if tiny_imagenet::LAYOUT.is_in(text) {
                Self::named("tiny-imagenet")
            } else {
                None
            }
        })
    }

    /// The file of the part that a user names, followed by the strength in the array reader's syntax; `None`
    /// for a set used as a whole.
    fn part_meant_by(&self, text: &Path) -> Result<Option<String>> {
        if self.parts.is_empty() {
            return Ok(None);
        }
        let text = text.to_str().unwrap_or_default();
        let mut words = text.split(':').skip(1);
        match (words.next(), words.next(), words.next()) {
            (Some(part), None, None) if self.parts.contains(&part) => Ok(Some(format!("{part}.npy"))),
            (Some(part), Some(strength @ ("1" | "2" | "3" | "4" | "5")), None)
                if self.parts.contains(&part) =>
            {
                Ok(Some(format!("{part}.npy:{strength}")))
            }
            _ => {
                let (name, parts) = (self.name, self.parts.join(", "));
                let reason = format!(
                    "must be {name}:PART or {name}:PART:STRENGTH, with STRENGTH 1 to 5 and PART {parts}"
                );
                Err(Error::setting("data set", format!("`{text}`"), reason))
            }
        }
    }

    /// The length of all downloads in bytes, if all are published.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.downloads.iter().map(|download| download.bytes).sum()
    }

    /// The names of all data sets.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SETS.iter().map(|set| set.name)
    }

    /// Whether a download is needed for a split.
    #[cfg(feature = "files")]
    pub(super) fn needs(download: &Download, role: Role) -> bool {
        download.split.is_none_or(|split| split == role.split())
    }
}

impl PublishedLayout {
    /// Whether everything that a role needs exists below a folder.
    pub fn is_whole(&self, base: &Path, role: Role) -> bool {
        let folder = joined(base, self.folder);
        let needed = |part: &&PublishedFile| part.split.is_none_or(|split| split == role.split());
        if self.parts.is_empty() {
            has_content(&folder)
        } else {
            self.parts.iter().filter(needed).all(|part| folder.join(part.file).is_file())
        }
    }

    /// The folder of a role's images, below a folder.
    pub fn of_role(&self, base: &Path, role: Role) -> PathBuf {
        let folder = joined(base, self.folder);
        match role {
            Role::Known(_) => folder,
            Role::Unknown(Split::Train) => joined(&folder, self.unknown[0]),
            Role::Unknown(Split::Test) => joined(&folder, self.unknown[1]),
        }
    }
}

/// Where a data set may be: each layout below its own folder, and then below the folder of all data sets.
fn places(set: &PublishedSet, folder: &Path) -> Vec<(PathBuf, &'static PublishedLayout)> {
    let own = folder.join(set.name);
    let below = |base: &Path| set.layouts.iter().map(|layout| (base.to_owned(), layout)).collect::<Vec<_>>();
    let mut places = [below(&own), below(folder)].concat();
    // If the set's own folder is named like a layout and contains that layout, too (`NAME/NAME`), the inner
    // folder is the layout.
    places.retain(|(base, layout)| {
        *base == own || base.join(layout.folder) != own || !own.join(layout.folder).exists()
    });
    places
}

/// The first copy of a data set that is whole for all of these roles, in its own folder or elsewhere. Without
/// parts, a copy outside the set's own folder is recognised by its number of images: other data may have
/// the same names.
pub(super) fn whole_copy(
    set: &PublishedSet,
    folder: &Path,
    roles: &[Role],
) -> Option<(PathBuf, &'static PublishedLayout)> {
    let own = folder.join(set.name);
    let is_copy = |(base, layout): &(PathBuf, &PublishedLayout)| {
        let is_sure = *base == own || !layout.parts.is_empty();
        roles.iter().all(|&role| layout.is_whole(base, role))
            && (is_sure || count(&joined(base, layout.folder)) == set.images[1])
    };
    places(set, folder).into_iter().find(is_copy)
}

/// The number of images in a folder and below it.
pub(super) fn count(folder: &Path) -> usize {
    images_below(folder).map_or(0, |listing| listing.files.len())
}

/// `folder` itself for an empty path, without a separator at its end.
pub(super) fn joined(folder: &Path, path: &str) -> PathBuf {
    if path.is_empty() { folder.to_owned() } else { folder.join(path) }
}

/// Whether a folder contains a folder or an image. Hidden ones do not count.
fn has_content(folder: &Path) -> bool {
    let counts = |path: PathBuf| !is_hidden(&path) && (has_extension(&path) || path.is_dir());
    fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(|entry| counts(entry.path())))
}

/// The folder of the published data sets: the given one, or by default that in the environment variable
/// `CAC_DATA`, or else `$XDG_CACHE_HOME/cac-toolkit/data`, or else `.cache/cac-toolkit/data` in the home
/// folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DataFolder(Option<PathBuf>);

impl DataFolder {
    /// The folder, or the default one.
    #[must_use]
    pub fn new(folder: Option<&Path>) -> Self {
        Self(folder.map(Path::to_owned))
    }

    /// The folder that was given.
    #[cfg(feature = "train")]
    pub(crate) fn given(&self) -> Option<&Path> {
        self.0.as_deref()
    }

    /// The path.
    ///
    /// # Errors
    /// [`Error::Setting`] if no folder is given and the environment names none.
    pub fn path(&self) -> Result<PathBuf> {
        let of_environment =
            || std::env::var_os(FOLDER).filter(|folder| !folder.is_empty()).map(PathBuf::from);
        match self.0.clone().or_else(of_environment) {
            Some(folder) => Ok(folder),
            None => Ok(cache::folder()?.join("data")),
        }
    }

    /// The folder or file of a data set's images, if it is there: as downloaded, in `NAME`, or else as
    /// torchvision and the authors' archives lay it out, in `NAME` or in the folder itself. One copy must
    /// have what all roles need; the path is that of the first role. Nothing is downloaded.
    ///
    /// # Errors
    /// Those of [`path`](Self::path).
    ///
    /// # Panics
    /// If there is no role.
    pub fn find(&self, set: &PublishedSet, roles: &[Role]) -> Result<Option<PathBuf>> {
        let folder = self.path()?;
        let Some((base, layout)) = whole_copy(set, &folder, roles) else { return Ok(None) };
        let role = roles[0];
        // In the folder of all data sets, the file itself shows which is meant. Training needs both files.
        let file = layout.parts.iter().find(|part| part.split == Some(role.split()));
        let is_meant = layout.folder.is_empty() && base == folder && role != Role::Known(Split::Train);
        let file = file.filter(|_| is_meant);
        Ok(Some(file.map_or_else(|| layout.of_role(&base, role), |part| base.join(part.file))))
    }

    /// What [`find`](Self::find) finds.
    ///
    /// # Errors
    /// [`Error::NotFetched`] if the data set is not there, and those of [`path`](Self::path).
    pub fn require(&self, set: &PublishedSet, roles: &[Role]) -> Result<PathBuf> {
        let downloads = set.downloads.iter().map(|download| (download.urls[0], download.bytes));
        self.find(set, roles)?.ok_or(Error::NotFetched {
            name: set.name,
            folder: self.path()?,
            downloads: downloads.collect(),
        })
    }

    /// The path that a user's text means, which is a folder or the name of a published data set; see
    /// [`PublishedSet::meant_by`]. Nothing is downloaded.
    ///
    /// # Errors
    /// [`Error::NotFetched`] if the data set is not there; [`Error::Setting`] if the set is used in parts and
    /// the text names none; those of [`path`](Self::path).
    pub fn resolve(&self, text: &Path, roles: &[Role]) -> Result<PathBuf> {
        let Some(set) = PublishedSet::meant_by(text) else { return Ok(text.to_owned()) };
        let part = set.part_meant_by(text)?;
        let folder = self.require(set, roles)?;
        Ok(part.map_or_else(|| folder.clone(), |part| folder.join(part)))
    }

    /// The same unknown sets with the [folders](Self::resolve) of the published ones among them. Nothing is
    /// downloaded.
    ///
    /// # Errors
    /// Those of [`resolve`](Self::resolve).
    pub fn resolve_unknown(&self, sources: &[UnknownSource]) -> Result<Vec<UnknownSource>> {
        let resolve = |source: &UnknownSource| match source.path() {
            Some(path) => Ok(source.at(&self.resolve(path, &[Role::Unknown(Split::Test)])?)),
            None => Ok(source.clone()),
        };
        sources.iter().map(resolve).collect()
    }
}

#[cfg(test)]
impl PublishedLayout {
    /// The layout of the download tests.
    pub const TINY: Self = table::layout("tiny", &[]);

    pub const fn of(folder: &'static str, parts: &'static [PublishedFile]) -> Self {
        table::layout(folder, parts)
    }
}

#[cfg(test)]
impl PublishedFile {
    pub const fn of(file: &'static str, split: Option<Split>) -> Self {
        table::part(file, split)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const ROLES: [Role; 4] = [
        Role::Known(Split::Train),
        Role::Known(Split::Test),
        Role::Unknown(Split::Train),
        Role::Unknown(Split::Test),
    ];

    #[test]
    fn the_table_is_consistent() {
        let names: HashSet<&str> = PublishedSet::names().collect();
        assert_eq!(names.len(), SETS.len());
        let is_hexadecimal = |sum: &str, digits| {
            sum.len() == digits && sum.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
        };
        let of_digits = SETS.iter().filter(|set| set.is_of_digits()).map(|set| set.name);
        assert_eq!(of_digits.collect::<Vec<_>>(), ["svhn", "mnist"]);
        let mut sums = HashSet::new();
        for set in &SETS {
            assert!(set.images[1] > 0 && !set.about.is_empty() && !set.terms.is_empty(), "{}", set.name);
            for download in set.downloads {
                assert!(is_hexadecimal(download.md5, 32) && sums.insert(download.md5), "{download:?}");
                assert!(download.sha256.is_none_or(|sum| is_hexadecimal(sum, 64)), "{download:?}");
                for url in download.urls {
                    let (path, _) = url.split_once('?').unwrap_or((url, ""));
                    assert!(
                        url.starts_with("http") && path.ends_with(&format!("/{}", download.file)),
                        "{url}"
                    );
                }
                assert!(
                    set.layouts[0].folder.starts_with(download.holds)
                        || download.holds.starts_with(set.layouts[0].folder),
                    "{download:?}"
                );
            }
        }
    }

    #[test]
    fn only_the_bare_name_means_a_data_set() {
        let meant = |text: &str| PublishedSet::meant_by(Path::new(text)).map(|set| set.name);
        assert_eq!([meant("cifar10"), meant("lsun-crop")], [Some("cifar10"), Some("lsun-crop")]);
        for text in ["./cifar10", "cifar10/", "data/cifar10", "/cifar10", "CIFAR10", "cifar-10", ""] {
            assert_eq!(meant(text), None, "{text}");
        }
        let data = DataFolder::new(Some(Path::new("/no/such")));
        for role in ROLES {
            assert_eq!(data.resolve(Path::new("./cifar10"), &[role]).unwrap(), Path::new("./cifar10"));
        }
    }

    #[cfg(feature = "train")]
    #[test]
    fn known_cifar_images_are_recognised_in_a_folder_too() {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let name = |data: KnownData, classes: &[&str]| {
            PublishedSet::of_known(&data, &owned(classes)).map(|set| set.name)
        };
        let of = |text: &str, classes: &[&str]| name(KnownData::new(text), classes);
        assert_eq!(of("svhn", &["0", "1"]), Some("svhn"));
        assert_eq!(of("data/cifar-10-batches-bin", &cifar::CLASSES), Some("cifar10"));
        assert_eq!(of("data/cifar-100-binary", &cifar::FINE_CLASSES), Some("cifar100"));
        assert_eq!(of("photos", &["cat", "dog"]), None);
        let by_protocol = KnownData { protocol: "cac-2020/0".parse().ok(), ..KnownData::new("data") };
        assert_eq!(name(by_protocol, &["cat", "dog"]), Some("cifar10"));
        let without = |classes: &[&str]| KnownData::new("data").with_unknown_classes(&owned(classes));
        assert_eq!(name(without(&cifar::CLASSES[..4]), &cifar::CLASSES[4..]), Some("cifar10"));
        assert_eq!(name(without(&["truck"]), &["cat", "dog"]), None);
    }

    /// Creates everything that a layout needs in a folder.
    fn make(base: &Path, layout: &PublishedLayout) {
        let folder = joined(base, layout.folder);
        let image = PublishedFile::of("a/1.png", None);
        let parts = if layout.parts.is_empty() { &[image] } else { layout.parts };
        for part in parts {
            let path = folder.join(part.file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    #[test]
    fn copies_in_every_layout_are_found() {
        for set in &SETS {
            // Copies without parts are found elsewhere if they have all images.
            let places = set.layouts.iter().flat_map(|layout| [(layout, true), (layout, false)]);
            for (layout, is_own) in places.filter(|(layout, is_own)| *is_own || !layout.parts.is_empty()) {
                let folder = tempfile::tempdir().unwrap();
                let data = DataFolder::new(Some(folder.path()));
                let base = if is_own { folder.path().join(set.name) } else { folder.path().to_owned() };
                let find = |role| data.find(set, &[role]).unwrap();
                assert_eq!(ROLES.map(find), [const { None }; 4]);
                let error = data.require(set, &[ROLES[1]]).unwrap_err();
                assert!(matches!(&error, Error::NotFetched { name, .. } if *name == set.name), "{error}");
                make(&base, layout);
                // All other sets are absent.
                for other in SETS.iter().filter(|other| other.name != set.name) {
                    assert_eq!(data.find(other, &[ROLES[3]]).unwrap(), None, "{} in {layout:?}", other.name);
                }
                let place = joined(&base, layout.folder);
                for role in ROLES {
                    let found = find(role).unwrap();
                    assert!(found.starts_with(&place), "{found:?}");
                    assert_eq!(data.require(set, &[role]).unwrap(), found);
                    if set.parts.is_empty() {
                        assert_eq!(data.resolve(Path::new(set.name), &[role]).unwrap(), found);
                    }
                    if matches!(role, Role::Known(_)) && (is_own || !layout.folder.is_empty()) {
                        assert_eq!(found, place);
                    }
                }
                // Without one of its files, a copy is incomplete.
                for part in layout.parts {
                    let path = place.join(part.file);
                    fs::remove_file(&path).unwrap();
                    let is_found = |role: &Role| find(*role).is_some();
                    let needed = |role: &Role| part.split.is_none_or(|split| split == role.split());
                    assert!(ROLES.iter().all(|role| is_found(role) != needed(role)), "{part:?}");
                    fs::write(path, "").unwrap();
                }
            }
        }
    }

    #[test]
    fn folders_of_unknown_images_exclude_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::new(Some(folder.path()));
        for name in ["textures", "tiny-imagenet", "svhn"] {
            make(folder.path(), &PublishedSet::named(name).unwrap().layouts[0]);
        }
        let at = |name: &str, role| {
            let found = data.find(PublishedSet::named(name).unwrap(), &[role]).unwrap().unwrap();
            found.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(ROLES.map(|role| at("textures", role)), ["dtd", "dtd", "dtd/images", "dtd/images"]);
        let tiny = "tiny-imagenet-200";
        let expected = [tiny, tiny, "tiny-imagenet-200/train", "tiny-imagenet-200/val/images"];
        assert_eq!(ROLES.map(|role| at("tiny-imagenet", role)), expected);
        // Among other data sets, the file shows which is meant.
        let (train, test) = ("train_32x32.mat", "test_32x32.mat");
        assert_eq!(ROLES.map(|role| at("svhn", role)), ["", test, train, test]);
    }

    #[test]
    fn unknown_sets_become_named_folders() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::new(Some(folder.path()));
        let sources = |texts: &[&str]| -> Vec<UnknownSource> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let resolve = |texts: &[&str]| data.resolve_unknown(&sources(texts));
        let others = ["gaussian-noise:5", "a=b", "a=./textures", "a=texture", "a=textures/"];
        assert_eq!(resolve(&others).unwrap(), sources(&others));
        for text in ["textures", "a=textures"] {
            assert!(matches!(resolve(&[text]), Err(Error::NotFetched { name: "textures", .. })), "{text}");
        }
        make(folder.path(), &PublishedSet::named("textures").unwrap().layouts[0]);
        let images = folder.path().join("dtd/images");
        let expected = ["textures", "a"]
            .map(|name| UnknownSource::Images { name: name.to_owned(), path: images.clone() });
        assert_eq!(resolve(&["textures", "a=textures"]).unwrap(), expected);
    }

    #[test]
    fn sets_with_parts_are_resolved_by_part() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::new(Some(folder.path()));
        make(folder.path(), &PublishedSet::named("cifar10-c").unwrap().layouts[0]);
        let resolve = |text: &str| data.resolve(Path::new(text), &[ROLES[1]]);
        for (text, file) in [("cifar10-c:fog", "fog.npy"), ("cifar10-c:zoom_blur:5", "zoom_blur.npy:5")] {
            assert_eq!(resolve(text).unwrap(), folder.path().join("CIFAR-10-C").join(file));
        }
        for text in ["cifar10-c", "cifar10-c:", "cifar10-c:mist", "cifar10-c:fog:6", "cifar10-c:fog:5:5"] {
            let error = resolve(text).unwrap_err();
            assert!(matches!(&error, Error::Setting { name: "data set", .. }), "{text}: {error}");
        }
        // The others have no parts.
        assert_eq!(resolve("cifar10:fog").unwrap(), Path::new("cifar10:fog"));
    }

    #[test]
    fn a_set_that_is_being_fetched_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("imagenet-o");
        fs::create_dir_all(own.join(".unfinished-abcdef/imagenet-o/n01443537")).unwrap();
        fs::write(own.join("imagenet-o.tar.part"), "").unwrap();
        let data = DataFolder::new(Some(folder.path()));
        let set = PublishedSet::named("imagenet-o").unwrap();
        assert_eq!(data.find(set, &[ROLES[3]]).unwrap(), None);
        fs::create_dir_all(own.join("imagenet-o/n01443537")).unwrap();
        assert_eq!(data.find(set, &[ROLES[3]]).unwrap(), Some(own.join("imagenet-o")));
    }

    #[test]
    fn a_set_without_parts_is_found_elsewhere_only_if_complete() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::new(Some(folder.path()));
        // Someone keeps ImageNet itself here.
        fs::create_dir_all(folder.path().join("Imagenet/test")).unwrap();
        fs::write(folder.path().join("Imagenet/test/1.png"), "").unwrap();
        assert_eq!(data.find(PublishedSet::named("tin-crop").unwrap(), &[ROLES[3]]).unwrap(), None);
        let set = PublishedSet::named("lsun-resize").unwrap();
        let place = folder.path().join("LSUN_resize/LSUN_resize");
        fs::create_dir_all(&place).unwrap();
        for number in 1..=set.images[1] {
            assert!(number % 5000 != 1 || data.find(set, &[ROLES[3]]).unwrap().is_none());
            fs::write(place.join(format!("{number}.jpg")), "").unwrap();
        }
        assert_eq!(data.find(set, &[ROLES[3]]).unwrap(), Some(place));
    }

    #[test]
    fn one_copy_must_serve_all_roles() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::new(Some(folder.path()));
        let set = PublishedSet::named("svhn").unwrap();
        let write = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        write("train_32x32.mat");
        write("svhn/test_32x32.mat");
        assert!(ROLES.iter().all(|&role| data.find(set, &[role]).unwrap().is_some()));
        assert_eq!(data.find(set, &ROLES[..2]).unwrap(), None);
        write("svhn/train_32x32.mat");
        assert_eq!(data.find(set, &ROLES[..2]).unwrap(), Some(folder.path().join("svhn")));
    }
}

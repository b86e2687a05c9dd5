//! Published open-set protocols: which of ten classes are known. The rest are unknown.

use std::{fmt, str::FromStr};

use super::Dataset;
use crate::{
    error::{Error, Result},
    text::shown,
};

/// One trial of a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol {
    name: &'static str,
    trial: usize,
    /// The indices of the known classes, ascending.
    pub known: [usize; 6],
}

/// The known classes of each protocol's trials. The other four classes are unknown.
const PROTOCOLS: [(&str, [[usize; 6]; 5]); 3] = [
    // cac-openset up to its commit 6b43b4e, datasets/CIFAR10/class_splits: the splits of its published
    // weights.
    (
        "cac-2020",
        [[2, 3, 4, 6, 8, 9], [1, 3, 4, 5, 6, 7], [0, 1, 4, 5, 6, 8], [1, 2, 4, 7, 8, 9], [0, 1, 2, 3, 6, 9]],
    ),
    // cac-openset since then, datasets/{CIFAR10,MNIST,SVHN}/class_splits, the same for all three.
    (
        "cac-2021",
        [[0, 1, 2, 4, 5, 9], [0, 3, 5, 7, 8, 9], [0, 1, 5, 6, 7, 8], [3, 4, 5, 7, 8, 9], [0, 1, 2, 3, 7, 8]],
    ),
    // ARPL, split.py, CIFAR-10.
    (
        "arpl-2021",
        [[0, 1, 4, 6, 7, 9], [0, 1, 4, 6, 7, 9], [1, 3, 4, 5, 7, 9], [0, 1, 6, 7, 8, 9], [1, 2, 4, 6, 7, 9]],
    ),
];

/// The number of classes in every protocol.
const CLASSES: usize = 10;

impl Protocol {
    /// The indices of the known classes of a data set, which must have ten.
    pub(super) fn known_of(&self, images: &Dataset) -> Result<[usize; 6]> {
        let found = images.classes().len();
        if found == CLASSES {
            Ok(self.known)
        } else {
            let reason = format!("needs {CLASSES} classes, `{}` has {found}", shown(&images.origin));
            Err(Error::setting("protocol", self, reason))
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.trial)
    }
}

impl serde::Serialize for Protocol {
    /// Serialises as its name.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Protocol {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Protocol {
    type Err = Error;

    /// `NAME/TRIAL` with the names `cac-2020`, `cac-2021` and `arpl-2021` and the trials 0 to 4.
    fn from_str(text: &str) -> Result<Self> {
        let find = || {
            let (name, trial) = text.split_once('/')?;
            let &(name, trials) = PROTOCOLS.iter().find(|(other, _)| *other == name)?;
            let trial: usize = trial.parse().ok()?;
            Some(Self { name, trial, known: *trials.get(trial)? })
        };
        find().ok_or_else(|| {
            let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
            let reason = format!("must be one of {}, and a trial from /0 to /4", names.join(", "));
            Error::setting("protocol", format!("`{text}`"), reason)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_have_names() {
        let protocol: Protocol = "cac-2021/3".parse().unwrap();
        assert_eq!((protocol.to_string().as_str(), protocol.known), ("cac-2021/3", [3, 4, 5, 7, 8, 9]));
        for wrong in ["", "cac-2021", "cac-2021/5", "cac-2021/-1", "cac-2019/0", "/0"] {
            assert!(matches!(wrong.parse::<Protocol>(), Err(Error::Setting { .. })), "{wrong}");
        }
    }

    #[test]
    fn trials_are_six_ascending_classes() {
        for trial in PROTOCOLS.iter().flat_map(|(_, trials)| trials) {
            assert!(trial.is_sorted_by(|a, b| a < b) && trial[5] < CLASSES, "{trial:?}");
        }
    }
}

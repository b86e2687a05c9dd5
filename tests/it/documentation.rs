//! The pages of the documentation.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// All pages of the repository, with their text.
fn pages() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> =
        ["docs", "examples", "exported", "tests"].map(|folder| root.join(folder)).into();
    let mut files: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if !path.is_dir() {
                files.push(path);
            } else if path
                .file_name()
                .is_some_and(|name| name != "node_modules" && !name.as_encoded_bytes().starts_with(b"."))
            {
                folders.push(path);
            }
        }
    }
    files.retain(|file| file.extension().is_some_and(|end| end == "md"));
    let page = |file: PathBuf| (file.canonicalize().unwrap(), fs::read_to_string(&file).unwrap());
    files.into_iter().map(page).collect()
}

/// The lines of a page outside of blocks of code.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let blocks = page.split("```").step_by(2);
    blocks.flat_map(str::lines)
}

/// The anchors of a page's headings, as GitHub forms them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let headings = prose(page)
        .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
    let anchor = |heading: &str| {
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>().to_lowercase();
        let count = counts.entry(anchor.clone()).or_default();
        *count += 1;
        if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
    };
    headings.map(anchor).collect()
}

/// The texts in quotes of the first bracket after `name =` in a file.
fn quoted(file: &str, name: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let (_, list) = text.split_once(&format!("{name} =")).expect(name);
    let list = list.split_inclusive(['}', ')', ']']).next().unwrap();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_examples_read_the_files_that_the_toolkit_reads() {
    let extensions = quoted("examples/distributed/train.py", "IMAGES");
    let ours = cac::image::EXTENSIONS.map(|end| format!(".{end}"));
    assert_eq!(extensions, BTreeSet::from(ours));
    let ours = quoted("src/data/folder.rs", "const OF_SYSTEMS: [&str; 6]");
    let formats = quoted("examples/python/score.py", "FORMATS");
    assert!(ours.len() == 6 && formats.len() == 7, "{ours:?} {formats:?}");
    for example in ["examples/batch/scoring.py", "examples/distributed/train.py"] {
        assert_eq!(quoted(example, "OF_SYSTEMS"), ours, "{example}");
        assert_eq!(quoted(example, "FORMATS"), formats, "{example}");
    }
}

#[test]
fn links_lead_to_files_and_headings() {
    let pages = pages();
    assert!(pages.len() > 10, "{:?}", pages.keys());
    let mut broken = Vec::new();
    let mut checked = 0;
    for (file, page) in &pages {
        let links = page.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        for link in links.filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { file.clone() } else { file.parent().unwrap().join(path) };
            let target = target.canonicalize().ok();
            let headings = target.as_ref().and_then(|target| pages.get(target)).map(|page| anchors(page));
            let is_there = anchor.is_empty() || headings.is_none_or(|headings| headings.contains(anchor));
            if target.is_none() || !is_there {
                broken.push(format!("{}: {link}", file.display()));
            }
            checked += 1;
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(checked > 300, "{checked}");
}

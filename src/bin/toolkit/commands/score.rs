//! `toolkit score`

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use cac::{
    Error, Scorer, Verdict,
    data::{Listing, images_below, prefetch},
    files::{check_writable_folder, folder_of},
    image::{self, RgbImage},
    model::Decision,
    scorer::Places,
    text::{on_one_line, path_text, shown},
};
use ndarray::{Array2, Array4};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{
    BUILT_IN, check_output, check_place, is_same_place, names_apart, place, places, print_json, read_model,
    with_threshold,
};
use crate::{
    cli::{ScoreArgs, begins_as_model, is_model},
    terminal::{say, say_left_out, stdout, stdout_is_closed},
};

/// The number of photographs in memory whose maps are drawn side by side.
const PHOTOGRAPHS: usize = 8;

/// Prints the verdict on each image. An image that cannot be scored does not end the run.
pub fn run(args: &ScoreArgs) -> anyhow::Result<()> {
    let (model, images) = args.model_and_images();
    if images.is_empty() {
        bail!("give images after the model");
    }
    if let Some(second) = images.iter().find(|image| is_model(image)) {
        bail!("`{}` is a model; give one, before the images", shown(second));
    }
    if model.is_none() {
        let first = &images[0];
        if first.is_file() && begins_as_model(first).is_ok_and(|is_model| is_model) {
            bail!("`{}` is a model; its name must end in .onnx", shown(first));
        }
        say(BUILT_IN);
    }
    if let Some(map) = &args.map {
        check_apart(map, images)?;
    }
    let images = &files(images)?[..];
    let maps = match &args.map {
        Some(map) => map_files(map, images)?,
        None => HashMap::new(),
    };
    let (bytes, origin) = read_model(model, &args.signature)?;
    let scorer = with_threshold(Scorer::named(bytes, &origin, args.provider)?, &args.scorer)?;
    let mut batch = scorer.preferred_batch();
    if !maps.is_empty() {
        scorer.check_places()?;
        batch = batch.min(PHOTOGRAPHS);
    }
    let output = Output { maps, json: args.scorer.json };
    let (shown, broken) = prefetch(
        images.chunks(batch),
        |files| (files, decode(files, &scorer, !output.maps.is_empty())),
        |decoded| {
            let (mut shown, mut broken) = (0, 0);
            for (files, images) in decoded {
                shown += files.len();
                broken += show(&scorer, files, images, &output)?;
                if output.maps.is_empty() && stdout_is_closed() {
                    break;
                }
            }
            anyhow::Ok((shown, broken))
        },
    )?;
    match broken {
        0 => Ok(()),
        1 if shown == 1 => bail!("the image cannot be scored"),
        _ => bail!("{broken} of {shown} images cannot be scored"),
    }
}

/// The given files, and the images in the given folders.
fn files(given: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in given {
        if path.is_dir() {
            let Listing { files, left_out, .. } = images_below(path)?;
            say_left_out(&left_out);
            all.extend(files);
        } else {
            all.push(path.clone());
        }
    }
    Ok(all)
}

/// Checks that maps are written neither into a given folder nor next to given images.
fn check_apart(map: &Path, given: &[PathBuf]) -> anyhow::Result<()> {
    let (folders, files): (Vec<&Path>, Vec<&Path>) =
        given.iter().map(PathBuf::as_path).partition(|path| path.is_dir());
    let place = place(map);
    if folders.iter().any(|folder| folder.canonicalize().is_ok_and(|folder| place.starts_with(folder))) {
        bail!("cannot write maps to `{}`: it is in a folder of images that are scored", shown(map));
    }
    let folders: HashSet<&Path> = files.into_iter().map(folder_of).collect();
    if folders.iter().any(|folder| is_same_place(folder, map)) {
        bail!("cannot write maps to `{}`: it holds images that are scored", shown(map));
    }
    Ok(())
}

/// What is written.
struct Output {
    /// The picture of each image's map; none without --map.
    maps: HashMap<PathBuf, PathBuf>,
    json: bool,
}

/// The file of each image's map, checked to be writable.
fn map_files(map: &Path, images: &[PathBuf]) -> anyhow::Result<HashMap<PathBuf, PathBuf>> {
    let is_png = map.extension().is_some_and(|end| end.eq_ignore_ascii_case("png"));
    if is_png && !map.is_dir() {
        let [image] = images else {
            bail!("`{}` is one file for {} images; give a folder with --map", shown(map), images.len());
        };
        check_output(map, [image.as_path()])?;
        return Ok(HashMap::from([(image.clone(), map.to_owned())]));
    }
    if image::has_extension(map) && !map.exists() {
        bail!(
            "cannot write `{}`: maps are PNG files; give a name that ends in .png, or a folder",
            shown(map)
        );
    }
    check_writable_folder(map)?;
    let file = |(image, name): (PathBuf, String)| (image, map.join(format!("{name}.png")));
    let files: HashMap<PathBuf, PathBuf> = names_apart(images).into_iter().map(file).collect();
    let inputs = places(images.iter().map(PathBuf::as_path));
    files.values().filter(|file| file.exists()).try_for_each(|file| check_place(file, &inputs))?;
    Ok(files)
}

/// An image as a model takes it.
enum Image {
    /// Bytes `[3, H, W]` of the model's size, and the photograph if it is drawn.
    Pixels(Vec<u8>, Option<RgbImage>),
    /// As it was decoded, for a graph that resizes.
    Original(RgbImage),
}

/// Decodes files on all threads.
fn decode(files: &[PathBuf], scorer: &Scorer, is_drawn: bool) -> Vec<Result<Image, Error>> {
    let input = &scorer.decision().input;
    let read = |file: &PathBuf| {
        let image = image::open(file)?;
        Ok(if scorer.resizes() {
            Image::Original(image)
        } else {
            Image::Pixels(image::pixels(&image, input), is_drawn.then_some(image))
        })
    };
    files.par_iter().map(read).collect()
}

/// The verdict on an image, and its map if that is drawn.
struct Judged {
    verdict: Verdict,
    map: Option<(Places, RgbImage)>,
}

/// Prints the verdicts of a batch and draws the maps. Images that cannot be scored get an error in place of a
/// verdict; returns their number.
fn show(
    scorer: &Scorer,
    files: &[PathBuf],
    images: Vec<Result<Image, Error>>,
    output: &Output,
) -> anyhow::Result<usize> {
    let judged = judge(scorer, files, images, !output.maps.is_empty())?;
    (files, &judged).into_par_iter().try_for_each(|(image, judged)| {
        let Some((places, photograph)) = judged.as_ref().ok().and_then(|judged| judged.map.as_ref()) else {
            return Ok(());
        };
        let file = &output.maps[image];
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot create `{}`", shown(folder)))?;
        }
        anyhow::Ok(places.write(file, photograph, &scorer.decision().input)?)
    })?;
    let mut broken = 0;
    for (file, judged) in files.iter().zip(judged) {
        match judged {
            Ok(Judged { verdict, map }) => {
                let map = map.as_ref().map(|(places, _)| (&output.maps[file], places));
                print(file, &verdict, map, scorer.decision(), output.json)?;
            }
            Err(error) => {
                broken += 1;
                if output.json {
                    print_json(&json!({ "image": path_text(file), "error": error.to_string() }))?;
                }
                say(error);
            }
        }
    }
    Ok(broken)
}

/// Scores the images of a batch that were read.
fn judge(
    scorer: &Scorer,
    files: &[PathBuf],
    images: Vec<Result<Image, Error>>,
    is_drawn: bool,
) -> anyhow::Result<Vec<anyhow::Result<Judged>>> {
    let input = &scorer.decision().input;
    let (mut pixels, mut photographs, mut read) = (Vec::new(), Vec::new(), Vec::new());
    for image in images {
        read.push(image.map(|image| match image {
            Image::Pixels(bytes, photograph) => {
                pixels.extend(bytes);
                photographs.extend(photograph);
            }
            Image::Original(image) => photographs.push(image),
        }));
    }
    let outputs = if scorer.resizes() {
        match scorer.score_originals(&photographs) {
            // One image may be too large for the runtime; the others get their verdicts.
            Err(Error::Runtime { .. }) if files.len() > 1 => {
                let mut photographs = photographs.into_iter().map(Image::Original);
                let mut each = Vec::with_capacity(files.len());
                for (file, read) in files.chunks(1).zip(read) {
                    let image = read.map(|()| photographs.next().expect("an image for each file"));
                    each.extend(judge(scorer, file, vec![image], is_drawn)?);
                }
                return Ok(each);
            }
            Err(error @ Error::Runtime { .. }) => {
                return Ok(vec![Err(anyhow!("`{}`: {error}", shown(&files[0])))]);
            }
            scored => scored,
        }
    } else {
        let shape = (pixels.len() / input.values(), 3, input.height, input.width);
        scorer.score_u8(Array4::from_shape_vec(shape, pixels).expect("whole images").view())
    }?;
    let maps: Vec<Option<(Places, RgbImage)>> = if is_drawn {
        scorer.places(&outputs)?.into_iter().zip(photographs).map(Some).collect()
    } else {
        vec![None; outputs.score.len()]
    };
    let mut judged = scorer.verdicts(&outputs).into_iter().zip(maps);
    let of_image = |read: Result<(), Error>| {
        read?;
        let (verdict, map) = judged.next().expect("a verdict for each image");
        Ok(Judged { verdict, map })
    };
    Ok(read.into_iter().map(of_image).collect())
}

fn print(
    file: &Path,
    verdict: &Verdict,
    map: Option<(&PathBuf, &Places)>,
    decision: &Decision,
    json: bool,
) -> anyhow::Result<()> {
    let name = path_text(file);
    if json {
        let mut value = json!({ "image": name, "verdict": verdict });
        if let Some((file, places)) = map {
            value["map"] = map_json(file, places, &decision.classes);
        }
        return print_json(&value);
    }
    // A tab or a newline would look like the next column or line.
    let name = on_one_line(&name);
    let class = if verdict.unknown { "unknown".to_owned() } else { on_one_line(&verdict.class) };
    let (score, threshold) = (verdict.score, verdict.threshold);
    // The last column, because a model without held-out scores has none.
    let p_value = verdict.p_value.map_or(String::new(), |p_value| format!("\t{p_value:.4}"));
    let [score, threshold] = [score, threshold].map(score_text);
    Ok(writeln!(stdout(), "{name}\t{class}\t{score}\t{threshold}{p_value}")?)
}

/// A score with four decimals, or four digits after the first if it is huge, or tiny as those of `cac` are.
fn score_text(score: f32) -> String {
    let is_usual = score == 0.0 || (0.01..1e7).contains(&score.abs()) || !score.is_finite();
    if is_usual { format!("{score:.4}") } else { format!("{score:.4e}") }
}

/// The scores of places, row by row.
fn map_json(file: &Path, places: &Places, classes: &[String]) -> Value {
    fn rows<T: serde::Serialize>(values: &Array2<T>) -> Vec<Vec<&T>> {
        values.rows().into_iter().map(|row| row.into_iter().collect()).collect()
    }
    json!({
        "file": path_text(file),
        "score": places.score,
        "scores": rows(&places.scores),
        "p_values": rows(&places.p_values),
        "classes": rows(&places.labels.map(|&label| &classes[label])),
        "p_value": places.whole_p_value,
        "known": places.held_out,
    })
}

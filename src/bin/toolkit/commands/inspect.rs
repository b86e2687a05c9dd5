//! `toolkit inspect`

use std::io::Write;

use cac::model::Inspection;

use super::{MODEL, print_json};
use crate::{cli::InspectArgs, terminal::stdout};

/// Prints the contents of a model file.
pub fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let inspection = match &args.model {
        Some(model) => Inspection::open(model)?,
        None => Inspection::of(MODEL, "the built-in model")?,
    };
    if args.json {
        return print_json(&inspection);
    }
    write!(stdout(), "{inspection}")?;
    Ok(())
}

//! `toolkit inspect`

use std::io::{Write, stdout};

use cac::inspect::Inspection;

use super::{MODEL, print_json};
use crate::cli::InspectArgs;

/// Says what a model file holds.
pub fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let inspection = match &args.model {
        Some(model) => Inspection::open(model)?,
        None => Inspection::of(MODEL, "the model that is built in")?,
    };
    if args.json {
        return print_json(&inspection);
    }
    write!(stdout(), "{inspection}")?;
    Ok(())
}

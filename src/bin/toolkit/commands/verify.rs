//! `toolkit verify`

use std::io::Write;

use cac::{Scorer, files::sha256, model::golden};
use serde_json::json;

use super::{print_json, read_model};
use crate::{cli::VerifyArgs, terminal::stdout};

/// Runs the golden batch of a model file on each provider, and compares.
pub fn run(args: &VerifyArgs) -> anyhow::Result<()> {
    let (bytes, origin) = read_model(Some(&args.model), &args.signature)?;
    let sha256 = sha256(&bytes);
    let is_signed = args.signature.signature.is_some();
    if !args.json {
        let signed = if is_signed { ", valid signature" } else { "" };
        writeln!(stdout(), "{origin}: SHA-256 {sha256}{signed}")?;
    }
    for &provider in &args.provider {
        let scorer = Scorer::named(bytes.clone(), &origin, provider)?;
        let difference = scorer.verify()?;
        let (runtime, images) = (scorer.runtime(), golden::images(&scorer.decision().input).dim().0);
        if args.json {
            print_json(&json!({
                "model": args.model.to_string_lossy(),
                "sha256": sha256,
                "signed": is_signed,
                "provider": runtime,
                "images": images,
                "difference": difference,
            }))?;
        } else {
            writeln!(
                stdout(),
                "{runtime}: same classes for {images} golden images; scores and norms of the logits {}",
                if difference == 0.0 { "are equal".to_owned() } else { format!("within {difference:.1e}") }
            )?;
        }
    }
    Ok(())
}

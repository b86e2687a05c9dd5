//! `toolkit providers`

use std::io::Write;

use cac::Provider;

use super::print_json;
use crate::{cli::ProvidersArgs, terminal::stdout};

/// Checks every provider and prints the result.
pub fn run(args: &ProvidersArgs) -> anyhow::Result<()> {
    for provider in Provider::ALL {
        let checked = provider.check().map_err(|error| match error {
            cac::Error::Provider { reason, .. } => reason,
            error => error.to_string(),
        });
        if args.json {
            let (available, reason, runtime) =
                (checked.is_ok(), checked.as_ref().err().cloned(), checked.ok());
            let provider = provider.to_string();
            print_json(&serde_json::json!({
                "provider": provider, "available": available, "runtime": runtime, "reason": reason
            }))?;
        } else {
            let (mark, text) = match checked {
                Ok(runtime) => ("yes", runtime),
                Err(reason) => ("no", reason),
            };
            writeln!(stdout(), "{:<13} {mark:<3}  {text}", provider.to_string())?;
        }
    }
    Ok(())
}

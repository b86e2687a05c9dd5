//! `toolkit providers`

use std::io::{Write, stdout};

use cac::Provider;

use super::print_json;
use crate::cli::ProvidersArgs;

/// Checks every provider and prints the result.
pub fn run(args: &ProvidersArgs) -> anyhow::Result<()> {
    for provider in Provider::ALL {
        let checked = provider.check();
        if args.json {
            let reason = match &checked {
                Err(cac::Error::Provider { reason, .. }) => Some(reason.clone()),
                Err(error) => Some(error.to_string()),
                Ok(_) => None,
            };
            let (available, runtime) = (checked.is_ok(), checked.ok());
            let provider = provider.to_string();
            print_json(&serde_json::json!({
                "provider": provider, "available": available, "runtime": runtime, "reason": reason
            }))?;
        } else {
            let (mark, text) = match checked {
                Ok(runtime) => ("yes", runtime),
                Err(cac::Error::Provider { reason, .. }) => ("no", reason),
                Err(error) => ("no", error.to_string()),
            };
            writeln!(stdout(), "{:<12} {mark:<3}  {text}", provider.to_string())?;
        }
    }
    Ok(())
}

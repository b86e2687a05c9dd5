//! Detached signatures of files, in minisign's format.

use std::path::Path;

use minisign_verify::{PublicKey, Signature};

use crate::error::{Error, Result};

/// Checks that a signature file was made for these bytes with the secret key of `public_key`, which is given
/// in base64, as minisign prints it, or as the text of minisign's file.
///
/// # Errors
/// [`Error::Io`] if the signature cannot be read, [`Error::Signature`] if it or the key is malformed, or
/// the signature was made for other bytes or with another key.
pub fn check(bytes: &[u8], signature: &Path, public_key: &str) -> Result<()> {
    let refused = |reason: String| Error::Signature { path: signature.to_owned(), reason };
    let text = std::fs::read(signature).map_err(Error::io("read", signature))?;
    let public_key = public_key.trim();
    let key = PublicKey::decode(public_key).or_else(|_| PublicKey::from_base64(public_key));
    let key = key.map_err(|error| refused(format!("the public key is malformed: {error}")))?;
    let parsed = std::str::from_utf8(&text).ok().and_then(|text| Signature::decode(text).ok());
    let parsed = parsed.ok_or_else(|| refused("it is not a signature of minisign".to_owned()))?;
    key.verify(bytes, &parsed, true).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
    }

    #[test]
    fn minisign_signatures_are_checked() {
        let signature = golden("signature/v2.onnx.minisig");
        let key = std::fs::read_to_string(golden("signature/key.pub")).unwrap();
        let model = std::fs::read(golden("models/v2.onnx")).unwrap();
        check(&model, &signature, &key).unwrap();
        check(&model, &signature, key.lines().nth(1).unwrap()).unwrap();
        check(&model, &golden("signature/hashed.minisig"), &key).unwrap();

        let refused = |bytes: &[u8], signature: &Path, key: &str| {
            let error = check(bytes, signature, key).unwrap_err();
            assert!(matches!(error, Error::Signature { .. }), "{error}");
            error.to_string()
        };
        let mut changed = model.clone();
        changed[1000] ^= 1;
        assert!(refused(&changed, &signature, &key).contains("v2.onnx.minisig"));
        let other = std::fs::read_to_string(golden("signature/other.pub")).unwrap();
        refused(&model, &signature, &other);
        assert!(refused(&model, &signature, "RWQ").contains("the public key is malformed"));
        assert!(refused(&model, &golden("models/v2.onnx"), &key).contains("not a signature of minisign"));
        assert!(matches!(check(&model, Path::new("/no/such"), &key), Err(Error::Io { .. })));
    }
}

//! The names in certificates, and the form of enrolment tokens, as both planes have them.
//!
//! ```text
//! token:  ltnode- | SHA-256 of the authority's certificate, 64 hex | - | secret, 43 base62
//! ```
//!
//! The first part tells the node whom to trust before it has ever spoken to the control plane; the second
//! tells the control plane, once, whom to let in.

use crate::id::NodeId;

/// The name that the control plane's certificate is for, wherever it is reached.
pub const CONTROL_NAME: &str = "control.liutong.internal";
/// How a token begins.
pub const TOKEN_PREFIX: &str = "ltnode-";
/// The length of a token's secret.
pub const TOKEN_SECRET_BYTES: usize = 43;

/// The name that a node's certificate is for: of one enrolment alone.
#[must_use]
pub fn node_name(node: NodeId, enrolment: u64) -> String {
    format!("{node}.{enrolment}.node.liutong.internal")
}

/// A token's text.
#[must_use]
pub fn token(fingerprint: &[u8; 32], secret: &str) -> String {
    let hex: String = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{TOKEN_PREFIX}{hex}-{secret}")
}

/// The fingerprint and the secret of a token; `None` where the text is none.
#[must_use]
pub fn parse_token(text: &str) -> Option<([u8; 32], &str)> {
    let (hex, secret) = text.strip_prefix(TOKEN_PREFIX)?.split_once('-')?;
    let fits = secret.len() == TOKEN_SECRET_BYTES && secret.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let fingerprint = crate::id::KeyDigest::parse(hex)?.0;
    fits.then_some((fingerprint, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_anything_else_is_none() {
        let secret = "s".repeat(TOKEN_SECRET_BYTES);
        let text = token(&[7; 32], &secret);
        assert_eq!(parse_token(&text), Some(([7; 32], secret.as_str())));
        for bad in [&text[1..], &text[..text.len() - 1], &format!("{text}x"), "ltnode-", ""] {
            assert_eq!(parse_token(bad), None, "{bad}");
        }
    }
}

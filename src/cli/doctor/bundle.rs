//! The support file: a tar of text files that says how things are and holds no secret. Read first: pax(1), ustar interchange format.
//!
//! What goes in holds none by its making. All the same every file is searched at the end for whatever the state directory and the
//! kubeconfig hold, in any form it may be written in, and it is blotted out: an error's text may quote more than its author thought.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

/// Words of fewer characters are no secrets.
const LEAST: usize = 16;
/// What is put in the place of a secret.
const BLOT: &str = "[secret]";

/// All that must not be seen, in all its forms, longest first: every word that could be a secret in the texts of secret files.
pub(super) fn secrets(files: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    for text in files {
        let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_' | '.');
        for word in text.split(|c: char| !inside(c)).map(|w| w.trim_matches('=')).filter(|w| w.len() >= LEAST && is_random(w)) {
            all.push(word.to_owned());
            forms(word.as_bytes(), &mut all);
            let decoded = [STANDARD_NO_PAD.decode(word), URL_SAFE_NO_PAD.decode(word)];
            decoded.into_iter().flatten().filter(|bytes| bytes.len() >= LEAST).for_each(|bytes| {
                all.extend(String::from_utf8(bytes.clone()).ok());
                forms(&bytes, &mut all);
            });
            if let Some(bytes) = unhex(word) {
                forms(&bytes, &mut all);
            }
        }
    }
    all.retain(|word| word.len() >= LEAST);
    all.sort_by_key(|word| std::cmp::Reverse(word.len()));
    all.dedup();
    all
}

/// Paths, names and addresses are words too; what was drawn at random has digits among letters, or is long.
fn is_random(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    let capitals = word.bytes().filter(u8::is_ascii_uppercase).count();
    !word.starts_with('/') && (digits > 0 && (capitals > 0 || word.len() >= 32) || word.len() >= 40)
}

fn forms(bytes: &[u8], all: &mut Vec<String>) {
    all.push(STANDARD.encode(bytes));
    all.push(STANDARD_NO_PAD.encode(bytes));
    all.push(URL_SAFE.encode(bytes));
    all.push(URL_SAFE_NO_PAD.encode(bytes));
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    all.push(hex.to_uppercase());
    all.push(hex);
}

fn unhex(word: &str) -> Option<Vec<u8>> {
    let digits = word.len().is_multiple_of(2) && word.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| (0..word.len()).step_by(2).filter_map(|at| u8::from_str_radix(&word[at..at + 2], 16).ok()).collect())
}

/// The text without what must not be seen.
pub(super) fn blotted(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        if text.contains(secret.as_str()) {
            text = text.replace(secret.as_str(), BLOT);
        }
    }
    text
}

/// A tar of these files in a folder `sluice`, each root's own.
pub(super) fn tar(files: &[(String, String)], now: i64) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, text) in files {
        let mut head = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, format!("sluice/{name:.90}").as_bytes());
        put(100, b"0000600\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", text.len()).as_bytes());
        put(136, format!("{:011o}\0", now.clamp(0, 0o77_777_777_777)).as_bytes());
        // The sum is taken with blanks in its own place.
        put(148, b"        ");
        put(156, b"0");
        put(257, b"ustar\x0000root");
        put(297, b"root");
        let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(text.as_bytes());
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_seen_in_any_form() {
        let key: [u8; 32] = std::array::from_fn(|n| (n * 37 + 11) as u8);
        let (preshared, secret16) = (key.map(|b| b ^ 0x5a), &key[3..19]);
        let token = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjQ3In0.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQifQ.c2lnbmF0dXJlLW9mLTMyLWJ5dGVzIQ";
        let bearer: String = key.iter().map(|b| format!("{b:02x}")).collect();
        let ticket = format!("sluice1:{}", URL_SAFE_NO_PAD.encode(key.map(|b| b.wrapping_mul(3))));
        let state = format!(
            r#"{{"secret":"{}","tickets":[{{"preshared":"{}","secret":"{}"}}],"joins":["{ticket}"]}}"#,
            URL_SAFE_NO_PAD.encode(key),
            URL_SAFE_NO_PAD.encode(preshared),
            URL_SAFE_NO_PAD.encode(secret16)
        );
        let kubeconfig = format!(
            "users:\n- user:\n    client-key-data: {}\n    token: {token}\n    password: {}\n",
            STANDARD.encode("-----BEGIN EC PRIVATE KEY-----\nMHc1"),
            "Pa55wordOfAdministrator"
        );
        let secrets = secrets(&[state.clone(), format!("{bearer}\n"), kubeconfig.clone()]);
        // Every one in every form that somebody could have written into an error, a log or a name.
        let mut planted: Vec<String> =
            vec![token.into(), ticket.clone(), bearer.clone(), "Pa55wordOfAdministrator".into(), "-----BEGIN EC PRIVATE KEY-----\nMHc1".into()];
        for raw in [&key[..], &preshared[..], secret16, token.as_bytes(), b"Pa55wordOfAdministrator", b"-----BEGIN EC PRIVATE KEY-----\nMHc1"] {
            forms(raw, &mut planted);
        }
        let text: String = planted.iter().map(|p| format!("refused: {p}; at 203.0.113.10:51820\n")).collect();
        let files = [
            ("status.json".to_owned(), blotted(&text, &secrets)),
            ("state".to_owned(), blotted(&state, &secrets)),
            ("k".to_owned(), blotted(&kubeconfig, &secrets)),
        ];
        let bundle = String::from_utf8_lossy(&tar(&files, 0)).into_owned();
        for secret in &planted {
            let secret = secret.trim_start_matches("sluice1:");
            assert!(!bundle.contains(secret), "{secret}");
        }
        assert!(bundle.contains("[secret]; at 203.0.113.10:51820"), "what is no secret stays");
    }

    #[test]
    fn words_that_are_no_secrets_stay() {
        let secrets =
            secrets(
                &["server: https://cluster.example.org:6443\ncertificate-authority: /var/lib/rancher/k3s/server/tls/ca.crt\nname: kubernetes-admin".into()],
            );
        let text = "https://cluster.example.org:6443 /var/lib/rancher/k3s/server/tls/ca.crt kubernetes-admin";
        assert_eq!(blotted(text, &secrets), text);
    }

    #[test]
    fn a_tar_is_one_that_tar_reads() {
        let bytes = tar(&[("a.txt".into(), "hello\n".into()), ("empty".into(), String::new())], 1_795_498_593);
        assert_eq!(bytes.len(), 512 * 5);
        assert_eq!(&bytes[..12], b"sluice/a.txt");
        assert_eq!((&bytes[124..135], &bytes[257..265]), (&b"00000000006"[..], &b"ustar\x0000"[..]));
        let sum: u32 = bytes[..512].iter().enumerate().map(|(at, b)| if (148..156).contains(&at) { 32 } else { u32::from(*b) }).sum();
        assert_eq!(&bytes[148..154], format!("{sum:06o}").as_bytes());
        assert_eq!(&bytes[512..518], b"hello\n");
    }
}

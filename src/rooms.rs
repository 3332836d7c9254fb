//! A test, not a room: which room may name which room and which crate. ARCHITECTURE's arrows, held.
//!
//! It reads the source as text: comments and string literals are cut out, then every `crate::ROOM` (also within braces) and every
//! path that begins with a crate's name is looked up in the tables below. A new room or crate fails until it stands in a table.
#![expect(clippy::disallowed_methods, reason = "this test reads the source tree")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Room, and the rooms it may name besides itself. Single items behind `::` allow only these of a room.
const ROOMS: &[(&str, &[&str])] = &[
    ("budget", &[]),
    ("clock", &[]),
    ("identity", &["budget"]),
    ("config", &["identity", "clock", "budget"]),
    ("kube", &["identity", "clock", "budget"]),
    ("tunnel", &["identity", "clock", "budget"]),
    ("auth", &["kube", "identity", "clock", "budget"]),
    ("offload", &["kube", "identity", "clock", "budget"]),
    ("edge", &["tunnel", "auth", "offload", "config", "kube", "identity", "clock", "budget"]),
    (
        "shell",
        &[
            "edge",
            "offload::read",
            "offload::Seen",
            "offload::KindId",
            "offload::WatchId",
            // What both ends of the local socket say, the administrator's way to the API server, and a wg-quick file's form.
            "cli::protocol",
            "cli::admin",
            "cli::tunnel_config",
            "cli::Stopwatch",
            "config",
            "kube",
            "identity",
            "clock",
            "budget",
        ],
    ),
    // The verbs that use the caller's kubeconfig do what the shell can do without a daemon.
    (
        "cli",
        &[
            "shell::api",
            "shell::inspect",
            "shell::kubeconfig",
            "shell::setup",
            "shell::run",
            "shell::time",
            "shell::tls",
            "config",
            "kube",
            "identity",
            "clock",
            "budget",
        ],
    ),
    ("main", &["cli", "shell", "config"]),
    ("world", &["edge", "tunnel", "auth", "offload", "config", "kube", "identity", "clock", "budget"]),
    ("rooms", &[]),
];

/// Crate, and the files (or folders, with a slash at the end) that may name it. `""` is everywhere.
const CRATES: &[(&str, &[&str])] = &[
    ("argh", &["main.rs", "cli/"]),
    ("base64", &["cli/doctor/bundle.rs", "shell/kubeconfig.rs", "shell/status.rs"]),
    ("boringtun", &["tunnel/session.rs"]),
    ("heapless", &[""]),
    ("libc", &["shell/"]),
    ("miniserde", &["auth/", "cli/", "shell/"]),
    ("mock_instant", &["tunnel/session.rs"]),
    ("ring", &["auth/", "shell/"]),
    ("rustls", &["shell/tls.rs"]),
    ("serde", &[""]),
    ("socket2", &["shell/"]),
    ("serde_json", &["edge/tests.rs", "kube/", "auth/", "offload/", "shell/", "cli/", "world/"]),
    ("serde_yaml_ng", &["shell/", "offload/twin.rs"]),
    ("tokio", &["shell/", "cli/admin.rs"]),
    ("tokio_rustls", &["shell/tls.rs"]),
    ("webpki", &["shell/tls.rs"]),
    ("ureq_proto", &["shell/"]),
    ("x25519_dalek", &["auth/", "tunnel/session.rs"]),
];

/// The files that may lift `unsafe_code`.
const UNSAFE: &[&str] = &["shell/syscall.rs"];

/// Words that say nothing about what a file holds.
const EMPTY_WORDS: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc", "manager", "service", "data", "info"];

struct Source {
    /// Below src, as in `tunnel/session.rs`.
    file: String,
    raw: String,
    /// Without comments and literals.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut found) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src can be listed") {
            let path = entry.expect("src can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let raw = fs::read_to_string(&path).expect("a source file is text");
                let file = path.strip_prefix(&root).expect("below src").to_string_lossy().into_owned();
                found.push(Source { file, code: code(&raw), raw });
            }
        }
    }
    found.sort_by(|a, b| a.file.cmp(&b.file));
    found
}

/// The text without comments, and with literals emptied.
fn code(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(hashes) = raw_string(rest) {
            let close = format!("\"{}", "#".repeat(hashes));
            rest[hashes + 2..].find(&close).map_or(rest.len(), |at| hashes + 2 + at + close.len())
        } else if c == '"' {
            string_end(rest)
        } else if c == '\'' {
            char_end(rest)
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        out.push(' ');
        rest = &rest[skipped..];
    }
    out
}

/// The number of `#` if a raw string begins here.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.bytes().take_while(|b| *b == b'#').count();
    after[hashes..].starts_with('"').then_some(hashes)
}

fn string_end(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Where a character literal ends; a lifetime is one character long.
fn char_end(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), _) => rest[3..].find('\'').map_or(1, |at| at + 4),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// What is named behind each `head::`: the next segment, or two of them joined with `::`; all of a brace group's.
fn named(code: &str, head: &str) -> Vec<(String, Option<String>)> {
    let (mut out, mut from) = (Vec::new(), 0);
    let start = format!("{head}::");
    while let Some(at) = code[from..].find(&start).map(|at| from + at) {
        from = at + start.len();
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[from..];
        for part in if rest.starts_with('{') { group(rest) } else { vec![rest] } {
            let first = ident(part);
            let second = part[first.len()..].strip_prefix("::").map(|tail| if tail.starts_with('{') { group(tail) } else { vec![tail] });
            match second {
                Some(tails) => out.extend(tails.iter().map(|t| (first.to_owned(), Some(ident(t).to_owned())))),
                None => out.push((first.to_owned(), None)),
            }
        }
    }
    out.retain(|(first, _)| !first.is_empty());
    out
}

fn ident(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
}

/// The parts of `{a, b::{c, d}}` at its own depth.
fn group(text: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut out) = (0, 1, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => {
                out.push(text[begin..at].trim());
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 1 => {
                out.push(text[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    out
}

fn room(file: &str) -> &str {
    file.split_once('/').map_or_else(|| file.trim_end_matches(".rs"), |(room, _)| room)
}

/// What in `source` breaks the tables, as sentences.
fn breaches(source: &Source, rooms: &BTreeSet<&str>) -> Vec<String> {
    let Source { file, raw, code } = source;
    let mut out = Vec::new();
    if !raw.starts_with("//!") {
        out.push(format!("{file} does not open with //! and what it is for"));
    }
    // The files of kinds are named as Kubernetes names them.
    if !file.starts_with("offload/kinds/") && file.split(['/', '.', '_']).any(|word| EMPTY_WORDS.contains(&word)) {
        out.push(format!("{file}: the name says nothing about what is in it"));
    }
    if words(code).any(|w| w == "unsafe") && !UNSAFE.contains(&file.as_str()) {
        out.push(format!("{file} uses unsafe; only {UNSAFE:?} may"));
    }
    let own = room(file);
    if own == "lib" {
        return out;
    }
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == own) else {
        out.push(format!("{file}: the room {own} stands in no table of rooms.rs"));
        return out;
    };
    // The tests of a room may look at the world they run in.
    let tests_at = if file.ends_with("tests.rs") { 0 } else { code.find("mod tests {").unwrap_or(code.len()) };
    for (part, in_tests) in [(&code[..tests_at], false), (&code[tests_at..], true)] {
        for (first, second) in ["crate", "sluice", "super::super", "super::super::super"].iter().flat_map(|head| named(part, head)) {
            let item = second.map(|s| format!("{first}::{s}")).unwrap_or_default();
            let fine = first == own
                || (in_tests && first == "world")
                || !rooms.contains(first.as_str())
                || allowed.contains(&first.as_str())
                || allowed.contains(&item.as_str());
            if !fine {
                out.push(format!("{file} names {first}{}; {own} may name {allowed:?}", if item.is_empty() { "" } else { " in another way than allowed" }));
            }
        }
    }
    for (name, files) in CRATES {
        let here = files.iter().any(|f| if f.is_empty() || f.ends_with('/') { file.starts_with(f) } else { file == f });
        let used = !named(code, name).is_empty() || code.contains(&format!("use {name};"));
        if used && !here {
            out.push(format!("{file} names the crate {name}; only {files:?} may"));
        }
    }
    out
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
}

#[test]
fn no_room_names_what_stands_above_it_and_no_file_a_crate_that_is_not_its_own() {
    let sources = sources();
    let rooms = sources.iter().map(|s| room(&s.file)).filter(|r| *r != "lib").collect();
    let all: Vec<String> = sources.iter().flat_map(|s| breaches(s, &rooms)).collect();
    assert!(all.is_empty(), "\n{}\n", all.join("\n"));
}

#[test]
fn every_crate_in_the_manifest_stands_in_the_table() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).expect("the manifest is text");
    let dependencies = manifest.split("\n[").find_map(|s| s.strip_prefix("dependencies]")).expect("a [dependencies] section");
    for line in dependencies.lines().filter(|l| !l.starts_with('#')) {
        let Some((name, _)) = line.split_once('=') else { continue };
        let name = name.trim().replace('-', "_");
        assert!(CRATES.iter().any(|(c, _)| *c == name), "{name} is in Cargo.toml and in no table of rooms.rs");
    }
}

#[test]
fn planted_breaches_are_found() {
    let rooms = ROOMS.iter().map(|(name, _)| *name).collect();
    for (file, text, found) in [
        ("kube/call.rs", "//! x\nuse crate::auth::Authority;", 1),
        ("tunnel/gateway.rs", "//! x\nuse crate::{clock::Now, kube::{call, reply}, auth};", 3),
        ("tunnel/gateway.rs", "//! x\nuse super::super::offload::Agent;", 1),
        ("auth/ticket.rs", "//! x\nfn f() { tokio::spawn(g()) }", 1),
        ("tunnel/peer.rs", "//! x\nuse boringtun::noise::Tunn;", 1),
        ("tunnel/session.rs", "//! x\nuse boringtun::noise::Tunn;", 0),
        ("shell/api.rs", "//! x\nuse crate::offload::{read, Agent};", 1),
        ("shell/api.rs", "//! x\nuse crate::offload::{Seen, read};", 0),
        ("offload/pod.rs", "use crate::clock::Now;", 1),
        ("offload/utils.rs", "//! x\n", 1),
        ("parlour/seat.rs", "//! x\n", 1),
        ("auth/ledger.rs", "//! x\nfn f() { unsafe { g() } }", 1),
        (
            "auth/ledger.rs",
            "//! x\n// unsafe crate::offload\nconst A: &str = \"crate::offload \\\" unsafe\"; const B: &str = r#\"tokio::x \" \"#; fn f<'a>(x: &'a u8) -> char { '\"' }",
            0,
        ),
        ("auth/ledger.rs", "//! x\n#[cfg(test)]\nmod tests {\n    use crate::world::clock;\n}", 0),
        ("auth/ledger.rs", "//! x\nuse crate::world::clock;", 1),
    ] {
        let source = Source { file: file.into(), raw: text.into(), code: code(text) };
        assert_eq!(breaches(&source, &rooms).len(), found, "{file}: {text}\n{:?}", breaches(&source, &rooms));
    }
}

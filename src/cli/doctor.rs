//! `sluice doctor`: names the hop that is broken, with its address and what to do; and writes a support file. It changes nothing, works
//! without a daemon, needs nothing from the internet, and is over within 20 s in all cases.

mod bundle;
mod facts;
mod gather;
mod judge;

use std::time::Duration;

use super::args::{Doctor, Output, Run};
use super::protocol::{Failure, Request};
use super::terminal::{Terminal, clean};
use super::{run, socket};
use crate::shell::{inspect, time};
use facts::{Daemon, Facts};
use judge::{Finding, Mark};

/// How long a page of metrics, or a list of objects, may take for the support file.
const PATIENCE: Duration = Duration::from_secs(4);

pub(super) fn doctor(typed: Doctor) -> Result<(), Failure> {
    let configured = run::configuration(&Run { config: typed.config.clone(), ..Run::default() });
    let facts = gather::gather(typed.socket.clone(), configured);
    let findings = judge::judge(&facts);
    let out = Terminal::stdout();
    if let Some(path) = &typed.bundle {
        let files = files(&facts, &findings);
        inspect::create(path, &bundle::tar(&files, time::wall().0)).map_err(|e| {
            Failure::new("bundle", format!("the support file {path} cannot be written: {e}"), "name one that is not there yet, where there is room")
        })?;
        if typed.output == Output::Text {
            out.line(&format!("  {} files without secrets in {path}: look through them with tar -tvf, then send them", files.len()));
        }
    }
    match typed.output {
        Output::Json => out.line(&json(&findings)),
        Output::Text => text(&findings, &out).iter().for_each(|line| out.line(line)),
    }
    match findings.iter().filter(|f| f.mark == Mark::Bad).count() {
        0 => Ok(()),
        1 => Err(Failure::new("fault", "1 fault was found", "")),
        n => Err(Failure::new("fault", format!("{n} faults were found"), "")),
    }
}

fn json(findings: &[Finding]) -> String {
    #[derive(miniserde::Serialize)]
    struct Line {
        peer: Option<String>,
        hop: String,
        ok: bool,
        level: String,
        reason: String,
        cause: String,
        fix: String,
    }
    let line = |f: &Finding| Line {
        peer: Some(f.peer.clone()).filter(|p| !p.is_empty()),
        hop: f.hop.to_owned(),
        ok: f.mark != Mark::Bad,
        level: match f.mark {
            Mark::Good => "good",
            Mark::Note => "note",
            Mark::Bad => "fault",
        }
        .to_owned(),
        reason: f.reason.to_owned(),
        cause: f.cause.clone(),
        fix: f.fix.clone(),
    };
    miniserde::json::to_string(&findings.iter().map(line).collect::<Vec<_>>())
}

fn text(findings: &[Finding], out: &Terminal) -> Vec<String> {
    let (mut lines, mut peer) = (Vec::new(), "");
    for finding in findings {
        if finding.peer != peer {
            peer = &finding.peer;
            lines.push(format!("  {}", clean(peer)));
        }
        let (mark, colour) = match finding.mark {
            Mark::Good => ("✓", "32"),
            Mark::Note => ("!", "33"),
            Mark::Bad => ("✗", "31"),
        };
        let indent = if peer.is_empty() { "" } else { "  " };
        lines.push(format!("  {indent}{} {:<12} {}", out.paint(colour, mark), finding.hop, clean(&finding.cause)));
        if !finding.fix.is_empty() {
            lines.push(format!("  {indent}  {:<12} -> {}", "", clean(&finding.fix)));
        }
    }
    lines
}

/// What goes into the support file.
fn files(facts: &Facts, findings: &[Finding]) -> Vec<(String, String)> {
    let set = &facts.settings;
    let mut files = vec![
        ("findings.txt".to_owned(), text(findings, &Terminal::plain()).join("\n") + "\n"),
        ("findings.json".to_owned(), json(findings) + "\n"),
        ("versions.txt".to_owned(), format!("sluice {} (manifests {})\n{:?}\n", facts.version, crate::shell::setup::version(), facts.api.version)),
        ("settings.txt".to_owned(), format!("{set:#?}\n{:#?}\n{:#?}\n{:#?}\n", facts.host, facts.state, facts.api)),
    ];
    if let Daemon::Answers(status) = &facts.daemon {
        files.push(("status.json".to_owned(), miniserde::json::to_string(&**status) + "\n"));
        let page = socket::ask_within(&set.socket, &Request::new("metrics"), PATIENCE, &mut |_| {}).ok().and_then(|done| done.metrics);
        files.push(("metrics.txt".to_owned(), page.unwrap_or_default()));
    }
    files.extend(inspect::kernel().into_iter().map(|(name, text)| (name.to_owned(), text)));
    if facts.api.silent.is_none() && facts.api.kubeconfig.is_none() {
        files.push(("objects.txt".to_owned(), gather::objects(&set.kubeconfig, PATIENCE)));
    }
    let secret = [format!("{}/state.json", set.state), format!("{}/state.json.bak", set.state), format!("{}/metrics-token", set.state), set.kubeconfig.clone()];
    let secrets = bundle::secrets(&secret.map(|path| inspect::contents(&path, 1 << 20)));
    files.into_iter().map(|(name, text)| (name, bundle::blotted(&text, &secrets))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnosis_is_a_line_a_hop_and_one_more_where_something_is_to_be_done() {
        let finding =
            |peer: &str, hop, mark, cause: &str, fix: &str| Finding { peer: peer.into(), hop, mark, reason: "r", cause: cause.into(), fix: fix.into() };
        let findings = [
            finding("", "host", Mark::Good, "all there", ""),
            finding("hub", "underlay", Mark::Bad, "no answer from 203.0.113.10:51820\u{1b}", "open it"),
            finding("hub", "tunnel", Mark::Note, "not looked at", ""),
        ];
        let expected = "  ✓ host         all there
  hub
    ✗ underlay     no answer from 203.0.113.10:51820?
                   -> open it
    ! tunnel       not looked at";
        assert_eq!(text(&findings, &Terminal::plain()).join("\n"), expected);
        let json = json(&findings);
        assert!(json.starts_with(r#"[{"peer":null,"hop":"host","ok":true,"level":"good","#), "{json}");
        assert!(json.contains(r#""peer":"hub","hop":"underlay","ok":false,"level":"fault","reason":"r""#), "{json}");
    }
}

//! `sluice join`: hands a ticket to the daemon and shows the steps until the peering stands.

use std::io::Read;

use super::args::{Join, Output};
use super::protocol::{Failure, Request};
use super::socket::{ask, mismatch};
use super::terminal::{Terminal, clean};

/// The longest ticket text read, in bytes.
const TICKET_MAX: u64 = 4096;

pub(super) fn join(typed: Join) -> Result<(), Failure> {
    let provide = match typed.provide.as_deref() {
        Some("default") => Some(String::new()),
        Some(text) => {
            super::invite::offer_form(text)?;
            Some(text.to_owned())
        }
        None => None,
    };
    let ticket = ticket(&typed)?;
    let request = Request { ticket: Some(ticket), provide, replace: Some(typed.replace), ..Request::new("join") };
    let steps = if typed.output == Output::Json { Terminal::stderr() } else { Terminal::stdout() };
    let joined = ask(&super::run::socket(typed.socket)?, &request, &mut |step| steps.step(step))?.joined.ok_or_else(mismatch)?;
    let out = Terminal::stdout();
    if typed.output == Output::Json {
        out.line(&miniserde::json::to_string(&joined));
        return Ok(());
    }
    out.line(&format!("  Joined {} as {} in {:.1} s.", clean(&joined.peer), clean(&joined.id), joined.took_ms as f64 / 1000.0));
    if joined.consumes {
        out.line("  Next: sluice offload namespace NAME");
    }
    Ok(())
}

fn ticket(typed: &Join) -> Result<String, Failure> {
    let given = usize::from(typed.ticket.is_some()) + usize::from(typed.file.is_some()) + usize::from(typed.stdin);
    let text = match (&typed.ticket, &typed.file) {
        _ if given != 1 => {
            return Err(Failure::new(
                "usage",
                "one ticket is meant: on the line, with --file PATH, or - for the input",
                "make one on the other side with: sluice invite",
            ));
        }
        (Some(ticket), _) => ticket.clone(),
        (_, Some(path)) => read(std::fs::File::open(path), path)?,
        _ => read(Ok(std::io::stdin()), "the input")?,
    };
    let text = text.trim();
    // People copy the whole command.
    let text = text.strip_prefix("sluice join").map_or(text, str::trim);
    if text.is_empty() || text.len() as u64 >= TICKET_MAX || text.contains(char::is_whitespace) {
        return Err(Failure::new(
            "no-ticket",
            "that is no ticket: one line that begins with sluice1: is meant",
            "copy the whole line, or use: sluice join --file PATH",
        ));
    }
    Ok(text.to_owned())
}

fn read(source: std::io::Result<impl Read>, name: &str) -> Result<String, Failure> {
    let mut text = String::new();
    match source.and_then(|s| s.take(TICKET_MAX).read_to_string(&mut text)) {
        Ok(_) => Ok(text),
        Err(e) => Err(Failure::new("no-ticket", format!("{name}: cannot be read: {e}"), "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(ticket: Option<&str>, file: Option<&str>) -> Join {
        Join {
            ticket: ticket.map(str::to_owned),
            file: file.map(str::to_owned),
            stdin: false,
            provide: None,
            replace: false,
            output: Output::Text,
            socket: None,
        }
    }

    #[test]
    fn a_ticket_comes_from_one_place() {
        assert_eq!(ticket(&typed(Some(" sluice1:abc\n"), None)).unwrap(), "sluice1:abc");
        assert_eq!(ticket(&typed(Some("sluice join sluice1:abc"), None)).unwrap(), "sluice1:abc");
        assert_eq!(ticket(&typed(None, None)).unwrap_err().reason, "usage");
        assert_eq!(ticket(&typed(Some("a"), Some("b"))).unwrap_err().reason, "usage");
        assert_eq!(ticket(&typed(None, Some("/nonexistent"))).unwrap_err().reason, "no-ticket");
        assert_eq!(ticket(&typed(Some("two words"), None)).unwrap_err().reason, "no-ticket");
    }
}

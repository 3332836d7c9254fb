//! `sluice unpeer`: has the daemon end a peering. It finishes with the peer away too.

use super::args::{Output, Unpeer};
use super::protocol::{Failure, Request};
use super::socket::{ask, mismatch};
use super::terminal::{Terminal, clean, confirm};

pub(super) fn unpeer(typed: Unpeer) -> Result<(), Failure> {
    if typed.id.parse::<crate::identity::ClusterId>().is_err() {
        return Err(Failure::new("usage", format!("{:?} is no cluster ID", typed.id), "see the IDs with: sluice status"));
    }
    if !typed.yes {
        confirm(&format!("End the peering with {}? Pods on it come home; its pods here, with their volumes, are deleted.", typed.id))?;
    }
    let request = Request { peer: Some(typed.id), force: Some(typed.force), ..Request::new("unpeer") };
    let steps = if typed.output == Output::Json { Terminal::stderr() } else { Terminal::stdout() };
    let left = ask(&super::run::socket(typed.socket)?, &request, &mut |step| steps.step(step))?.left.ok_or_else(mismatch)?;
    let out = Terminal::stdout();
    match typed.output {
        Output::Json => out.line(&miniserde::json::to_string(&left)),
        Output::Text if left.told => out.line(&format!("  The peering with {} has ended on both sides.", clean(&left.peer))),
        Output::Text => out.line(&format!("  The peering with {} has ended here. It is away: it will be told when it comes back.", clean(&left.peer))),
    }
    Ok(())
}

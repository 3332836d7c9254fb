//! `sluice invite`: has the daemon make a ticket and prints it.

use super::args::{Invite, Output, duration};
use super::protocol::{Failure, Request};
use super::socket::{ask, mismatch};
use super::terminal::{Terminal, age, clean};
use crate::config::Offer;

pub(super) fn invite(typed: Invite) -> Result<(), Failure> {
    let valid = duration(&typed.valid)
        .ok_or_else(|| Failure::new("usage", format!("--valid {}: a time from 30s to 7d is meant", typed.valid), "as in 15m, 24h, 7d"))?;
    for endpoint in &typed.endpoint {
        endpoint_form(endpoint)?;
    }
    if let Some(provide) = typed.provide.as_deref().filter(|p| *p != "nothing") {
        offer_form(provide)?;
    }
    let request = Request {
        provide: match typed.provide {
            None => Some(String::new()),
            Some(text) if text == "nothing" => None,
            Some(text) => Some(text),
        },
        consume: Some(typed.consume),
        endpoints: Some(typed.endpoint),
        valid: Some(valid),
        ..Request::new("invite")
    };
    let err = Terminal::stderr();
    let invited = ask(&super::run::socket(typed.socket)?, &request, &mut |step| err.step(step))?.invited.ok_or_else(mismatch)?;
    let out = Terminal::stdout();
    if typed.output == Output::Json {
        out.line(&miniserde::json::to_string(&invited));
        return Ok(());
    }
    let or = |text: &str| if text.is_empty() { "nothing".to_owned() } else { clean(text) };
    out.line(&format!("  Ticket for one cluster, valid {}. On the other side run:", age(invited.valid)));
    out.line("");
    out.line(&format!("    sluice join {}", invited.ticket));
    out.line("");
    out.line(&format!("  offers  {}     asks  {}     reachable at  {}", or(&invited.offers), or(&invited.asks), invited.endpoints.join(", ")));
    invited.warnings.iter().for_each(|warning| out.warning(warning));
    Ok(())
}

/// Refuses what is no `HOST:PORT` before the daemon is asked.
fn endpoint_form(text: &str) -> Result<(), Failure> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(1..) => Ok(()),
        _ => Err(Failure::new("usage", format!("--endpoint {text}: HOST:PORT is meant"), "as in hub.example.org:51820 or [2001:db8::1]:51820")),
    }
}

/// Refuses what is no offer before the daemon is asked.
pub(super) fn offer_form(text: &str) -> Result<(), Failure> {
    Offer::parse(text, Offer::default()).map(drop).map_err(|e| Failure::new("usage", format!("--provide {text}: {e}"), ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_host_and_port() {
        for (text, good) in
            [("hub.example.org:51820", true), ("[2001:db8::1]:51820", true), ("10.0.0.1", false), (":1", false), ("a:0", false), ("a:70000", false)]
        {
            assert_eq!(endpoint_form(text).is_ok(), good, "{text}");
        }
    }
}

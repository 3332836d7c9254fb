//! Any text is read as a ticket without a panic; one that reads is minted to a line that reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice::auth::ticket::Ticket;

fuzz_target!(|text: &str| {
    if let Ok(ticket) = Ticket::read(text) {
        let line = ticket.mint().expect("a ticket that was read can be minted");
        assert_eq!(Ticket::read(&line).expect("and reads again"), ticket);
        let _ = ticket.enrolment();
    }
});

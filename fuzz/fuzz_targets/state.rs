//! Any bytes are read as a state file without a panic; one that reads is written to a text that reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice::auth::ledger::Ledger;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(ledger) = Ledger::parse(bytes) {
        assert_eq!(Ledger::parse(ledger.snapshot().as_bytes()).expect("what was written reads"), ledger);
    }
});

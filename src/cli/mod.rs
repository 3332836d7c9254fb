//! What a person types and what is printed back: one file a verb, and the files that say what the typed text means.

pub mod tunnel_config;

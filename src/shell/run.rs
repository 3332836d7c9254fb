//! Where `sluice run` enters the shell.

use crate::config::Config;

/// Runs the daemon until it is told to stop. The error is what to print.
pub fn run(config: Config) -> Result<(), String> {
    let _ = config;
    Err("the daemon is not part of this build".to_owned())
}

/// Runs the tunnel alone.
pub fn tunnel(config: &str, interface: &str) -> Result<(), String> {
    let _ = (config, interface);
    Err("the tunnel is not part of this build".to_owned())
}

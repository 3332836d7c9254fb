//! `sluice run`: reads the configuration and hands it to the shell. The daemon itself begins in `shell::run`.

use super::args::Run;
use super::protocol::Failure;
use crate::config::{Config, FILE_MAX, PATH};

pub(super) fn run(run: &Run) -> Result<(), Failure> {
    let config = configuration(run).map_err(|e| Failure::new("configuration", e, ""))?;
    crate::shell::run::run(config).map_err(|e| Failure::new("daemon", e, ""))
}

/// Defaults, then the file, then the flags.
pub(super) fn configuration(run: &Run) -> Result<Config, String> {
    let path = run.config.as_deref().unwrap_or(PATH);
    let mut config = match read(path) {
        Ok(text) => Config::read(&text, path)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && run.config.is_none() => Config::default(),
        Err(error) => return Err(format!("{path}: cannot be read: {error}")),
    };
    for (key, value) in run.keys() {
        config.set(key, value).map_err(|what| format!("--{what}"))?;
    }
    config.whole()?;
    Ok(config)
}

fn read(path: &str) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// The daemon's socket: as given, else the configured one.
pub(super) fn socket(given: Option<String>) -> Result<String, Failure> {
    match given {
        Some(path) => Ok(path),
        None => Ok(configuration(&Run::default()).map_err(|e| Failure::new("configuration", e, ""))?.socket),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test with real files")]
mod tests {
    use super::*;

    #[test]
    fn flags_override_the_file_and_a_named_file_must_exist() {
        let path = std::env::temp_dir().join(format!("sluice-config-{}", std::process::id())).display().to_string();
        std::fs::write(&path, "port = 1000\nlog = debug\n").unwrap();
        let config = configuration(&Run { config: Some(path.clone()), port: Some("2000".into()), ..Run::default() }).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((config.port, config.log), (2000, crate::config::Level::Debug));
        assert!(configuration(&Run { config: Some(path), ..Run::default() }).unwrap_err().contains("cannot be read"));
        let wrong = Run { port: Some("x".into()), ..Run::default() };
        assert!(configuration(&wrong).unwrap_err().starts_with("--port = x: a UDP port"));
    }
}

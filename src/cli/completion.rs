//! `sluice completion`: scripts for bash, zsh and fish. Static: what is completed stands in `completion/`.

use super::protocol::Failure;

pub(super) fn completion(shell: &str) -> Result<(), Failure> {
    let script = match shell {
        "bash" => include_str!("completion/sluice.bash"),
        "zsh" => include_str!("completion/sluice.zsh"),
        "fish" => include_str!("completion/sluice.fish"),
        _ => return Err(Failure::new("usage", format!("there is no completion for {shell:?}"), "bash, zsh and fish have one")),
    };
    super::terminal::Terminal::stdout().line(script.trim_end());
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn scripts_know_every_verb() {
        for script in [include_str!("completion/sluice.bash"), include_str!("completion/sluice.zsh"), include_str!("completion/sluice.fish")] {
            for verb in ["run", "invite", "join", "unpeer", "status", "doctor", "offload", "unoffload", "uninstall", "tunnel", "version", "completion"] {
                assert!(script.contains(verb), "{verb}");
            }
        }
    }
}

//! What a person types and what is printed back: one file a verb. A verb asks the daemon over its local socket, or the API server
//! with the caller's kubeconfig; prints; and says by its exit code whether it was done. It holds no state and decides nothing for the daemon.

#[cfg(feature = "shell")]
#[expect(clippy::disallowed_methods, reason = "KUBECONFIG is where the caller says which cluster is meant")]
pub mod admin;
#[cfg(feature = "shell")]
pub mod args;
#[cfg(feature = "shell")]
mod completion;
#[cfg(feature = "shell")]
mod doctor;
#[cfg(feature = "shell")]
mod invite;
#[cfg(feature = "shell")]
#[expect(clippy::disallowed_types, reason = "the ticket may be in a file")]
mod join;
#[cfg(feature = "shell")]
mod offload;
pub mod protocol;
#[cfg(feature = "shell")]
#[expect(clippy::disallowed_types, reason = "the configuration is in a file")]
mod run;
#[cfg(feature = "shell")]
pub mod socket;
#[cfg(feature = "shell")]
mod status;
#[cfg(feature = "shell")]
#[expect(clippy::disallowed_methods, reason = "verbs wait for real things")]
mod terminal;
#[cfg(feature = "shell")]
pub mod tunnel_config;
#[cfg(feature = "shell")]
mod uninstall;
#[cfg(feature = "shell")]
mod unoffload;
#[cfg(feature = "shell")]
mod unpeer;

#[cfg(feature = "shell")]
pub use terminal::Stopwatch;

/// Carries out what was typed. The error says why it was not done; its reason `usage` means exit code 2.
#[cfg(feature = "shell")]
pub fn carry_out(arguments: args::Arguments) -> Result<(), protocol::Failure> {
    use args::{OffloadWhat, UnoffloadWhat, Verb};
    match arguments.verb {
        Verb::Run(run) => run::run(&run),
        Verb::Invite(invite) => invite::invite(invite),
        Verb::Join(join) => join::join(join),
        Verb::Unpeer(unpeer) => unpeer::unpeer(unpeer),
        Verb::Status(status) => status::status(status),
        Verb::Doctor(typed) => doctor::doctor(typed),
        Verb::Offload(args::Offload { what: OffloadWhat::Namespace(namespace) }) => offload::namespace(namespace),
        Verb::Unoffload(args::Unoffload { what: UnoffloadWhat::Namespace(namespace) }) => unoffload::namespace(namespace),
        Verb::Uninstall(uninstall) => uninstall::uninstall(uninstall),
        Verb::Tunnel(tunnel) => crate::shell::run::tunnel(&tunnel.config, &tunnel.interface).map_err(|e| protocol::Failure::new("tunnel", e, "")),
        Verb::Version(version) => {
            match version.output {
                args::Output::Text => println!("sluice {}", env!("CARGO_PKG_VERSION")),
                args::Output::Json => println!("{{\"version\":\"{}\",\"manifests\":\"{}\"}}", env!("CARGO_PKG_VERSION"), crate::shell::setup::version()),
            }
            Ok(())
        }
        Verb::Completion(completion) => completion::completion(&completion.shell),
    }
}

/// Prints why something was not done; its exit code.
#[cfg(feature = "shell")]
pub fn fail(failure: &protocol::Failure) -> u8 {
    terminal::Terminal::stderr().failure(failure);
    if failure.reason == "usage" { 2 } else { 1 }
}

//! What was typed. Shapes and help texts only; what it means is decided by the file of each verb and by `config`.

use argh::FromArgs;

/// Sluice joins independent Kubernetes clusters: one line typed on each side, and pods run on both.
#[derive(FromArgs, Debug)]
#[argh(
    example = "On the cluster that can be reached:   {command_name} invite\nOn the other one:                     {command_name} join TICKET\nThen, for a namespace of yours:       {command_name} offload namespace shop",
    note = "Exit code: 0 done, 1 not done, 2 not understood."
)]
pub struct Arguments {
    #[argh(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub(crate) enum Verb {
    Run(Run),
    Invite(Invite),
    Join(Join),
    Unpeer(Unpeer),
    Status(Status),
    Doctor(Doctor),
    Offload(Offload),
    Unoffload(Unoffload),
    Uninstall(Uninstall),
    Tunnel(Tunnel),
    Version(Version),
    Completion(Completion),
}

/// run the daemon
#[derive(FromArgs, Debug, Default)]
#[argh(subcommand, name = "run", example = "{command_name} --cluster-id shop-17 --provide cpu=2,memory=1Gi,pods=50")]
pub(crate) struct Run {
    /// configuration file of lines `key = value`; the keys are the names of these flags (default: /etc/sluice/config, if it is there)
    #[argh(option)]
    pub(crate) config: Option<String>,
    /// this cluster's ID, a DNS label of at most 40 characters (default: host name and eight digits of the key)
    #[argh(option)]
    pub(crate) cluster_id: Option<String>,
    /// directory of the state file (default: /var/lib/sluice)
    #[argh(option)]
    pub(crate) state: Option<String>,
    /// path of the local socket (default: /run/sluice/sluice.sock)
    #[argh(option)]
    pub(crate) socket: Option<String>,
    /// the administrator's kubeconfig (default: /etc/rancher/k3s/k3s.yaml)
    #[argh(option)]
    pub(crate) kubeconfig: Option<String>,
    /// UDP port of the tunnel (default: 51820)
    #[argh(option)]
    pub(crate) port: Option<String>,
    /// name of the tunnel's interface (default: sluice0)
    #[argh(option)]
    pub(crate) interface: Option<String>,
    /// the cluster's pod prefix (default: 10.42.0.0/16)
    #[argh(option)]
    pub(crate) pods: Option<String>,
    /// the cluster's service prefix (default: 10.43.0.0/16)
    #[argh(option)]
    pub(crate) services: Option<String>,
    /// a /16 for the ends of peers on this host (default: 10.70.0.0/16)
    #[argh(option)]
    pub(crate) external: Option<String>,
    /// address and port of the API server that consumers are led to (default: that of the kubeconfig)
    #[argh(option)]
    pub(crate) api_server: Option<String>,
    /// what is lent by default (default: cpu=4,memory=8Gi,pods=110)
    #[argh(option)]
    pub(crate) provide: Option<String>,
    /// address and port where Prometheus reads the metrics, or `off` (default: 127.0.0.1:51820); beyond loopback with the bearer in STATE/metrics-token
    #[argh(option)]
    pub(crate) metrics: Option<String>,
    /// warn, info, debug or trace (default: info)
    #[argh(option)]
    pub(crate) log: Option<String>,
}

impl Run {
    /// The flags that were given, as keys of the configuration.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("cluster-id", &self.cluster_id),
            ("state", &self.state),
            ("socket", &self.socket),
            ("kubeconfig", &self.kubeconfig),
            ("port", &self.port),
            ("interface", &self.interface),
            ("pods", &self.pods),
            ("services", &self.services),
            ("external", &self.external),
            ("api-server", &self.api_server),
            ("provide", &self.provide),
            ("metrics", &self.metrics),
            ("log", &self.log),
        ];
        all.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?)))
    }
}

/// make a ticket for one cluster and print it
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "invite", example = "{command_name} --provide cpu=2,memory=1Gi,pods=50 --endpoint hub.example.org:51820")]
pub(crate) struct Invite {
    /// what is offered, as cpu=2,memory=1Gi,pods=50, or `nothing` (default: the configured offer)
    #[argh(option)]
    pub(crate) provide: Option<String>,
    /// ask for the other cluster's resources too; it lends them only if it says --provide
    #[argh(switch)]
    pub(crate) consume: bool,
    /// where this cluster is reached from outside, HOST:PORT; may be given several times (default: this host's addresses)
    #[argh(option)]
    pub(crate) endpoint: Vec<String>,
    /// how long the ticket is valid, as 30s, 15m, 24h or 7d (default: 15m)
    #[argh(option, default = "String::from(\"15m\")")]
    pub(crate) valid: String,
    /// text or json
    #[argh(option, short = 'o', default = "Output::Text")]
    pub(crate) output: Output,
    /// the daemon's socket
    #[argh(option)]
    pub(crate) socket: Option<String>,
}

/// redeem a ticket: peer with the cluster that made it
#[derive(FromArgs, Debug)]
#[argh(
    subcommand,
    name = "join",
    example = "{command_name} sluice1:AfF0c3Q...\n{command_name} --file ticket.txt --provide cpu=2\nssh hub sluice invite -o json | jq -r .ticket | {command_name} -"
)]
pub(crate) struct Join {
    /// the ticket's line; - reads it from the input
    #[argh(positional)]
    pub(crate) ticket: Option<String>,
    /// read the ticket from this file
    #[argh(option)]
    pub(crate) file: Option<String>,
    #[argh(switch, hidden_help)]
    /// read the ticket from the input
    pub(crate) stdin: bool,
    /// lend resources to the inviter if it asks, as cpu=2,memory=1Gi,pods=50 or `default`
    #[argh(option)]
    pub(crate) provide: Option<String>,
    /// replace a peer of the same ID or key
    #[argh(switch)]
    pub(crate) replace: bool,
    /// text or json
    #[argh(option, short = 'o', default = "Output::Text")]
    pub(crate) output: Output,
    /// the daemon's socket
    #[argh(option)]
    pub(crate) socket: Option<String>,
}

/// end the peering with a cluster, on both sides; it finishes with the peer away too
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "unpeer", example = "{command_name} shop-17-9be2d410 --yes")]
pub(crate) struct Unpeer {
    /// the peer's cluster ID, as `sluice status` shows it
    #[argh(positional)]
    pub(crate) id: String,
    /// do not ask
    #[argh(switch)]
    pub(crate) yes: bool,
    /// do not wait for the peer; it is told when it comes back
    #[argh(switch)]
    pub(crate) force: bool,
    /// text or json
    #[argh(option, short = 'o', default = "Output::Text")]
    pub(crate) output: Output,
    /// the daemon's socket
    #[argh(option)]
    pub(crate) socket: Option<String>,
}

/// show every peering with its health
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "status", example = "{command_name}\n{command_name} hub-4f1c09aa -o json")]
pub(crate) struct Status {
    /// only this peer
    #[argh(positional)]
    pub(crate) id: Option<String>,
    /// text or json
    #[argh(option, short = 'o', default = "Output::Text")]
    pub(crate) output: Output,
    /// the daemon's socket
    #[argh(option)]
    pub(crate) socket: Option<String>,
}

/// find what is broken, hop by hop, and say what to do; it changes nothing
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "doctor", example = "{command_name}\n{command_name} --bundle /tmp/sluice.tar")]
pub(crate) struct Doctor {
    /// write a support file without secrets, a tar, to this path
    #[argh(option)]
    pub(crate) bundle: Option<String>,
    /// configuration file (default: /etc/sluice/config, if it is there)
    #[argh(option)]
    pub(crate) config: Option<String>,
    /// text or json
    #[argh(option, short = 'o', default = "Output::Text")]
    pub(crate) output: Output,
    /// the daemon's socket
    #[argh(option)]
    pub(crate) socket: Option<String>,
}

/// let a namespace's pods run on peers too
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "offload", example = "{command_name} namespace shop --pod-offloading-strategy Remote")]
pub(crate) struct Offload {
    #[argh(subcommand)]
    pub(crate) what: OffloadWhat,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub(crate) enum OffloadWhat {
    Namespace(OffloadNamespace),
}

/// offload a namespace
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "namespace", example = "{command_name} shop\n{command_name} shop --selector liqo.io/remote-cluster-id=hub-4f1c09aa")]
pub(crate) struct OffloadNamespace {
    /// the namespace
    #[argh(positional)]
    pub(crate) name: String,
    /// where new pods may run: Local, Remote or LocalAndRemote (default)
    #[argh(option, default = "String::from(\"LocalAndRemote\")")]
    pub(crate) pod_offloading_strategy: String,
    /// which providers, by labels of their virtual nodes: KEY=VALUE,KEY=VALUE; given several times, any of them
    #[argh(option)]
    pub(crate) selector: Vec<String>,
    /// the twin's name: DefaultName (default), EnforceSameName or SelectedName
    #[argh(option, default = "String::from(\"DefaultName\")")]
    pub(crate) namespace_mapping_strategy: String,
    /// the twin's name, with SelectedName
    #[argh(option)]
    pub(crate) remote_namespace_name: Option<String>,
    /// kubeconfig (default: $KUBECONFIG, else K3s's)
    #[argh(option)]
    pub(crate) kubeconfig: Option<String>,
    /// text or json
    #[argh(option, short = 'o', default = "Output::Text")]
    pub(crate) output: Output,
}

/// bring a namespace's pods home; it finishes with the peer away too
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "unoffload", example = "{command_name} namespace shop")]
pub(crate) struct Unoffload {
    #[argh(subcommand)]
    pub(crate) what: UnoffloadWhat,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub(crate) enum UnoffloadWhat {
    Namespace(UnoffloadNamespace),
}

/// end the offloading of a namespace
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "namespace", example = "{command_name} shop")]
pub(crate) struct UnoffloadNamespace {
    /// the namespace
    #[argh(positional)]
    pub(crate) name: String,
    /// kubeconfig (default: $KUBECONFIG, else K3s's)
    #[argh(option)]
    pub(crate) kubeconfig: Option<String>,
    /// text or json
    #[argh(option, short = 'o', default = "Output::Text")]
    pub(crate) output: Output,
}

/// remove from the cluster all that sluice made there, and only that
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "uninstall", example = "{command_name} --yes")]
pub(crate) struct Uninstall {
    /// do not ask
    #[argh(switch)]
    pub(crate) yes: bool,
    /// go on although peerings stand; the peers are not told
    #[argh(switch)]
    pub(crate) force: bool,
    /// kubeconfig (default: $KUBECONFIG, else K3s's)
    #[argh(option)]
    pub(crate) kubeconfig: Option<String>,
    /// the daemon's socket
    #[argh(option)]
    pub(crate) socket: Option<String>,
}

/// run the WireGuard tunnel alone, from a wg-quick style file
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "tunnel", example = "{command_name} --config /etc/sluice/wg.conf --interface wg0")]
pub(crate) struct Tunnel {
    /// the file: `[Interface]` PrivateKey, ListenPort, Address, MTU; `[Peer]` PublicKey, PresharedKey, AllowedIPs, Endpoint, PersistentKeepalive
    #[argh(option)]
    pub(crate) config: String,
    /// name of the interface
    #[argh(option, default = "String::from(\"sluice0\")")]
    pub(crate) interface: String,
}

/// print the version
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "version", example = "{command_name} -o json")]
pub(crate) struct Version {
    /// text or json
    #[argh(option, short = 'o', default = "Output::Text")]
    pub(crate) output: Output,
}

/// print a completion script for a shell
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "completion", example = "{command_name} bash > /etc/bash_completion.d/sluice")]
pub(crate) struct Completion {
    /// bash, zsh or fish
    #[argh(positional)]
    pub(crate) shell: String,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For machines.
    Json,
}

impl argh::FromArgValue for Output {
    fn from_arg_value(value: &str) -> Result<Output, String> {
        match value {
            "text" => Ok(Output::Text),
            "json" => Ok(Output::Json),
            _ => Err("text or json is meant".to_owned()),
        }
    }
}

/// Reads the arguments after the program's name. The error is what to print and the exit code: 0 for help, 2 for what is not understood.
pub fn read(typed: &[String]) -> Result<Arguments, (String, u8)> {
    let typed: Vec<&str> = typed.iter().map(|a| if a == "-" { "--stdin" } else { a.as_str() }).collect();
    let typed: &[&str] = match typed.as_slice() {
        [] => &["--help"],
        ["--version" | "-V"] => &["version"],
        rest => rest,
    };
    Arguments::from_args(&["sluice"], typed).map_err(|early| match early.status {
        Ok(()) => (early.output, 0),
        Err(()) => (format!("error: {}\n  See: sluice --help", early.output.trim()), 2),
    })
}

/// Reads `30s`, `15m`, `24h`, `7d`, into seconds: from 30 s to 7 days.
pub(crate) fn duration(text: &str) -> Option<u64> {
    let unit = text.bytes().last()?;
    let size = match unit {
        b's' => 1,
        b'm' => 60,
        b'h' => 3_600,
        b'd' => 86_400,
        _ => return None,
    };
    let number = &text[..text.len() - 1];
    number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse::<u64>().ok())??.checked_mul(size).filter(|s| (30..=7 * 86_400).contains(s))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Result<Arguments, (String, u8)> {
        read(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn every_verb_has_help_with_an_example() {
        for verb in [
            "run",
            "invite",
            "join",
            "unpeer",
            "status",
            "offload",
            "offload namespace",
            "unoffload",
            "unoffload namespace",
            "uninstall",
            "tunnel",
            "version",
            "completion",
        ] {
            let (text, code) = typed(&format!("{verb} --help")).unwrap_err();
            assert_eq!(code, 0, "{verb}");
            assert!(text.contains("Examples:") && text.contains(&format!("sluice {verb}")), "{verb}: {text}");
        }
        assert_eq!(typed("").unwrap_err().1, 0);
    }

    #[test]
    fn what_is_not_understood_has_exit_code_2() {
        for line in ["what", "invite --what", "unpeer", "status -o yaml", "offload", "offload pod x"] {
            let (text, code) = typed(line).unwrap_err();
            assert_eq!(code, 2, "{line}");
            assert!(text.starts_with("error: ") && text.contains("--help"), "{text}");
        }
    }

    #[test]
    fn flags_of_run_are_keys_of_the_configuration() {
        let Verb::Run(run) = typed("run --cluster-id a --port 1 --interface x --pods p --services s --external e --api-server q --provide r --metrics m --log l --state t --socket u --kubeconfig k")
            .unwrap()
            .verb
        else {
            panic!()
        };
        assert_eq!(run.keys().count(), 13);
        for (key, _) in run.keys() {
            let error = crate::config::Config::default().set(key, "").unwrap_err();
            assert!(error.contains("has no value"), "{key}: {error}");
            if let Err(error) = crate::config::Config::default().set(key, "?") {
                assert!(!error.contains("is no key"), "{error}");
            }
        }
    }

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, seconds) in
            [("15m", Some(900)), ("30s", Some(30)), ("7d", Some(604_800)), ("1s", None), ("8d", None), ("15", None), ("", None), ("m", None), ("é", None)]
        {
            assert_eq!(duration(text), seconds, "{text}");
        }
    }

    #[test]
    fn a_dash_means_the_input() {
        let Verb::Join(join) = typed("join -").unwrap().verb else { panic!() };
        assert!(join.stdin && join.ticket.is_none());
    }
}

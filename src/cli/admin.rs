//! The administrator's way to the API server, blocking: for the verbs that use the caller's kubeconfig and for `shell::setup`.
//!
//! One connection at a time with small buffers; every answer is a [`Reply`]. It decides nothing and tries nothing twice.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::budget::OBJECT_MAX;
use crate::kube::call::Verb;
use crate::kube::reply::{Reply, from_status};
use crate::shell::kubeconfig::{Access, Credential, from_file, read_file};

/// The field manager under which we apply.
pub const MANAGER: &str = "sluice";
/// The longest answer read, in bytes: a list of what is ours.
const ANSWER_MAX: u64 = 16 * OBJECT_MAX as u64;

/// An API server, and the right to speak to it as the administrator.
pub struct Admin {
    agent: ureq::Agent,
    base: String,
    bearer: Option<String>,
}

impl Admin {
    /// From the kubeconfig that was named, else `$KUBECONFIG` (its first file), else K3s's.
    pub fn from_kubeconfig(named: Option<&str>) -> Result<Admin, String> {
        let environment = std::env::var("KUBECONFIG").ok().and_then(|v| v.split(':').find(|p| !p.is_empty()).map(str::to_owned));
        let path = named.map(str::to_owned).or(environment).unwrap_or_else(|| crate::shell::kubeconfig::K3S.to_owned());
        Admin::new(&from_file(Path::new(&path), &read_file)?)
    }

    /// From an access that was read.
    pub fn new(access: &Access) -> Result<Admin, String> {
        let mut roots = Vec::new();
        for item in parse_pem(&access.ca) {
            if let PemItem::Certificate(certificate) = item.map_err(|e| format!("the CA bundle is no PEM: {e}"))? {
                roots.push(certificate);
            }
        }
        if access.name != access.host {
            return Err("a kubeconfig with tls-server-name is not understood here; use the name as the server's host".to_owned());
        }
        let mut tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&roots))
            .unversioned_rustls_crypto_provider(Arc::new(tokio_rustls::rustls::crypto::ring::default_provider()));
        let mut bearer = None;
        match &access.credential {
            Credential::Token(token) | Credential::TokenFile(_, token) => bearer = Some(format!("Bearer {token}")),
            Credential::Certificate(identity) => tls = tls.client_cert(Some(client_certificate(&identity.certificate, &identity.key)?)),
        }
        let config = ureq::Agent::config_builder()
            .tls_config(tls.build())
            .https_only(true)
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .timeout_global(Some(Duration::from_secs(30)))
            .timeout_connect(Some(Duration::from_secs(5)))
            .input_buffer_size(16 * 1024)
            .output_buffer_size(16 * 1024)
            .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .build();
        let host = if access.host.contains(':') { format!("[{}]", access.host) } else { access.host.clone() };
        Ok(Admin { agent: config.new_agent(), base: format!("https://{host}:{}", access.port), bearer })
    }

    /// Where it is, for messages.
    pub fn server(&self) -> &str {
        &self.base
    }

    /// Carries out one request. `Apply` goes under our field manager, forced.
    pub fn call(&self, verb: Verb, path: &str, body: Option<&str>) -> Reply {
        let mut uri = format!("{}{path}", self.base);
        let (method, kind) = match verb {
            Verb::Get => ("GET", ""),
            Verb::Create => ("POST", "application/json"),
            Verb::Apply => {
                uri.push_str(if path.contains('?') { "&" } else { "?" });
                uri.push_str("force=true&fieldManager=");
                uri.push_str(MANAGER);
                ("PATCH", "application/apply-patch+yaml")
            }
            Verb::Merge => ("PATCH", "application/merge-patch+json"),
            Verb::Delete => ("DELETE", "application/json"),
        };
        let mut request = ureq::http::Request::builder().method(method).uri(uri).header("accept", "application/json");
        if let Some(bearer) = &self.bearer {
            request = request.header("authorization", bearer);
        }
        let answer = match body {
            Some(body) => request.header("content-type", kind).body(body).map_err(|e| e.to_string()).and_then(|r| self.run(r)),
            None => request.body(()).map_err(|e| e.to_string()).and_then(|r| self.run(r)),
        };
        match answer {
            Ok((status, body, retry_after)) => from_status(status, body, retry_after),
            Err(why) => Reply::Unreachable(why),
        }
    }

    fn run(&self, request: ureq::http::Request<impl ureq::AsSendBody>) -> Result<(u16, Vec<u8>, Option<u64>), String> {
        // A DELETE may carry options.
        let request = self.agent.configure_request(request).allow_non_standard_methods(true).build();
        let mut answer = self.agent.run(request).map_err(|e| e.to_string())?;
        let retry_after = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
        let mut body = Vec::new();
        answer.body_mut().as_reader().take(ANSWER_MAX).read_to_end(&mut body).map_err(|e| e.to_string())?;
        Ok((answer.status().as_u16(), body, retry_after))
    }
}

/// Says what a reply that is not `Done` means for `what`, in one sentence.
pub fn explain(what: &str, reply: &Reply) -> String {
    match reply {
        Reply::Done(_) => format!("{what}: done"),
        Reply::NotFound => format!("{what}: not found"),
        Reply::Conflict => format!("{what}: it exists already, or has changed meanwhile"),
        Reply::Expired => format!("{what}: too old"),
        Reply::Refused(why) => format!("{what}: the API server refuses: {why}"),
        Reply::Unauthorized => format!("{what}: the API server does not accept the kubeconfig's credential"),
        Reply::Throttled(_) => format!("{what}: the API server is overloaded"),
        Reply::Unreachable(why) => format!("{what}: no answer from the API server: {why}"),
        Reply::Unfit(_) => format!("{what}: nothing was sent"),
    }
}

fn client_certificate(certificate: &[u8], key: &[u8]) -> Result<ClientCert, String> {
    let mut chain: Vec<Certificate<'static>> = Vec::new();
    for item in parse_pem(certificate) {
        if let PemItem::Certificate(one) = item.map_err(|e| format!("the client certificate is no PEM: {e}"))? {
            chain.push(one);
        }
    }
    let key = PrivateKey::from_pem(key).map_err(|e| format!("the client key is no PEM: {e}"))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

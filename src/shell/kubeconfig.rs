//! How this cluster's API server is reached and as whom: from a kubeconfig (block YAML or JSON) or from a mounted ServiceAccount.
//!
//! Stands in shell because of the YAML crate; it reads files only through the function it is given. At most `CREDENTIAL_FILE_MAX` bytes a
//! file, https only, the server's certificate always checked; exec plugins and passwords are refused. Errors name file and field.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::tls::Identity;
use crate::budget::CREDENTIAL_FILE_MAX as FILE_MAX;

/// The most brackets, anchors and aliases in a YAML kubeconfig.
const MARKS_MAX: usize = 256;
/// Where K3s leaves the admin's kubeconfig.
pub const K3S: &str = "/etc/rancher/k3s/k3s.yaml";
/// Where a pod's ServiceAccount is mounted.
pub const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// An API server and a credential for it.
#[derive(Clone, Debug)]
pub struct Access {
    /// Host name or IP address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The name the server's certificate must carry: the host, or `tls-server-name`.
    pub name: String,
    /// The CA bundle, PEM.
    pub ca: Vec<u8>,
    /// As whom.
    pub credential: Credential,
}

/// As whom an API server is spoken to.
#[derive(Clone)]
pub enum Credential {
    /// A bearer token.
    Token(String),
    /// A bearer token in a file that others renew; to be read again with [`token_file`] when it is no longer accepted.
    TokenFile(PathBuf, String),
    /// A client certificate.
    Certificate(Identity),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credential::Token(_) => "Token(..)",
            Credential::TokenFile(..) => "TokenFile(..)",
            Credential::Certificate(_) => "Certificate(..)",
        })
    }
}

/// Reads a whole file of at most `CREDENTIAL_FILE_MAX` bytes; the error names the file.
pub fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let shown = path.display();
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| format!("{shown}: cannot be opened: {e}"))?;
    file.take(FILE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|e| format!("{shown}: cannot be read: {e}"))?;
    if bytes.len() > FILE_MAX {
        return Err(format!("{shown}: larger than {FILE_MAX} bytes"));
    }
    Ok(bytes)
}

/// The access of the current context of the kubeconfig at `path`. Paths in it are relative to it.
pub fn from_file(path: &Path, read: &dyn Fn(&Path) -> Result<Vec<u8>, String>) -> Result<Access, String> {
    let shown = path.display();
    let bytes = read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("{shown}: not UTF-8"))?;
    let config = parse(text).map_err(|e| format!("{shown}: {e}"))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let file = |relative: &str| read(&directory.join(relative));
    access(&config, directory, &file).map_err(|e| if e.starts_with('/') { e } else { format!("{shown}: {e}") })
}

/// The access of a pod: the ServiceAccount mounted at `directory`, the server named by the environment's `KUBERNETES_SERVICE_HOST`
/// and `KUBERNETES_SERVICE_PORT`.
pub fn mounted(directory: &Path, host: Option<&str>, port: Option<&str>, read: &dyn Fn(&Path) -> Result<Vec<u8>, String>) -> Result<Access, String> {
    let host = host.filter(|h| !h.is_empty()).ok_or("KUBERNETES_SERVICE_HOST is not set: this is no pod")?.to_owned();
    let port = port.unwrap_or("443");
    let port = port.parse().map_err(|_| format!("KUBERNETES_SERVICE_PORT: {port:?} is no port"))?;
    let path = directory.join("token");
    let token = token_file(&path, read)?;
    Ok(Access { name: host.clone(), host, port, ca: read(&directory.join("ca.crt"))?, credential: Credential::TokenFile(path, token) })
}

/// Reads a token file anew.
pub fn token_file(path: &Path, read: &dyn Fn(&Path) -> Result<Vec<u8>, String>) -> Result<String, String> {
    let text = String::from_utf8(read(path)?).map_err(|_| format!("{}: not UTF-8", path.display()))?;
    token(&text).map_err(|e| format!("{}: {e}", path.display()))
}

fn token(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("holds no token".to_owned());
    }
    Ok(text.to_owned())
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Config {
    #[serde(default)]
    current_context: Option<String>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    #[serde(default)]
    server: String,
    #[serde(default)]
    certificate_authority: Option<String>,
    #[serde(default)]
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    #[serde(default)]
    tls_server_name: Option<String>,
    #[serde(default)]
    proxy_url: Option<String>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    #[serde(default)]
    client_certificate: Option<String>,
    #[serde(default)]
    client_certificate_data: Option<String>,
    #[serde(default)]
    client_key: Option<String>,
    #[serde(default)]
    client_key_data: Option<String>,
    #[serde(default)]
    token: Option<String>,
    #[serde(default, rename = "tokenFile")]
    token_file: Option<String>,
    #[serde(default)]
    exec: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    auth_provider: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    username: Option<String>,
}

fn parse(text: &str) -> Result<Config, String> {
    if text.trim_start().starts_with('{')
        && let Ok(config) = serde_json::from_str(text)
    {
        return Ok(config);
    }
    // The YAML parser takes time with the square of the depth of brackets; no kubeconfig has many.
    if text.bytes().filter(|b| b"[{*&".contains(b)).count() > MARKS_MAX {
        return Err(format!("not a kubeconfig: more than {MARKS_MAX} brackets and aliases"));
    }
    serde_yaml_ng::from_str(text).map_err(|e| {
        let why: String = e.to_string().chars().take(200).collect();
        format!("not a kubeconfig: {why}")
    })
}

fn access(config: &Config, directory: &Path, file: &dyn Fn(&str) -> Result<Vec<u8>, String>) -> Result<Access, String> {
    let wanted = config.current_context.as_deref().filter(|c| !c.is_empty()).ok_or("current-context is not set")?;
    let context = &config.contexts.iter().find(|c| c.name == wanted).ok_or_else(|| format!("contexts: none is named {wanted:?}"))?.context;
    let cluster = config.clusters.iter().find(|c| c.name == context.cluster).ok_or_else(|| format!("clusters: none is named {:?}", context.cluster))?;
    let user = config.users.iter().find(|u| u.name == context.user).ok_or_else(|| format!("users: none is named {:?}", context.user))?;
    let at = |field: &str| format!("clusters[{}].{field}", cluster.name);
    let cluster = &cluster.cluster;
    if cluster.insecure_skip_tls_verify {
        return Err(format!("{} is not supported: the server's certificate is always checked", at("insecure-skip-tls-verify")));
    }
    if cluster.proxy_url.as_deref().is_some_and(|p| !p.is_empty()) {
        return Err(format!("{} is not supported", at("proxy-url")));
    }
    let (host, port) = server(&cluster.server).map_err(|e| format!("{}: {e}", at("server")))?;
    let ca = either(&cluster.certificate_authority_data, &cluster.certificate_authority, &|f| at(&format!("certificate-authority{f}")), file)?
        .ok_or_else(|| format!("{} is missing: sluice trusts no public CA", at("certificate-authority-data")))?;
    let name = cluster.tls_server_name.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| host.clone());
    Ok(Access { host, port, name, ca, credential: credential(&user.name, &user.user, directory, file)? })
}

fn credential(name: &str, user: &User, directory: &Path, file: &dyn Fn(&str) -> Result<Vec<u8>, String>) -> Result<Credential, String> {
    let at = |field: &str| format!("users[{name}].{field}");
    for (field, present) in [("exec", user.exec.is_some()), ("auth-provider", user.auth_provider.is_some()), ("username", user.username.is_some())] {
        if present {
            return Err(format!("{} is not supported: use a client certificate or a token (sluice runs no programs for credentials)", at(field)));
        }
    }
    let certificate = either(&user.client_certificate_data, &user.client_certificate, &|f| at(&format!("client-certificate{f}")), file)?;
    let key = either(&user.client_key_data, &user.client_key, &|f| at(&format!("client-key{f}")), file)?;
    match (certificate, key) {
        (Some(certificate), Some(key)) => return Ok(Credential::Certificate(Identity { certificate, key })),
        (Some(_), None) => return Err(format!("{} is missing", at("client-key-data"))),
        (None, Some(_)) => return Err(format!("{} is missing", at("client-certificate-data"))),
        (None, None) => {}
    }
    // As kubectl does: the file wins, it is the fresher of the two.
    if let Some(path) = user.token_file.as_deref().filter(|p| !p.is_empty()) {
        let text = String::from_utf8(file(path)?).map_err(|_| format!("{}: not UTF-8", at("tokenFile")))?;
        return Ok(Credential::TokenFile(directory.join(path), token(&text).map_err(|e| format!("{}: {e}", at("tokenFile")))?));
    }
    match user.token.as_deref().filter(|t| !t.is_empty()) {
        Some(text) => Ok(Credential::Token(token(text).map_err(|e| format!("{}: {e}", at("token")))?)),
        None => Err(format!("{} has no credential: no client certificate, token or tokenFile", at("user"))),
    }
}

/// What is embedded under `FIELD-data`, or else the file named under `FIELD`.
fn either(
    embedded: &Option<String>,
    named: &Option<String>,
    at: &dyn Fn(&str) -> String,
    file: &dyn Fn(&str) -> Result<Vec<u8>, String>,
) -> Result<Option<Vec<u8>>, String> {
    if let Some(text) = embedded.as_deref().filter(|t| !t.is_empty()) {
        let text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        return STANDARD.decode(text).map(Some).map_err(|_| format!("{}: not base64", at("-data")));
    }
    named.as_deref().filter(|p| !p.is_empty()).map(file).transpose()
}

/// Host and port of an https URL without a path.
fn server(url: &str) -> Result<(String, u16), String> {
    if url.is_empty() {
        return Err("is missing".to_owned());
    }
    let rest = url.strip_prefix("https://").ok_or_else(|| format!("{url:?} is not an https:// URL"))?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let bad = || format!("{url:?} is not https://HOST:PORT (a path or user is not supported)");
    if authority.contains(['/', '?', '#', '@']) {
        return Err(bad());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, rest) = v6.split_once(']').ok_or_else(bad)?;
            (host, rest.strip_prefix(':').or(rest.is_empty().then_some("443")).ok_or_else(bad)?)
        }
        None => authority.rsplit_once(':').unwrap_or((authority, "443")),
    };
    match port.parse() {
        Ok(port) if port != 0 && !host.is_empty() => Ok((host.to_owned(), port)),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
apiVersion: v1
kind: Config
current-context: default
clusters:
- cluster:
    certificate-authority-data: Q0E=
    server: https://127.0.0.1:6443
  name: default
contexts:
- context:
    cluster: default
    user: default
  name: default
preferences: {}
users:
- name: default
  user:
    client-certificate-data: Q0VSVA==
    client-key-data: S0VZ
";

    fn file(path: &Path) -> Result<Vec<u8>, String> {
        match path.to_str() {
            Some("/etc/x/ca.crt") | Some("/sa/ca.crt") => Ok(b"CA".to_vec()),
            Some("/etc/x/token") | Some("/sa/token") => Ok(b"t-1\n".to_vec()),
            other => Err(format!("{}: cannot be opened: not there", other.unwrap_or(""))),
        }
    }

    fn read(text: &str) -> Result<Access, String> {
        let text = text.to_owned();
        from_file(Path::new("/etc/x/k.yaml"), &|path| if path.ends_with("k.yaml") { Ok(text.clone().into_bytes()) } else { file(path) })
    }

    #[test]
    fn the_file_that_k3s_writes_is_read() {
        let access = read(GOOD).expect("access");
        assert_eq!((access.host.as_str(), access.port, access.name.as_str(), access.ca.as_slice()), ("127.0.0.1", 6443, "127.0.0.1", &b"CA"[..]));
        assert!(matches!(access.credential, Credential::Certificate(id) if id.certificate == b"CERT" && id.key == b"KEY"));
    }

    #[test]
    fn json_and_flow_style_are_read_as_well() {
        for text in [
            r#"{"current-context":"c","clusters":[{"name":"k","cluster":{"server":"https://[fd00::1]:6443/","certificate-authority":"ca.crt","tls-server-name":"kubernetes"}}],
                "contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}],"users":[{"name":"u","user":{"tokenFile":"token"}}]}"#,
            "clusters: [{name: k, cluster: {server: \"https://[fd00::1]:6443\", certificate-authority: /etc/x/ca.crt, tls-server-name: kubernetes}}]\nusers: [{name: u, user: {tokenFile: /etc/x/token}}]\ncontexts: [{name: c, context: {cluster: k, user: u}}]\ncurrent-context: c\n",
        ] {
            let access = read(text).expect("access");
            assert_eq!((access.host.as_str(), access.port, access.name.as_str(), access.ca.as_slice()), ("fd00::1", 6443, "kubernetes", &b"CA"[..]));
            assert!(matches!(access.credential, Credential::TokenFile(path, token) if path == Path::new("/etc/x/token") && token == "t-1"));
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_file_and_field() {
        for (from, to, error) in [
            ("current-context: default", "current-context: ''", "/etc/x/k.yaml: current-context is not set"),
            ("current-context: default", "current-context: other", "/etc/x/k.yaml: contexts: none is named \"other\""),
            ("    cluster: default", "    cluster: other", "/etc/x/k.yaml: clusters: none is named \"other\""),
            ("    user: default", "    user: other", "/etc/x/k.yaml: users: none is named \"other\""),
            ("https://", "http://", "/etc/x/k.yaml: clusters[default].server: \"http://127.0.0.1:6443\" is not an https:// URL"),
            (":6443", ":0", "/etc/x/k.yaml: clusters[default].server: \"https://127.0.0.1:0\" is not https://HOST:PORT (a path or user is not supported)"),
            ("Q0E=", "'?'", "/etc/x/k.yaml: clusters[default].certificate-authority-data: not base64"),
            (
                "certificate-authority-data: Q0E=",
                "insecure-skip-tls-verify: true",
                "/etc/x/k.yaml: clusters[default].insecure-skip-tls-verify is not supported: the server's certificate is always checked",
            ),
            ("certificate-authority-data: Q0E=", "x: y", "/etc/x/k.yaml: clusters[default].certificate-authority-data is missing: sluice trusts no public CA"),
            ("certificate-authority-data: Q0E=", "certificate-authority: no.crt", "/etc/x/no.crt: cannot be opened: not there"),
            ("client-key-data: S0VZ", "x: y", "/etc/x/k.yaml: users[default].client-key-data is missing"),
            (
                "client-key-data: S0VZ",
                "exec: {command: aws}",
                "/etc/x/k.yaml: users[default].exec is not supported: use a client certificate or a token (sluice runs no programs for credentials)",
            ),
        ] {
            assert!(GOOD.contains(from), "{from}");
            assert_eq!(read(&GOOD.replacen(from, to, 1)).map(|_| ()), Err(error.to_owned()));
        }
        for text in ["", "\u{0}", "[", "a: b: c", "{", "- 1", "clusters: 7"] {
            assert!(read(text).is_err_and(|e| e.starts_with("/etc/x/k.yaml: ")), "{text:?}");
        }
    }

    #[test]
    fn a_bomb_of_aliases_is_refused_quickly() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..20 {
            bomb += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
        }
        bomb += "clusters: *a19\n";
        assert!(bomb.bytes().filter(|b| b"[*&".contains(b)).count() < MARKS_MAX, "it gets past the count");
        assert!(read(&bomb).is_err());
        assert!(read(&"[".repeat(FILE_MAX)).is_err());
        assert!(read(&"[".repeat(MARKS_MAX)).is_err());
        assert!(read(&format!("clusters: {}", "{a: ".repeat(10_000))).is_err());
    }

    #[test]
    fn a_mounted_account_is_read() {
        let access = mounted(Path::new("/sa"), Some("10.43.0.1"), Some("443"), &file).expect("access");
        assert_eq!((access.host.as_str(), access.port), ("10.43.0.1", 443));
        assert!(matches!(access.credential, Credential::TokenFile(_, token) if token == "t-1"));
        assert!(mounted(Path::new("/sa"), None, None, &file).is_err_and(|e| e.contains("KUBERNETES_SERVICE_HOST")));
        assert!(mounted(Path::new("/no"), Some("h"), None, &file).is_err_and(|e| e.starts_with("/no/token: ")));
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        assert!(read_file(Path::new("/dev/zero")).is_err_and(|e| e == "/dev/zero: larger than 262144 bytes"));
        assert!(read_file(Path::new("/nowhere/at/all")).is_err_and(|e| e.starts_with("/nowhere/at/all: cannot be opened")));
    }
}

//! TLS to API servers. The only file that names rustls: what it hands out are [`Client`] and [`Stream`].
//!
//! Chain, name and CA are always checked; a certificate's validity dates pass if they hold at the local time *or* at one of a few
//! other times: what an authenticated peer said in `hello`, the last good time in the state file ([`Times`]). So a board ahead,
//! behind or in 1970 works, and a wrong peer cannot break a right one. No session is resumed, so none is remembered.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::clock::WallTime;

/// The most certificates in a CA bundle or a client's chain; more are refused.
const CERTIFICATES_MAX: usize = 64;
/// The most other times remembered; the oldest makes room.
const TIMES_MAX: usize = 4;
/// The largest record sent, in bytes: keeps the send buffer of a connection small.
const RECORD_MAX: usize = 4 * 1024;
/// Plaintext taken into a connection's send buffer before it waits for the socket, in bytes.
const SEND_BUFFER: usize = 8 * 1024;

/// A connection under TLS over `S`.
pub type Stream<S> = TlsStream<S>;

/// The times at which a certificate may be valid. Cloned handles share them.
#[derive(Clone)]
pub struct Times {
    local: fn() -> WallTime,
    others: Arc<Mutex<heapless::Vec<WallTime, TIMES_MAX>>>,
}

impl Times {
    /// The local clock alone.
    pub fn new(local: fn() -> WallTime) -> Times {
        Times { local, others: Arc::default() }
    }

    /// Also accepts what holds at `time`. Only for times from an authenticated peer or our own state file.
    pub fn vouch(&self, time: WallTime) {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if others.contains(&time) {
            return;
        }
        if others.is_full() {
            others.remove(0);
        }
        let _ = others.push(time);
    }

    fn candidates(&self) -> impl Iterator<Item = UnixTime> {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner).clone();
        std::iter::once((self.local)()).chain(others).map(|t| UnixTime::since_unix_epoch(std::time::Duration::from_secs(t.0.max(0).unsigned_abs())))
    }
}

impl std::fmt::Debug for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Times(..)")
    }
}

/// A client certificate with its key, both PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate chain, own certificate first.
    pub certificate: Vec<u8>,
    /// PKCS#8, PKCS#1 or SEC1.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// How one server is spoken to: whom to trust, under which name, as whom. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Client {
    /// `ca` is a PEM bundle, `name` the DNS name or IP address in the server's certificate.
    pub fn new(ca: &[u8], name: &str, identity: Option<&Identity>, times: &Times) -> Result<Client, String> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| format!("{name:?} is no DNS name or IP address"))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca, "the CA bundle")? {
            roots.add(certificate).map_err(|e| format!("a certificate of the CA bundle cannot be used: {e}"))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let inner =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().map_err(|e| format!("the CA bundle cannot be used: {e}"))?;
        let verifier = Arc::new(Verifier { inner, times: times.clone() });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS cannot be set up: {e}"))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = certificates(&identity.certificate, "the client certificate")?;
                let key = PrivateKeyDer::from_pem_slice(&identity.key).map_err(|e| format!("the client key is no PEM private key: {e}"))?;
                builder.with_client_auth_cert(chain, key).map_err(|e| format!("the client certificate and key cannot be used: {e}"))?
            }
        };
        config.resumption = Resumption::disabled();
        config.max_fragment_size = Some(RECORD_MAX);
        Ok(Client { config: Arc::new(config), name })
    }

    /// The handshake over an open connection. The caller bounds its time.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<Stream<S>> {
        TlsConnector::from(self.config.clone()).connect_with(self.name.clone(), stream, |session| session.set_buffer_limit(Some(SEND_BUFFER))).await
    }
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(pem).take(CERTIFICATES_MAX + 1).collect::<Result<Vec<_>, _>>();
    match found {
        Err(e) => Err(format!("{what} is not PEM: {e}")),
        Ok(found) if found.is_empty() => Err(format!("{what} holds no certificate")),
        Ok(found) if found.len() > CERTIFICATES_MAX => Err(format!("{what} holds more than {CERTIFICATES_MAX} certificates")),
        Ok(found) => Ok(found),
    }
}

/// webpki's verifier, asked once for each candidate time until the dates hold.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    times: Times,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut first = None;
        for time in self.times.candidates() {
            match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, time) {
                Ok(verified) => return Ok(verified),
                Err(Error::InvalidCertificate(e)) if is_about_dates(&e) => first = first.or(Some(Error::InvalidCertificate(e))),
                Err(other) => return Err(other),
            }
        }
        Err(first.unwrap_or(Error::InvalidCertificate(CertificateError::Expired)))
    }

    fn verify_tls12_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

fn is_about_dates(e: &CertificateError) -> bool {
    matches!(
        e,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } | CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }
    )
}

/// A TLS server for the tests of this room, with certificates made for them alone.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use tokio_rustls::TlsAcceptor;

    /// Valid 2025-01-01 to 2035-01-01 for `kubernetes` and 127.0.0.1; signed by [`CA`].
    pub(crate) const SERVER: &[u8] = include_bytes!("testing/server.pem");
    /// The key of [`SERVER`].
    pub(crate) const KEY: &[u8] = include_bytes!("testing/server.key");
    /// Valid 2000-01-01 to 2040-01-01.
    pub(crate) const CA: &[u8] = include_bytes!("testing/ca.pem");
    /// Valid like [`CA`], but it has signed nothing.
    pub(crate) const OTHER_CA: &[u8] = include_bytes!("testing/other-ca.pem");

    pub(crate) fn acceptor() -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(certificates(SERVER, "the test certificate").expect("certificates"), PrivateKeyDer::from_pem_slice(KEY).expect("a key"))
            .expect("a server");
        TlsAcceptor::from(Arc::new(config))
    }

    /// 2026-11-24, when [`SERVER`] is valid.
    pub(crate) fn in_2026() -> WallTime {
        WallTime(1_795_498_593)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;

    fn in_1970() -> WallTime {
        WallTime(60)
    }

    async fn handshake(ca: &[u8], name: &str, times: &Times) -> Result<(), String> {
        let client = Client::new(ca, name, None, times)?;
        let (near, far) = tokio::io::duplex(4096);
        let (server, client) = tokio::join!(acceptor().accept(far), client.connect(near));
        drop(server);
        client.map(drop).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn a_right_server_is_accepted_by_name_and_by_address() {
        let times = Times::new(in_2026);
        assert_eq!(handshake(CA, "kubernetes", &times).await, Ok(()));
        assert_eq!(handshake(CA, "127.0.0.1", &times).await, Ok(()));
    }

    #[tokio::test]
    async fn a_clock_in_1970_fails_until_a_time_is_vouched_for() {
        let times = Times::new(in_1970);
        let refused = handshake(CA, "kubernetes", &times).await.expect_err("not valid yet");
        assert!(refused.contains("not valid yet"), "{refused}");
        times.vouch(in_2026());
        assert_eq!(handshake(CA, "kubernetes", &times).await, Ok(()));
        for wrong in 0..3 {
            times.vouch(WallTime(wrong));
        }
        assert_eq!(handshake(CA, "kubernetes", &times).await, Ok(()), "wrong times do no harm");
    }

    #[tokio::test]
    async fn neither_name_nor_chain_is_forgiven_whatever_the_time() {
        let times = Times::new(in_2026);
        times.vouch(in_1970());
        let name = handshake(CA, "elsewhere", &times).await.expect_err("another name");
        assert!(name.contains("not valid for name"), "{name}");
        let chain = handshake(OTHER_CA, "kubernetes", &times).await.expect_err("another CA");
        assert!(chain.contains("UnknownIssuer") || chain.contains("BadSignature"), "{chain}");
    }

    #[test]
    fn what_is_no_bundle_is_refused_with_a_reason() {
        let times = Times::new(in_2026);
        let new = |ca: &[u8], name: &str| Client::new(ca, name, None, &times).map(drop);
        assert_eq!(new(b"", "kubernetes"), Err("the CA bundle holds no certificate".into()));
        assert!(new(b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", "a").is_err());
        assert!(new(&CA.repeat(CERTIFICATES_MAX + 1), "a").is_err_and(|e| e.contains("more than 64")));
        assert_eq!(new(CA, "not a name"), Err("\"not a name\" is no DNS name or IP address".into()));
        let half = Identity { certificate: SERVER.to_vec(), key: b"no key".to_vec() };
        assert!(Client::new(CA, "a", Some(&half), &times).is_err_and(|e| e.contains("client key")));
        let whole = Identity { certificate: SERVER.to_vec(), key: KEY.to_vec() };
        assert!(Client::new(CA, "a", Some(&whole), &times).is_ok());
    }
}

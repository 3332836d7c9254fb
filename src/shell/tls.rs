//! TLS to API servers. The only file that names rustls: what it hands out are [`Client`] and [`Stream`].
//!
//! Chain, name and CA are always checked; a certificate's validity dates pass if they hold at the local time *or* at one of a few
//! other times: what an authenticated peer said in `hello`, the last good time in the state file ([`Times`]). So a board ahead,
//! behind or in 1970 works, and a wrong peer cannot break a right one. No session is resumed, so none is remembered.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::ring::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
use tokio_rustls::rustls::crypto::ring::kx_group::{SECP256R1, SECP384R1};
use tokio_rustls::rustls::crypto::ring::sign::{RsaSigningKey, any_ecdsa_type};
use tokio_rustls::rustls::crypto::{CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, WebPkiSupportedAlgorithms};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::SigningKey;
use tokio_rustls::rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use webpki::ring as webpki;

use super::entropy;
use crate::clock::WallTime;
use crate::identity::PeerId;

/// The most certificates in a CA bundle or a client's chain; more are refused.
const CERTIFICATES_MAX: usize = 64;
/// The largest record sent, in bytes: keeps the send buffer of a connection small.
const RECORD_MAX: usize = 4 * 1024;
/// Plaintext taken into a connection's send buffer before it waits for the socket, in bytes.
const SEND_BUFFER: usize = 8 * 1024;

/// A connection under TLS over `S`.
pub type Stream<S> = TlsStream<S>;

/// Who says what time it is, beside the local clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Witness {
    /// The last good time in our state file.
    State,
    /// What a peer said in an authenticated `hello`.
    Peer(PeerId),
}

/// The times at which a certificate may be valid. Cloned handles share them. One a witness, so none can push out another's.
#[derive(Clone)]
pub struct Times {
    local: fn() -> WallTime,
    others: Arc<Mutex<BTreeMap<Witness, WallTime>>>,
}

impl Times {
    /// The local clock alone.
    pub fn new(local: fn() -> WallTime) -> Times {
        Times { local, others: Arc::default() }
    }

    /// Also accepts what holds at the time this witness names; it replaces what the witness said before.
    pub fn vouch(&self, witness: Witness, time: WallTime) {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).insert(witness, time);
    }

    /// Forgets a witness: a peer that left.
    pub fn forget(&self, witness: Witness) {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).remove(&witness);
    }

    fn candidates(&self) -> impl Iterator<Item = UnixTime> {
        let others: Vec<WallTime> = self.others.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect();
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

/// What connections are made with: TLS 1.3; keys agreed on over P-256 or P-384, which every API server speaks; certificates signed with RSA,
/// ECDSA or Ed25519; a client's own key is RSA or ECDSA. Named one by one, as whatever else ring can do would be in the binary too.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256],
        kx_groups: vec![SECP256R1, SECP384R1],
        signature_verification_algorithms: SIGNATURES,
        secure_random: &Kernel,
        key_provider: &ClientKeys,
    }
}

/// The algorithms of certificates, and which of them a handshake's signature may use.
const SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        webpki::ECDSA_P256_SHA256,
        webpki::ECDSA_P256_SHA384,
        webpki::ECDSA_P384_SHA256,
        webpki::ECDSA_P384_SHA384,
        webpki::ED25519,
        webpki::RSA_PKCS1_2048_8192_SHA256,
        webpki::RSA_PKCS1_2048_8192_SHA384,
        webpki::RSA_PKCS1_2048_8192_SHA512,
        webpki::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
        webpki::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
        webpki::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
        webpki::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        webpki::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
        webpki::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
    ],
    mapping: &[
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[webpki::ECDSA_P256_SHA256]),
        (SignatureScheme::ECDSA_NISTP384_SHA384, &[webpki::ECDSA_P384_SHA384]),
        (SignatureScheme::ED25519, &[webpki::ED25519]),
        (SignatureScheme::RSA_PSS_SHA256, &[webpki::RSA_PSS_2048_8192_SHA256_LEGACY_KEY]),
        (SignatureScheme::RSA_PSS_SHA384, &[webpki::RSA_PSS_2048_8192_SHA384_LEGACY_KEY]),
        (SignatureScheme::RSA_PSS_SHA512, &[webpki::RSA_PSS_2048_8192_SHA512_LEGACY_KEY]),
        // Of certificates only (RFC 8446, section 4.2.3), but named to the server all the same.
        (SignatureScheme::RSA_PKCS1_SHA256, &[webpki::RSA_PKCS1_2048_8192_SHA256]),
        (SignatureScheme::RSA_PKCS1_SHA384, &[webpki::RSA_PKCS1_2048_8192_SHA384]),
        (SignatureScheme::RSA_PKCS1_SHA512, &[webpki::RSA_PKCS1_2048_8192_SHA512]),
    ],
};

/// Random bytes.
#[derive(Debug)]
struct Kernel;

impl SecureRandom for Kernel {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        entropy::fill(bytes);
        Ok(())
    }
}

/// Reads private keys of clients.
#[derive(Debug)]
struct ClientKeys;

impl KeyProvider for ClientKeys {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        match RsaSigningKey::new(&key) {
            Ok(rsa) => return Ok(Arc::new(rsa)),
            // It is RSA by its name, and too short, too long or damaged.
            Err(why) if matches!(key, PrivateKeyDer::Pkcs1(_)) => return Err(why),
            Err(_) => {}
        }
        any_ecdsa_type(&key).map_err(|_| Error::General("it is neither an RSA key nor an ECDSA key on P-256 or P-384".into()))
    }
}

impl Client {
    /// `ca` is a PEM bundle, `name` the DNS name or IP address in the server's certificate.
    pub fn new(ca: &[u8], name: &str, identity: Option<&Identity>, times: &Times) -> Result<Client, String> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| format!("{name:?} is no DNS name or IP address"))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca, "the CA bundle")? {
            roots.add(certificate).map_err(|e| format!("a certificate of the CA bundle cannot be used: {e}"))?;
        }
        let provider = Arc::new(provider());
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
    use tokio_rustls::{TlsAcceptor, rustls};

    /// Valid 2025-01-01 to 2035-01-01 for `kubernetes` and 127.0.0.1; signed by [`CA`].
    pub(crate) const SERVER: &[u8] = include_bytes!("testing/server.pem");
    /// The key of [`SERVER`].
    pub(crate) const KEY: &[u8] = include_bytes!("testing/server.key");
    /// Valid 2000-01-01 to 2040-01-01.
    pub(crate) const CA: &[u8] = include_bytes!("testing/ca.pem");
    /// Valid like [`CA`], but it has signed nothing.
    pub(crate) const OTHER_CA: &[u8] = include_bytes!("testing/other-ca.pem");

    pub(crate) fn acceptor() -> TlsAcceptor {
        acceptor_with(SERVER, KEY)
    }

    /// A server with this certificate and key, and with all that ring can do.
    pub(crate) fn acceptor_with(certificate: &[u8], key: &[u8]) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(certificates(certificate, "the test certificate").expect("certificates"), PrivateKeyDer::from_pem_slice(key).expect("a key"))
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

    /// 2030-01-01.
    fn in_2030() -> WallTime {
        WallTime(1_893_456_000)
    }

    #[tokio::test]
    async fn servers_of_every_kind_of_key_are_understood_and_of_clients_those_of_rsa_and_ecdsa() {
        // Each is a certificate for `kubernetes` from 2026 on, signed with its own key, and that key.
        let kinds: [(&[u8], bool); 3] =
            [(include_bytes!("testing/rsa.pem"), true), (include_bytes!("testing/p384.pem"), true), (include_bytes!("testing/ed25519.pem"), false)];
        let times = Times::new(in_2030);
        for (at, (pem, of_clients)) in kinds.into_iter().enumerate() {
            let client = Client::new(pem, "kubernetes", None, &times).expect("a client");
            let (near, far) = tokio::io::duplex(4096);
            let (server, client) = tokio::join!(acceptor_with(pem, pem).accept(far), client.connect(near));
            assert!(server.is_ok() && client.is_ok(), "kind {at}: {:?} {:?}", server.err(), client.err());
            let identity = Identity { certificate: pem.to_vec(), key: pem.to_vec() };
            match Client::new(CA, "a", Some(&identity), &times) {
                Ok(_) => assert!(of_clients),
                Err(why) => assert!(!of_clients && why.contains("neither an RSA key nor an ECDSA key"), "kind {at}: {why}"),
            }
        }
    }

    #[tokio::test]
    async fn a_clock_in_1970_fails_until_a_time_is_vouched_for() {
        let times = Times::new(in_1970);
        let refused = handshake(CA, "kubernetes", &times).await.expect_err("not valid yet");
        assert!(refused.contains("not valid yet"), "{refused}");
        times.vouch(Witness::Peer(PeerId(7)), in_2026());
        assert_eq!(handshake(CA, "kubernetes", &times).await, Ok(()));
        for wrong in 0..100 {
            times.vouch(Witness::Peer(PeerId(3)), WallTime(i64::MIN + wrong));
        }
        assert_eq!(handshake(CA, "kubernetes", &times).await, Ok(()), "a wrong peer does no harm");
        times.forget(Witness::Peer(PeerId(7)));
        assert!(handshake(CA, "kubernetes", &times).await.is_err());
        times.vouch(Witness::State, in_2026());
        assert_eq!(handshake(CA, "kubernetes", &times).await, Ok(()));
    }

    #[tokio::test]
    async fn neither_name_nor_chain_is_forgiven_whatever_the_time() {
        let times = Times::new(in_2026);
        times.vouch(Witness::State, in_1970());
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

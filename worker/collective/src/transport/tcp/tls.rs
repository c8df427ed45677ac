//! Who may be at the other end of a connection: keys of ranks, and TLS by them.
//!
//! Every rank makes a key for one ring ([`RankKey::generate`]) and announces its public half with its
//! address. There are no certificates and no names: each side of a connection shows its raw public key
//! (RFC 7250) and signs the handshake of TLS 1.3 with it (Ed25519), and the other compares the key
//! with the announced one. So whoever hands out the addresses, and nobody else, says who may join.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ringfold_common::ids::Rank;
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring as provider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct,
    DistinguishedName, Error, PeerIncompatible, ServerConfig, ServerConnection, SignatureScheme,
};

use crate::CollectiveError;

/// What comes before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The key of one rank for one ring. It never leaves the process.
#[derive(Clone)]
pub struct RankKey {
    certified: Arc<CertifiedKey>,
    public: PublicKey,
}

/// What others know a rank by. Shown, and read, as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

/// Text that is no [`PublicKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key of {got} characters, or of others than hexadecimal digits: expected 64 of those")]
pub struct KeyText {
    /// Its length.
    pub got: usize,
}

/// This rank's key and what all ranks have announced, in rank order.
#[derive(Clone)]
pub struct RingKeys {
    own: RankKey,
    ranks: Arc<[PublicKey]>,
}

impl RankKey {
    /// A new key from the system's random numbers.
    ///
    /// # Errors
    /// [`CollectiveError::System`] if the system has none.
    pub fn generate() -> Result<Self, CollectiveError> {
        let failed = |what: String| {
            CollectiveError::system("make a key for the ring", std::io::Error::other(what))
        };
        let random = ring::rand::SystemRandom::new();
        let document = ring::signature::Ed25519KeyPair::generate_pkcs8(&random)
            .map_err(|error| failed(error.to_string()))?;
        let der = PrivatePkcs8KeyDer::from(document.as_ref());
        let key =
            provider::sign::any_eddsa_type(&der).map_err(|error| failed(error.to_string()))?;
        let spki = key.public_key();
        let public = spki
            .as_ref()
            .and_then(|spki| PublicKey::of_spki(spki))
            .ok_or_else(|| failed("its public half has another form".to_owned()))?;
        let shown = CertificateDer::from(public.spki());
        Ok(Self {
            certified: Arc::new(CertifiedKey::new(vec![shown], key)),
            public,
        })
    }

    /// What is to be announced.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }
}

impl RingKeys {
    /// `ranks` are the announced keys of all ranks, in rank order.
    #[must_use]
    pub fn new(own: RankKey, ranks: Vec<PublicKey>) -> Self {
        Self {
            own,
            ranks: ranks.into(),
        }
    }

    /// The number of ranks whose keys are known.
    pub(crate) fn world(&self) -> usize {
        self.ranks.len()
    }

    /// Those of a ring of these ranks.
    pub(crate) fn of(&self, ranks: &[Rank]) -> Self {
        let known = ranks.iter().filter_map(|rank| self.of_rank(*rank));
        Self::new(self.own.clone(), known.collect())
    }

    pub(super) fn of_rank(&self, rank: Rank) -> Option<PublicKey> {
        self.ranks.get(rank.0 as usize).copied()
    }

    /// The side of a connection that calls `rank`.
    pub(super) fn call(&self, rank: Rank) -> Result<Connection, Error> {
        let expected = Expected(self.of_rank(rank).into_iter().collect());
        let mut config = ClientConfig::builder_with_provider(suites())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(expected))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                Arc::clone(&self.own.certified),
            )));
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        // Keys say who is there; the name is needed and means nothing.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        Ok(ClientConnection::new(Arc::new(config), name)?.into())
    }

    /// The side that is called, by any rank.
    pub(super) fn answer(&self) -> Result<Connection, Error> {
        let expected = Expected(self.ranks.to_vec());
        let mut config = ServerConfig::builder_with_provider(suites())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(expected))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                Arc::clone(&self.own.certified),
            )));
        // The side that is called never sends but when it is asked to.
        config.send_tls13_tickets = 0;
        Ok(ServerConnection::new(Arc::new(config))?.into())
    }
}

/// AES-128-GCM first: with the processor's own instructions it is the fastest.
fn suites() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
            provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![provider::kx_group::X25519],
        ..provider::default_provider()
    })
}

/// The key that the other side of a connection has shown and signed with.
pub(super) fn shown(connection: &Connection) -> Option<PublicKey> {
    PublicKey::of_spki(connection.peer_certificates()?.first()?)
}

impl PublicKey {
    fn spki(self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.0].concat()
    }

    fn of_spki(spki: &[u8]) -> Option<Self> {
        let key = spki.strip_prefix(&SPKI_PREFIX)?;
        Some(Self(key.try_into().ok()?))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl fmt::Debug for RingKeys {
    /// Nothing of the secret half.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RingKeys({} of {})", self.own.public, self.ranks.len())
    }
}

impl FromStr for PublicKey {
    type Err = KeyText;

    fn from_str(text: &str) -> Result<Self, KeyText> {
        let wrong = KeyText {
            got: text.chars().count(),
        };
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong);
        }
        let mut key = [0; 32];
        for (at, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| wrong)?;
        }
        Ok(Self(key))
    }
}

/// Takes whoever proves to hold one of these keys.
#[derive(Debug)]
struct Expected(Vec<PublicKey>);

impl Expected {
    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        match PublicKey::of_spki(shown) {
            Some(key) if self.0.contains(&key) => Ok(()),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    /// That the other side holds the secret half.
    fn verify(
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(shown.as_ref());
        let algorithms = provider::default_provider().signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &spki, signature, &algorithms)
    }
}

/// TLS 1.2 is never offered.
fn too_old() -> Error {
    PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into()
}

impl ServerCertVerifier for Expected {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::verify(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Expected {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(too_old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::verify(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_as_text() {
        let key = RankKey::generate().unwrap().public();
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_ne!(key, RankKey::generate().unwrap().public());
        for wrong in ["", "ab", &"g".repeat(64), &"é".repeat(32), &"0".repeat(65)] {
            let got = wrong.chars().count();
            assert_eq!(wrong.parse::<PublicKey>(), Err(KeyText { got }));
        }
    }

    #[test]
    fn the_secret_half_is_not_shown() {
        let own = RankKey::generate().unwrap();
        let keys = RingKeys::new(own.clone(), vec![own.public()]);
        assert_eq!(
            format!("{keys:?}"),
            format!("RingKeys({} of 1)", own.public())
        );
    }
}

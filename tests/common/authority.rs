//! Certificates that are made here, and servers that show them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

/// Whom only those trust who have its certificate.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// How a host of this name speaks TLS.
    pub(crate) fn host(&self, name: &str) -> Option<Arc<ServerConfig>> {
        self.host_with(name, |_| ())
    }

    pub(crate) fn host_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Option<Arc<ServerConfig>> {
        let (certificate, key) = self.issue(name, change);
        let chain = vec![certificate.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = versions.unwrap().with_no_client_auth().with_single_cert(chain, key);
        Some(Arc::new(config.unwrap()))
    }

    fn issue(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// The key and the certificate of a host of this name as files.
    pub(crate) fn host_files(&self, name: &str, folder: &Path) -> [String; 2] {
        let (certificate, key) = self.issue(name, |_| ());
        [("key.pem", key.serialize_pem()), ("certificate.pem", certificate.pem())].map(
            |(name, pem)| {
                let path = folder.join(name);
                fs::write(&path, pem).unwrap();
                path.to_str().unwrap().to_owned()
            },
        )
    }

    /// Its certificate as a file, which is what `SSL_CERT_FILE` names.
    pub(crate) fn file(&self, folder: &Path) -> String {
        let path = folder.join("authority.pem");
        fs::write(&path, self.0.pem()).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

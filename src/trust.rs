//! Whom to believe that a server is who it says, and what to do when one is not believed.

use std::fs;
use std::io;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, ClientConfig, InvalidMessage, RootCertStore};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};

use crate::typed::variable;

const FILE: &str = "SSL_CERT_FILE";

/// Trusts the certificates in `SSL_CERT_FILE`, else those that Mozilla trusts.
///
/// # Errors
/// Names the file when it cannot be read or has none.
pub(crate) fn tls() -> Result<TlsConfig> {
    let roots = named()?.map_or(RootCerts::WebPki, RootCerts::from);
    Ok(TlsConfig::builder().root_certs(roots).build())
}

/// The same for connections that are not made by `ureq`.
///
/// # Errors
/// As [`tls`].
pub(crate) fn client_config() -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match named()? {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(named) => {
            let named = named.iter().map(|certificate| CertificateDer::from(certificate.der()));
            roots.add_parsable_certificates(named);
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// What the variable names, if it is set.
fn named() -> Result<Option<Vec<Certificate<'static>>>> {
    let Some(path) = variable(FILE) else { return Ok(None) };
    let pem = fs::read(&path).with_context(|| format!("{FILE} {path}"))?;
    let certificates: Vec<_> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    ensure!(!certificates.is_empty(), "{FILE} {path} has no certificates");
    Ok(Some(certificates))
}

/// What a failed handshake means and what to do about it; `None` if something else failed.
pub(crate) fn distrust(error: &ureq::Error) -> Option<String> {
    match error {
        ureq::Error::Rustls(tls) => meaning(tls),
        ureq::Error::Io(io) => distrust_in(io),
        _ => None,
    }
}

/// The same of a handshake that is not `ureq`'s.
pub(crate) fn distrust_in(error: &io::Error) -> Option<String> {
    meaning(error.get_ref()?.downcast_ref()?)
}

fn meaning(error: &rustls::Error) -> Option<String> {
    let problem = match error {
        rustls::Error::InvalidCertificate(problem) => problem,
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            return Some(
                "it does not speak TLS; perhaps its address begins with http://".to_owned(),
            );
        }
        _ => return None,
    };
    Some(match problem {
        // A signature that does not fit is that of another authority of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "its certificate is by an authority that {}; if it is right, of a company's proxy for example, set {FILE} \
             to a PEM file with the authority's certificate",
            match variable(FILE) {
                Some(path) => format!("is not in {FILE} {path}"),
                None => "Mozilla does not trust".to_owned(),
            }
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is that of another host ({problem})")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => format!(
            "its certificate has expired ({problem}); if the clock of this machine is right, who runs the server must renew it"
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("its certificate is not valid yet ({problem}); check the clock of this machine")
        }
        other => format!("its certificate is not accepted: {other}"),
    })
}

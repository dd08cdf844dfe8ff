//! Whom to believe that a server is who it says, and what to do when one is not believed.

use std::fs;

use anyhow::{Context, Result, ensure};
use rustls::{CertificateError, InvalidMessage};
use ureq::tls::{PemItem, RootCerts, TlsConfig};

use crate::typed::variable;

const FILE: &str = "SSL_CERT_FILE";

/// Trusts the certificates in `SSL_CERT_FILE`, else those that Mozilla trusts.
///
/// # Errors
/// Names the file when it cannot be read or has none.
pub(crate) fn tls() -> Result<TlsConfig> {
    Ok(TlsConfig::builder().root_certs(root_certificates()?).build())
}

fn root_certificates() -> Result<RootCerts> {
    let Some(path) = variable(FILE) else { return Ok(RootCerts::WebPki) };
    let pem = fs::read(&path).with_context(|| format!("{FILE} {path}"))?;
    let certificates: Vec<_> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    ensure!(!certificates.is_empty(), "{FILE} {path} has no certificates");
    Ok(RootCerts::from(certificates))
}

/// What a failed handshake means and what to do about it; `None` if something else failed.
pub(crate) fn distrust(error: &ureq::Error) -> Option<String> {
    let tls = match error {
        ureq::Error::Rustls(tls) => tls,
        ureq::Error::Io(io) => io.get_ref()?.downcast_ref::<rustls::Error>()?,
        _ => return None,
    };
    let problem = match tls {
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

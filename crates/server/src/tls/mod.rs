//! HTTPS: whose certificate is shown, and whose is asked for.
//!
//! rustls is in the binary already, for downloads; the feature `tls`, on by default, adds its server half. Without it a [`Tls`]
//! cannot be made, and everything else stays as it is.

use std::path::PathBuf;

#[cfg(not(feature = "tls"))]
#[path = "without.rs"]
mod with;
#[cfg(feature = "tls")]
mod with;

pub use with::Tls;

/// The files, all PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The private key.
    pub key: PathBuf,
    /// The certificate that belongs to it, and those between it and an authority.
    pub certificates: PathBuf,
    /// Authorities for the certificates of clients.
    pub authorities: Option<PathBuf>,
    /// Whether clients must have one.
    pub clients: ClientCertificates,
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// None is asked for.
    #[default]
    None,
    /// One that is shown must be good.
    Optional,
    /// Who shows none is hung up on.
    Required,
}

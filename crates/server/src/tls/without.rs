//! What is left of TLS without the feature.

use std::io;

use super::TlsFiles;

/// Cannot be made: this program was built without the feature `tls`.
#[derive(Clone, Debug)]
pub enum Tls {}

impl Tls {
    /// # Errors
    /// Always.
    pub fn load(_: TlsFiles) -> Result<Self, String> {
        Err("this program was built without the feature `tls`".to_owned())
    }

    /// # Errors
    /// Never, for there is nothing to read again.
    pub fn reload(&self) -> Result<(), String> {
        match *self {}
    }

    pub(crate) async fn accept<S>(&self, _: S) -> io::Result<S> {
        match *self {}
    }
}

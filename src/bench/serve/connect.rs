//! How a connection to the server comes about: plain or encrypted, and where it is encrypted through the proxy that the
//! environment names. Whoever is asked plainly is asked directly: a proxy in between would be measured, too.

use std::sync::Arc;

use anyhow::{Context, Error, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::client::conn::http1;
use hyper::http::uri::Scheme;
use hyper::{Method, Request, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use ureq::{Proxy, ProxyProtocol};

use crate::proxy::Proxies;
use crate::trust;

/// Bytes both ways.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A host, and how it is reached.
#[derive(Clone)]
pub(super) struct Route {
    host: String,
    port: u16,
    tls: Option<Tls>,
}

#[derive(Clone)]
struct Tls {
    connector: TlsConnector,
    proxy: Option<Proxy>,
}

impl Route {
    /// The way to an address; encrypted if it begins with `https://`.
    ///
    /// # Errors
    /// When the environment names certificates or a proxy that cannot be used.
    pub(super) fn new(address: &Uri) -> Result<Self> {
        let encrypted = address.scheme() == Some(&Scheme::HTTPS);
        let tls = if encrypted {
            let connector = TlsConnector::from(Arc::new(trust::client_config()?));
            Some(Tls { connector, proxy: Proxies::from_env()?.of(address) })
        } else {
            None
        };
        let host = address.host().unwrap_or_default().to_owned();
        let port = address.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        Ok(Self { host, port, tls })
    }

    /// Host and port, as the server is called.
    pub(super) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> Result<Box<dyn Wire>> {
        let Some(Tls { connector, proxy }) = &self.tls else {
            return reach(&self.host, self.port).await;
        };
        let wire = match proxy {
            None => reach(&self.host, self.port).await?,
            Some(proxy) => self.through(proxy, connector).await?,
        };
        encrypt(connector, &self.host, wire)
            .await
            .with_context(|| format!("no connection to {}", self.authority()))
    }

    /// Asks the proxy for a connection to the server.
    async fn through(&self, proxy: &Proxy, connector: &TlsConnector) -> Result<Box<dyn Wire>> {
        let name = format!("the proxy {}:{}", proxy.host(), proxy.port());
        let mut wire = reach(proxy.host(), proxy.port()).await.with_context(|| name.clone())?;
        if proxy.protocol() == ProxyProtocol::Https {
            wire = encrypt(connector, proxy.host(), wire).await.with_context(|| name.clone())?;
        }
        let (mut sender, connection) = http1::handshake(TokioIo::new(wire)).await?;
        tokio::spawn(connection.with_upgrades());
        let server = self.authority();
        let mut request = Request::builder().method(Method::CONNECT).uri(&server);
        request = request.header(header::HOST, &server);
        if let Some(user) = proxy.username() {
            let pair = format!("{user}:{}", proxy.password().unwrap_or_default());
            let pair = BASE64_STANDARD.encode(pair);
            request = request.header(header::PROXY_AUTHORIZATION, format!("Basic {pair}"));
        }
        let response = sender.send_request(request.body(String::new())?).await?;
        let status = response.status();
        ensure!(status.is_success(), "{name} answers {status} when asked for {server}");
        Ok(Box::new(TokioIo::new(hyper::upgrade::on(response).await?)))
    }
}

async fn reach(host: &str, port: u16) -> Result<Box<dyn Wire>> {
    let stream = TcpStream::connect((bare(host), port))
        .await
        .with_context(|| format!("nothing answers at {host}:{port}"))?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

async fn encrypt(
    connector: &TlsConnector,
    host: &str,
    wire: Box<dyn Wire>,
) -> Result<Box<dyn Wire>> {
    let name = ServerName::try_from(bare(host).to_owned())?;
    let shaken = connector.connect(name, wire).await;
    let stream = shaken.map_err(|error| match trust::distrust_in(&error) {
        Some(problem) => Error::msg(problem),
        None => error.into(),
    })?;
    Ok(Box::new(stream))
}

/// A host without the brackets that an address of the newer kind has in URLs.
fn bare(host: &str) -> &str {
    host.trim_matches(['[', ']'])
}

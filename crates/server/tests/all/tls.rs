//! HTTPS with certificates that are made here.

#![cfg(feature = "tls")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::http::get;
use crate::common::{Server, Setup};
use folio_server::{ClientCertificates, ServerConfig, Tls, TlsFiles};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An authority, and certificates by it.
struct Authority(CertifiedIssuer<'static, KeyPair>);

struct Issued {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    fn issue(&self, purpose: ExtendedKeyUsagePurpose) -> Issued {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Issued { certificate, key }
    }
}

/// A folder of this test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tls-{name}"));
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn write(folder: &Path, issued: &Issued, authority: &Authority) -> TlsFiles {
    let file = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).expect("a file");
        path
    };
    TlsFiles {
        key: file("key.pem", issued.key.serialize_pem()),
        certificates: file("certificate.pem", issued.certificate.pem()),
        authorities: Some(file("authority.pem", authority.0.pem())),
        clients: ClientCertificates::None,
    }
}

async fn server(tls: Tls) -> Server {
    let config = ServerConfig { tls: Some(tls), ..Setup::default().config };
    Server::with(Setup { config, ..Setup::default() }).await
}

/// What a client that trusts `authority` reads from `/version`; the error when there is no connection.
async fn ask(
    address: SocketAddr,
    authority: &Authority,
    own: Option<&Issued>,
) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::try_from(own.key.serialize_der()).expect("a key");
            let chain = vec![own.certificate.der().clone()];
            builder.with_client_auth_cert(chain, key).expect("they go together")
        }
    };
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream
        .write_all(b"GET /version HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn who_trusts_the_authority_is_served_and_nobody_else() {
    let (authority, other) = (Authority::new(), Authority::new());
    let issued = authority.issue(ExtendedKeyUsagePurpose::ServerAuth);
    let files = write(&folder("plain"), &issued, &authority);
    let server = server(Tls::load(files).expect("sound files")).await;
    let answer = ask(server.address, &authority, None).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"version\""), "{answer}");
    assert!(ask(server.address, &other, None).await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn who_speaks_plainly_is_told_so() {
    let authority = Authority::new();
    let issued = authority.issue(ExtendedKeyUsagePurpose::ServerAuth);
    let files = write(&folder("scheme"), &issued, &authority);
    let encrypted = server(Tls::load(files).expect("sound files")).await;
    let answer = get(encrypted.address, "/version").await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("https://"), "{}", answer.body);
    // Neither: hung up on.
    let mut stream = TcpStream::connect(encrypted.address).await.expect("a connection");
    stream.write_all(b"\x00\x01\x02").await.expect("it listens");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
    // The other way round, the client sees that this is no TLS.
    let plain = Server::start().await;
    assert!(ask(plain.address, &authority, None).await.is_err());
    assert_eq!(get(plain.address, "/version").await.status, 200);
    encrypted.stop().await;
    plain.stop().await;
}

#[tokio::test]
async fn clients_must_have_a_certificate_where_that_is_required() {
    let (authority, other) = (Authority::new(), Authority::new());
    let issued = authority.issue(ExtendedKeyUsagePurpose::ServerAuth);
    let known = authority.issue(ExtendedKeyUsagePurpose::ClientAuth);
    let stranger = other.issue(ExtendedKeyUsagePurpose::ClientAuth);
    for (clients, without) in
        [(ClientCertificates::Required, false), (ClientCertificates::Optional, true)]
    {
        let files = write(&folder("clients"), &issued, &authority);
        let server = server(Tls::load(TlsFiles { clients, ..files }).expect("sound files")).await;
        assert!(ask(server.address, &authority, Some(&known)).await.is_ok());
        assert!(ask(server.address, &authority, Some(&stranger)).await.is_err());
        assert_eq!(ask(server.address, &authority, None).await.is_ok(), without);
        server.stop().await;
    }
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_and_a_bad_one_is_not() {
    let (old, new) = (Authority::new(), Authority::new());
    let folder = folder("renew");
    let files = write(&folder, &old.issue(ExtendedKeyUsagePurpose::ServerAuth), &old);
    let tls = Tls::load(files.clone()).expect("sound files");
    let server = server(tls.clone()).await;
    assert!(ask(server.address, &old, None).await.is_ok());
    write(&folder, &new.issue(ExtendedKeyUsagePurpose::ServerAuth), &new);
    tls.reload().expect("sound files");
    assert!(ask(server.address, &new, None).await.is_ok());
    assert!(ask(server.address, &old, None).await.is_err());
    fs::write(&files.key, "not a key").expect("a file");
    let problem = tls.reload().expect_err("a bad key");
    assert!(problem.contains("key.pem"), "{problem}");
    assert!(ask(server.address, &new, None).await.is_ok());
    server.stop().await;
}

#[test]
fn files_that_are_wrong_are_named() {
    let authority = Authority::new();
    let issued = authority.issue(ExtendedKeyUsagePurpose::ServerAuth);
    let files = write(&folder("wrong"), &issued, &authority);
    let problem = |files: TlsFiles| Tls::load(files).expect_err("wrong files");
    let missing = TlsFiles { key: "nowhere.pem".into(), ..files.clone() };
    assert!(problem(missing).contains("nowhere.pem"));
    let swapped = TlsFiles { certificates: files.key.clone(), ..files.clone() };
    assert!(problem(swapped).contains("no certificate"));
    let alone =
        TlsFiles { authorities: None, clients: ClientCertificates::Required, ..files.clone() };
    assert!(problem(alone).contains("authorities"));
    let another = folder("wrong-too");
    let theirs = write(&another, &authority.issue(ExtendedKeyUsagePurpose::ServerAuth), &authority);
    assert!(problem(TlsFiles { key: theirs.key, ..files }).contains("do not go together"));
}

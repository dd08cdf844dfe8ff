//! Flags of whoever runs the server among others: encryption, events, traces.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use folio_server::{ClientCertificates, KvEventsConfig, Tls, TlsFiles};

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Operations")]
pub(crate) struct OperationsArgs {
    /// Private key, PEM; with --ssl-certfile the server speaks HTTPS
    #[arg(long, value_name = "FILE", requires = "ssl_certfile")]
    ssl_keyfile: Option<PathBuf>,

    /// Certificate that belongs to the key, PEM; both are read again on SIGHUP
    #[arg(long, value_name = "FILE", requires = "ssl_keyfile")]
    ssl_certfile: Option<PathBuf>,

    /// Authorities for the certificates of clients, PEM
    #[arg(long, value_name = "FILE", requires = "ssl_certfile")]
    ssl_ca_certs: Option<PathBuf>,

    /// Whether clients show a certificate: 0 no, 1 if they have one, 2 they must
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2), requires = "ssl_certfile")]
    ssl_cert_reqs: u8,

    /// Tell changes of the prefix cache over ZeroMQ, as vLLM does:
    /// {"enable_kv_cache_events": true, "endpoint": "tcp://*:5557", "replay_endpoint": …, "topic": …, "encoding": "map" or "array"}
    #[arg(long, value_name = "JSON")]
    kv_events_config: Option<String>,

    /// Collector that is sent a span per request: OTLP over HTTP in JSON, such as http://localhost:4318/v1/traces
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "URL")]
    pub(crate) otlp_traces_endpoint: Option<String>,
}

impl OperationsArgs {
    /// Who we are, where connections are encrypted.
    ///
    /// # Errors
    /// Names the file that is wrong.
    pub(crate) fn tls(&self) -> Result<Option<Tls>> {
        let (Some(key), Some(certificates)) = (&self.ssl_keyfile, &self.ssl_certfile) else {
            return Ok(None);
        };
        let clients = match self.ssl_cert_reqs {
            0 => ClientCertificates::None,
            1 => ClientCertificates::Optional,
            _ => ClientCertificates::Required,
        };
        let files = TlsFiles {
            key: key.clone(),
            certificates: certificates.clone(),
            authorities: self.ssl_ca_certs.clone(),
            clients,
        };
        Tls::load(files).map(Some).map_err(|problem| anyhow!(problem)).context("cannot speak HTTPS")
    }

    /// How KV events are told, if they are.
    ///
    /// # Errors
    /// Names the key that is wrong, or the flag that is needed.
    pub(crate) fn kv_events(&self, prefix_caching: bool) -> Result<Option<KvEventsConfig>> {
        let Some(json) = &self.kv_events_config else { return Ok(None) };
        let config = KvEventsConfig::parse(json)
            .map_err(|problem| anyhow!(problem))
            .context("--kv-events-config")?;
        if config.is_some() && !prefix_caching {
            return Err(anyhow!(
                "--kv-events-config needs the prefix cache; leave out --no-enable-prefix-caching"
            ));
        }
        Ok(config)
    }
}

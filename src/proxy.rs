//! Which proxy a request goes through: the variables that curl and Python read, as they mean them. `HTTPS_PROXY` is for
//! addresses that begin with https, `HTTP_PROXY` for those with http, `ALL_PROXY` for both; `NO_PROXY` lists hosts, and
//! domains with all hosts in them, that are asked directly. Small letters go first.

use anyhow::{Context, Result, ensure};
use ureq::http::Uri;
use ureq::{Proxy, ProxyProtocol};

use crate::typed::variable;

/// What the environment says.
pub(crate) struct Proxies {
    https: Option<Proxy>,
    http: Option<Proxy>,
    /// The entries of `NO_PROXY`.
    direct: Vec<String>,
}

impl Proxies {
    /// Reads the variables.
    ///
    /// # Errors
    /// Names the variable that has no address of a proxy. What it has is not told: there may be a password in it.
    pub(crate) fn from_env() -> Result<Self> {
        let direct = variable("no_proxy").or_else(|| variable("NO_PROXY")).unwrap_or_default();
        Ok(Self {
            https: first(["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?,
            http: first(["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])?,
            direct: direct.split(',').map(|entry| entry.trim().to_ascii_lowercase()).collect(),
        })
    }

    /// The proxy for a request to this address.
    pub(crate) fn of(&self, address: &Uri) -> Option<Proxy> {
        let host = address.host().unwrap_or_default().to_ascii_lowercase();
        if self.direct.iter().any(|entry| covers(entry, &host)) {
            return None;
        }
        let https = address.scheme_str() == Some("https");
        if https { self.https.clone() } else { self.http.clone() }
    }
}

/// The proxy of the first variable that is set.
fn first(names: [&str; 4]) -> Result<Option<Proxy>> {
    let Some((name, value)) = names.iter().find_map(|name| Some((name, variable(name)?))) else {
        return Ok(None);
    };
    let advice = "is not the address of an HTTP proxy, such as http://proxy.example.org:3128";
    let proxy = Proxy::new(&value).ok().with_context(|| format!("{name} {advice}"))?;
    let http = matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https);
    ensure!(http, "{name} {advice}: other kinds are not spoken to");
    Ok(Some(proxy))
}

/// Whether an entry of `NO_PROXY` means this host.
fn covers(entry: &str, host: &str) -> bool {
    let bare = |host: &str| host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let entry = entry.strip_prefix("*.").or(entry.strip_prefix('.')).unwrap_or(entry);
    // An address of the newer kind has more colons than one before its port.
    let name = entry.split_once(':').filter(|(_, port)| !port.contains(':'));
    let (name, host) = (bare(name.map_or(entry, |(name, _)| name)), bare(host));
    let inside =
        host.strip_suffix(&name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    name == "*" || (!name.is_empty() && inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_named_one_by_one_or_by_their_domain() {
        let cases = [
            ("localhost", "localhost", true),
            ("example.org", "hub.example.org", true),
            (".example.org", "hub.example.org", true),
            ("*.example.org", "hub.example.org", true),
            ("example.org:8443", "example.org", true),
            ("*", "anything", true),
            ("::1", "[::1]", true),
            ("[::1]", "[::1]", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("example.org", "badexample.org", false),
            ("hub.example.org", "example.org", false),
            ("", "localhost", false),
            (".", "localhost", false),
        ];
        for (entry, host, expected) in cases {
            assert_eq!(covers(entry, host), expected, "{entry} {host}");
        }
    }
}

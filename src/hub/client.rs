//! Talking to the hub: which files a model has, what names their contents, and the contents.
//!
//! The hub is believed nothing that could hurt: answers are bounded, redirects are counted, and the token goes to the hub
//! itself and to nobody it sends us to.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use serde_json::Value;
use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use super::cache::home;
use super::name::{Commit, Etag, FilePath, Repo, Revision, url_encoded};
use crate::proxy::Proxies;
use crate::trust;
use crate::typed::variable;

const HUGGING_FACE: &str = "https://huggingface.co";
/// Most bytes of the description of a model.
const MOST_INFO_BYTES: u64 = 16 << 20;
const MOST_REDIRECTS: usize = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may bring nothing, in seconds, unless `HF_HUB_DOWNLOAD_TIMEOUT` says otherwise.
const STALL_SECONDS: u64 = 10;

/// Why the hub did not give what was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It cannot be reached or is not well: another attempt, or what the cache holds, may help.
    Away(Error),
    /// It is not known to be the hub: another attempt would not help, what the cache holds may.
    Distrusted(Error),
    /// It says no, or something that cannot be believed: asking again would not help.
    Refused(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// A model as the hub describes it.
pub(crate) struct Info {
    pub(crate) commit: Commit,
    /// Files with paths that can be used; what has another cannot be one that serves.
    pub(crate) files: Vec<FilePath>,
}

/// A file as the hub describes it.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    pub(crate) file: FilePath,
    pub(crate) etag: Etag,
    pub(crate) size: u64,
}

/// The hub, or a mirror of it.
pub(crate) struct Hub {
    agent: Agent,
    proxies: Proxies,
    endpoint: Uri,
    /// With the scheme and without a slash at its end.
    base: String,
    repo: Repo,
    token: Option<String>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the token.
        write!(f, "Hub({}, {})", self.base, self.repo)
    }
}

impl Hub {
    /// As the environment has it: `HF_ENDPOINT`, `HF_TOKEN` or the file that `hf auth login` writes,
    /// `HF_HUB_DOWNLOAD_TIMEOUT`, `SSL_CERT_FILE`, and the usual variables of proxies.
    pub(crate) fn from_env(repo: &Repo) -> Result<Self> {
        let base = variable("HF_ENDPOINT").unwrap_or_else(|| HUGGING_FACE.to_owned());
        let base = base.trim_end_matches('/').to_owned();
        let endpoint: Uri = base.parse().ok().filter(is_http).with_context(|| {
            format!("HF_ENDPOINT {base:?} is not an address such as {HUGGING_FACE}")
        })?;
        let stall = match variable("HF_HUB_DOWNLOAD_TIMEOUT") {
            None => STALL_SECONDS,
            Some(text) => {
                text.parse().ok().filter(|s| (1..=86_400).contains(s)).with_context(|| {
                    format!("HF_HUB_DOWNLOAD_TIMEOUT {text:?} is not a number of seconds")
                })?
            }
        };
        let stall = Some(Duration::from_secs(stall));
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // Followed here, where it is known who may see the token.
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(stall)
            .timeout_per_read(stall)
            .timeout_per_write(stall)
            .user_agent(concat!("folio/", env!("CARGO_PKG_VERSION")))
            // Lengths and checksums are those of the plain contents.
            .accept_encoding("identity")
            .tls_config(trust::tls()?)
            // Chosen for each request.
            .proxy(None)
            .build();
        let (agent, proxies) = (agent.into(), Proxies::from_env()?);
        Ok(Self { agent, proxies, endpoint, base, repo: repo.clone(), token: token()? })
    }

    /// What the model is at this revision.
    pub(crate) fn info(&self, revision: &Revision) -> Result<Info, Failure> {
        let revision_in_url = url_encoded(revision.as_str()).replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision_in_url}", self.base, self.repo);
        let mut response = self.ask(&Method::GET, &url, None)?;
        self.check(&response, revision, None)?;
        let body = response.body_mut().with_config().limit(MOST_INFO_BYTES).read_to_vec();
        let body = body.map_err(|error| self.classify(error, &self.endpoint))?;
        Ok(parse_info(&body).with_context(|| {
            format!("{} described {} in a way that cannot be read", self.base, self.repo)
        })?)
    }

    /// What names the contents of a file, and how long they are.
    pub(crate) fn meta(&self, commit: &Commit, file: &FilePath) -> Result<Meta, Failure> {
        let response = self.ask(&Method::HEAD, &self.url(commit, file), None)?;
        let headers = response.headers();
        // The answer about a large file is itself a redirect to where it lies.
        if !headers.contains_key(LINKED_ETAG) {
            self.check(&response, &Revision::parse(commit.as_str())?, Some(file))?;
        }
        Ok(parse_meta(headers, commit, file)
            .with_context(|| format!("{} described {file} of {}", self.base, self.repo))?)
    }

    /// The contents of a file, from this byte on: the answer and the byte it begins with, which is `from` or 0.
    pub(crate) fn contents(
        &self,
        commit: &Commit,
        meta: &Meta,
        from: u64,
    ) -> Result<(Response<Body>, u64), Failure> {
        let range = (from > 0).then(|| format!("bytes={from}-"));
        let response = self.ask(&Method::GET, &self.url(commit, &meta.file), range.as_deref())?;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let value = header_text(response.headers(), header::CONTENT_RANGE.as_str());
            let expected = format!("bytes {from}-{}/{}", meta.size.saturating_sub(1), meta.size);
            if value == Some(&expected) {
                return Ok((response, from));
            }
            return Err(
                anyhow!("{}: asked for {expected}, the answer has {value:?}", meta.file).into()
            );
        }
        self.check(&response, &Revision::parse(commit.as_str())?, Some(&meta.file))?;
        Ok((response, 0))
    }

    fn url(&self, commit: &Commit, file: &FilePath) -> String {
        let file = url_encoded(file.as_str());
        format!("{}/{}/resolve/{}/{file}", self.base, self.repo, commit.as_str())
    }

    /// Sends a request and follows where the answer leads; an answer that names contents needs no following.
    fn ask(
        &self,
        method: &Method,
        url: &str,
        range: Option<&str>,
    ) -> Result<Response<Body>, Failure> {
        let mut here: Uri = url.parse().context("an address of the hub")?;
        for _ in 0..MOST_REDIRECTS {
            let mut request = Request::builder().method(method.clone()).uri(&here);
            if let Some(range) = range {
                request = request.header(header::RANGE, range);
            }
            if let Some(token) = self.token.as_deref().filter(|_| self.is_hub(&here)) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let request = request.body(()).context("a request to the hub")?;
            let request = self.agent.configure_request(request);
            let request = request.proxy(self.proxies.of(&here)).build();
            let response = self.agent.run(request).map_err(|error| self.classify(error, &here))?;
            let named = method == Method::HEAD && response.headers().contains_key(LINKED_ETAG);
            if !response.status().is_redirection() || named {
                return Ok(response);
            }
            here = follow(&here, response.headers())?;
        }
        Err(anyhow!("{} sends us in circles: more than {MOST_REDIRECTS} redirects", self.base)
            .into())
    }

    /// Whether the token may be sent there.
    fn is_hub(&self, url: &Uri) -> bool {
        let lower = |uri: &Uri| uri.authority().map(|a| a.as_str().to_ascii_lowercase());
        url.scheme() == self.endpoint.scheme() && lower(url) == lower(&self.endpoint)
    }

    /// Turns an answer that is not the wanted one into a sentence that says what to do.
    fn check(
        &self,
        response: &Response<Body>,
        revision: &Revision,
        file: Option<&FilePath>,
    ) -> Result<(), Failure> {
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(());
        }
        let Self { base, repo, token, .. } = self;
        let page = format!("{base}/{repo}");
        let code = header_text(response.headers(), "x-error-code").unwrap_or_default();
        let denied = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let problem = match (status.as_u16(), code, token) {
            (408 | 429 | 500.., ..) => {
                return Err(Failure::Away(anyhow!("{base} answers {status}; try again later")));
            }
            (401 | 403, "GatedRepo", None) => format!(
                "{repo} is gated: log in and accept its licence at {page}, make a token at {base}/settings/tokens, and set HF_TOKEN to it"
            ),
            (401 | 403, "GatedRepo", Some(_)) => format!(
                "{repo} is gated, and the account of HF_TOKEN has no access: accept the licence at {page}, and let the token read gated repositories"
            ),
            (404, "RevisionNotFound", _) => {
                format!("{repo} has no revision {:?}; {page} lists what it has", revision.as_str())
            }
            (404, "EntryNotFound", _) => format!(
                "{repo} has no file {} at revision {}",
                file.map_or("of that name", FilePath::as_str),
                revision.as_str()
            ),
            (404, ..) | (401, "RepoNotFound", _) => format!(
                "there is no model {repo} at {base}, or it is private: check the spelling; for a private model set HF_TOKEN to a token that may read it"
            ),
            _ if denied && token.is_some() => format!(
                "{base} does not let the token in HF_TOKEN read {repo}: check the token at {base}/settings/tokens, and the spelling of the model"
            ),
            _ if denied => format!(
                "{base} asks who wants {repo}: check the spelling; for a private or gated model set HF_TOKEN to a token that may read it"
            ),
            _ => format!("{base} answers {status} when asked for {repo}"),
        };
        Err(Failure::Refused(anyhow!(problem)))
    }

    /// What it means that a request to `address` failed.
    fn classify(&self, error: ureq::Error, address: &Uri) -> Failure {
        if let Some(problem) = trust::distrust(&error) {
            let host = address.authority().map(ToString::to_string).unwrap_or_default();
            return Failure::Distrusted(anyhow!("cannot get {} from {host}: {problem}", self.repo));
        }
        let permanent = matches!(
            error,
            ureq::Error::Tls(_)
                | ureq::Error::Rustls(_)
                | ureq::Error::BodyExceedsLimit(_)
                | ureq::Error::LargeResponseHeader(..)
                | ureq::Error::Http(_)
                | ureq::Error::BadUri(_)
        );
        let said =
            Error::new(error).context(format!("cannot get {} from {}", self.repo, self.base));
        if permanent { Failure::Refused(said) } else { Failure::Away(said) }
    }
}

const LINKED_ETAG: &str = "x-linked-etag";

fn is_http(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|h| !h.is_empty())
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn parse_info(body: &[u8]) -> Result<Info> {
    let info: Value = serde_json::from_slice(body)?;
    let commit = info.get("sha").and_then(Value::as_str).context("it has no `sha`")?;
    let siblings =
        info.get("siblings").and_then(Value::as_array).context("it has no `siblings`")?;
    let name = |sibling: &Value| FilePath::parse(sibling.get("rfilename")?.as_str()?).ok();
    Ok(Info { commit: Commit::parse(commit)?, files: siblings.iter().filter_map(name).collect() })
}

fn parse_meta(headers: &HeaderMap, commit: &Commit, file: &FilePath) -> Result<Meta> {
    let text = |name| header_text(headers, name);
    if let Some(other) = text("x-repo-commit").filter(|other| *other != commit.as_str()) {
        bail!("as of another commit, {other:?}");
    }
    let etag = text(LINKED_ETAG).or_else(|| text("etag")).context("without an ETag")?;
    let size = text("x-linked-size").or_else(|| text("content-length"));
    let size = size.and_then(|size| size.parse().ok()).context("without a size")?;
    Ok(Meta { file: file.clone(), etag: Etag::parse(etag)?, size })
}

/// The address that a redirect from `here` leads to.
fn follow(here: &Uri, headers: &HeaderMap) -> Result<Uri> {
    let location = header_text(headers, header::LOCATION.as_str());
    let location = location.context("the hub sends us on without saying where")?;
    let absolute = if location.starts_with('/') && !location.starts_with("//") {
        let authority = here.authority().map(ToString::to_string).unwrap_or_default();
        format!("{}://{authority}{location}", here.scheme_str().unwrap_or_default())
    } else {
        location.to_owned()
    };
    let next: Uri =
        absolute.parse().ok().filter(is_http).with_context(|| {
            format!("the hub sends us to {location:?}, which is not an address")
        })?;
    let exposed = here.scheme_str() == Some("https") && next.scheme_str() != Some("https");
    ensure!(
        !exposed,
        "the hub sends us from https to {next}, which anybody on the way could change"
    );
    Ok(next)
}

/// `HF_TOKEN`, else the file that `hf auth login` writes.
fn token() -> Result<Option<String>> {
    let from_file = || {
        let path = match variable("HF_TOKEN_PATH") {
            Some(path) => PathBuf::from(path),
            None => home().ok()?.join("token"),
        };
        fs::read_to_string(path).ok()
    };
    let Some(token) = variable("HF_TOKEN").or_else(from_file) else { return Ok(None) };
    let token = token.trim();
    ensure!(
        token.len() <= 4096 && token.bytes().all(|b| b.is_ascii_graphic()),
        "the token in HF_TOKEN or in the token file is not one: it has spaces or other odd characters"
    );
    Ok((!token.is_empty()).then(|| token.to_owned()))
}

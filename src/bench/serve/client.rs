//! One request to an OpenAI-compatible server, streamed, with the time of everything that comes back.
//!
//! Every request has a connection of its own, as the requests of a crowd have. What a server sends is not trusted: a line
//! or a body that does not end is an error.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use super::connect::Route;

/// Longest line of a stream and longest body that is read whole, in bytes.
const MOST_BYTES: usize = 64 << 20;
/// How much of an error's text is kept.
const MOST_ERROR_CHARS: usize = 300;

/// Where requests go.
#[derive(Clone)]
pub(crate) struct Target {
    route: Route,
    /// What stands before every path.
    prefix: String,
    key: Option<String>,
}

/// When the parts of an answer came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// One per part of the stream that brought something of the output.
    pub(crate) chunks: Vec<Instant>,
    /// As the server counts them, if it does.
    pub(crate) prompt_tokens: Option<usize>,
    pub(crate) completion_tokens: Option<usize>,
}

impl Target {
    /// Understands `http://host:port/prefix`, and `https://`.
    pub(crate) fn new(url: &str, key: Option<String>) -> Result<Self> {
        let problem = || format!("--base-url {url:?} is not like http://127.0.0.1:8000");
        let uri: Uri = url.parse().with_context(problem)?;
        let spoken = matches!(uri.scheme_str(), Some("http" | "https"));
        ensure!(spoken && uri.host().is_some_and(|host| !host.is_empty()), problem());
        let route = Route::new(&uri)?;
        // OpenAI's clients are given the address with the version, which is a part of our paths.
        let prefix = uri.path().trim_end_matches('/');
        let prefix = prefix.strip_suffix("/v1").unwrap_or(prefix).to_owned();
        Ok(Self { route, prefix, key })
    }

    async fn send(&self, path: &str, body: Option<String>) -> Result<Response<Incoming>> {
        let wire = self.route.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(wire)).await?;
        // It ends with its response.
        tokio::spawn(connection);
        let method = if body.is_some() { "POST" } else { "GET" };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header("host", self.route.authority())
            .header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let response = sender.send_request(request.body(body.unwrap_or_default())?).await?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            let text = read_all(response.into_body()).await.unwrap_or_default();
            let text: String =
                String::from_utf8_lossy(&text).chars().take(MOST_ERROR_CHARS).collect();
            bail!("{status}: {text}");
        }
        Ok(response)
    }

    /// The first model that the server lists.
    pub(crate) async fn first_model(&self) -> Result<String> {
        let body = read_all(self.send("/v1/models", None).await?.into_body()).await?;
        let models: Value = serde_json::from_slice(&body).context("/v1/models is not JSON")?;
        let id = models.pointer("/data/0/id").and_then(Value::as_str);
        id.map(str::to_owned).context("/v1/models lists no model; name one with --model")
    }

    /// Posts `body` and reads the stream that comes back to its end.
    pub(crate) async fn stream(&self, path: &str, body: String) -> Result<Answer> {
        let mut incoming = self.send(path, Some(body)).await?.into_body();
        let mut answer = Answer::default();
        let mut line = Vec::new();
        while let Some(data) = next_data(&mut incoming).await? {
            let now = Instant::now();
            for &byte in &data {
                if byte == b'\n' {
                    answer.take_line(&line, now)?;
                    line.clear();
                } else {
                    ensure!(line.len() < MOST_BYTES, "a line of the stream does not end");
                    line.push(byte);
                }
            }
        }
        ensure!(!answer.chunks.is_empty(), "the stream brought no output");
        Ok(answer)
    }
}

async fn next_data(body: &mut Incoming) -> Result<Option<Vec<u8>>> {
    while let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await {
        if let Ok(data) = frame?.into_data() {
            return Ok(Some(data.to_vec()));
        }
    }
    Ok(None)
}

async fn read_all(mut body: Incoming) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(data) = next_data(&mut body).await? {
        ensure!(all.len() + data.len() <= MOST_BYTES, "the answer does not end");
        all.extend_from_slice(&data);
    }
    Ok(all)
}

impl Answer {
    /// Takes in one line of a stream of server-sent events.
    fn take_line(&mut self, line: &[u8], now: Instant) -> Result<()> {
        let Some(data) = line.strip_prefix(b"data:") else { return Ok(()) };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            return Ok(());
        }
        let event: Value = serde_json::from_slice(data).context("an event is not JSON")?;
        if let Some(error) = event.get("error") {
            let text: String = error.to_string().chars().take(MOST_ERROR_CHARS).collect();
            bail!("the stream ended with an error: {text}");
        }
        if event.get("choices").and_then(Value::as_array).is_some_and(|all| all.iter().any(brings))
        {
            self.chunks.push(now);
        }
        if let Some(usage) = event.get("usage") {
            let count = |name| usage.get(name).and_then(Value::as_u64);
            let count = |name| count(name).and_then(|count| usize::try_from(count).ok());
            self.prompt_tokens = count("prompt_tokens").or(self.prompt_tokens);
            self.completion_tokens = count("completion_tokens").or(self.completion_tokens);
        }
        Ok(())
    }
}

/// Whether a choice brings a part of the output. A chat's first part may only say who speaks.
fn brings(choice: &Value) -> bool {
    let Some(delta) = choice.get("delta") else { return true };
    let filled = |name: &str| delta.get(name).is_some_and(|value| !value.is_null() && value != "");
    filled("content") || filled("reasoning_content") || filled("reasoning") || filled("tool_calls")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_understood_or_refused() {
        let target = Target::new("http://[::1]:8080/llm/", None).unwrap();
        assert_eq!((&*target.route.authority(), &*target.prefix), ("[::1]:8080", "/llm"));
        for (url, authority) in [("http://a.example", "a.example:80"), ("https://b/v1", "b:443")] {
            let target = Target::new(url, None).unwrap();
            assert_eq!((&*target.route.authority(), &*target.prefix), (authority, ""));
        }
        assert_eq!(Target::new("http://example.org/v1/", None).unwrap().prefix, "");
        for bad in ["", "localhost:8000", "http://", "https://:1", "ftp://a"] {
            assert!(Target::new(bad, None).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn parts_of_a_stream_are_counted_once() {
        let mut answer = Answer::default();
        let lines: [&[u8]; 9] = [
            b": a comment",
            b"event: x",
            br#"data: {"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
            br#"data: {"choices":[{"delta":{"content":"a"}}]}"#,
            br#"data:{"choices":[{"index":0,"text":""}]}"#,
            br#"data: {"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
            b"",
            br#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#,
            b"data: [DONE]",
        ];
        for line in lines {
            answer.take_line(line, Instant::now()).unwrap();
        }
        assert_eq!(answer.chunks.len(), 2);
        assert_eq!((answer.prompt_tokens, answer.completion_tokens), (Some(7), Some(2)));
        assert!(answer.take_line(br#"data: {"error":{"message":"no"}}"#, Instant::now()).is_err());
        assert!(answer.take_line(b"data: {", Instant::now()).is_err());
    }
}

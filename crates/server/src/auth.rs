//! Who may come in.
//!
//! **Invariant:** when any key is configured, every path needs one, save exactly `/health`, `/ready` and `/ping`. The list
//! names what is open, not what is guarded, so that a path spelled oddly can only be refused.

use std::fmt;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::state::App;

/// Paths that load balancers ask and that tell nothing.
const OPEN: [&str; 3] = ["/health", "/ready", "/ping"];

/// Longer credentials are wrong without being looked at.
const LONGEST: usize = 4096;

/// The accepted keys.
pub(crate) struct Keys(Vec<String>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

impl Keys {
    pub(crate) fn new(keys: Vec<String>) -> Self {
        Self(keys)
    }

    /// Whether a request to `path` with this `Authorization` header may pass.
    fn admits(&self, path: &str, authorization: Option<&[u8]>) -> bool {
        if self.0.is_empty() || OPEN.contains(&path) {
            return true;
        }
        let Some(given) = authorization.and_then(bearer) else { return false };
        // Every key is compared in full, so that the time taken tells nothing about any of them.
        self.0.iter().fold(false, |found, key| found | equal(key.as_bytes(), given))
    }
}

/// The credential of a `Bearer` header; the scheme's case does not matter.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"Bearer ";
    let (scheme, credential) = header.split_at_checked(SCHEME.len())?;
    let credential = credential.trim_ascii();
    (scheme.eq_ignore_ascii_case(SCHEME) && !credential.is_empty() && credential.len() <= LONGEST)
        .then_some(credential)
}

/// Compares without an early exit. Only the length of `given`, which the caller knows, decides how long it takes.
fn equal(key: &[u8], given: &[u8]) -> bool {
    let mut difference = usize::from(key.len() != given.len());
    for (index, byte) in given.iter().enumerate() {
        let expected = key.get(index).copied().unwrap_or(0);
        difference |= usize::from(std::hint::black_box(byte ^ expected));
    }
    std::hint::black_box(difference) == 0 && !key.is_empty()
}

/// The middleware: lets pass or answers 401.
pub(crate) async fn require_key(State(app): State<App>, request: Request, next: Next) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    if app.keys.admits(request.uri().path(), authorization) {
        return next.run(request).await;
    }
    let message = match authorization {
        None => "this server needs a key: send the header `Authorization: Bearer <key>`",
        Some(_) => "the key is not accepted; the header must be `Authorization: Bearer <key>`",
    };
    ApiError::new(StatusCode::UNAUTHORIZED, message).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_key_admits() {
        let keys = Keys::new(vec!["alpha".to_owned(), "beta-beta".to_owned()]);
        let long = format!("Bearer {}", "a".repeat(LONGEST + 1));
        let cases: [(Option<&[u8]>, bool); 13] = [
            (None, false),
            (Some(b""), false),
            (Some(b"Bearer"), false),
            (Some(b"Bearer "), false),
            (Some(b"Bearer alph"), false),
            (Some(b"Bearer alphaa"), false),
            (Some(b"Bearer alphbeta"), false),
            (Some(b"Basic alpha"), false),
            (Some("Bearer älpha".as_bytes()), false),
            (Some(b"Bearer \xff\xfe"), false),
            (Some(long.as_bytes()), false),
            (Some(b"Bearer alpha"), true),
            (Some(b"bearer  beta-beta "), true),
        ];
        for (header, admitted) in cases {
            assert_eq!(keys.admits("/v1/models", header), admitted, "{header:?}");
        }
    }

    #[test]
    fn odd_spellings_of_an_open_path_are_closed() {
        let keys = Keys::new(vec!["alpha".to_owned()]);
        for path in ["/health", "/ready", "/ping"] {
            assert!(keys.admits(path, None));
        }
        for path in [
            "/health/",
            "//health",
            "/Health",
            "/health/../v1/models",
            "/%68ealth",
            "/metrics",
            "*",
            "",
        ] {
            assert!(!keys.admits(path, None), "{path}");
        }
        assert!(Keys::new(Vec::new()).admits("/v1/models", None));
    }

    #[test]
    fn an_empty_key_admits_nobody() {
        let keys = Keys::new(vec![String::new()]);
        assert!(!keys.admits("/v1/models", Some(b"Bearer ")));
        assert!(!keys.admits("/v1/models", Some(b"Bearer x")));
    }
}

//! Who may come in.
//!
//! **Invariant:** when any key is configured, every path needs one, save exactly `/health`, `/ready` and `/ping`. The list
//! names what is open, not what is guarded, so that a path spelled oddly can only be refused.

use std::fmt;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use folio_engine::Owner;

use crate::error::ApiError;
use crate::state::App;

/// Paths that load balancers ask and that tell nothing.
const OPEN: [&str; 3] = ["/health", "/ready", "/ping"];

/// The header in which clients of Anthropic's API send their key.
const API_KEY: &str = "x-api-key";

/// Longer credentials are wrong without being looked at.
const LONGEST: usize = 4096;

/// Who sent a request, as far as the keys tell: the place of its key in the list; nobody in particular without keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Caller(Option<usize>);

impl Caller {
    /// The caller's number among those that are served alike; 0 for nobody in particular.
    pub(crate) fn owner(self) -> Owner {
        self.0.map_or(0, |place| u32::try_from(place).unwrap_or(u32::MAX - 1) + 1)
    }

    /// The place of its key.
    pub(crate) fn key(self) -> Option<usize> {
        self.0
    }

    /// Whether it is somebody in particular.
    pub(crate) fn is_known(self) -> bool {
        self.0.is_some()
    }
}

/// Whom [`require_key`] let pass.
pub(crate) fn caller(parts: &Parts) -> Caller {
    parts.extensions.get().copied().unwrap_or_default()
}

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

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Who may pass to `path` with this credential.
    fn admit(&self, path: &str, given: Option<&[u8]>) -> Option<Caller> {
        if self.0.is_empty() || OPEN.contains(&path) {
            return Some(Caller::default());
        }
        let given = given?;
        // Every key is compared in full, so that the time taken tells nothing about any of them.
        let keys = self.0.iter().enumerate();
        let found = keys.fold(
            None,
            |found, (place, key)| {
                if equal(key.as_bytes(), given) { Some(place) } else { found }
            },
        );
        found.map(|place| Caller(Some(place)))
    }
}

/// The credential of a `Bearer` header; the scheme's case does not matter.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"Bearer ";
    let (scheme, credential) = header.split_at_checked(SCHEME.len())?;
    if scheme.eq_ignore_ascii_case(SCHEME) { self::credential(credential) } else { None }
}

/// A credential that may be looked at.
fn credential(text: &[u8]) -> Option<&[u8]> {
    let text = text.trim_ascii();
    (!text.is_empty() && text.len() <= LONGEST).then_some(text)
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

/// The middleware: lets pass, with a note who it is, or answers 401.
pub(crate) async fn require_key(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Response {
    let authorization = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let given = match authorization {
        Some(header) => bearer(header),
        None => request.headers().get(API_KEY).and_then(|value| credential(value.as_bytes())),
    };
    if let Some(caller) = app.keys.admit(request.uri().path(), given) {
        request.extensions_mut().insert(caller);
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
            assert_eq!(
                keys.admit("/v1/models", header.and_then(bearer)).is_some(),
                admitted,
                "{header:?}"
            );
        }
    }

    #[test]
    fn odd_spellings_of_an_open_path_are_closed() {
        let keys = Keys::new(vec!["alpha".to_owned()]);
        for path in ["/health", "/ready", "/ping"] {
            assert_eq!(keys.admit(path, None), Some(Caller(None)));
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
            assert_eq!(keys.admit(path, None), None, "{path}");
        }
        assert_eq!(Keys::new(Vec::new()).admit("/v1/models", None), Some(Caller(None)));
    }

    #[test]
    fn an_empty_key_admits_nobody() {
        let keys = Keys::new(vec![String::new()]);
        assert_eq!(keys.admit("/v1/models", bearer(b"Bearer ")), None);
        assert_eq!(keys.admit("/v1/models", bearer(b"Bearer x")), None);
    }

    #[test]
    fn each_key_is_somebody_else() {
        let keys = Keys::new(vec!["alpha".to_owned(), "beta".to_owned()]);
        let who = |header: &[u8]| keys.admit("/v1/models", bearer(header));
        assert_ne!(who(b"Bearer alpha"), who(b"Bearer beta"));
        assert_eq!(who(b"Bearer alpha"), who(b"bearer  alpha "));
        assert!(who(b"Bearer alpha").is_some() && who(b"Bearer beta").is_some());
    }
}

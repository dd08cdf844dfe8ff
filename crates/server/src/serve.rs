//! Connections: how many, how slow they may be, and how they end.
//!
//! axum's own server has no limits on heads, on writes or on the number of connections, so each connection is handed to
//! hyper here. **Invariant:** nothing a client does or leaves undone holds a connection for ever: heads, bodies and
//! writes have deadlines, and a handler ends because the engine ends every request.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::app::router;
use crate::config::Limits;
use crate::error::ApiError;
use crate::io::Guarded;
use crate::state::App;
use crate::tls::Tls;

/// After the last answer has been handed over, connections have this long to take it.
const FLUSH_TIME: Duration = Duration::from_secs(10);

/// When everything ends at once, streams have this long to take the reason.
const ABORT_TIME: Duration = Duration::from_secs(3);

/// How long to wait when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything that ran has finished.
    Drained,
    /// Something may have been cut off.
    Aborted,
}

/// Serves until told to stop. Each message on `shutdown` is one signal. The first: `/ready` says no, new generation
/// requests get a 503, running ones finish, then this returns. The second, or the end of the time they have: everything
/// ends at once. When the sender is
/// dropped without a signal, none will come.
///
/// A connection that fails concerns nobody else, so serving itself cannot.
pub async fn serve(listener: TcpListener, app: App, mut shutdown: mpsc::Receiver<()>) -> Ending {
    let limits = app.served.limits;
    let router = router(app.clone());
    let places = Arc::new(Semaphore::new(limits.connections.clamp(1, Semaphore::MAX_PERMITS)));
    let finish = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    // Runs from the first signal on.
    let mut patience = pin!(tokio::time::sleep(limits.shutdown_time));
    loop {
        tokio::select! {
            Some(()) = shutdown.recv() => {
                if app.is_draining() {
                    return abort(&app, &finish, connections).await;
                }
                tracing::info!("finishing the requests that run; another signal ends them");
                app.drain();
                patience.as_mut().reset(Instant::now() + limits.shutdown_time);
            }
            () = &mut patience, if app.is_draining() => {
                let seconds = limits.shutdown_time.as_secs_f64();
                tracing::warn!(seconds, "the time to finish is over; what still runs is cut off");
                return abort(&app, &finish, connections).await;
            }
            () = app.idle(), if app.is_draining() => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener, &places) => match accepted {
                Ok((stream, place)) => {
                    let stop = finish.subscribe();
                    connections.spawn(connection(stream, router.clone(), app.clone(), stop, place));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    finish.send_replace(true);
    let mut flushed = pin!(tokio::time::sleep(FLUSH_TIME));
    loop {
        tokio::select! {
            Some(()) = shutdown.recv() => return abort(&app, &finish, connections).await,
            // Every answer is complete; who has not taken it by now will not.
            () = &mut flushed => {
                connections.shutdown().await;
                return Ending::Drained;
            }
            next = connections.join_next() => if next.is_none() {
                return Ending::Drained;
            },
        }
    }
}

/// Ends the engine's work. Streams are told why, if they listen.
async fn abort(app: &App, finish: &watch::Sender<bool>, mut connections: JoinSet<()>) -> Ending {
    app.engine.abort_all();
    finish.send_replace(true);
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(ABORT_TIME, all).await;
    connections.shutdown().await;
    Ending::Aborted
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

/// One connection from its first byte to its last.
async fn connection(
    stream: TcpStream,
    router: Router,
    app: App,
    stop: watch::Receiver<bool>,
    place: OwnedSemaphorePermit,
) {
    // Tokens are sent one by one; waiting to fill packets would only delay them.
    let _ = stream.set_nodelay(true);
    let limits = app.served.limits;
    let ended = match &app.served.tls {
        None => http(Guarded::new(stream, limits.write_time), router, limits, stop).await,
        Some(tls) => {
            let opened = tokio::time::timeout(limits.head_time, open(stream, tls, limits)).await;
            match opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => http(stream, router, limits, stop).await,
                Err(error) => Err(error.into()),
            }
        }
    };
    if let Err(error) = ended {
        // A client that goes away in the middle is ordinary.
        tracing::debug!(%error, "a connection ended early");
    }
    drop(place);
}

/// Shakes hands. Who speaks plainly is told so, plainly.
async fn open(
    mut stream: TcpStream,
    tls: &Tls,
    limits: Limits,
) -> io::Result<impl AsyncRead + AsyncWrite + Unpin> {
    /// The first byte of every TLS handshake.
    const HANDSHAKE: u8 = 0x16;
    let mut first = [0];
    stream.peek(&mut first).await?;
    if first[0].is_ascii_uppercase() {
        let body = ApiError::bad_request("this server speaks HTTPS; use https://").to_json();
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
        );
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        return Err(io::Error::other("the client does not speak TLS"));
    }
    if first[0] != HANDSHAKE {
        return Err(io::Error::other("the client speaks neither TLS nor HTTP"));
    }
    tls.accept(Guarded::new(stream, limits.write_time)).await
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves requests until the client goes or the server stops.
async fn http<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    router: Router,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) -> Result<(), BoxError> {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_headers(limits.headers)
        .max_header_size(limits.head_bytes)
        .max_buf_size(limits.head_bytes.max(8 << 10));
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => Some(ended),
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    Ok(ended?)
}

//! Serves a model over HTTP and scores concurrent requests in batches.
//!
//!     cargo run --release --example serve -- [--state FILE] MODEL.onnx [PROVIDER [ADDRESS]]
//!     curl --data-binary @image.jpg http://127.0.0.1:8080/score
//!
//! `POST /score` takes an image of at most 8 MiB and answers with class, verdict, score, threshold and
//! p-value as JSON; `GET /health` answers with provider, classes, threshold and whether the images have
//! drifted; `GET /metrics` with the same in the Prometheus text format. `--state` keeps the state of the
//! drift monitor in a file, as `toolkit drift` does. SIGTERM and Ctrl-C end the service after it has answered
//! the requests that it accepted, or a little later if a client does not read its answers; a second signal
//! ends it at once.

use std::{
    error::Error,
    ffi::OsString,
    io::{Write, stdout},
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::available_parallelism,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, EXPECT, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
    routing::{get, post},
};
use cac::{
    Bytes, Provider, Scorer, Verdict,
    drift::{ALPHA, Monitor, Recent, StateFile, Status, StreamOrigin},
    files::sha256,
    image,
};
use http_body_util::BodyExt;
use hyper::{body::Body as _, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use ndarray::Array4;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    signal,
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

/// The maximum number of connections; further ones wait until one is closed.
const CONNECTIONS: usize = 512;
/// The maximum size of a connection's buffer, in bytes.
const BUFFER: usize = 64 << 10;
/// The maximum time to read the head of a request, and its body. A connection may be idle for as long, so a
/// proxy must close its idle connections earlier.
const READ_TIME: Duration = Duration::from_secs(if cfg!(test) { 5 } else { 10 });
/// The maximum age of a connection: a client that does not read its answers must not keep a place for ever. A
/// request that is being answered then has twice [`READ_TIME`].
const LIFETIME: Duration = Duration::from_secs(if cfg!(test) { 8 } else { 300 });
/// The maximum size of a request body, in bytes.
const BODY_LIMIT: usize = 8 << 20;
/// The maximum size of all request bodies in memory, in bytes; further requests get 503.
const BODIES_LIMIT: usize = 64 << 20;
/// The maximum number of waiting images; further requests get 503.
const QUEUE: usize = 256;

/// The number of recent images over which the share of unknown ones is reported.
const RECENT: usize = 1000;
/// The time after which the state is written again, while images arrive.
const SAVE_AFTER: Duration = Duration::from_secs(60);

/// An image's pixels `[3, H, W]` and the channel for its verdict.
struct Request {
    pixels: Vec<u8>,
    answer: oneshot::Sender<Verdict>,
}

/// What has been scored so far.
struct Seen {
    images: u64,
    unknown: u64,
    /// Requests for a score that were refused or failed.
    failed: u64,
    /// `None` if the model has no scores of held-out images.
    drift: Option<Drift>,
}

/// A monitor's status and its recent images.
type Drift = (Status, Option<Recent>);

fn drift(monitor: &Monitor, scorer: &Scorer) -> Drift {
    (monitor.status(), monitor.recent(RECENT, scorer.threshold()))
}

#[derive(Clone)]
struct Service {
    scorer: Arc<Scorer>,
    /// The SHA-256 of the model file.
    model: Arc<str>,
    seen: Arc<Mutex<Seen>>,
    queue: mpsc::Sender<Request>,
    /// Has one permit per byte of [`BODIES_LIMIT`].
    memory: Arc<Semaphore>,
}

fn main() -> ExitCode {
    // A state that exceeds a limit of the shell is then an error; the signal would end the service.
    #[cfg(unix)]
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    const USAGE: &str = "usage: serve [--state FILE] MODEL.onnx [PROVIDER [ADDRESS]]";
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut state = None;
    if let Some(place) = args.iter().position(|arg| arg == "--state") {
        args.remove(place);
        state = Some(if place < args.len() {
            PathBuf::from(args.remove(place))
        } else {
            return Err(USAGE.into());
        });
    }
    if args.len() > 3 || args.iter().any(|arg| arg.as_encoded_bytes().starts_with(b"-")) {
        return Err(USAGE.into());
    }
    let model = args.first().ok_or(USAGE)?;
    let provider = args.get(1).map_or(Ok(Provider::Cpu), |name| name.to_string_lossy().parse())?;
    let address = args.get(2).map_or("127.0.0.1:8080".into(), |address| address.to_string_lossy());
    let origin = model.to_string_lossy();
    let bytes = std::fs::read(model).map_err(|error| format!("cannot read `{origin}`: {error}"))?;
    let bytes = Bytes::from(bytes);
    let scorer = Scorer::named(bytes.clone(), &origin, provider)?;
    scorer.warm_up(1)?;
    let sha256 = sha256(&bytes);
    let (monitor, state) = begin(&scorer, sha256.clone(), state.as_deref())?;
    drop(bytes);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // One thread scores. The others decode, one per core, because a decoder may take 1 GiB.
        .max_blocking_threads(1 + available_parallelism()?.get())
        .build()?;
    let served = runtime.block_on(async {
        let listener = TcpListener::bind(&*address).await;
        let listener = listener.map_err(|error| format!("cannot listen on `{address}`: {error}"))?;
        // Without a reader the service is as useful.
        let _ = writeln!(stdout(), "http://{}/ on {}", listener.local_addr()?, scorer.runtime());
        Ok(serve(listener, scorer, sha256, monitor, state, first_signal()).await?)
    });
    runtime.shutdown_background();
    served
}

/// The monitor, resumed from the state file if there is one. It needs up to 16 bytes per image.
fn begin(
    scorer: &Scorer,
    model: String,
    state: Option<&Path>,
) -> cac::Result<(Option<Monitor>, Option<StateFile>)> {
    let decision = scorer.decision();
    let monitor = match Monitor::new(decision.held_out_scores(), ALPHA, 0) {
        Err(cac::Error::NoHeldOutScores) if state.is_none() => None,
        monitor => Some(monitor?),
    };
    let Some(mut monitor) = monitor else { return Ok((None, None)) };
    let doubt = scorer.doubt_of_held_out();
    if doubt.is_some() {
        monitor.withdraw_guarantee();
    }
    let mut file = None;
    if let Some(path) = state {
        let origin = StreamOrigin { model, score: decision.score.to_string() };
        let (opened, resumed) = StateFile::open(path, origin, monitor)?;
        (file, monitor) = (Some(opened), resumed);
    }
    if !monitor.status().guaranteed {
        let doubt = doubt.unwrap_or("earlier images of the stream were scored on another provider");
        eprintln!("the probability of a false alarm of drift has no bound: {doubt}");
    }
    Ok((Some(monitor), file))
}

/// Completes on SIGTERM or Ctrl-C. The next such signal ends the program.
async fn first_signal() {
    next_signal().await;
    tokio::spawn(async {
        next_signal().await;
        std::process::exit(1);
    });
}

async fn next_signal() {
    #[cfg(unix)]
    {
        let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate()).expect("a handler");
        tokio::select! {
            _ = terminate.recv() => {}
            pressed = signal::ctrl_c() => pressed.expect("a handler"),
        }
    }
    #[cfg(not(unix))]
    signal::ctrl_c().await.expect("a handler");
}

/// Accepts connections until `stop` completes, then answers the requests that it has accepted. `model` is the
/// SHA-256 of the model file.
///
/// # Errors
/// If the state cannot be written at the end.
async fn serve(
    listener: TcpListener,
    scorer: Scorer,
    model: String,
    monitor: Option<Monitor>,
    mut state: Option<StateFile>,
    stop: impl Future<Output = ()>,
) -> cac::Result<()> {
    let drift = monitor.as_ref().map(|monitor| drift(monitor, &scorer));
    let seen = Seen { images: 0, unknown: 0, failed: 0, drift };
    let (scorer, seen) = (Arc::new(scorer), Arc::new(Mutex::new(seen)));
    let (queue, requests) = mpsc::channel(QUEUE);
    let scoring = spawn_blocking({
        let (scorer, seen) = (Arc::clone(&scorer), Arc::clone(&seen));
        move || score_all(&scorer, &seen, monitor, state.as_mut(), requests)
    });
    let memory = Arc::new(Semaphore::new(BODIES_LIMIT));
    let state = Service { scorer, model: model.into(), seen, queue, memory };
    let app = Router::new()
        .route("/score", post(score))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .with_state(state);
    let service = TowerToHyperService::new(app);

    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(READ_TIME).max_buf_size(BUFFER);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let (stopping, _) = watch::channel(());
    let mut tasks = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accept => accepted,
            () = &mut stop => break,
        };
        let Ok((stream, _)) = accepted else {
            // For example, too many files are open.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let connection = http.serve_connection(TokioIo::new(stream), service.clone());
        let mut stopping = stopping.subscribe();
        tasks.spawn(async move {
            let mut connection = pin!(connection);
            // A failure affects only this connection's client.
            let is_open = tokio::select! {
                _ = connection.as_mut() => false,
                () = sleep(LIFETIME) => true,
                _ = stopping.changed() => true,
            };
            if is_open {
                connection.as_mut().graceful_shutdown();
                let _ = timeout(2 * READ_TIME, connection).await;
            }
            drop(place);
        });
        while tasks.try_join_next().is_some() {}
    }
    drop(listener);
    // The tasks close their connections.
    drop(stopping);
    while tasks.join_next().await.is_some() {}
    // Closes the queue.
    drop(service);
    scoring.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

async fn health(State(service): State<Service>) -> Response {
    // Without the path of a library, which is nobody's business.
    let (provider, threshold) = (service.scorer.provider().to_string(), service.scorer.threshold());
    let classes = &service.scorer.decision().classes;
    let seen = lock(&service.seen);
    let drift = seen.drift.as_ref().map(|(status, recent)| {
        let mut drift = json!(status);
        drift["recent"] = json!(recent);
        drift
    });
    let (images, unknown) = (seen.images, seen.unknown);
    drop(seen);
    let health = json!({
        "model": *service.model, "provider": provider, "classes": classes, "threshold": threshold,
        "images": images, "unknown": unknown, "drift": drift,
    });
    answer_with(StatusCode::OK, health)
}

/// The counters and gauges, in the text format of Prometheus.
async fn metrics(State(service): State<Service>) -> Response {
    let seen = lock(&service.seen);
    let mut lines = vec![
        ("cac_images_total", "counter", "Images scored since the start.", seen.images as f64),
        (
            "cac_unknown_images_total",
            "counter",
            "Images called unknown since the start.",
            seen.unknown as f64,
        ),
        (
            "cac_failed_requests_total",
            "counter",
            "Requests for a score without one since the start.",
            seen.failed as f64,
        ),
    ];
    if let Some((status, recent)) = seen.drift {
        let Status { images, log10_martingale, greatest_log10_martingale, alarm, .. } = status;
        lines.extend([
            (
                "cac_drift_images",
                "gauge",
                "Images of the stream, with those before the start.",
                images as f64,
            ),
            ("cac_drift_log10_martingale", "gauge", "Evidence of drift.", log10_martingale),
            (
                "cac_drift_greatest_log10_martingale",
                "gauge",
                "The greatest so far.",
                greatest_log10_martingale,
            ),
            ("cac_drift_alarm", "gauge", "1 after the alarm.", f64::from(u8::from(alarm.is_some()))),
        ]);
        lines.extend(recent.map(|recent| {
            ("cac_unknown_share", "gauge", "Share of the last images called unknown.", recent.share_unknown)
        }));
    }
    drop(seen);
    let text =
        |(name, kind, help, value)| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    let text: String = lines.into_iter().map(text).collect();
    (StatusCode::OK, [(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// `Seen` is consistent whenever it is locked: nothing panics while it changes.
fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn score(State(service): State<Service>, headers: HeaderMap, body: Body) -> Response {
    let seen = Arc::clone(&service.seen);
    match verdict(service, &headers, body).await {
        Ok(verdict) => answer_with(StatusCode::OK, json!(verdict)),
        Err(failure) => {
            lock(&seen).failed += 1;
            failure.into_response()
        }
    }
}

async fn verdict(service: Service, headers: &HeaderMap, body: Body) -> Result<Verdict, Failure> {
    // This client sends a body only if it is told to.
    if is_large(&body) && headers.contains_key(EXPECT) {
        return Err(Failure::large());
    }
    let (bytes, memory) = read(body, service.memory).await?;
    // A place in the queue is reserved before decoding, so that decoded images are bounded too.
    let place = service.queue.try_reserve_owned().map_err(|error| match error {
        TrySendError::Full(_) => Failure::busy("images"),
        TrySendError::Closed(_) => Failure::stopped(),
    })?;
    let input = service.scorer.decision().input;
    let (answer, verdict) = oneshot::channel();
    // What it holds counts until it has run, even if the client disconnects.
    let decode = move || {
        if answer.is_closed() {
            return Ok(());
        }
        let image = image::from_bytes(&bytes)?;
        drop((bytes, memory));
        place.send(Request { pixels: image::pixels(&image, &input), answer });
        Ok::<_, cac::Error>(())
    };
    spawn_blocking(decode).await.map_err(|_| Failure::stopped())??;
    verdict.await.map_err(|_| Failure::stopped())
}

/// Whether a body is too long by its stated length.
fn is_large(body: &Body) -> bool {
    body.size_hint().lower() > BODY_LIMIT as u64
}

/// Reads a body, with one permit per byte. The rest of a refused body is read and dropped: a client reads its
/// answer only after it has sent its request.
async fn read(mut body: Body, memory: Arc<Semaphore>) -> Result<(Vec<u8>, OwnedSemaphorePermit), Failure> {
    let permits = |count: usize| {
        Arc::clone(&memory).try_acquire_many_owned(count as u32).map_err(|_| Failure::busy("bytes"))
    };
    let mut whole = if is_large(&body) { Err(Failure::large()) } else { Ok((Vec::new(), permits(0)?)) };
    let receive = async {
        while let Some(frame) = body.frame().await {
            let Ok(part) = frame.map_err(|_| Failure::cut())?.into_data() else { continue };
            if let Ok((bytes, held)) = &mut whole {
                if bytes.len() + part.len() > BODY_LIMIT {
                    whole = Err(Failure::large());
                    continue;
                }
                match permits(part.len()) {
                    Ok(permits) => {
                        bytes.extend_from_slice(&part);
                        held.merge(permits);
                    }
                    Err(failure) => whole = Err(failure),
                }
            }
        }
        Ok(())
    };
    let received = timeout(READ_TIME, receive).await.unwrap_or_else(|_| Err(Failure::slow()));
    let whole = whole?;
    received.map(|()| whole)
}

fn answer_with(status: StatusCode, json: Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], json.to_string()).into_response()
}

/// Scores the waiting images in batches until the queue is closed. While a batch runs, the next one gathers.
///
/// # Errors
/// If the state cannot be written at the end.
fn score_all(
    scorer: &Scorer,
    seen: &Mutex<Seen>,
    mut monitor: Option<Monitor>,
    mut state: Option<&mut StateFile>,
    mut requests: mpsc::Receiver<Request>,
) -> cac::Result<()> {
    let mut save = |monitor: &Option<Monitor>| match (&mut state, monitor) {
        (Some(file), Some(monitor)) => file.write(monitor, None),
        _ => Ok(()),
    };
    let (mut batch, mut saved) = (Vec::new(), Instant::now());
    while requests.blocking_recv_many(&mut batch, scorer.preferred_batch()) > 0 {
        // Skip clients that disconnected.
        batch.retain(|request| !request.answer.is_closed());
        answer(scorer, seen, monitor.as_mut(), std::mem::take(&mut batch));
        if saved.elapsed() > SAVE_AFTER {
            let _ = save(&monitor).inspect_err(|error| eprintln!("{error}"));
            saved = Instant::now();
        }
    }
    save(&monitor)
}

fn answer(scorer: &Scorer, seen: &Mutex<Seen>, mut monitor: Option<&mut Monitor>, batch: Vec<Request>) {
    let input = &scorer.decision().input;
    let (pixels, waiting): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|request| (request.pixels, request.answer)).unzip();
    let images = Array4::from_shape_vec((pixels.len(), 3, input.height, input.width), pixels.concat())
        .expect("every image has the model's size");
    match scorer.score_u8(images.view()) {
        Ok(scores) => {
            let drift = monitor.as_mut().map(|monitor| {
                scores.score.iter().for_each(|&score| monitor.push(score));
                drift(monitor, scorer)
            });
            let mut seen = lock(seen);
            seen.images += scores.score.len() as u64;
            seen.unknown += scores.unknown.iter().filter(|&&unknown| unknown).count() as u64;
            seen.drift = drift;
            drop(seen);
            for (verdict, waiting) in scorer.verdicts(&scores).into_iter().zip(waiting) {
                // The client may have disconnected.
                let _ = waiting.send(verdict);
            }
        }
        // The clients notice that their channels are closed.
        Err(error) => eprintln!("{error}"),
    }
}

/// The response to a failed request.
struct Failure(StatusCode, String);

impl Failure {
    fn cut() -> Self {
        Self(StatusCode::BAD_REQUEST, "the body is incomplete".to_owned())
    }

    fn slow() -> Self {
        Self(StatusCode::REQUEST_TIMEOUT, format!("the body took more than {} s", READ_TIME.as_secs()))
    }

    fn large() -> Self {
        Self(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {BODY_LIMIT} bytes"))
    }

    fn busy(what: &str) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, format!("too many {what} are waiting"))
    }

    fn stopped() -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, "the image could not be scored".to_owned())
    }
}

impl From<cac::Error> for Failure {
    fn from(error: cac::Error) -> Self {
        match error {
            // Without the name of the image: it has none.
            cac::Error::Image { reason, .. } => {
                Self(StatusCode::UNPROCESSABLE_ENTITY, format!("the image cannot be read: {reason}"))
            }
            error => Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = answer_with(self.0, json!({ "error": self.1 }));
        if self.0 == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::SocketAddr, path::Path};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        task::JoinHandle,
    };

    const ROOT: &str = env!("CARGO_MANIFEST_DIR");

    fn scorer() -> Scorer {
        Scorer::open(Path::new(ROOT).join("exported/cifar10-cifar-net.onnx"), Provider::Cpu).unwrap()
    }

    /// The address of a service, the sender that stops it, and its task.
    async fn start() -> (SocketAddr, oneshot::Sender<()>, JoinHandle<cac::Result<()>>) {
        start_with(None).await
    }

    async fn start_with(
        state: Option<&Path>,
    ) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<cac::Result<()>>) {
        let scorer = scorer();
        let (monitor, state) = begin(&scorer, "abc".to_owned(), state).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let stopped = async { stopped.await.unwrap_or(()) };
        (address, stop, tokio::spawn(serve(listener, scorer, "abc".to_owned(), monitor, state, stopped)))
    }

    fn head(request: &str, length: usize) -> String {
        format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n")
    }

    /// Sends a request and returns the status and JSON of the response.
    async fn ask(address: SocketAddr, request: &str, body: &[u8]) -> (u16, Value) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{}\r\n", head(request, body.len())).as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        answer_from(stream).await
    }

    /// The status and JSON of the response, or its text.
    async fn answer_from(mut stream: TcpStream) -> (u16, Value) {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|_| body.into()))
    }

    /// Each golden image, as a file and with its verdict.
    fn images() -> Vec<(Vec<u8>, Verdict)> {
        let scorer = scorer();
        let verdict = |path| {
            let bytes = std::fs::read(path).unwrap();
            let verdict = scorer.score_image(&image::from_bytes(&bytes).unwrap()).unwrap();
            (bytes, verdict)
        };
        let folder = Path::new(ROOT).join("tests/golden/images");
        std::fs::read_dir(folder).unwrap().map(|entry| verdict(entry.unwrap().path())).collect()
    }

    fn is_verdict(found: &Value, expected: &Verdict) -> bool {
        (&found["class"], &found["unknown"]) == (&json!(expected.class), &json!(expected.unknown))
            && (found["score"].as_f64().unwrap() - f64::from(expected.score)).abs() < 1e-4
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn concurrent_images_get_their_own_verdicts() {
        let (address, _stop, _) = start().await;
        let images = images();
        let asked: Vec<_> = (0..24)
            .map(|number| {
                let (bytes, expected) = images[number % images.len()].clone();
                (expected, tokio::spawn(async move { ask(address, "POST /score", &bytes).await }))
            })
            .collect();
        for (expected, answer) in asked {
            let (status, found) = answer.await.unwrap();
            assert_eq!(status, 200, "{found}");
            assert!(is_verdict(&found, &expected), "{found}, not {expected:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_that_reads_no_answers_does_not_delay_shutdown() {
        let (address, stop, end) = start().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let asking =
            async { while stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.is_ok() {} };
        // Until the answers have filled all buffers.
        assert!(timeout(Duration::from_secs(2), asking).await.is_err());
        stop.send(()).unwrap();
        timeout(4 * READ_TIME, end).await.expect("the service ends").unwrap().unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_that_reads_no_answers_loses_its_place() {
        let (address, _stop, _) = start().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let asking =
            async { while stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.is_ok() {} };
        timeout(LIFETIME + 4 * READ_TIME, asking).await.expect("the connection is closed");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn invalid_requests_are_refused() {
        let (address, _stop, _) = start().await;
        let (status, health) = ask(address, "GET /health", b"").await;
        assert_eq!((status, health["classes"][3].as_str()), (200, Some("cat")));
        assert_eq!((&health["provider"], &health["model"]), (&json!("cpu"), &json!("abc")));
        let (status, error) = ask(address, "POST /score", b"no image").await;
        assert_eq!(status, 422);
        let error = error["error"].as_str().unwrap();
        assert!(error.starts_with("the image cannot be read: it is not BMP, "), "{error}");
        // The client sends the whole body before it reads the answer.
        let (status, error) = ask(address, "POST /score", &vec![0; BODY_LIMIT + 1]).await;
        assert_eq!((status, &error["error"]), (413, &json!("the body has more than 8388608 bytes")));
        // This one waits to be told to.
        let mut stream = TcpStream::connect(address).await.unwrap();
        let waiting = format!("{}expect: 100-continue\r\n\r\n", head("POST /score", BODY_LIMIT + 1));
        stream.write_all(waiting.as_bytes()).await.unwrap();
        assert_eq!(answer_from(stream).await.0, 413);
        assert_eq!(ask(address, "GET /nothing", b"").await.0, 404);
        let (_, text) = ask(address, "GET /metrics", b"").await;
        assert!(text.as_str().unwrap().contains("\ncac_failed_requests_total 3\n"), "{text}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn images_of_clients_that_left_are_not_decoded_and_keep_their_places() {
        let (address, stop, end) = start().await;
        // Each takes long to decode.
        let mut slow = std::io::Cursor::new(Vec::new());
        ::image::GrayImage::new(6000, 6000).write_to(&mut slow, ::image::ImageFormat::Png).unwrap();
        let slow = slow.into_inner();
        for _ in 0..QUEUE {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(format!("{}\r\n", head("POST /score", slow.len())).as_bytes()).await.unwrap();
            stream.write_all(&slow).await.unwrap();
        }
        let (bytes, verdict) = &images()[0];
        let asked = Instant::now();
        loop {
            match ask(address, "POST /score", bytes).await {
                (503, _) => sleep(Duration::from_millis(50)).await,
                (status, found) => {
                    assert!(status == 200 && is_verdict(&found, verdict), "{found}");
                    break;
                }
            }
        }
        // Decoding all of them would take minutes.
        assert!(asked.elapsed() < Duration::from_secs(60), "{:?}", asked.elapsed());
        stop.send(()).unwrap();
        end.await.unwrap().unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_state_that_cannot_be_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (_, stop, end) = start_with(Some(&folder.path().join("drift.json"))).await;
        folder.close().unwrap();
        stop.send(()).unwrap();
        assert!(matches!(end.await.unwrap(), Err(cac::Error::Io { .. })));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn drift_is_reported_and_continues_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("drift.json");
        let images = images();
        let mut before = json!({ "log10_martingale": 0.0 });
        for round in 1..=2 {
            let (address, stop, end) = start_with(Some(&state)).await;
            let (_, health) = ask(address, "GET /health", b"").await;
            assert_eq!(health["drift"]["log10_martingale"], before["log10_martingale"], "{health}");
            for (bytes, _) in &images {
                assert_eq!(ask(address, "POST /score", bytes).await.0, 200);
            }
            let (_, health) = ask(address, "GET /health", b"").await;
            let unknown = images.iter().filter(|(_, verdict)| verdict.unknown).count();
            assert_eq!((&health["images"], &health["unknown"]), (&json!(images.len()), &json!(unknown)));
            let drift = &health["drift"];
            assert_eq!((&drift["images"], &drift["alarm"]), (&json!(round * images.len()), &json!(null)));
            assert_eq!(drift["recent"]["unknown"], round * unknown);

            let (status, text) = ask(address, "GET /metrics", b"").await;
            let text = text.as_str().unwrap();
            assert_eq!(status, 200);
            for (kind, line) in [
                ("counter", format!("cac_images_total {}", images.len())),
                ("counter", format!("cac_unknown_images_total {unknown}")),
                ("gauge", format!("cac_drift_images {}", round * images.len())),
                ("gauge", format!("cac_drift_log10_martingale {}", drift["log10_martingale"])),
                ("gauge", "cac_drift_alarm 0".to_owned()),
                (
                    "gauge",
                    format!("cac_unknown_share {}", drift["recent"]["share_unknown"].as_f64().unwrap()),
                ),
            ] {
                let name = line.split(' ').next().unwrap();
                assert!(text.contains(&format!("# TYPE {name} {kind}\n{line}\n")), "{line}: {text}");
                assert!(text.contains(&format!("# HELP {name} ")), "{text}");
            }
            before = drift.clone();
            stop.send(()).unwrap();
            end.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn bodies_share_a_limit() {
        let memory = Arc::new(Semaphore::new(5));
        let first = read(Body::from("123"), Arc::clone(&memory)).await.ok().unwrap();
        assert_eq!(first.0, b"123");
        let refused = read(Body::from("456"), Arc::clone(&memory)).await.err().unwrap();
        assert_eq!(refused.1, "too many bytes are waiting");
        assert_eq!(refused.into_response().headers()[RETRY_AFTER], "1");
        drop(first);
        assert!(read(Body::from("456"), Arc::clone(&memory)).await.is_ok());
        assert_eq!(memory.available_permits(), 5);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn slow_clients_are_cut_off() {
        let (address, _stop, _) = start().await;
        let connect = async |sent: String| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(sent.as_bytes()).await.unwrap();
            stream
        };
        let idle = connect(String::new()).await;
        let slow_head = connect(head("POST /score", 9)).await;
        let slow_body = connect(format!("{}\r\nhalf", head("POST /score", 9))).await;
        for mut stream in [idle, slow_head] {
            assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
        }
        assert_eq!(answer_from(slow_body).await, (408, json!({ "error": "the body took more than 5 s" })));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn accepted_requests_are_answered_before_shutdown() {
        let (address, stop, end) = start().await;
        let mut accepted = Vec::new();
        for (bytes, verdict) in images() {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = format!("{}expect: 100-continue\r\n\r\n", head("POST /score", bytes.len()));
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut go_on = [0; 25];
            stream.read_exact(&mut go_on).await.unwrap();
            assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
            accepted.push((stream, bytes, verdict));
        }
        stop.send(()).unwrap();
        for (mut stream, bytes, verdict) in accepted {
            stream.write_all(&bytes).await.unwrap();
            let (status, found) = answer_from(stream).await;
            assert_eq!(status, 200, "{found}");
            assert!(is_verdict(&found, &verdict), "{found}, not {verdict:?}");
        }
        end.await.unwrap().unwrap();
    }
}

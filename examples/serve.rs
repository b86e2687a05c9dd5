//! Serves a model over HTTP and scores concurrent requests in batches.
//!
//!     cargo run --release --example serve MODEL.onnx [PROVIDER [ADDRESS]]
//!     curl --data-binary @image.jpg http://127.0.0.1:8080/score
//!
//! `POST /score` takes an image of at most 8 MiB and answers with class, verdict, score and threshold as
//! JSON; `GET /health` answers with provider, classes and threshold.

use std::{error::Error, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use cac::{Provider, Scorer, Verdict, image};
use ndarray::Array4;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

/// The maximum size of a request body, in bytes.
const BODY_LIMIT: usize = 8 << 20;
/// The maximum number of waiting images; further requests get 503.
const QUEUE: usize = 256;
/// How long a batch waits for more images.
const WAIT: Duration = Duration::from_millis(2);

type Answer = cac::Result<Verdict>;

/// An image's values `[3, H, W]` and the channel for its verdict.
struct Request {
    values: Vec<f32>,
    answer: oneshot::Sender<Answer>,
}

#[derive(Clone)]
struct Service {
    scorer: Arc<Scorer>,
    queue: mpsc::Sender<Request>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let model = args.first().ok_or("usage: serve MODEL.onnx [PROVIDER [ADDRESS]]")?;
    let provider = args.get(1).map_or(Ok(Provider::Cpu), |name| name.parse())?;
    let address = args.get(2).map_or("127.0.0.1:8080", String::as_str);
    let scorer = Scorer::open(model, provider)?;
    scorer.warm_up(1)?;
    let listener = TcpListener::bind(address).await?;
    println!("http://{}/ on {}", listener.local_addr()?, scorer.runtime());
    axum::serve(listener, app(scorer)).await?;
    Ok(())
}

/// The routes of a model, with a task that scores their images.
fn app(scorer: Scorer) -> Router {
    let scorer = Arc::new(scorer);
    let (queue, requests) = mpsc::channel(QUEUE);
    tokio::spawn(score_all(Arc::clone(&scorer), requests));
    Router::new()
        .route("/score", post(score))
        .route("/health", get(health))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(Service { scorer, queue })
}

async fn health(State(service): State<Service>) -> Response {
    let (runtime, threshold) = (service.scorer.runtime(), service.scorer.threshold());
    let classes = &service.scorer.decision().classes;
    answer_with(StatusCode::OK, json!({ "provider": runtime, "classes": classes, "threshold": threshold }))
}

async fn score(State(service): State<Service>, body: Bytes) -> Result<Response, Failure> {
    // A place in the queue is reserved before decoding, so that decoded images are bounded too.
    let place = service.queue.try_reserve_owned().map_err(|_| Failure::busy())?;
    let input = service.scorer.decision().input;
    let decode = move || {
        let image = image::from_bytes(&body)?;
        Ok::<_, cac::Error>(image::tensor(&image, input.height, input.width))
    };
    let values = tokio::task::spawn_blocking(decode).await.map_err(|_| Failure::stopped())??;
    let (answer, verdict) = oneshot::channel();
    place.send(Request { values, answer });
    let verdict = verdict.await.map_err(|_| Failure::stopped())??;
    Ok(answer_with(StatusCode::OK, json!(verdict)))
}

fn answer_with(status: StatusCode, json: Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], json.to_string()).into_response()
}

/// Scores waiting images in batches until the queue is closed.
async fn score_all(scorer: Arc<Scorer>, mut requests: mpsc::Receiver<Request>) {
    while let Some(first) = requests.recv().await {
        let mut batch = vec![first];
        let end = Instant::now() + WAIT;
        while batch.len() < scorer.preferred_batch() {
            match timeout_at(end, requests.recv()).await {
                Ok(Some(request)) => batch.push(request),
                Ok(None) | Err(_) => break,
            }
        }
        // Skip clients that disconnected.
        batch.retain(|request| !request.answer.is_closed());
        if batch.is_empty() {
            continue;
        }
        let scorer = Arc::clone(&scorer);
        // A failure ends only this batch; its clients have been told.
        let _ = tokio::task::spawn_blocking(move || answer(&scorer, batch)).await;
    }
}

fn answer(scorer: &Scorer, batch: Vec<Request>) {
    let input = &scorer.decision().input;
    let (all, waiting): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|request| (request.values, request.answer)).unzip();
    let images = Array4::from_shape_vec((all.len(), 3, input.height, input.width), all.concat())
        .expect("every image has the model's size");
    // On failure, clients notice that their channel is closed.
    match scorer.score(images.view()) {
        Ok(scores) => {
            for (verdict, waiting) in scorer.verdicts(&scores).into_iter().zip(waiting) {
                // The client may have disconnected.
                let _ = waiting.send(Ok(verdict));
            }
        }
        Err(error) => {
            eprintln!("{error}");
            drop(waiting);
        }
    }
}

/// The response to a failed request.
struct Failure(StatusCode, String);

impl Failure {
    fn busy() -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, "too many images are waiting".to_owned())
    }

    fn stopped() -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, "the image could not be scored".to_owned())
    }
}

impl From<cac::Error> for Failure {
    fn from(error: cac::Error) -> Self {
        let status = match error {
            cac::Error::Image { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        answer_with(self.0, json!({ "error": self.1 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    const ROOT: &str = env!("CARGO_MANIFEST_DIR");

    fn scorer() -> Scorer {
        Scorer::open(Path::new(ROOT).join("exported/cifar10-wrn-40-2.onnx"), Provider::Cpu).unwrap()
    }

    /// Sends a request and returns the status and JSON of the response.
    async fn ask(address: std::net::SocketAddr, request: &str, body: &[u8]) -> (u16, Value) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // The server may refuse a body without reading it.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn concurrent_images_get_their_own_verdicts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async { axum::serve(listener, app(scorer())).await });
        let alone = scorer();
        let folder = Path::new(ROOT).join("tests/golden/images");
        let images: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        let asked: Vec<_> = (0..24)
            .map(|index| {
                let path = images[index % images.len()].clone();
                let body = std::fs::read(&path).unwrap();
                (path, tokio::spawn(async move { ask(address, "POST /score", &body).await }))
            })
            .collect();
        for (path, answer) in asked {
            let (status, found) = answer.await.unwrap();
            let expected = alone.score_image(&image::open(path).unwrap()).unwrap();
            assert_eq!(status, 200, "{found}");
            assert_eq!(
                (&found["class"], &found["unknown"]),
                (&expected.class.into(), &expected.unknown.into())
            );
            assert!((found["score"].as_f64().unwrap() - f64::from(expected.score)).abs() < 1e-4);
        }

        let (status, health) = ask(address, "GET /health", b"").await;
        assert_eq!((status, health["classes"][3].as_str()), (200, Some("cat")));
        assert!(health["provider"].as_str().unwrap().starts_with("cpu: tract"));
        let (status, error) = ask(address, "POST /score", b"no image").await;
        assert_eq!(status, 422);
        assert!(error["error"].as_str().unwrap().contains("it is not BMP, "), "{error}");
        assert_eq!(ask(address, "POST /score", &vec![0; BODY_LIMIT + 1]).await.0, 413);
        assert_eq!(ask(address, "GET /nothing", b"").await.0, 404);
    }
}

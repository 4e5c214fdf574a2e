//! What each gateway pod says of itself: a long poll on its control port, one task per pod, mutual TLS both
//! ways. Only the newest answer of a pod is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tracing::debug;

use super::authority::gateway_name;
use super::build::CONTROL_PORT;
use super::rollout::Pod;
use super::world::Bell;
use crate::bundle::{Ack, Sequence};
use crate::translate::ObjectKey;

/// A pod answers within 25 s; later it is taken for lost.
const ANSWER: Duration = Duration::from_secs(35);
const CONNECT: Duration = Duration::from_secs(3);
const LARGEST_ANSWER: usize = 1 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("no answer in time")]
    Slow,
    #[error("answered {0}")]
    Status(hyper::StatusCode),
    #[error("the answer does not read: {0}")]
    Unreadable(String),
}

/// The polls of one gateway's pods. Dropping it ends them.
pub struct Acks {
    gateway: ObjectKey,
    tls: watch::Receiver<Arc<ClientConfig>>,
    bell: Arc<Bell>,
    /// The sequence that is published: pods hear with each poll that a controller has confirmed it.
    published: watch::Sender<Sequence>,
    heard: Arc<Mutex<HashMap<String, Ack>>>,
    polls: HashMap<String, (String, AbortHandle)>,
    tasks: JoinSet<()>,
}

impl Acks {
    pub fn new(gateway: ObjectKey, tls: watch::Receiver<Arc<ClientConfig>>, bell: Arc<Bell>) -> Self {
        Self {
            gateway,
            tls,
            bell,
            published: watch::Sender::new(Sequence::default()),
            heard: Arc::default(),
            polls: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Polls just these pods.
    pub fn follow(&mut self, pods: &[Pod]) {
        let wanted: HashMap<&str, &str> =
            pods.iter().filter_map(|pod| Some((pod.uid.as_str(), pod.address.as_deref()?))).collect();
        self.polls.retain(|uid, (address, task)| {
            let stays = wanted.get(uid.as_str()).is_some_and(|wanted| wanted == address);
            if !stays {
                task.abort();
            }
            stays
        });
        self.lock().retain(|uid, _| pods.iter().any(|pod| pod.uid == *uid));
        for (uid, address) in wanted {
            if !self.polls.contains_key(uid) {
                let poll = Poll {
                    gateway: self.gateway.clone(),
                    uid: uid.to_owned(),
                    address: address.to_owned(),
                    tls: self.tls.clone(),
                    published: self.published.subscribe(),
                    heard: self.heard.clone(),
                    bell: self.bell.clone(),
                };
                let task = self.tasks.spawn(poll.run());
                self.polls.insert(uid.to_owned(), (address.to_owned(), task));
            }
        }
        // Reap what has ended.
        while self.tasks.try_join_next().is_some() {}
    }

    pub fn publish(&self, sequence: Sequence) {
        self.published.send_replace(sequence);
    }

    /// The newest answer of each pod, by its uid.
    pub fn heard(&self) -> HashMap<String, Ack> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Ack>> {
        self.heard.lock().expect("no code panics while it holds this lock")
    }
}

/// The poll of one pod.
struct Poll {
    gateway: ObjectKey,
    uid: String,
    address: String,
    tls: watch::Receiver<Arc<ClientConfig>>,
    published: watch::Receiver<Sequence>,
    heard: Arc<Mutex<HashMap<String, Ack>>>,
    bell: Arc<Bell>,
}

impl Poll {
    async fn run(self) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.converse().await {
                Ok(0) | Err(_) if pause < LONGEST_PAUSE => pause = (pause * 2).min(LONGEST_PAUSE),
                Ok(0) | Err(_) => {}
                Ok(_) => pause = FIRST_PAUSE,
            }
            sleep(pause.mul_f64(rand::random_range(0.7..1.3))).await;
        }
    }

    /// One connection, as long as it lasts; says how many answers it gave.
    async fn converse(&self) -> Result<u64, PollError> {
        let mut answers = 0;
        let result = self.answers(&mut answers).await;
        if let Err(error) = result {
            debug!(gateway = %self.gateway, pod = self.uid, %error, answers, "the control connection ended");
        }
        Ok(answers)
    }

    async fn answers(&self, answers: &mut u64) -> Result<(), PollError> {
        let (mut sender, connection) =
            timeout(CONNECT, self.connect()).await.map_err(|_| PollError::Slow)??;
        let talk = async {
            // The first question is answered at once; each further one when there is news.
            let mut known = String::new();
            loop {
                let path = format!("/ack?published={}{known}", self.published.borrow().0);
                let ack = timeout(ANSWER, ask(&mut sender, &self.gateway, &path))
                    .await
                    .map_err(|_| PollError::Slow)??;
                *answers += 1;
                let after = ack.running.as_ref().map_or(0, |running| running.sequence.0);
                let refused = ack.refused.as_ref().map_or(0, |nack| nack.sequence.0);
                known = format!("&after={after}&refused={refused}");
                let last = self
                    .heard
                    .lock()
                    .expect("no code panics while it holds this lock")
                    .insert(self.uid.clone(), ack.clone());
                if last.is_none_or(|last| (&last.running, &last.refused) != (&ack.running, &ack.refused)) {
                    self.bell.cluster();
                }
            }
        };
        tokio::select! {
            result = talk => result,
            result = connection => Ok(result?),
        }
    }

    async fn connect(
        &self,
    ) -> Result<(SendRequest<Empty<Bytes>>, impl Future<Output = hyper::Result<()>>), PollError> {
        let address: std::net::IpAddr =
            self.address.parse().map_err(|_| PollError::Unreadable(self.address.clone()))?;
        let stream = TcpStream::connect((address, CONTROL_PORT)).await?;
        stream.set_nodelay(true)?;
        let name = gateway_name(&self.gateway.namespace, &self.gateway.name);
        let name = ServerName::try_from(name).map_err(|error| PollError::Unreadable(error.to_string()))?;
        let tls = TlsConnector::from(self.tls.borrow().clone());
        let stream = tls.connect(name, stream).await?;
        Ok(handshake(TokioIo::new(stream)).await?)
    }
}

async fn ask(
    sender: &mut SendRequest<Empty<Bytes>>,
    gateway: &ObjectKey,
    path: &str,
) -> Result<Ack, PollError> {
    let request = Request::get(path)
        .header(HOST, gateway_name(&gateway.namespace, &gateway.name))
        .body(Empty::new())
        .expect("method, path and header are well-formed");
    let response = sender.send_request(request).await?;
    let status = response.status();
    if !status.is_success() {
        return Err(PollError::Status(status));
    }
    let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
    let body = body.map_err(|error| PollError::Unreadable(error.to_string()))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| PollError::Unreadable(error.to_string()))
}

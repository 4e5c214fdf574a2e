//! A web server over TLS that says one thing to everybody and keeps what it was asked. It shares no code with
//! the product's client.
#![allow(dead_code, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub struct WebServer {
    pub address: SocketAddr,
    /// The whole answer, head and body.
    says: Arc<Mutex<String>>,
    asked: Arc<Mutex<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
}

impl Drop for WebServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl WebServer {
    pub async fn start(address: SocketAddr, tls: Arc<ServerConfig>, says: String) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (says, asked) = (Arc::new(Mutex::new(says)), Arc::new(Mutex::new(Vec::new())));
        let (answer, seen) = (Arc::clone(&says), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = TlsAcceptor::from(Arc::clone(&tls));
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                connections.spawn(async move {
                    let mut stream = acceptor.accept(stream).await.ok()?;
                    let request = read(&mut stream).await?;
                    seen.lock().unwrap().push(request);
                    let answer = answer.lock().unwrap().clone();
                    stream.write_all(answer.as_bytes()).await.ok()?;
                    stream.shutdown().await.ok()
                });
            }
        });
        Self { address, says, asked, task }
    }

    pub fn say(&self, text: String) {
        *self.says.lock().unwrap() = text;
    }

    /// Every request so far, head and body.
    pub fn asked(&self) -> Vec<Vec<u8>> {
        self.asked.lock().unwrap().clone()
    }
}

/// One request: its head, and as much body as it announces.
async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut block = [0; 4096];
        let read = stream.read(&mut block).await.ok().filter(|read| *read > 0)?;
        all.extend_from_slice(&block[..read]);
        let Some(end) = all.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&all[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        if all.len() >= end + 4 + length.unwrap_or(0) {
            return Some(all);
        }
    }
}

pub fn page(status: &str, kind: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// A policy of MTA-STS as its web server gives it.
pub fn policy(mode: &str, mx: &[&str], max_age: u64) -> String {
    let mx: String = mx.iter().map(|mx| format!("mx: {mx}\r\n")).collect();
    page("200 OK", "text/plain", &format!("version: STSv1\r\nmode: {mode}\r\n{mx}max_age: {max_age}\r\n"))
}

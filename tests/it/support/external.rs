//! The external metrics API for a Horizontal Pod Autoscaler, as far as one asks: a metric whose value a test sets.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::cluster::{Cluster, HOST};

const API: &str = "v1beta1.external.metrics.k8s.io";

pub struct Metrics<'a> {
    cluster: &'a Cluster,
    value: Arc<AtomicU64>,
}

impl<'a> Metrics<'a> {
    /// Serves on the host, and tells the API server to look there.
    pub fn serve(cluster: &'a Cluster) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["metrics.example".to_owned()]).unwrap();
        let certificate = CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        let listener = TcpListener::bind(SocketAddr::new(HOST.parse().unwrap(), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let value = Arc::new(AtomicU64::new(0));
        let shared = Arc::clone(&value);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, value) = (Arc::clone(&config), Arc::clone(&shared));
                std::thread::spawn(move || {
                    let Ok(session) = ServerConnection::new(config) else { return };
                    let mut stream = BufReader::new(StreamOwned::new(session, stream));
                    while answer(&mut stream, value.load(Ordering::SeqCst)).is_some() {}
                });
            }
        });
        let yaml = format!(
            "apiVersion: v1
kind: Service
metadata: {{name: test-metrics, namespace: default}}
spec: {{ports: [{{port: 443, targetPort: {port}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: test-metrics, namespace: default, labels: {{kubernetes.io/service-name: test-metrics}}}}
addressType: IPv4
ports: [{{name: \"\", port: {port}, protocol: TCP}}]
endpoints: [{{addresses: [{HOST}], conditions: {{ready: true}}}}]
---
apiVersion: v1
kind: Endpoints
metadata: {{name: test-metrics, namespace: default}}
subsets: [{{addresses: [{{ip: {HOST}}}], ports: [{{port: {port}}}]}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: {API}}}
spec:
  group: external.metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {{name: test-metrics, namespace: default, port: 443}}
"
        );
        cluster.run("kubectl", &["apply", "-f", "-"], Some(&yaml));
        cluster.kubectl(&["wait", "--for=condition=Available", "apiservice", API, "--timeout=60s"]);
        Self { cluster, value }
    }

    pub fn set(&self, value: u64) {
        self.value.store(value, Ordering::SeqCst);
    }
}

impl Drop for Metrics<'_> {
    fn drop(&mut self) {
        for what in [
            ["apiservice", API],
            ["service", "test-metrics"],
            ["endpointslice", "test-metrics"],
            ["endpoints", "test-metrics"],
        ] {
            let arguments = [&["-n", "default", "delete", "--ignore-not-found"][..], &what].concat();
            self.cluster.attempt("kubectl", &arguments, None);
        }
    }
}

/// One request. `None`: the connection is over.
fn answer<S: std::io::Read + Write>(stream: &mut BufReader<S>, value: u64) -> Option<()> {
    let mut request = String::new();
    loop {
        let before = request.len();
        if stream.read_line(&mut request).ok()? == 0 {
            return None;
        }
        if request[before..].trim_end().is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1)?;
    let body = if path.contains("/namespaces/") {
        let now = jiff::Timestamp::now();
        let metric = path.split(['/', '?']).nth(6)?;
        serde_json::json!({
            "kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1", "metadata": {},
            "items": [{"metricName": metric, "metricLabels": {}, "timestamp": format!("{now:.0}"), "value": value.to_string()}],
        })
    } else {
        serde_json::json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "external.metrics.k8s.io/v1beta1",
            "resources": [{"name": "externalmetrics", "singularName": "", "namespaced": true, "kind": "ExternalMetricValueList", "verbs": ["get"]}],
        })
    }
    .to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let wire = stream.get_mut();
    wire.write_all(head.as_bytes()).ok()?;
    wire.write_all(body.as_bytes()).ok()?;
    wire.flush().ok()
}

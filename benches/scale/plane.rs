//! etcd and the API server, as processes of their own. What the controller asks of them is told from the audit log,
//! where its user is named.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::net::TcpListener;
use std::ops::Sub;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use base64::Engine as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

/// The user of the process that is measured.
pub const MEASURED: &str = "measured";

pub struct Plane {
    folder: PathBuf,
    etcd: Child,
    server: Child,
    address: String,
    authority: CertifiedIssuer<'static, KeyPair>,
    log: Mutex<Log>,
}

/// The audit log as far as it was read.
#[derive(Default)]
struct Log {
    offset: u64,
    seen: Requests,
}

/// Requests of the controller.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    pub total: u64,
    pub writes: u64,
    pub statuses: u64,
    pub touches: u64,
    /// By verb and resource.
    pub by_verb: BTreeMap<String, u64>,
}

impl Sub for Requests {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        let mut by_verb = self.by_verb;
        for (verb, count) in before.by_verb {
            *by_verb.entry(verb).or_default() -= count;
        }
        by_verb.retain(|_, count| *count > 0);
        Self {
            total: self.total - before.total,
            writes: self.writes - before.writes,
            statuses: self.statuses - before.statuses,
            touches: self.touches - before.touches,
            by_verb,
        }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.etcd] {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The program with all components that the test cluster is made of.
fn program() -> anyhow::Result<PathBuf> {
    let cache = std::env::var_os("POSTERN_CACHE").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/postern"));
    let cache = cache.or(home).context("neither POSTERN_CACHE nor HOME is set")?;
    let folders = fs::read_dir(&cache).with_context(|| cache.display().to_string())?;
    let mut found: Vec<PathBuf> = folders.flatten().map(|entry| entry.path().join("kube")).collect();
    found.retain(|program| program.is_file());
    found.sort_by_key(|program| fs::metadata(program).and_then(|facts| facts.modified()).ok());
    found.pop().ok_or_else(|| anyhow!("no program in {}: run tests/cluster/cluster build", cache.display()))
}

fn named(common_name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params
}

impl Plane {
    pub async fn start() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("postern-scale-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let program = program()?;
        let mut params = named("scale", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let (clients, peers, port) = (free_port()?, free_port()?, free_port()?);
        let at = |name: &str| folder.join(name);
        fs::write(at("ca.crt"), authority.pem())?;
        let mut params = named("api", None);
        params.subject_alt_names = vec![
            rcgen::SanType::IpAddress([127, 0, 0, 1].into()),
            rcgen::SanType::DnsName("localhost".try_into()?),
        ];
        let key = KeyPair::generate()?;
        fs::write(at("api.crt"), params.signed_by(&key, &authority)?.pem())?;
        fs::write(at("api.key"), key.serialize_pem())?;
        let accounts = KeyPair::generate()?;
        fs::write(at("accounts.key"), accounts.serialize_pem())?;
        fs::write(at("accounts.pub"), accounts.public_key_pem())?;
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived", "ResponseStarted"],
            "rules": [{"level": "Metadata", "users": [MEASURED]}, {"level": "None"}],
        });
        fs::write(at("policy.json"), policy.to_string())?;
        let (clients, peers) = (format!("http://127.0.0.1:{clients}"), format!("http://127.0.0.1:{peers}"));
        let configuration = json!({
            "name": "etcd",
            "data-dir": at("etcd"),
            "listen-client-urls": clients,
            "advertise-client-urls": clients,
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": format!("etcd={peers}"),
            "unsafe-no-fsync": true,
            "quota-backend-bytes": 4_u64 << 30,
            "log-level": "warn",
        });
        fs::write(at("etcd.json"), configuration.to_string())?;
        let run = |name: &str, arguments: &[String]| -> anyhow::Result<Child> {
            let log = fs::File::create(at(&format!("{name}.log")))?;
            let mut command = Command::new(&program);
            command
                .args(arguments)
                .current_dir(&folder)
                .stdin(Stdio::null())
                .stderr(log.try_clone()?)
                .stdout(log);
            command.spawn().with_context(|| program.display().to_string())
        };
        let etcd = run("etcd", &["etcd".to_owned(), at("etcd.json").display().to_string()])?;
        let file = |flag: &str, name: &str| format!("--{flag}={}", at(name).display());
        let server = run(
            "api",
            &[
                "kube-apiserver".to_owned(),
                format!("--etcd-servers={clients}"),
                "--bind-address=127.0.0.1".to_owned(),
                "--advertise-address=127.0.0.1".to_owned(),
                "--endpoint-reconciler-type=none".to_owned(),
                format!("--secure-port={port}"),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                "--authorization-mode=AlwaysAllow".to_owned(),
                // There is nobody who makes the accounts of pods.
                "--disable-admission-plugins=ServiceAccount".to_owned(),
                file("client-ca-file", "ca.crt"),
                file("tls-cert-file", "api.crt"),
                file("tls-private-key-file", "api.key"),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                file("service-account-key-file", "accounts.pub"),
                file("service-account-signing-key-file", "accounts.key"),
                file("audit-policy-file", "policy.json"),
                file("audit-log-path", "audit.log"),
            ],
        )?;
        let address = format!("https://127.0.0.1:{port}");
        let plane = Self { folder, etcd, server, address, authority, log: Mutex::default() };
        plane.wait_up().await?;
        plane.install_kinds().await?;
        Ok(plane)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A kubeconfig for a user of this name, who may do everything.
    pub fn kubeconfig(&self, user: &str) -> anyhow::Result<PathBuf> {
        let key = KeyPair::generate()?;
        let certificate = named(user, Some("system:masters")).signed_by(&key, &self.authority)?;
        let data = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "scale",
            "clusters": [{"name": "scale", "cluster": {
                "server": self.address, "certificate-authority-data": data(&self.authority.pem()),
            }}],
            "contexts": [{"name": "scale", "context": {"cluster": "scale", "user": user}}],
            "users": [{"name": user, "user": {
                "client-certificate-data": data(&certificate.pem()), "client-key-data": data(&key.serialize_pem()),
            }}],
        });
        let path = self.folder.join(format!("{user}.kubeconfig"));
        fs::write(&path, config.to_string())?;
        Ok(path)
    }

    pub async fn client(&self, user: &str) -> anyhow::Result<Client> {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig(user)?)?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    async fn wait_up(&self) -> anyhow::Result<()> {
        let client = self.client("starter").await?;
        let until = Instant::now() + Duration::from_secs(90);
        loop {
            match client.apiserver_version().await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > until => {
                    let log = fs::read_to_string(self.folder.join("api.log")).unwrap_or_default();
                    let end = log.lines().rev().take(20).collect::<Vec<_>>();
                    return Err(anyhow!("the API server does not come up: {error}\n{}", end.join("\n")));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }

    async fn install_kinds(&self) -> anyhow::Result<()> {
        let client = self.client("installer").await?;
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("crds"))? {
            let path = entry?.path();
            let text = fs::read(&path)?;
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let plural = if name == "directory" { "directories".to_owned() } else { format!("{name}s") };
            let uri = format!(
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.postern.dev?fieldManager=scale&force=true"
            );
            let request = axum::http::Request::patch(uri)
                .header("Content-Type", "application/apply-patch+yaml")
                .body(text)?;
            client.request::<Value>(request).await.with_context(|| path.display().to_string())?;
            // Served once its list answers.
            let list = format!("/apis/postern.dev/v1alpha1/{plural}");
            let until = Instant::now() + Duration::from_secs(60);
            while let Err(error) =
                client.request::<Value>(axum::http::Request::get(&list).body(Vec::new())?).await
            {
                if Instant::now() > until {
                    return Err(error.into());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    /// What the controller has asked so far. Leases do not count: they are renewed whatever happens.
    pub fn requests(&self) -> anyhow::Result<Requests> {
        let mut log = self.log.lock().expect("nobody panics with it");
        let Ok(mut file) = fs::File::open(self.folder.join("audit.log")) else {
            return Ok(Requests::default());
        };
        file.seek(SeekFrom::Start(log.offset))?;
        let mut reader = BufReader::new(file);
        let mut line = String::new();
        loop {
            line.clear();
            let read = reader.read_line(&mut line)?;
            if read == 0 || !line.ends_with('\n') {
                break;
            }
            log.offset += read as u64;
            let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
            log.seen.add(&event);
        }
        Ok(log.seen.clone())
    }

    /// Waits until the controller has asked nothing for so long; returns when it asked last.
    pub async fn wait_quiet(&self, quiet: Duration) -> anyhow::Result<Instant> {
        let (mut last, mut at) = (self.requests()?.total, Instant::now());
        let until = Instant::now() + Duration::from_secs(300);
        while at.elapsed() < quiet && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = self.requests()?.total;
            if now != last {
                (last, at) = (now, Instant::now());
            }
        }
        Ok(at)
    }
}

impl Requests {
    fn add(&mut self, event: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &event["objectRef"];
        let (verb, resource) = (text(&event["verb"]), text(&object["resource"]));
        let part = text(&object["subresource"]);
        if resource == "leases" || verb == "watch" {
            return;
        }
        self.total += 1;
        let write = matches!(verb.as_str(), "create" | "update" | "patch" | "delete");
        self.writes += u64::from(write);
        self.statuses += u64::from(write && part == "status");
        self.touches += u64::from(write && resource == "pods");
        let name =
            if part.is_empty() { format!("{verb} {resource}") } else { format!("{verb} {resource}/{part}") };
        *self.by_verb.entry(name).or_default() += 1;
    }
}

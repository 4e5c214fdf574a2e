//! `postern gateway` on folders as kubelet mounts them: complete sets only, refusals, pauses, restarts.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use postern::bundle::document::{
    self, AuthMechanism, DefaultRoute, HostPort, Listener, ListenerTls, Route, RouteAuth, RouteTarget,
    RouteTls, WeightedHost,
};
use postern::bundle::manifest::MANIFEST;
use postern::bundle::material::{Material, MaterialKind, MaterialVersion};
use postern::bundle::{Bundle, Manifest, Revision, Sequence};

use crate::support::client::{Client, send};
use crate::support::gateway::{Folder, POSTERN, free_address, http_get};
use crate::support::inbox::Inbox;
use crate::support::mount::{self, Edition};
use crate::support::sink::{Authority, Behaviour, Sink, say};
use crate::support::{wait, wait_for};

const MAIL: &str = "From: a@solarmora.com\r\nSubject: x\r\n\r\nthe word is here\r\n";

/// A mount and what is published in it.
struct Mount {
    folder: Folder,
    version: u64,
}

impl Mount {
    fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        fs::create_dir_all(folder.0.join("secrets")).unwrap();
        fs::create_dir_all(folder.0.join("bundle")).unwrap();
        Self { folder, version: 0 }
    }

    fn publish(&mut self, sequence: u64, bundle: &Bundle) -> Revision {
        self.publish_with(sequence, bundle, &[])
    }

    /// With these secrets in the mount beside it.
    fn publish_with(
        &mut self,
        sequence: u64,
        bundle: &Bundle,
        secrets: &[(MaterialVersion, Vec<u8>)],
    ) -> Revision {
        for (version, content) in secrets {
            fs::write(self.folder.0.join("secrets").join(version.file_name()), content).unwrap();
        }
        let materials: Vec<_> = secrets.iter().map(|(version, _)| version.clone()).collect();
        self.version += 1;
        let edition = Edition { sequence, bundle, materials, leaving: Vec::new() };
        mount::publish(&self.folder.0.join("bundle"), self.version, edition)
    }

    fn start(&self) -> Pod {
        let admin = free_address();
        let log = fs::File::options().create(true).append(true).open(self.folder.0.join("log")).unwrap();
        let child = Command::new(POSTERN)
            .args(["gateway", "--pod", "gw-0", "--drain-lag", "0", "--bundle"])
            .arg(self.folder.0.join("bundle"))
            .arg("--secrets")
            .arg(self.folder.0.join("secrets"))
            .arg("--spool")
            .arg(self.folder.0.join("spool"))
            .args(["--admin", &admin.to_string()])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Pod { admin, child }
    }
}

struct Pod {
    admin: SocketAddr,
    child: Child,
}

impl Pod {
    fn ack(&self, query: &str) -> Option<serde_json::Value> {
        serde_json::from_str(&http_get(self.admin, &format!("/ack{query}"))?.1).ok()
    }

    fn ready(&self) -> bool {
        http_get(self.admin, "/readyz").is_some_and(|(status, _)| status == 200)
    }

    fn wait_running(&self, sequence: u64) {
        wait_for(&format!("sequence {sequence} runs"), Duration::from_secs(20), || {
            (self.ack("")?["running"]["sequence"] == sequence).then_some(())
        });
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bundle(sink: &Inbox, port: u16, word: &str) -> Bundle {
    let origin = |kind: &str, name: &str| serde_json::json!({"kind": kind, "namespace": "ns", "name": name, "uid": "u-1", "generation": 1});
    serde_json::from_value(serde_json::json!({
        "gateway": {
            "origin": origin("OutboundGateway", "default"),
            "hostname": "gw.solarmora.com",
            "domains": ["solarmora.com"],
            "listeners": [{"name": "smtp", "port": port, "tls": "Optional", "certificate": null}],
            "clients": ["127.0.0.0/8"],
            "allow_foreign_senders": false,
            "default_route": {"Host": {"host": "127.0.0.1", "port": sink.address.port()}},
            "limits": {"message_size": 1048576, "recipients": 100, "connections": 100, "connections_per_client": 100},
            "notices": {"from": null, "route": null},
        },
        "routes": [],
        "rules": [{
            "origin": origin("ComplianceRule", "word"),
            "description": "a word",
            "priority": 500,
            "created": null,
            "messages": ["Outbound"],
            "envelope": {"senders": null, "recipients": null},
            "content": {
                "words": [word],
                "word_options": {"ignore_accents": false, "confusables": "MixedScript", "turkish": false, "substrings": []},
                "search_html_source": false,
                "expressions": [],
                "combine": "Any",
            },
            "on_scan_limit": "TreatAsMatch",
            "action": {"Reject": {"notice": null, "ascii_notice": null, "hide_rule": false, "enhanced_code": [5, 7, 1]}},
            "broken": null,
        }],
    }))
    .expect("the bundle's wire format is as written here")
}

fn mail(port: u16) -> String {
    send(SocketAddr::from(([127, 0, 0, 1], port)), "a@solarmora.com", &["b@partner.example"], MAIL)
}

#[test]
fn e14_a_refused_revision_leaves_the_last_good_one_and_a_restarted_pod_is_not_ready_with_it() {
    let sink = Inbox::start();
    let mut mount = Mount::new("refused");
    let port = free_address().port();
    mount.publish(1, &bundle(&sink, port, "word"));
    let pod = mount.start();
    pod.wait_running(1);
    assert!(!pod.ready(), "no controller has confirmed this sequence");
    pod.ack("?published=1").unwrap();
    assert!(pod.ready());
    assert!(mail(port).starts_with("550"));

    // The next revision wants a port that somebody else has.
    let taken = std::net::TcpListener::bind("[::]:0").unwrap();
    let mut refused = bundle(&sink, port, "other");
    let other = taken.local_addr().unwrap().port();
    refused.gateway.listeners.push(Listener {
        name: "submission".to_owned(),
        port: other,
        tls: ListenerTls::Optional,
        certificate: None,
        proxy_from: Vec::new(),
    });
    mount.publish(2, &refused);
    let nack = wait_for("the refusal is known", Duration::from_secs(20), || {
        let ack = pod.ack("?published=2")?;
        ack["refused"].is_object().then(|| ack["refused"].clone())
    });
    assert_eq!((nack["sequence"].as_u64(), nack["reason"].as_str()), (Some(2), Some("ListenerFailed")));
    assert!(nack["message"].as_str().unwrap().contains(&other.to_string()), "{nack}");
    assert!(mail(port).starts_with("550"), "mail goes on under the old revision");
    assert!(pod.ready(), "it serves");

    drop(pod);
    let pod = mount.start();
    wait_for("the restarted pod refuses too", Duration::from_secs(20), || {
        pod.ack("?published=2")?["refused"].is_object().then_some(())
    });
    assert!(!pod.ready());

    // When the port is free again the same revision is taken without another change.
    drop(taken);
    pod.wait_running(2);
    pod.ack("?published=2").unwrap();
    assert!(pod.ready());
}

#[test]
fn a_pod_that_was_paused_judges_its_next_mail_by_the_newest_revision() {
    let sink = Inbox::start();
    let mut mount = Mount::new("paused");
    let port = free_address().port();
    mount.publish(1, &bundle(&sink, port, "absent"));
    let pod = mount.start();
    pod.wait_running(1);
    assert!(mail(port).starts_with("250"));
    pod.signal(rustix::process::Signal::STOP);
    mount.publish(2, &bundle(&sink, port, "word"));
    // Longer than the time after which a watcher that did not run is not trusted.
    std::thread::sleep(Duration::from_millis(2500));
    pod.signal(rustix::process::Signal::CONT);
    assert!(mail(port).starts_with("550"), "the first mail after the pause");
}

#[test]
fn a_pod_never_loads_an_older_sequence_than_it_ran() {
    let sink = Inbox::start();
    let mut mount = Mount::new("older");
    let port = free_address().port();
    mount.publish(7, &bundle(&sink, port, "word"));
    let pod = mount.start();
    pod.wait_running(7);
    drop(pod);
    mount.publish(6, &bundle(&sink, port, "absent"));
    let pod = mount.start();
    wait_for("it has looked", Duration::from_secs(10), || pod.ack(""));
    std::thread::sleep(Duration::from_secs(1));
    assert!(pod.ack("").unwrap()["running"].is_null());
    assert!(!pod.ready());
    mount.publish(8, &bundle(&sink, port, "absent"));
    pod.wait_running(8);
}

#[test]
fn an_incomplete_set_is_never_run() {
    let sink = Inbox::start();
    let mut mount = Mount::new("incomplete");
    let port = free_address().port();
    mount.publish(1, &bundle(&sink, port, "word"));
    let pod = mount.start();
    pod.wait_running(1);
    mount.publish(2, &bundle(&sink, port, "absent"));
    pod.wait_running(2);
    let before = pod.ack("").unwrap();
    // A manifest whose segments have not arrived.
    let file = mount.folder.0.join("bundle/..data").join(MANIFEST);
    let mut manifest: Manifest = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    manifest.sequence = Sequence(3);
    manifest.segments[0].hash = "0".repeat(32);
    fs::write(&file, serde_json::to_vec(&manifest).unwrap()).unwrap();
    wait_for("the pod says what is missing", Duration::from_secs(20), || {
        pod.ack("")?["refused"].is_object().then_some(())
    });
    assert_eq!(pod.ack("").unwrap()["running"], before["running"]);
}

#[test]
fn a_lonely_pod_becomes_ready_with_what_it_has() {
    let sink = Inbox::start();
    let mut mount = Mount::new("lonely");
    mount.publish(1, &bundle(&sink, free_address().port(), "word"));
    let pod = mount.start();
    pod.wait_running(1);
    assert!(!pod.ready());
    wait_for("no controller polled for 10 s", Duration::from_secs(20), || pod.ready().then_some(()));
}

/// E32: whatever happens to the files, no mail is judged by half a policy or by none.
#[test]
fn e32_a_damaged_segment_is_never_run_and_the_last_good_policy_goes_on_until_the_end_of_the_process() {
    let sink = Inbox::start();
    let mut mount = Mount::new("damaged");
    let port = free_address().port();
    mount.publish(1, &bundle(&sink, port, "word"));
    let pod = mount.start();
    pod.wait_running(1);
    pod.ack("?published=1").unwrap();
    mount.publish(2, &bundle(&sink, port, "absent"));
    pod.wait_running(2);
    assert!(mail(port).starts_with("250"));

    // A new set, one of whose segments has a wrong byte.
    let data = mount.folder.0.join("bundle/..data");
    let mut manifest: Manifest = serde_json::from_slice(&fs::read(data.join(MANIFEST)).unwrap()).unwrap();
    manifest.sequence = Sequence(3);
    let segments: Vec<_> = fs::read_dir(&data).unwrap().map(|file| file.unwrap().path()).collect();
    for segment in segments.iter().filter(|path| !path.ends_with(MANIFEST)) {
        let mut bytes = fs::read(segment).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x20;
        fs::write(segment, bytes).unwrap();
    }
    fs::write(data.join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
    let nack = wait_for("the damage is told", Duration::from_secs(20), || {
        let ack = pod.ack("?published=2")?;
        ack["refused"].is_object().then(|| ack["refused"].clone())
    });
    assert_eq!(nack["sequence"], 3, "{nack}");
    assert_eq!(pod.ack("").unwrap()["running"]["sequence"], 2);
    assert!(mail(port).starts_with("250") && pod.ready(), "the last good policy goes on");

    // A process that has never seen a good one takes nothing.
    drop(pod);
    let pod = mount.start();
    wait_for("the damage is told again", Duration::from_secs(20), || {
        pod.ack("?published=3")?["refused"].is_object().then_some(())
    });
    assert!(!pod.ready() && pod.ack("").unwrap()["running"].is_null());
    let greeting = Client::connect(SocketAddr::from(([127, 0, 0, 1], port))).map(|client| client.greeting);
    assert!(greeting.as_ref().map_or(true, |text| text.starts_with("421 4.3.2")), "{greeting:?}");
}

/// R141, R16: a rotated Secret is a new revision, and the next attempt uses what it says; a session that was
/// logged in before is not used for it.
#[test]
fn r141_r016_a_rotated_password_is_used_by_the_next_attempt_of_a_mounted_gateway() {
    let authority = Authority::new();
    let extensions = vec!["AUTH PLAIN".to_owned()];
    let behaviour = Behaviour { extensions, ..Behaviour::with_tls(authority.server(&["127.0.0.1"])) };
    let hop = wait(Sink::start(behaviour.on("AUTH", say("235 2.7.0 welcome"))));
    let inbox = Inbox::start();
    let mut mount = Mount::new("rotated");
    let port = free_address().port();
    let mut bundle = bundle(&inbox, port, "absent");
    let of = |kind, name: &str, key: &str| Material {
        kind,
        namespace: "ns".to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
    };
    let login = |key: &str| of(MaterialKind::Secret, "login", key);
    let ca = of(MaterialKind::ConfigMap, "ca", "ca.crt");
    let at = HostPort { host: "127.0.0.1".to_owned(), port: hop.address.port() };
    let target =
        RouteTarget::Hosts { primary: vec![WeightedHost { at, weight: None }], secondary: Vec::new() };
    let tls = RouteTls {
        require: true,
        require_ca_signed: true,
        validate_hostname: true,
        ca: Some(ca.clone()),
        ..RouteTls::opportunistic()
    };
    let mut origin = bundle.gateway.origin.clone();
    (origin.object.kind, origin.object.name) = (document::ObjectKind::OutboundRoute, "relay".to_owned());
    let mut route = Route::new(origin, target, tls);
    route.auth = Some(RouteAuth {
        mechanism: AuthMechanism::Plain,
        username: login("username"),
        password: login("password"),
    });
    bundle.gateway.default_route = Some(DefaultRoute::Named(route.name()));
    bundle.routes.push(route);
    let secrets = |version: &str, password: &str| {
        [(login("username"), "app"), (login("password"), password), (ca.clone(), &authority.pem())].map(
            |(material, content)| {
                let (uid, resource_version) = ("u-1".to_owned(), version.to_owned());
                (MaterialVersion { material, uid, resource_version }, content.as_bytes().to_vec())
            },
        )
    };
    let first = mount.publish_with(1, &bundle, &secrets("1", "old"));
    let pod = mount.start();
    pod.wait_running(1);
    assert!(mail(port).starts_with("250"));
    wait(hop.wait_for(1));
    let second = mount.publish_with(2, &bundle, &secrets("2", "new"));
    assert_ne!(first, second, "a rotation is a revision");
    pod.wait_running(2);
    assert!(mail(port).starts_with("250"));
    wait(hop.wait_for(2));
    let logins: Vec<String> = hop.commands().into_iter().filter(|line| line.starts_with("AUTH")).collect();
    assert_eq!(logins, ["AUTH PLAIN AGFwcABvbGQ=", "AUTH PLAIN AGFwcABuZXc="]);
    assert_eq!(hop.connections(), 2);
    let log = fs::read_to_string(mount.folder.0.join("log")).unwrap();
    for secret in ["AGFwcABvbGQ", "AGFwcABuZXc", "\"old\"", "\"new\""] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

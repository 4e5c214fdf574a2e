//! Real clients and a real load balancer in front of a gateway, and many clients that do nothing.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::client::Client;
use crate::support::gateway::{Folder, Standalone, free_address};
use crate::support::inbox::Inbox;
use crate::support::site::{OWN, PARTNER, Site, message};
use crate::support::{tell, wait, wait_for};

fn with_app(name: &str, relay: &Inbox) -> Site {
    let site = Site::new(name, relay.address);
    site.gateway("  clients: {users: [{name: app, passwordRef: {name: app, key: password}}]}\n");
    site.folder.write(
        "config/secret.yaml",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: app}\ntype: kubernetes.io/basic-auth\n\
         stringData: {username: app, password: pencil}\n",
    );
    site
}

#[test]
fn swaks_and_curl_log_in() {
    let relay = Inbox::start();
    let site = with_app("real-clients", &relay);
    let gateway = site.start();
    let (host, port) = (gateway.smtp.ip().to_string(), gateway.smtp.port().to_string());
    let swaks = |more: &[&str]| {
        let output = Command::new("swaks")
            .args([
                "--server",
                &host,
                "--port",
                &port,
                "--from",
                OWN,
                "--to",
                PARTNER,
                "--helo",
                "swaks.example",
            ])
            .args(["--auth-user", "app", "--timeout", "20"])
            .args(more)
            .stdin(Stdio::null())
            .output()
            .expect("swaks is there: run `make deps`");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for mechanism in ["PLAIN", "LOGIN"] {
        let (good, said) = swaks(&["--tls", "--auth", mechanism, "--auth-password", "pencil"]);
        assert!(good && said.contains("235 2.7.0"), "{said}");
    }
    let (good, said) = swaks(&["--tls", "--auth", "PLAIN", "--auth-password", "wrong"]);
    assert!(!good && said.contains("535 5.7.8"), "{said}");
    let (good, said) = swaks(&["--auth", "PLAIN", "--auth-password", "pencil"]);
    assert!(!good && !said.contains("235 "), "{said}");

    let mail = site.folder.write("mail.eml", &message("curl"));
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--insecure", "--ssl-reqd", "--max-time", "30"])
        .args(["--user", "app:pencil", "--mail-from", OWN, "--mail-rcpt", PARTNER, "--upload-file"])
        .arg(&mail)
        .arg(format!("smtp://{host}:{port}/curl.example"))
        .output()
        .expect("curl is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for mail in relay.wait(3) {
        assert!(mail.text().contains("with ESMTPSA"), "{}", mail.text());
    }
}

/// Ended when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Debian's HAProxy between `front` and the gateway.
fn haproxy(folder: &Folder, name: &str, front: SocketAddr, gateway: SocketAddr, header: &str) -> Process {
    let config = folder.write(
        &format!("{name}.cfg"),
        &format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
             listen smtp\n  bind {front}\n  server gateway {gateway} {header}\n"
        ),
    );
    let child = Command::new("/usr/sbin/haproxy")
        .args(["-db", "-f"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("Debian's haproxy is there: run `make deps`");
    Process(child)
}

#[test]
fn r035_behind_haproxy_the_clients_own_address_decides() {
    let relay = Inbox::start();
    let site = Site::new("haproxy", relay.address);
    // The balancer is 127.0.0.1, the client that may relay 127.0.0.2.
    let gateway_with = |networks: &str| {
        site.gateway(&format!(
            "  clients: {{cidrs: [{networks}]}}\n  listeners: [{{name: smtp, port: 2525, proxyProtocol: {{from: [127.0.0.1/32]}}}}]\n"
        ));
    };
    gateway_with("127.0.0.2/32");
    let gateway = site.start();
    let connect = |front: SocketAddr, from: [u8; 4]| {
        let stream = wait(async {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind(SocketAddr::from((from, 0))).expect("loopback has that address");
            socket.connect(front).await.expect("the balancer listens").into_std().expect("a socket")
        });
        stream.set_nonblocking(false).expect("a socket");
        stream
    };
    let answer = |stream: TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
        let mut stream = stream;
        let mut last = String::new();
        for line in [
            "",
            "HELO c\r\n",
            &format!("MAIL FROM:<{OWN}>\r\n"),
            &format!("RCPT TO:<{PARTNER}>\r\n"),
            "DATA\r\n",
            &(message("x") + ".\r\n"),
        ] {
            stream.write_all(line.as_bytes()).expect("it listens");
            last.clear();
            if reader.read_line(&mut last).unwrap_or(0) == 0 || !last.starts_with(['2', '3']) {
                break;
            }
        }
        last
    };
    for (name, header) in [("v2", "send-proxy-v2"), ("v1", "send-proxy")] {
        let front = free_address();
        let _balancer = haproxy(&site.folder, name, front, gateway.smtp, header);
        wait_for("haproxy listens", Duration::from_secs(10), || TcpStream::connect(front).ok());
        assert!(answer(connect(front, [127, 0, 0, 2])).starts_with("250"), "{name}");
        assert!(answer(connect(front, [127, 0, 0, 3])).starts_with("550 5.7.1"), "{name}");
    }
    for mail in relay.wait(2) {
        assert!(mail.text().contains("([127.0.0.2])"), "{}", mail.text());
    }
    // Whoever has the balancer's address must send the header; whoever has not is not believed.
    let mut silent = TcpStream::connect(gateway.smtp).expect("it listens");
    silent.write_all(b"EHLO client.example\r\n").expect("it listens");
    let mut heard = Vec::new();
    silent.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let _ = silent.read_to_end(&mut heard);
    assert!(heard.is_empty(), "{}", String::from_utf8_lossy(&heard));
    let mut liar = connect(gateway.smtp, [127, 0, 0, 9]);
    liar.write_all(b"PROXY TCP4 127.0.0.2 127.0.0.1 4711 25\r\n").expect("it listens");
    let mut heard = [0; 1024];
    let mut text = String::new();
    liar.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    while !text.contains("\r\n500 ") {
        let count = liar.read(&mut heard).expect("it answers");
        assert!(count > 0, "{text}");
        text += &String::from_utf8_lossy(&heard[..count]);
    }
    // The balancer's own address relays only where it is listed itself: here it is not.
    let mut check = TcpStream::connect(gateway.smtp).expect("it listens");
    check.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").expect("it listens");
    assert!(answer(check).starts_with("550 5.7.1"));
}

/// Resident memory of a process in KiB.
fn resident(gateway: &Standalone) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says so");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn two_thousand_idle_clients_cost_little_memory_and_the_others_nothing() {
    const IDLE: usize = 2000;
    let relay = Inbox::start();
    let site = Site::new("idle", relay.address);
    site.gateway("  limits: {connections: 5000, connectionsPerClient: 5000}\n");
    // As systemd and many shells start programs.
    let gateway = site.start_by(&["sh", "-c", "ulimit -S -n 1024; exec \"$@\"", "sh"]);
    let round = |count: usize, so_far: usize| {
        let mut slowest = Duration::ZERO;
        for n in 0..count {
            let start = Instant::now();
            let reply =
                Client::hello(gateway.smtp).send(OWN, &[PARTNER], &message("busy")).expect("answered");
            assert!(reply.starts_with("250"), "{reply}");
            relay.wait(so_far + n + 1);
            slowest = slowest.max(start.elapsed());
        }
        slowest
    };
    let alone = round(20, 0);
    let before = resident(&gateway);
    let idle: Vec<Client> = (0..IDLE).map(|_| Client::hello(gateway.smtp)).collect();
    let each = (resident(&gateway).saturating_sub(before)) as f64 / IDLE as f64;
    let beside = round(20, 20);
    tell(&format!(
        "idle sessions: {each:.1} KiB each; slowest delivery {alone:?} without, {beside:?} with {IDLE} of them"
    ));
    assert!(each < 10.0, "{each:.1} KiB for each idle session");
    assert!(beside < alone * 5 + Duration::from_millis(500), "{alone:?} became {beside:?}");
    let sessions = || gateway.metric("postern_sessions", "");
    wait_for("only the idle ones are left", Duration::from_secs(20), || {
        (sessions() == IDLE as u64).then_some(())
    });
    drop(idle);
    wait_for("they are gone", Duration::from_secs(20), || (sessions() == 0).then_some(()));
}

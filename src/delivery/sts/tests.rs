//! Policies over days, failures and restarts. Time is given.

use std::time::Duration;

use jiff::SignedDuration;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::*;
use crate::delivery::authority::Authority as DnsAuthority;
use crate::delivery::sink::{Authority, expired};
use crate::delivery::webserver::{WebServer, page, policy};

const DAY: SignedDuration = SignedDuration::from_hours(24);

fn at(days: i64) -> Timestamp {
    "2026-11-22T00:00:00Z".parse::<Timestamp>().unwrap() + DAY * i32::try_from(days).unwrap()
}

struct World {
    ca: Authority,
    web: WebServer,
    dns: DnsAuthority,
    asks: Dns,
}

impl World {
    async fn new(says: String, id: &str) -> Self {
        let ca = Authority::new();
        let tls = ca.server(&["mta-sts.d.example"]);
        let web = WebServer::start("127.0.0.1:0".parse().unwrap(), tls, says).await;
        let dns = Self::zone(id).await;
        Self { ca, web, dns, asks: Dns::default() }
    }

    async fn zone(id: &str) -> DnsAuthority {
        let announced = format!("_mta-sts.d.example. TXT v=STSv1; id={id}");
        DnsAuthority::start(&[&announced, "mta-sts.d.example. A 127.0.0.1"]).await
    }

    fn configured(&self, mut sts: Sts) -> Sts {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.pem().as_bytes()).unwrap()).unwrap();
        (sts.web.roots, sts.web.port) = (Some(roots), Some(self.web.address.port()));
        sts
    }

    async fn ask(&self, sts: &Sts, now: Timestamp) -> Answer {
        let servers = Servers { addresses: vec![self.dns.address], ..Servers::default() };
        sts.answer(&self.asks, &servers, "d.example", now).await
    }

    async fn mode(&self, sts: &Sts, now: Timestamp) -> Option<Mode> {
        self.ask(sts, now).await.policy.map(|policy| policy.mode)
    }
}

fn enforce() -> String {
    policy("enforce", &["mx.d.example"], 10 * 86_400)
}

#[tokio::test]
async fn r020_a_policy_holds_through_failures_until_its_time_is_over() {
    let mut world = World::new(enforce(), "1").await;
    let sts = world.configured(Sts::default());
    assert_eq!(world.mode(&sts, at(0)).await, Some(Mode::Enforce));
    world.web.say(page("500 Internal Server Error", "text/plain", ""));
    assert_eq!(world.mode(&sts, at(4)).await, Some(Mode::Enforce));
    assert_eq!(world.ask(&sts, at(4)).await.failure, Some(FetchError::Status(500)));
    // The announcement is gone, then DNS is.
    world.dns = DnsAuthority::start(&[]).await;
    assert_eq!(world.mode(&sts, at(9)).await, Some(Mode::Enforce));
    world.dns.address = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(world.mode(&sts, at(10)).await, Some(Mode::Enforce));
    assert_eq!(world.mode(&sts, at(11)).await, None);
}

#[tokio::test]
async fn r020_a_restart_drops_no_policy() {
    let world = World::new(enforce(), "1").await;
    let sts = world.configured(Sts::default());
    assert_eq!(sts.unsaved(at(0)), None);
    assert_eq!(world.mode(&sts, at(0)).await, Some(Mode::Enforce));
    let folder = std::env::temp_dir().join(format!("postern-sts-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(file(&folder), sts.unsaved(at(0)).unwrap()).unwrap();
    assert_eq!(sts.unsaved(at(0)), None);

    world.web.say(page("404 Not Found", "text/plain", ""));
    let again = world.configured(Sts::read(&file(&folder)));
    assert_eq!(world.mode(&again, at(5)).await, Some(Mode::Enforce));
    assert_eq!(world.mode(&again, at(11)).await, None);
    std::fs::write(file(&folder), "not JSON").unwrap();
    assert_eq!(world.mode(&world.configured(Sts::read(&file(&folder))), at(0)).await, None);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn r020_a_policy_is_fetched_once_and_again_when_announced_or_old() {
    let mut world = World::new(enforce(), "1").await;
    let sts = world.configured(Sts::default());
    let twenty = (0..20).map(|_| world.ask(&sts, at(0)));
    assert!(futures::future::join_all(twenty).await.iter().all(|answer| answer.policy.is_some()));
    assert_eq!(world.web.asked().len(), 1);
    let soon = at(0) + Duration::from_secs(3600);
    world.ask(&sts, soon).await;
    assert_eq!(world.web.asked().len(), 1, "nothing new is announced");
    // Without mail too.
    let servers = Servers { addresses: vec![world.dns.address], ..Servers::default() };
    sts.refresh(&world.asks, &servers, at(1)).await;
    assert_eq!(world.web.asked().len(), 2, "a day old");
    world.dns = World::zone("2").await;
    world.web.say(policy("none", &[], 86_400));
    assert_eq!(world.mode(&sts, at(1) + Duration::from_secs(600)).await, Some(Mode::None));
    assert_eq!(world.web.asked().len(), 3);
}

#[tokio::test]
async fn r020_what_is_no_policy_is_not_taken_for_one() {
    let plain = |body: &str| page("200 OK", "text/plain; charset=utf-8", body);
    let redirect = "HTTP/1.1 301 Moved\r\nLocation: https://mta-sts.d.example/x\r\nContent-Length: 0\r\n\r\n";
    for (says, expected) in [
        (redirect.to_owned(), FetchError::Status(301)),
        (page("200 OK", "text/html", "version: STSv1"), FetchError::Type("text/html".into())),
        (plain("version: STSv1\nmode: enforce\nmax_age: 1\n"), FetchError::Policy(PolicyError::Mx)),
        (plain("hello"), FetchError::Policy(PolicyError::Version)),
    ] {
        let world = World::new(says, "1").await;
        let sts = world.configured(Sts::default());
        assert_eq!(world.ask(&sts, at(0)).await, Answer { policy: None, failure: Some(expected) });
        // Not asked again at once.
        world.ask(&sts, at(0) + Duration::from_secs(60)).await;
        assert_eq!(world.web.asked().len(), 1);
    }
    let world = World::new(plain(&"x: y\n".repeat(20_000)), "1").await;
    let failure = world.ask(&world.configured(Sts::default()), at(0)).await.failure;
    assert!(matches!(failure, Some(FetchError::Web(WebError::Http(_)))), "{failure:?}");
    // A certificate for another name, an expired one, one of nobody.
    let (ca, other) = (Authority::new(), Authority::new());
    for tls in [
        ca.server(&["www.d.example"]),
        ca.server_with(&["mta-sts.d.example"], expired),
        other.server(&["mta-sts.d.example"]),
    ] {
        let mut world = World::new(enforce(), "1").await;
        world.ca = Authority::new();
        world.web = WebServer::start("127.0.0.1:0".parse().unwrap(), tls, enforce()).await;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap()).unwrap();
        let mut sts = world.configured(Sts::default());
        (sts.web.roots, sts.web.port) = (Some(roots), Some(world.web.address.port()));
        let failure = world.ask(&sts, at(0)).await.failure;
        assert!(matches!(failure, Some(FetchError::Web(WebError::Certificate(_)))), "{failure:?}");
    }
}

#[test]
fn the_memory_for_domains_is_bounded_and_a_promise_is_not_forgotten() {
    let sts = Sts::default();
    let policy = Policy { mode: Mode::Enforce, mx: vec!["mx.d.example".into()], max_age: 86_400 * 30 };
    let kept = Kept { id: "1".into(), fetched: at(0), policy: Arc::new(policy) };
    sts.entry("promised.example", at(0)).unwrap().known().kept = Some(kept);
    for n in 0..2 * MAX_DOMAINS {
        assert!(sts.entry(&format!("{n}.example"), at(0)).is_some());
    }
    let domains = sts.domains.lock().unwrap();
    assert!(domains.len() <= MAX_DOMAINS && domains.contains_key("promised.example"));
}

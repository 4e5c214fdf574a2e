use super::*;
use crate::bundle::document::{ClientAuthority, ObjectId, ObjectKind, Origin};
use crate::bundle::material::{Material, MaterialKind};

fn material() -> Material {
    Material {
        kind: MaterialKind::Secret,
        namespace: "ns".to_owned(),
        name: "x".to_owned(),
        key: "password".to_owned(),
    }
}

fn user(name: &str, senders: &[&str]) -> ClientUser {
    let senders = senders.iter().map(|&sender| sender.to_owned()).collect();
    ClientUser { name: name.to_owned(), password: material(), senders }
}

fn gateway() -> Gateway {
    let object = ObjectId {
        kind: ObjectKind::OutboundGateway,
        namespace: "ns".to_owned(),
        name: "default".to_owned(),
    };
    let mut gateway = Gateway::new(Origin { object, uid: "u".to_owned(), generation: 1 });
    gateway.domains = vec!["solarmora.com".parse().unwrap()];
    gateway.clients = vec!["10.0.0.0/8".parse().unwrap()];
    gateway.users = vec![
        user("ani@solarmora.com", &[]),
        user("app", &["App@solarmora.com"]),
        user("crm", &["@news.solarmora.com", "<>", "info@solarmora.com"]),
    ];
    gateway
}

fn mailbox(text: &str) -> Option<Mailbox> {
    (!text.is_empty()).then(|| text.parse().unwrap())
}

/// What a client hears at RCPT: `ok` or the word of the refusal.
fn answer(gateway: &Gateway, client: Client<'_>, sender: &str) -> &'static str {
    rcpt(gateway, client, mailbox(sender).as_ref()).map_or_else(Denied::word, |()| "ok")
}

#[test]
fn r035_r037_only_listed_clients_relay_and_only_from_own_domains() {
    let mut gateway = gateway();
    let from = |gateway: &Gateway, address: &str, sender| {
        answer(
            gateway,
            client(gateway, client_allowed(gateway, address.parse().unwrap()), None, None),
            sender,
        )
    };
    assert_eq!(from(&gateway, "10.1.2.3", "a@solarmora.com"), "ok");
    assert_eq!(from(&gateway, "::ffff:10.1.2.3", "a@sub.solarmora.com"), "ok");
    assert_eq!(from(&gateway, "10.1.2.3", ""), "ok");
    assert_eq!(from(&gateway, "10.1.2.3", "a@elsewhere.example"), "sender");
    assert_eq!(from(&gateway, "11.1.2.3", "a@solarmora.com"), "client");
    assert_eq!(from(&gateway, "11.1.2.3", ""), "client");
    gateway.allow_foreign_senders = true;
    assert_eq!(from(&gateway, "10.1.2.3", "a@elsewhere.example"), "ok");
    assert_eq!(from(&gateway, "11.1.2.3", "a@elsewhere.example"), "client");
    // Nobody is listed: nobody relays.
    gateway.clients.clear();
    assert_eq!(from(&gateway, "10.1.2.3", "a@solarmora.com"), "client");
    assert_eq!(
        Denied::Client.reply().to_string(),
        "550 5.7.1 Relay access denied: client address not allowed"
    );
}

#[test]
fn r036_a_login_relays_from_anywhere_and_only_as_the_senders_it_is_bound_to() {
    let gateway = gateway();
    let from = |login, sender| {
        // Its address is listed too, which does not loosen what its login is bound to.
        let inside = answer(&gateway, client(&gateway, true, Some(login), None), sender);
        let outside = answer(&gateway, client(&gateway, false, Some(login), None), sender);
        assert_eq!(inside, outside, "{login} {sender}");
        outside
    };
    assert_eq!(from("ani@solarmora.com", "anybody@solarmora.com"), "ok");
    assert_eq!(from("ani@solarmora.com", "a@elsewhere.example"), "sender");
    assert_eq!(from("app", "app@solarmora.com"), "ok");
    for (login, sender) in [
        ("app", "ani@solarmora.com"),
        ("app", "app@sub.solarmora.com"),
        ("app", ""),
        ("crm", "a@solarmora.com"),
        ("crm", "a@sub.news.solarmora.com"),
    ] {
        assert_eq!(from(login, sender), "login", "{login} {sender}");
    }
    for sender in ["x@news.solarmora.com", "", "info@solarmora.com"] {
        assert_eq!(from("crm", sender), "ok", "{sender}");
    }
    // A user that was taken away is nobody, whatever its session remembers.
    let gone = client(&gateway, false, Some("former"), None);
    assert_eq!(gone, Client::Unknown);
}

#[test]
fn r036_a_certificate_counts_by_its_names_and_only_where_certificates_do() {
    let mut gateway = gateway();
    let names = ["mail.solarmora.com".to_owned(), "ani@solarmora.com".to_owned()];
    let seen = |gateway: &Gateway| match client(gateway, false, None, Some(&names)) {
        Client::Certificate { address } => address.map(str::to_owned).unwrap_or_default(),
        other => format!("{other:?}"),
    };
    assert_eq!(seen(&gateway), "Unknown");
    let authority = |subjects: &[&str]| {
        Some(ClientAuthority { ca: material(), subjects: subjects.iter().map(|&s| s.to_owned()).collect() })
    };
    gateway.mutual_tls = authority(&[]);
    assert_eq!(seen(&gateway), "ani@solarmora.com");
    gateway.mutual_tls = authority(&["other.solarmora.com", "MAIL.solarmora.com"]);
    assert_eq!(seen(&gateway), "ani@solarmora.com");
    gateway.mutual_tls = authority(&["solarmora.com", "mail", "mail.solarmora.com.evil.example"]);
    assert_eq!(seen(&gateway), "Unknown");
}

#[test]
fn r117_an_identity_is_a_users_address_or_the_only_one_it_may_use() {
    let mut gateway = gateway();
    gateway.users.push(user("both", &["a@solarmora.com", "b@solarmora.com"]));
    let of = |login| client(&gateway, false, Some(login), None);
    let identity = |login| of(login).identity().map(|mailbox| mailbox.folded());
    assert_eq!(identity("ani@solarmora.com").as_deref(), Some("ani@solarmora.com"));
    assert_eq!(identity("app").as_deref(), Some("app@solarmora.com"));
    assert_eq!(identity("crm"), None);
    assert_eq!(identity("both"), None);
    let vouched = |login, sender| {
        let domains = of(login).vouches_for(mailbox(sender).as_ref());
        domains.iter().map(|domain| domain.ascii().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(vouched("ani@solarmora.com", "x@sub.solarmora.com"), ["solarmora.com"]);
    assert_eq!(vouched("app", "app@solarmora.com"), ["solarmora.com"]);
    assert_eq!(vouched("crm", "x@news.solarmora.com"), ["news.solarmora.com"]);
    assert_eq!(vouched("crm", ""), Vec::<String>::new());
    assert!(Client::Network.vouches_for(mailbox("a@solarmora.com").as_ref()).is_empty());
}

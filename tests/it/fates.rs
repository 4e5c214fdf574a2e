//! One reply to DATA, many fates: what each recipient gets and what the sender hears (spec R70, E12).

use crate::support::client::Client;
use crate::support::gateway::Standalone;
use crate::support::inbox::Inbox;
use crate::support::site::{OWN, Site, message};

const FINE: &str = "fine@partner.example";
const REFUSED: &str = "refused@partner.example";

struct Setup {
    sink: Inbox,
    notices: Inbox,
    gateway: Standalone,
    _site: Site,
}

/// A rule refuses one of two recipients.
fn setup(name: &str) -> Setup {
    let (sink, notices) = (Inbox::start(), Inbox::start());
    let site = Site::new(name, sink.address);
    site.notices(notices.address);
    site.add(
        "RoutingRule",
        "closed",
        &format!(
            "  messages: [Outbound]
  envelope: {{recipients: {{address: {REFUSED}}}}}
  action: {{reject: {{notice: Not to this one}}}}
"
        ),
    );
    let gateway = site.start();
    Setup { sink, notices, gateway, _site: site }
}

impl Setup {
    fn send(&self, from: &str, to: &[String]) -> String {
        let mut client = Client::hello(self.gateway.smtp);
        assert!(client.say(&format!("MAIL FROM:<{from}>")).unwrap().starts_with("250"));
        for to in to {
            let reply = client.say(&format!("RCPT TO:{to}")).unwrap();
            assert!(reply.starts_with("250"), "{to}: {reply}");
        }
        assert!(client.say("DATA").unwrap().starts_with("354"));
        client.data(message("split").as_bytes()).unwrap()
    }
}

fn both(parameters: &str) -> Vec<String> {
    vec![format!("<{FINE}>"), format!("<{REFUSED}>{parameters}")]
}

#[test]
fn r070_e12_one_recipient_gets_the_mail_and_the_sender_one_report_about_the_other() {
    let setup = setup("split");
    let reply = setup.send(OWN, &both(""));
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
    let mail = setup.sink.wait(1);
    assert_eq!(mail[0].to, [FINE]);
    let report = setup.notices.wait(1).remove(0);
    assert_eq!((report.from.as_str(), report.to.as_slice()), ("", [OWN.to_owned()].as_slice()));
    let text = report.text();
    for part in ["Status: 5.7.1", "Action: failed", REFUSED, "Not to this one", "Auto-Submitted: auto-"] {
        assert!(text.to_ascii_lowercase().contains(&part.to_ascii_lowercase()), "{part}: {text}");
    }
    assert!(!text.contains(FINE) || !text.contains(&format!("Final-Recipient: rfc822;{FINE}")), "{text}");
    assert!(!text.contains("body of split"), "headers only: {text}");
    setup.gateway.wait_empty();
    assert_eq!((setup.sink.mail().len(), setup.notices.mail().len()), (1, 1));
    assert_eq!(setup.gateway.metric("postern_reports", ""), 1, "a report that policy causes is counted too");
}

#[test]
fn r070_e12_no_report_is_written_for_notify_never_nor_to_a_null_sender() {
    let setup = setup("split-silent");
    assert!(setup.send(OWN, &both(" NOTIFY=NEVER")).starts_with("250"));
    assert!(setup.send(OWN, &both(" NOTIFY=DELAY")).starts_with("250"));
    assert!(setup.send("", &both("")).starts_with("250"));
    assert_eq!(setup.sink.wait(3).iter().filter(|mail| mail.to == [FINE]).count(), 3);
    setup.gateway.wait_empty();
    assert_eq!((setup.sink.mail().len(), setup.notices.mail().len()), (3, 0));
}

#[test]
fn r070_a_message_that_is_refused_for_all_is_refused_and_not_reported() {
    let setup = setup("all-refused");
    let reply = setup.send(OWN, &[format!("<{REFUSED}>")]);
    assert!(reply.starts_with("550 5.7.1 Not to this one"), "{reply}");
    assert_eq!(setup.gateway.queued(), 0);
    assert!(setup.sink.mail().is_empty() && setup.notices.mail().is_empty());
}

/// R70 (1): deferral of one recipient defers the message, and nothing of it is kept.
#[test]
fn r070_a_message_whose_one_recipient_must_wait_is_deferred_as_a_whole() {
    let setup = setup("one-waits");
    setup._site.add(
        "RoutingRule",
        "dangling",
        "  messages: [Outbound]
  envelope: {recipients: {address: waits@partner.example}}
  action: {modify: {route: {name: nowhere}}}
",
    );
    setup.gateway.wait_condition("RoutingRule/default/dangling", "ResolvedRefs", "False");
    let reply = setup.send(OWN, &[format!("<{FINE}>"), "<waits@partner.example>".to_owned()]);
    assert!(reply.starts_with("451 4.7.1"), "{reply}");
    assert_eq!(setup.gateway.queued(), 0);
    assert!(setup.sink.mail().is_empty());
}

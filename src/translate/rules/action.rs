//! What a rule does with a message.

use crate::api::action as act;
use crate::api::checks;
use crate::api::modify as change;
use crate::bundle::document::{
    AccountType, Action, AddedRecipient, ChangeRecipient, ChangeRoute, EnhancedCode, Header, Modify,
    ObjectName, Quarantining, Reject, Smime,
};
use crate::mail::edit::{Footer, Removal};
use crate::mail::envelope::RouteName;
use crate::translate::gateway::{address, domain};
use crate::translate::problem::{Findings, Problem};

pub fn disposition(
    namespace: &str,
    action: &act::Action,
    accounts: &[AccountType],
    findings: &mut Findings,
) -> Action {
    let act::Action { reject, quarantine, modify } = action;
    let count =
        usize::from(reject.is_some()) + usize::from(quarantine.is_some()) + usize::from(modify.is_some());
    findings.check(count == 1, "spec.action", &checks::ACTION_ONE_OF);
    match (reject, quarantine, modify) {
        (Some(reject), _, _) => Action::Reject(refusal(reject, findings)),
        (None, Some(act::Quarantine { name, notify_sender }), _) => Action::Quarantine(Quarantining {
            // Whether it exists is decided when all quarantines are known.
            quarantine: Some(ObjectName { namespace: namespace.to_owned(), name: name.clone() }),
            notify_sender: *notify_sender,
        }),
        (None, None, Some(modify)) => {
            Action::Modify(Box::new(changes(namespace, modify, accounts, findings)))
        }
        (None, None, None) => Action::Modify(Box::default()),
    }
}

fn refusal(reject: &act::Reject, findings: &mut Findings) -> Reject {
    let act::Reject { notice, ascii_notice, hide_rule, enhanced_code } = reject;
    let path = "spec.action.reject";
    let plain = |c: char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
    for (field, text) in [("notice", notice), ("asciiNotice", ascii_notice)] {
        let Some(text) = text else { continue };
        let path = format!("{path}.{field}");
        findings.check(text.chars().all(plain), &path, &checks::NOTICE);
        if text.trim().is_empty() {
            findings.invalid(&path, "a notice cannot be blank; leave it out for the default one");
        }
        if text.chars().count() > 1000 {
            findings.invalid(&path, "a notice has at most 1000 characters");
        }
    }
    let ascii = ascii_notice.as_ref().is_none_or(|text| text.is_ascii());
    findings.check(ascii, &format!("{path}.asciiNotice"), &checks::ASCII_NOTICE);
    let code = code(enhanced_code);
    findings.check(code.is_some(), &format!("{path}.enhancedCode"), &checks::ENHANCED_CODE);
    let trimmed = |text: &Option<String>| text.as_ref().map(|text| text.trim_end().to_owned());
    Reject {
        notice: trimmed(notice),
        ascii_notice: trimmed(ascii_notice),
        hide_rule: *hide_rule,
        enhanced_code: code.unwrap_or_default(),
    }
}

fn code(text: &str) -> Option<EnhancedCode> {
    let detail = text.strip_prefix("5.7.").filter(|detail| detail.bytes().all(|b| b.is_ascii_digit()))?;
    let detail: u16 = detail.parse().ok()?;
    (text == format!("5.7.{detail}") && (detail == 1 || (900..=999).contains(&detail)))
        .then_some(EnhancedCode([5, 7, detail]))
}

fn changes(
    namespace: &str,
    modify: &change::Modify,
    accounts: &[AccountType],
    findings: &mut Findings,
) -> Modify {
    const PATH: &str = "spec.action.modify";
    let change::Modify {
        original_to_header,
        spam_headers,
        headers,
        subject_prefix,
        route,
        envelope_recipient,
        bypass_spam_filter,
        remove_attachments,
        add_recipients,
        encryption,
        footer,
        strip_amp,
    } = modify;
    let change::Encryption { require_tls, smime } = encryption.clone().unwrap_or_default();
    let switches = *original_to_header || *spam_headers || *bypass_spam_filter || *strip_amp || require_tls;
    let something = switches
        || !headers.is_empty()
        || subject_prefix.is_some()
        || route.is_some()
        || envelope_recipient.is_some()
        || remove_attachments.is_some()
        || !add_recipients.is_empty()
        || smime.is_some()
        || footer.is_some();
    findings.check(something, PATH, &checks::MODIFY_EMPTY);
    if add_recipients.len() > checks::MAX_ADDED {
        findings.invalid(&format!("{PATH}.addRecipients"), checks::too_many_added(add_recipients.len()));
    }
    let groups = accounts.contains(&AccountType::Groups);
    Modify {
        original_to_header: *original_to_header,
        spam_headers: *spam_headers,
        headers: fields(PATH, headers, findings),
        subject_prefix: prefix(PATH, subject_prefix.as_ref(), findings),
        route: route.as_ref().map(|route| to(namespace, &route.name)),
        reroute_spam: route.as_ref().is_some_and(|route| route.reroute_spam),
        suppress_bounces: route.as_ref().is_some_and(|route| route.suppress_bounces),
        envelope_recipient: recipient(PATH, envelope_recipient.as_ref(), findings),
        bypass_spam_filter: *bypass_spam_filter,
        remove_attachments: removal(PATH, remove_attachments.as_ref(), findings),
        add_recipients: add_recipients
            .iter()
            .take(checks::MAX_ADDED)
            .enumerate()
            .filter_map(|(at, added)| {
                copy(namespace, &format!("{PATH}.addRecipients[{at}]"), added, groups, findings)
            })
            .collect(),
        require_tls,
        smime: smime.map(|change::Smime { encrypt, sign, bounce_if_unable }| {
            findings.check(encrypt || sign, &format!("{PATH}.encryption.smime"), &checks::SMIME_EMPTY);
            Smime { encrypt, sign, bounce_if_unable }
        }),
        footer: footer.as_ref().map(|footer| below(&format!("{PATH}.footer"), footer, findings)),
        strip_amp: *strip_amp,
    }
}

fn copy(
    namespace: &str,
    path: &str,
    added: &change::AddedRecipient,
    groups: bool,
    findings: &mut Findings,
) -> Option<AddedRecipient> {
    let change::AddedRecipient {
        address: at,
        envelope_recipient,
        headers,
        subject_prefix,
        remove_attachments,
        route,
        encryption,
        drop_spam,
        suppress_bounces,
    } = added;
    let address = findings.ok(address(&format!("{path}.address"), at));
    Some(AddedRecipient {
        envelope_recipient: recipient(path, envelope_recipient.as_ref(), findings),
        headers: fields(path, headers, findings),
        subject_prefix: prefix(path, subject_prefix.as_ref(), findings),
        remove_attachments: removal(path, remove_attachments.as_ref(), findings),
        route: route.as_ref().map(|route| to(namespace, &route.name)),
        require_tls: encryption.as_ref().is_some_and(|encryption| encryption.require_tls),
        drop_spam: drop_spam.unwrap_or(!groups),
        suppress_bounces: *suppress_bounces,
        address: address?,
    })
}

/// Whether it exists is decided when all routes are known.
fn to(namespace: &str, name: &str) -> ChangeRoute {
    ChangeRoute::To(RouteName { namespace: namespace.to_owned(), name: name.to_owned() })
}

fn one_line(text: &str) -> bool {
    !text.chars().any(|c| c.is_ascii_control() && c != '\t')
}

fn fields(path: &str, headers: &[change::Header], findings: &mut Findings) -> Vec<Header> {
    for (at, change::Header { name, value }) in headers.iter().enumerate() {
        let path = format!("{path}.headers[{at}]");
        let printable = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
        findings.check(printable, &format!("{path}.name"), &checks::HEADER_NAME);
        findings.check(
            !checks::is_forbidden_header(name),
            &format!("{path}.name"),
            &checks::HEADER_FORBIDDEN,
        );
        findings.check(one_line(value), &format!("{path}.value"), &checks::ONE_LINE);
    }
    headers
        .iter()
        .map(|change::Header { name, value }| Header { name: name.clone(), value: value.clone() })
        .collect()
}

fn prefix(path: &str, text: Option<&String>, findings: &mut Findings) -> Option<String> {
    let text = text?;
    findings.check(one_line(text), &format!("{path}.subjectPrefix"), &checks::ONE_LINE);
    Some(text.clone())
}

fn recipient(
    path: &str,
    given: Option<&change::ChangeRecipient>,
    findings: &mut Findings,
) -> Option<ChangeRecipient> {
    let change::ChangeRecipient { address: whole, user, domain: host } = given?;
    let path = format!("{path}.envelopeRecipient");
    let count = usize::from(whole.is_some()) + usize::from(user.is_some()) + usize::from(host.is_some());
    findings.check(count == 1, &path, &checks::RECIPIENT_ONE_OF);
    if let Some(whole) = whole {
        let whole = findings.ok(address(&format!("{path}.address"), whole))?;
        return Some(ChangeRecipient::Address(whole));
    }
    if let Some(user) = user {
        // As a local part of any address: the parser of addresses has the last word.
        let valid = format!("{user}@example.net").parse::<crate::mail::address::Mailbox>();
        let path = format!("{path}.user");
        let valid = valid.map_err(|_| Problem::invalid(path, checks::LOCAL_PART.message));
        return findings.ok(valid).map(|_| ChangeRecipient::User(user.clone()));
    }
    let host = findings.ok(domain(&format!("{path}.domain"), host.as_ref()?))?;
    Some(ChangeRecipient::Domain(host))
}

fn removal(
    path: &str,
    given: Option<&change::RemoveAttachments>,
    findings: &mut Findings,
) -> Option<Removal> {
    let change::RemoveAttachments { notice, all, types, names, larger_than } = given?;
    let path = format!("{path}.removeAttachments");
    let something = *all || !types.is_empty() || !names.is_empty() || larger_than.is_some();
    findings.check(something, &path, &checks::REMOVAL_EMPTY);
    for (at, media) in types.iter().enumerate() {
        let part = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
        };
        let valid = media.split_once('/').is_some_and(|(top, sub)| part(top) && (sub == "*" || part(sub)));
        findings.check(valid, &format!("{path}.types[{at}]"), &checks::MEDIA_TYPE);
    }
    let larger_than = larger_than.as_ref().and_then(|size| {
        let bytes = size.bytes();
        findings.check(bytes.is_some(), &format!("{path}.largerThan"), &checks::QUANTITY);
        bytes
    });
    if let Some(notice) = notice {
        findings.check(readable(notice), &format!("{path}.notice"), &checks::NOTICE);
    }
    Some(Removal {
        all: *all,
        types: types.clone(),
        names: names.clone(),
        larger_than,
        notice: notice.clone(),
    })
}

fn below(path: &str, footer: &change::Footer, findings: &mut Findings) -> Footer {
    let change::Footer { text, html } = footer;
    findings.check(readable(text), &format!("{path}.text"), &checks::FOOTER);
    let plain = html.as_ref().is_none_or(|html| readable(html));
    findings.check(plain, &format!("{path}.html"), &checks::FOOTER);
    Footer { text: text.clone(), html: html.clone() }
}

fn readable(text: &str) -> bool {
    text.chars().all(|c| !c.is_ascii_control() || matches!(c, '\t' | '\n' | '\r'))
}

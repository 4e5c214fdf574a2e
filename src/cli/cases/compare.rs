//! What a case expects against what happened, told like a diff: `-` was expected, `+` happened.

use super::read::{At, DeliveryExpect, Expect, FateExpect};
use crate::gateway::decisions::{DeliveryFate, Explained, MessageFate, RuleFate};

/// Differences with the lines of their expectations, in the order of the file.
pub fn differences(expect: &Expect, explained: &Explained) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for message in &explained.messages {
        let single = expect.recipients.iter().find(|((_, to), _)| same_address(to, &message.recipient));
        // What is said of one recipient stands before what is said of all.
        let of_one = single.map(|(_, fate)| fate);
        fate(of_one, &expect.fate, message, &mut found);
    }
    for ((line, to), _) in &expect.recipients {
        if !explained.messages.iter().any(|message| same_address(to, &message.recipient)) {
            found.push((*line, format!("{to} is no recipient of the message")));
        }
    }
    rules(expect, explained, &mut found);
    if let Some((line, wanted)) = &expect.deliveries {
        deliveries(*line, wanted, explained, &mut found);
    }
    found.sort_by_key(|(line, _)| *line);
    found
}

fn differ(field: &str, expected: impl std::fmt::Display, happened: impl std::fmt::Display) -> String {
    format!("{field}\n    - {expected}\n    + {happened}")
}

fn fate(
    single: Option<&FateExpect>,
    all: &FateExpect,
    message: &MessageFate,
    found: &mut Vec<(usize, String)>,
) {
    let pick = |field: fn(&FateExpect) -> &Option<At<String>>| {
        single.and_then(|one| field(one).as_ref()).or(field(all).as_ref())
    };
    let to = &message.recipient;
    if let Some((line, wanted)) = pick(|fate| &fate.disposition)
        && wanted != message.disposition.as_str()
    {
        let happened = format!("{} ({})", message.disposition.as_str(), message.reply);
        found.push((*line, differ(&format!("disposition for {to}"), wanted, happened)));
    }
    if let Some((line, wanted)) = pick(|fate| &fate.reply)
        && !message.reply.contains(wanted.as_str())
    {
        found.push((*line, differ(&format!("reply for {to}"), format!("…{wanted}…"), &message.reply)));
    }
    if let Some((line, wanted)) = pick(|fate| &fate.quarantine)
        && message.quarantine.as_ref() != Some(wanted)
    {
        let happened = message.quarantine.as_deref().unwrap_or("not held");
        found.push((*line, differ(&format!("quarantine for {to}"), wanted, happened)));
    }
}

fn rules(expect: &Expect, explained: &Explained, found: &mut Vec<(usize, String)>) {
    let of_name = |name: &str| -> Vec<&RuleFate> {
        let all = explained.messages.iter().flat_map(|message| &message.considered.rules);
        all.filter(|rule| names(&rule.rule, name)).collect()
    };
    for (line, name) in &expect.matched {
        let rules = of_name(name);
        if rules.iter().any(|rule| rule.matched) {
            continue;
        }
        let happened = match rules.first() {
            None => "no such rule was considered".to_owned(),
            Some(rule) => match (&rule.bypassed_by, &rule.clause, &rule.note) {
                (Some(list), _, _) => format!("exempted by address list {list}"),
                (None, Some(clause), _) => format!("not matched: {clause}"),
                (None, None, note) => note.clone().unwrap_or_else(|| "not matched".to_owned()),
            },
        };
        found.push((*line, differ(&format!("rule {name}"), "matched", happened)));
    }
    for (line, name) in &expect.not_matched {
        let rules = of_name(name);
        if rules.is_empty() && !explained.messages.iter().any(|message| !message.considered.rules.is_empty())
        {
            continue;
        }
        match rules.iter().find(|rule| rule.matched) {
            None if rules.is_empty() => {
                found.push((
                    *line,
                    differ(&format!("rule {name}"), "not matched", "no such rule was considered"),
                ));
            }
            None => {}
            Some(rule) => {
                let why = rule.why.first().map(|why| format!(": {:?} in {}", why.entry, why.part));
                let happened = format!("matched{}", why.unwrap_or_default());
                found.push((*line, differ(&format!("rule {name}"), "not matched", happened)));
            }
        }
    }
}

/// A rule is meant by its name, with or without kind and namespace.
fn names(rule: &str, name: &str) -> bool {
    rule == name || rule.strip_suffix(name).is_some_and(|rest| rest.ends_with('/'))
}

fn same_address(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

fn deliveries(
    line: usize,
    wanted: &[DeliveryExpect],
    explained: &Explained,
    found: &mut Vec<(usize, String)>,
) {
    let mut left: Vec<&DeliveryFate> =
        explained.messages.iter().flat_map(|message| &message.deliveries).collect();
    for expect in wanted {
        let (at, to) = &expect.to;
        let to_it = || left.iter().enumerate().filter(|(_, copy)| same_address(to, &copy.to));
        // Of several to one address the one that differs least is meant.
        let Some((place, differences)) = to_it()
            .map(|(place, copy)| (place, of_delivery(expect, copy)))
            .min_by_key(|(_, differences)| differences.len())
        else {
            found.push((*at, differ("delivery", to, "no further delivery to this address")));
            continue;
        };
        left.remove(place);
        found.extend(differences);
    }
    for copy in left {
        let of = copy.copy_of.as_ref().map(|of| format!(", copy of {of}")).unwrap_or_default();
        let by = copy.route.as_deref().unwrap_or("MX");
        found.push((line, differ("deliveries", "no further one", format!("to {} by {by}{of}", copy.to))));
    }
}

fn of_delivery(expect: &DeliveryExpect, copy: &DeliveryFate) -> Vec<(usize, String)> {
    let DeliveryExpect { to: (_, to), route, tls, subject, headers, attachments_removed, copy_of } = expect;
    let mut found = Vec::new();
    let mut text = |name: &str, wanted: &Option<At<Option<String>>>, happened: &Option<String>| {
        if let Some((line, wanted)) = wanted
            && wanted != happened
        {
            let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "null".to_owned());
            found.push((
                *line,
                differ(&format!("{name} of the delivery to {to}"), show(wanted), show(happened)),
            ));
        }
    };
    text("route", route, &copy.route);
    text("subject", subject, &copy.subject);
    text("copyOf", copy_of, &copy.copy_of);
    if let Some((line, wanted)) = tls
        && *wanted != copy.tls
    {
        found.push((*line, differ(&format!("tls of the delivery to {to}"), wanted, &copy.tls)));
    }
    for (line, (name, value)) in headers {
        let same = |(known, has): &(String, String)| known.eq_ignore_ascii_case(name) && has == value;
        if !copy.headers_added.iter().any(same) {
            let happened: Vec<_> =
                copy.headers_added.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            let happened =
                if happened.is_empty() { "no field added".to_owned() } else { happened.join("; ") };
            let wanted = format!("{name}: {value}");
            found.push((*line, differ(&format!("headers of the delivery to {to}"), wanted, happened)));
        }
    }
    if let Some((line, wanted)) = attachments_removed {
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names
        };
        let (wanted, happened) = (sorted(wanted), sorted(&copy.attachments_removed));
        if wanted != happened {
            let show = |names: &[String]| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let field = format!("attachmentsRemoved of the delivery to {to}");
            found.push((*line, differ(&field, show(&wanted), show(&happened))));
        }
    }
    found
}

//! What DNSSEC proves of an answer: the records asked for, and every alias on the way to them. Nothing
//! here trusts an answer more than the validator does.

use std::net::IpAddr;
use std::str::FromStr;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::dnssec::TrustAnchors;
use hickory_resolver::proto::rr::{LowerName, Name, RData, Record, RecordType};
use hickory_resolver::proto::serialize::txt::trust_anchor::{Entry, Parser};

use super::{Found, LookupError, limited};

/// Aliases followed; more are a mistake, or a trap.
const MAX_ALIASES: usize = 8;
/// Names that no public zone has: a resolver near by answers for them, and the root proves that they do not
/// exist (RFC 6761, RFC 6762, RFC 8375, ICANN's `internal`).
const PRIVATE: [&str; 4] = ["local", "localhost", "internal", "home.arpa"];

/// The key of a DNSKEY record; translation has looked at its form.
fn read_anchor(text: &str) -> Vec<Entry> {
    // The parser wants an end of line.
    Parser::new(format!("{text}\n")).parse().unwrap_or_default()
}

/// IANA's keys and those of `extra`. One that cannot be read is not trusted.
pub fn anchors(extra: &[String]) -> TrustAnchors {
    let mut anchors = TrustAnchors::default();
    for entry in extra.iter().flat_map(|text| read_anchor(text)) {
        let Entry::DNSKEY(record) = entry else { continue };
        anchors.insert_with_name(record.data().public_key(), LowerName::new(record.name()));
    }
    anchors
}

/// A name as it is, never looked for in the machine's search list.
pub fn complete(name: &str) -> Result<Name, LookupError> {
    let absolute = format!("{}.", name.trim_end_matches('.'));
    Name::from_str(&absolute).map_err(|error| LookupError::Unanswered(format!("not a name: {error}")))
}

/// Whether only the machine's own resolver can know the name.
pub fn is_private(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let within =
        |zone: &&str| host.strip_suffix(*zone).is_some_and(|left| left.is_empty() || left.ends_with('.'));
    !host.contains('.') || PRIVATE.iter().any(within) || host.ends_with(".svc")
}

/// Whether the validator proved all of them; signatures themselves carry no proof.
pub fn all_proved(records: &[Record]) -> bool {
    let mut records = records.iter().filter(|record| record.record_type() != RecordType::RRSIG).peekable();
    records.peek().is_some() && records.all(|record| record.proof.is_secure())
}

/// From the name that was asked for over its aliases to the records.
pub async fn trace(
    resolver: &TokioResolver,
    asked: Name,
    kind: RecordType,
    answers: &[Record],
) -> Result<Found<Vec<RData>>, LookupError> {
    let mut at = asked;
    let mut proved = true;
    for _ in 0..MAX_ALIASES {
        let here: Vec<&Record> =
            answers.iter().filter(|record| record.name == at && record.record_type() == kind).collect();
        if !here.is_empty() {
            proved &= here.iter().all(|record| record.proof.is_secure());
            let what = here.into_iter().map(|record| record.data.clone()).collect();
            return Ok(Found { what, proved, end: written(&at) });
        }
        let alias = |records: &[Record]| {
            records.iter().find_map(|record| match &record.data {
                RData::CNAME(to) if record.name == at => Some((to.0.clone(), record.proof.is_secure())),
                _ => None,
            })
        };
        let found = match alias(answers) {
            Some(found) => Some(found),
            // An answer out of the cache begins in the middle of the chain.
            None => match limited(resolver.lookup(at.clone(), RecordType::CNAME)).await {
                Ok(lookup) => alias(lookup.answers()),
                Err(failure) if failure.error == LookupError::NoRecord => None,
                Err(failure) => return Err(failure.error),
            },
        };
        let Some((to, sure)) = found else { break };
        proved &= sure;
        at = to;
    }
    Err(LookupError::Unanswered("its aliases (CNAME) lead nowhere".to_owned()))
}

fn written(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

/// Both families of a host's addresses. What is there is used; a family that could not be asked for is no
/// reason to leave the other, and never makes the host one without addresses.
pub fn both(
    v4: Result<Found<Vec<IpAddr>>, LookupError>,
    v6: Result<Found<Vec<IpAddr>>, LookupError>,
) -> Result<Found<Vec<IpAddr>>, LookupError> {
    let rank = |error: &LookupError| match error {
        LookupError::Bogus => 3,
        LookupError::Unanswered(_) => 2,
        LookupError::NoRecord => 1,
        LookupError::NoSuchName => 0,
    };
    let filled = |found: Result<Found<Vec<IpAddr>>, LookupError>| match found {
        Ok(found) if found.what.is_empty() => Err(LookupError::NoRecord),
        other => other,
    };
    match (filled(v4), filled(v6)) {
        (Ok(mut v4), Ok(v6)) => {
            v4.what.extend(v6.what);
            v4.proved &= v6.proved;
            Ok(v4)
        }
        (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(found),
        (Err(a), Err(b)) => Err(if rank(&a) >= rank(&b) { a } else { b }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_cluster_are_not_looked_for_in_the_public_tree() {
        for private in ["relay", "relay.mail.svc", "relay.mail.svc.cluster.local", "LOCAL", "a.home.arpa."] {
            assert!(is_private(private), "{private}");
        }
        for public in ["relay.example.net", "mylocal.net", "a.notlocal"] {
            assert!(!is_private(public), "{public}");
        }
    }

    #[test]
    fn only_what_reads_as_a_key_is_trusted() {
        let key = "mdsswUyr3DPW132mOi8V9xESWE8jTo0dxCjjnopKl+GqJxpVXckHAeF+KkxLbxILfDLUT0rAK9iUzy1L53eKGQ==";
        let with = |text: &str| anchors(&[text.to_owned()]).len() - TrustAnchors::default().len();
        assert_eq!(with(&format!(". IN DNSKEY 257 3 13 {key}")), 1);
        assert_eq!(with(&format!(". 3600 IN DNSKEY 257 3 13 {key}")), 1);
        for wrong in ["", "example.net.", ". IN A 192.0.2.1", ". IN DNSKEY 257 3 13 !"] {
            assert_eq!(with(wrong), 0, "{wrong}");
        }
    }

    #[test]
    fn a_host_without_one_family_is_not_one_without_addresses() {
        let found = |ip: &str| Ok(Found { what: vec![ip.parse().unwrap()], proved: true, end: "h".into() });
        let error = |error: LookupError| Err(error);
        assert_eq!(both(found("192.0.2.1"), error(LookupError::Bogus)).unwrap().what.len(), 1);
        assert_eq!(both(found("192.0.2.1"), found("2001:db8::1")).unwrap().what.len(), 2);
        assert_eq!(both(Ok(Found::default()), error(LookupError::Bogus)), Err(LookupError::Bogus));
        let unanswered = LookupError::Unanswered("x".into());
        assert_eq!(both(error(LookupError::NoRecord), error(unanswered.clone())), Err(unanswered));
        assert_eq!(both(Ok(Found::default()), Ok(Found::default())), Err(LookupError::NoRecord));
    }
}

//! The entries of an address list: built once by the control plane, looked up where they lie in the
//! gateway. Nothing is copied or unpacked for a look-up.

use std::str::FromStr;
use std::sync::Arc;

use super::{ListEntries, Shard};
use crate::mail::address::{AddressError, Domain, Mailbox};

/// Entries of one shard, about. A list grows by doubling its shards, so that a new entry rarely moves others.
const SHARD: usize = 4096;

/// An entry as its author means it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListEntry {
    Address(Mailbox),
    /// The domain and its subdomains (spec R108).
    Domain(Domain),
}

impl ListEntry {
    /// The form that is stored and that compares.
    fn folded(&self) -> String {
        match self {
            ListEntry::Address(mailbox) => mailbox.folded(),
            ListEntry::Domain(domain) => domain.ascii().to_owned(),
        }
    }
}

impl FromStr for ListEntry {
    type Err = AddressError;

    /// An entry with `@` is an address (design section 9), one that begins with it a domain.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix('@') {
            Some(domain) => domain.parse().map(ListEntry::Domain),
            None if text.contains('@') => text.parse().map(ListEntry::Address),
            None => text.parse().map(ListEntry::Domain),
        }
    }
}

/// How an address stands in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listed {
    /// As a sender it counts only when authenticated (spec R113).
    IfAuthenticated,
    Always,
}

impl ListEntries {
    /// Each entry with whether it counts only for authenticated senders. Equal sets of entries give equal
    /// records, whatever their order; an entry that is there both ways needs no authentication.
    pub fn build(entries: impl IntoIterator<Item = (ListEntry, bool)>) -> Self {
        let lines = entries.into_iter().map(|(entry, authenticated)| (entry.folded(), authenticated));
        let mut lines: Vec<(String, bool)> = lines.collect();
        lines.sort_unstable();
        // The entry that asks for nothing sorts first and stays.
        lines.dedup_by(|later, first| later.0 == first.0);
        if lines.is_empty() {
            return Self::default();
        }
        let count = lines.len().div_ceil(SHARD).next_power_of_two();
        let mut texts = vec![(String::new(), String::new()); count];
        for (line, authenticated) in lines {
            let (with, without) = &mut texts[place(&line, count)];
            let text = if authenticated { with } else { without };
            text.push_str(&line);
            text.push('\n');
        }
        let shard = |(with, without): (String, String)| Shard {
            authenticated: Arc::from(with),
            unauthenticated: Arc::from(without),
        };
        Self { shards: texts.into_iter().map(shard).collect() }
    }

    /// How the address, its domain or a domain above that stands here; the most generous entry counts.
    pub fn find(&self, mailbox: &Mailbox) -> Option<Listed> {
        if self.shards.is_empty() {
            return None;
        }
        let domain = mailbox.domain().map_or("", Domain::ascii);
        let labels = domain.char_indices().filter(|(_, c)| *c == '.').map(|(at, _)| &domain[at + 1..]);
        let domains = std::iter::once(domain).chain(labels).filter(|domain| !domain.is_empty());
        self.line(&mailbox.folded()).max(domains.filter_map(|domain| self.line(domain)).max())
    }

    /// Whether the address is listed, authenticated or not.
    pub fn contains(&self, mailbox: &Mailbox) -> bool {
        self.find(mailbox).is_some()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        let lines = |text: &str| memchr::memchr_iter(b'\n', text.as_bytes()).count();
        self.shards.iter().map(|shard| lines(&shard.authenticated) + lines(&shard.unauthenticated)).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    fn line(&self, line: &str) -> Option<Listed> {
        let shard = &self.shards[place(line, self.shards.len())];
        if has_line(&shard.unauthenticated, line) {
            Some(Listed::Always)
        } else {
            has_line(&shard.authenticated, line).then_some(Listed::IfAuthenticated)
        }
    }
}

/// The shard of a line: FNV-1a, the same in every release, since it decides where an entry is looked for.
fn place(line: &str, shards: usize) -> usize {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = line.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    let mixed = (hash ^ (hash >> 32)) & 0xffff_ffff;
    usize::try_from(mixed).expect("32 bits") % shards
}

/// Binary search over sorted lines, each ended by LF.
fn has_line(text: &str, line: &str) -> bool {
    let text = text.as_bytes();
    let (mut low, mut high) = (0, text.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let start = memchr::memrchr(b'\n', &text[low..middle]).map_or(low, |at| low + at + 1);
        let end = memchr::memchr(b'\n', &text[middle..high]).map_or(high, |at| middle + at);
        match text[start..end].cmp(line.as_bytes()) {
            std::cmp::Ordering::Equal => return true,
            std::cmp::Ordering::Less => low = (end + 1).min(high),
            std::cmp::Ordering::Greater => high = start,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    fn list(entries: &[&str]) -> ListEntries {
        ListEntries::build(entries.iter().map(|entry| match entry.strip_prefix('!') {
            Some(free) => (free.parse().unwrap(), false),
            None => (entry.parse().unwrap(), true),
        }))
    }

    fn find(list: &ListEntries, address: &str) -> Option<Listed> {
        list.find(&address.parse().unwrap())
    }

    #[test]
    fn r108_a_list_holds_addresses_and_domains_with_their_subdomains() {
        let list = list(&["Ani@Example.org", "partner.example", "!bücher.example", "!free@partner.example"]);
        for (address, expected) in [
            ("ani@example.ORG", Some(Listed::IfAuthenticated)),
            ("budi@example.org", None),
            ("x@partner.example", Some(Listed::IfAuthenticated)),
            ("x@Sub.Partner.example", Some(Listed::IfAuthenticated)),
            ("x@notpartner.example", None),
            ("x@example", None),
            ("x@xn--bcher-kva.example", Some(Listed::Always)),
            ("x@a.b.BÜCHER.example", Some(Listed::Always)),
            ("free@partner.example", Some(Listed::Always)),
            ("x@[192.0.2.1]", None),
        ] {
            assert_eq!(find(&list, address), expected, "{address}");
        }
        assert_eq!(list.len(), 4);
        assert!(!ListEntries::default().contains(&"a@b.example".parse().unwrap()));
    }

    #[test]
    fn entries_with_a_leading_at_sign_are_domains() {
        assert_eq!("@partner.example".parse(), Ok(ListEntry::Domain("partner.example".parse().unwrap())));
        assert!("a b@c".parse::<ListEntry>().is_err());
    }

    #[test]
    fn r114_a_million_entries_are_built_and_searched_in_place() {
        let address = |n: u32| format!("user{n}@domain{}.example", n % 5000);
        let started = Instant::now();
        let entries = (0..1_000_000).map(|n| (address(n).parse::<ListEntry>().unwrap(), n % 2 == 0));
        let list = ListEntries::build(entries);
        let built = started.elapsed();
        assert_eq!((list.len(), list.shards.len()), (1_000_000, 256));
        let longest = list.shards.iter().map(|s| s.authenticated.len() + s.unauthenticated.len()).max();
        assert!(longest < Some(256 << 10), "shards are even: {longest:?}");
        let started = Instant::now();
        for n in (0..1_000_000).step_by(100) {
            let expected = if n % 2 == 0 { Listed::IfAuthenticated } else { Listed::Always };
            assert_eq!(find(&list, &address(n)), Some(expected));
            assert_eq!(find(&list, &format!("other{n}@domain1.example")), None);
        }
        let looked = started.elapsed();
        // Generous: without optimization and beside other tests.
        assert!(built.as_secs() < 60 && looked.as_secs() < 10, "{built:?} {looked:?}");
    }

    #[test]
    fn one_changed_entry_rewrites_one_shard() {
        let build = |numbers: &mut dyn Iterator<Item = u32>| {
            ListEntries::build(numbers.map(|n| (format!("user{n}@d.example").parse().unwrap(), true)))
        };
        let (list, other) = (build(&mut (0..20_000)), build(&mut (0..20_000).filter(|n| *n != 77)));
        assert_eq!(list.shards.len(), 8);
        assert_eq!(list.shards.iter().zip(&other.shards).filter(|(a, b)| a != b).count(), 1);
    }

    proptest! {
        /// A look-up says what going through the entries one by one would say.
        #[test]
        fn r111_look_ups_agree_with_the_definition(
            entries in prop::collection::vec(("[a-c]{0,2}", "[a-c]{1,2}(\\.[a-c]{1,2}){0,2}", any::<bool>()), 0..40),
            local in "[a-c]{1,2}",
            host in "[a-c]{1,2}(\\.[a-c]{1,2}){0,3}",
        ) {
            let entries: Vec<(ListEntry, bool)> = entries
                .into_iter()
                .map(|(local, host, authenticated)| match local.as_str() {
                    "" => (ListEntry::Domain(host.parse().unwrap()), authenticated),
                    local => (ListEntry::Address(format!("{local}@{host}").parse().unwrap()), authenticated),
                })
                .collect();
            let mailbox: Mailbox = format!("{local}@{host}").parse().unwrap();
            let fits = |entry: &ListEntry| match entry {
                ListEntry::Address(address) => *address == mailbox,
                ListEntry::Domain(domain) => mailbox.domain().unwrap().is_within(domain),
            };
            let fitting = entries.iter().filter(|(entry, _)| fits(entry));
            let expected = fitting.map(|(_, auth)| if *auth { Listed::IfAuthenticated } else { Listed::Always }).max();
            let list = ListEntries::build(entries.clone());
            prop_assert_eq!(list.find(&mailbox), expected);
            let mut reversed = entries;
            reversed.reverse();
            prop_assert_eq!(ListEntries::build(reversed), list);
        }

        #[test]
        fn every_line_is_found_whatever_the_cut(lines in prop::collection::btree_set("[a-z@.]{1,6}", 0..30), other in "[a-z@.]{1,6}") {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            for line in &lines {
                prop_assert!(has_line(&text, line));
            }
            prop_assert_eq!(has_line(&text, &other), lines.contains(&other));
        }
    }
}

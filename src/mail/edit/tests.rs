mod attachments;
mod bodies;
mod encryption;
mod footers;
mod journals;
mod properties;
mod signatures;

use proptest::prelude::*;

use super::head::{apply, decode};
use super::*;

const RECEIVED: &str = "Received: from app ([192.0.2.1])\r\n\tby gw with ESMTP id 1\r\n";

fn prefix(text: &str) -> Edit {
    Edit::PrefixSubject { text: text.to_owned() }
}

fn header(name: &str, value: &str) -> Edit {
    Edit::AddHeader { name: name.to_owned(), value: value.to_owned() }
}

/// The header section that `edits` make of `head` below our Received field.
#[track_caller]
fn check(head: &str, edits: &[Edit], expected: &str) {
    let edited = apply(format!("{RECEIVED}{head}").as_bytes(), edits);
    let edited = String::from_utf8(edited).unwrap();
    assert_eq!(edited.strip_prefix(RECEIVED).expect("our Received stays on top"), expected);
}

#[test]
fn a_prefix_is_put_in_brackets_before_the_subject_and_only_once() {
    let once = "Subject: [Rahasia] Laporan bulanan\r\nTo: a@b.example\r\n";
    check("Subject: Laporan bulanan\r\nTo: a@b.example\r\n", &[prefix("Rahasia")], once);
    check(once, &[prefix("Rahasia")], once);
}

#[test]
fn several_prefixes_stand_in_rank_order_and_those_at_the_front_are_not_repeated() {
    let both = [prefix("A"), prefix("B"), prefix("A")];
    check("Subject: s\r\n", &both, "Subject: [A] [B] s\r\n");
    check("Subject: [B] [A] s\r\n", &both, "Subject: [B] [A] s\r\n");
    check("Subject: [B] s\r\n", &both, "Subject: [A] [B] s\r\n");
    check("Subject: Re: [A] s\r\n", &[prefix("A")], "Subject: [A] Re: [A] s\r\n");
    check("Subject: [A]s\r\n", &[prefix("A")], "Subject: [A] [A]s\r\n");
}

#[test]
fn an_encoded_subject_keeps_its_bytes_behind_the_prefix() {
    check(
        "Subject: =?utf-8?B?TGFwb3Jhbg==?=\r\n =?utf-8?Q?_bulanan?=\r\n",
        &[prefix("Rahasia")],
        "Subject: [Rahasia] =?utf-8?B?TGFwb3Jhbg==?=\r\n =?utf-8?Q?_bulanan?=\r\n",
    );
    let present = "Subject: =?iso-2022-jp?B?WxskQjUhTCkbKEJdIGE=?=\r\n";
    check(present, &[prefix("機密")], present);
}

#[test]
fn a_prefix_in_another_script_is_encoded_and_the_blank_behind_it_is_seen() {
    for (subject, shown) in
        [("plain text", "[機密] plain text"), ("=?utf-8?Q?B=C3=BCro?=", "[機密] Büro"), ("", "[機密]")]
    {
        let head = format!("{RECEIVED}Subject: {subject}\r\n");
        let edited = apply(head.as_bytes(), &[prefix("機密")]);
        assert!(edited.is_ascii());
        let at = RECEIVED.len() + "Subject:".len();
        assert_eq!(decode(&edited[at..]), shown);
        assert_eq!(apply(&edited, &[prefix("機密")]), edited);
    }
}

#[test]
fn a_missing_subject_is_created_below_our_received_field() {
    check(
        "To: a@b.example\r\n",
        &[prefix("X"), header("X-A", "1")],
        "X-A: 1\r\nSubject: [X]\r\nTo: a@b.example\r\n",
    );
}

#[test]
fn every_subject_of_a_message_with_two_gets_the_prefix() {
    check("Subject: a\r\nsubject : b\r\n", &[prefix("X")], "Subject: [X] a\r\nSubject: [X] b\r\n");
}

#[test]
fn headers_are_added_in_order_each_name_and_value_once() {
    let edits = [header("X-R", "one"), header("X-R", "two"), header("X-R", "one"), header("X-S", "one")];
    check("To: a@b.example\r\n", &edits, "X-R: one\r\nX-R: two\r\nX-S: one\r\nTo: a@b.example\r\n");
}

#[test]
fn values_are_encoded_and_folded_and_can_never_end_their_field_early() {
    check("", &[header("X-R", "Straße 機密")], "X-R: =?utf-8?b?U3RyYcOfZSDmqZ/lr4Y=?=\r\n");
    check("", &[header("X-R", "plain Grüße plain")], "X-R: plain =?utf-8?b?R3LDvMOfZQ==?= plain\r\n");
    check("", &[header("X-R", "a\r\nBcc: x@y.example")], "X-R: a  Bcc: x@y.example\r\n");
    check("", &[header("X R", "a"), header("", "a"), header("X:", "a")], "");
    let long = "word ".repeat(60) + &"x".repeat(3000) + " ü";
    for line in apply(b"", &[header("X-Long", &long)]).split(|&b| b == b'\n') {
        assert!(line.len() <= 79, "{} octets: {}", line.len(), String::from_utf8_lossy(line));
    }
}

fn set(name: &str, value: &str) -> Edit {
    Edit::SetHeader { name: name.to_owned(), value: value.to_owned() }
}

#[test]
fn r077_r078_a_header_that_is_set_replaces_what_came_under_its_name() {
    let edits = [set("X-Gm-Original-To", "ani@solarmora.com"), set("X-Gm-Spam", "0")];
    let once = "X-Gm-Original-To: ani@solarmora.com\r\nX-Gm-Spam: 0\r\nTo: a@b.example\r\nSubject: s\r\n";
    let came = "x-gm-original-to: forged@b.example\r\n\tfolded\r\nTo: a@b.example\r\nX-GM-SPAM : 1\r\nSubject: s\r\nX-Gm-Spam: 1\r\n";
    check(came, &edits, once);
    check(once, &edits, once);
    check("To: a@b.example\r\nSubject: s\r\n", &edits, once);
}

#[test]
fn r081_e6_the_prefix_stands_before_the_subject_with_one_blank_and_never_twice() {
    let once = "Subject: [Rahasia] Laporan bulanan\r\n";
    check("Subject: Laporan bulanan\r\n", &[prefix("Rahasia")], once);
    check(once, &[prefix("Rahasia")], once);
}

#[test]
fn r080_long_values_are_folded_at_78_and_no_line_ever_passes_998() {
    for value in ["word ".repeat(300), "x".repeat(5000), "機".repeat(2000), "x".repeat(899)] {
        for edit in [header("X-Rule", &value), set("X-Rule", &value)] {
            let edited = apply(b"To: a@b.example\r\n", &[edit]);
            let widest = edited.split(|&b| b == b'\n').map(<[u8]>::len).max().unwrap();
            assert!(widest <= if value.len() == 899 { 998 } else { 79 }, "{widest}");
            assert!(edited.is_ascii());
        }
    }
}

#[test]
fn a_message_without_separator_or_without_headers_is_edited_all_the_same() {
    assert_eq!(split(b"A: b\r\n\r\nbody\r\n"), (&b"A: b\r\n"[..], &b"\r\nbody\r\n"[..]));
    assert_eq!(split(b"\r\nbody\r\n"), (&b""[..], &b"\r\nbody\r\n"[..]));
    assert_eq!(split(b"no separator\r\n"), (&b"no separator\r\n"[..], &b""[..]));
    check("just text\r\n more\r\n", &[header("X", "y")], "X: y\r\njust text\r\n more\r\n");
    assert_eq!(apply(b"Received: cut", &[header("X", "y")]), b"Received: cut\r\nX: y\r\n");
    assert_eq!(apply(b"Subject: cut", &[prefix("p")]), b"Subject: [p] cut\r\n");
}

fn any_edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        ("[!-~]{1,20}", any::<String>()).prop_map(|(name, value)| Edit::AddHeader { name, value }),
        "\\PC{1,30}".prop_map(|text| Edit::PrefixSubject { text }),
    ]
}

proptest! {
    #[test]
    fn no_edit_leaves_every_byte(content in any::<Vec<u8>>()) {
        let (head, rest) = split(&content);
        prop_assert_eq!(apply(head, &[]), head);
        prop_assert_eq!([head, rest].concat(), content);
    }

    #[test]
    fn edits_never_panic_nor_touch_other_fields(
        head in prop_oneof![any::<Vec<u8>>(), "(Subject:[ -~]{0,40}\r\n|X: y\r\n z\r\n|junk\r\n){0,5}".prop_map(String::into_bytes)],
        edits in prop::collection::vec(any_edit(), 0..5),
    ) {
        let edited = apply(&head, &edits);
        prop_assert!(edited.len() >= head.trim_ascii().len() || head.windows(7).any(|w| w.eq_ignore_ascii_case(b"subject")));
        // What was added contains no empty line, so the body begins where it began.
        if split(&head).1.is_empty() && head.is_ascii() {
            prop_assert!(split(&edited).1.is_empty());
        }
    }

    #[test]
    fn the_subject_reads_as_before_behind_the_prefix(
        text in "[a-zA-Z0-9機密éß.!?-]{1,30}",
        subject in "[a-zA-Z0-9][a-zA-Z0-9 éß機.,-]{0,120}",
    ) {
        // Written as UTF-8 when it is not ASCII: what RFC 6532 allows.
        let words: Vec<&str> = subject.split_whitespace().collect();
        let subject = words.join(" ");
        let head = format!("Subject: {subject}\r\n").into_bytes();
        let edited = apply(&head, &[prefix(&text)]);
        prop_assert_eq!(decode(&edited[8..]), format!("[{text}] {subject}"));
        prop_assert_eq!(apply(&edited, &[prefix(&text)]), edited);
    }
}

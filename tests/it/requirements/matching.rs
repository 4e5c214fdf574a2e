//! Matching, one test for each requirement, named by its number (see docs/requirements.md).

use crate::support::judge::Judge;

fn judge(matches: &str) -> Judge {
    Judge::new(&Judge::compliance("r", matches, "{reject: {}}"))
}

fn plain(subject: &str, body: &str) -> String {
    format!(
        "From: ani@solarmora.com\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n{body}\r\n"
    )
}

#[test]
fn r048_a_list_is_words_each_once_however_they_are_folded() {
    let judge = judge("{words: [Bad, BAD, ｂａｄ, worse]}");
    let explained = judge.mail(plain("x", "bad and worse"));
    let why = explained["messages"][0]["rules"][0]["why"].as_array().expect("a list");
    assert_eq!(why.len(), 2, "the same word is found once: {why:?}");
}

#[test]
fn r049_e1_case_is_ignored() {
    let judge = judge("{words: [BURUK]}");
    for (body, rejected) in [("buruk", true), ("BuRuK", true), ("keburukan", false)] {
        assert_eq!(judge.rejects_body(body), rejected, "{body}");
    }
}

#[test]
fn r050_only_whole_words_match() {
    let judge = judge("{words: [olah, bad]}");
    for (body, rejected) in [
        ("olahraga", false),
        ("(olah)", true),
        ("badminton", false),
        ("bad_x", false),
        ("bad7", false),
        ("bad's", true),
        ("top.bad.plan", true),
    ] {
        assert_eq!(judge.rejects_body(body), rejected, "{body}");
    }
}

#[test]
fn r051_e2_subject_body_and_text_attachments_are_searched() {
    let judge = judge("{words: [olah]}");
    assert_eq!(judge.disposition(plain("OLAH", "x")), "reject");
    assert_eq!(judge.disposition(plain("x", "olahraga")), "deliver");
    assert_eq!(judge.disposition(plain("x", "(olah)")), "reject");
    let attached = |text: &str| {
        format!(
            "From: ani@solarmora.com\r\nSubject: x\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nhi\r\n--b\r\nContent-Type: text/plain\r\n\
             Content-Disposition: attachment; filename=n.txt\r\nContent-Transfer-Encoding: base64\r\n\r\n\
             {text}\r\n--b--\r\n"
        )
    };
    assert_eq!(judge.disposition(attached("YW4gb2xhaCBoZXJl")), "reject");
    assert_eq!(judge.disposition(attached("YW4gb2xhaHJhZ2E=")), "deliver");
}

#[test]
fn r052_e3_punctuation_of_an_entry_is_literal() {
    for (matches, body, rejected) in [
        ("{words: ['[BAD]']}", "x [bad] y", true),
        ("{words: ['[BAD]']}", "x bad y", false),
        ("{words: [BAD]}", "x [bad] y", true),
        (r"{expressions: [{location: Body, type: MatchesRegex, value: '(?i)\[(BAD)\]'}]}", "x [bad] y", true),
    ] {
        assert_eq!(judge(matches).rejects_body(body), rejected, "{matches} {body}");
    }
}

#[test]
fn r052_check_says_how_entries_are_read_that_are_no_plain_words() {
    let told = |matches: &str| {
        let found = judge(matches).problems();
        assert!(found.len() < 2, "{found:?}");
        found.into_iter().next().unwrap_or_default()
    };
    for (words, expected) in [
        ("'[BAD]', plain", "literal text, its punctuation included: \"[BAD]\""),
        ("'top secret', plain", "a phrase of whole words with any white space between them: \"top secret\""),
        ("機密, plain", "text anywhere, since its script puts no blanks between words: \"機密\""),
        ("'#1', '#2', '#3', '#4', '#5', '#6', '#7'", "\"#1\", \"#2\", \"#3\", \"#4\", \"#5\" and 2 more"),
    ] {
        let told = told(&format!("{{words: [{words}]}}"));
        assert!(
            told.starts_with("ComplianceRule/default/r: spec.match: entries are read as "),
            "{words}: {told}"
        );
        assert!(told.contains(expected) && !told.contains("plain"), "{words}: {told}");
    }
    let nothing = judge("{words: [\"\\u200b\", plain]}").problems();
    assert!(nothing.len() == 1 && nothing[0].contains("has no visible character"), "{nothing:?}");
    for plain in
        ["{words: [plain, STRASSE, straße, naïve, Буря]}", "{words: [x], wordOptions: {substrings: [機]}}"]
    {
        assert_eq!(told(plain), "");
    }
}

#[test]
fn r053_e4_words_of_any_script() {
    let judge = judge("{words: [straße, 機密, ประกาศ]}");
    assert!(judge.rejects_body("STRASSE") && judge.rejects_body("本件は機密です"));
    assert!(!judge.rejects_body("nichts davon"));
    let mut thai = "From: ani@solarmora.com\r\nSubject: x\r\nMIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=windows-874\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
        .to_owned();
    for byte in encoding_rs::WINDOWS_874.encode("นี่คือประกาศใหม่").0.iter() {
        thai.push_str(&format!("={byte:02X}"));
    }
    assert_eq!(judge.disposition(thai), "reject");
}

#[test]
fn r054_phrases_cross_white_space() {
    let judge = judge("{words: ['top secret']}");
    for (body, rejected) in [
        ("TOP secret", true),
        ("top\r\n\tsecret", true),
        ("top  \u{a0} secret", true),
        ("top\r\n\r\nsecret", false),
        ("top-secret", false),
        ("top secrets", false),
    ] {
        assert_eq!(judge.rejects_body(body), rejected, "{body:?}");
    }
}

#[test]
fn r055_visible_text_of_html_and_by_option_its_source() {
    let html = |source: &str| {
        format!(
            "From: ani@solarmora.com\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/html\r\n\r\n{source}\r\n"
        )
    };
    let shown = judge("{words: [bad]}");
    assert_eq!(shown.disposition(html("b<i>a</i>d")), "reject");
    assert_eq!(shown.disposition(html("b&shy;a&#8203;d")), "reject");
    assert_eq!(shown.disposition(html("<a href='bad'>x</a>")), "deliver");
    let source = judge("{words: [bad], searchHtmlSource: true}");
    assert_eq!(source.disposition(html("<a href='bad'>x</a>")), "reject");
}

#[test]
fn r056_expressions_look_where_and_how_they_say() {
    let mail = "From: Ani <ani@solarmora.com>\r\nTo: Bo <b@partner.example>\r\nSubject: Quarterly Report\r\n\
                X-Mark: blue\r\n\r\nalpha beta beta\r\n";
    for (location, kind, value, rejected) in [
        ("Subject", "StartsWith", "quarterly", true),
        ("Subject", "StartsWith", "report", false),
        ("Subject", "EndsWith", "REPORT", true),
        ("Subject", "Equals", "quarterly report", true),
        ("Subject", "Equals", "quarterly", false),
        ("Body", "Contains", "ALPHA BETA", true),
        ("Body", "Contains", "quarterly", false),
        ("Body", "NotContains", "gamma", true),
        ("Body", "NotContains", "beta", false),
        ("Attachments", "IsEmpty", "", true),
        ("Body", "IsEmpty", "", false),
        ("FullHeaders", "Contains", "x-mark: blue", true),
        ("HeadersAndBody", "AllWords", "blue alpha", true),
        ("HeadersAndBody", "AllWords", "blue gamma", false),
        ("Body", "AnyWord", "gamma beta", true),
        ("Body", "AnyWord", "bet", false),
        ("FromHeader", "Contains", "Ani", true),
        ("RecipientsHeader", "Contains", "partner.example", true),
        ("EnvelopeSender", "EndsWith", "@solarmora.com", true),
        ("AnyEnvelopeRecipient", "MatchesRegex", "^b@|@partner", true),
        ("RawMessage", "MatchesRegex", "X-Mark: bl[u]e", true),
        ("Body", "MatchesRegex", "ALPHA", false),
        ("Body", "NotMatchesRegex", "ALPHA", true),
    ] {
        let value = if value.is_empty() { String::new() } else { format!(", value: '{value}'") };
        let expression = format!("{{expressions: [{{location: {location}, type: {kind}{value}}}]}}");
        let expected = if rejected { "reject" } else { "deliver" };
        assert_eq!(judge(&expression).disposition(mail), expected, "{expression}");
    }
    let twice = |count| {
        format!("{{expressions: [{{location: Body, type: Contains, value: beta, minCount: {count}}}]}}")
    };
    assert_eq!(judge(&twice(2)).disposition(mail), "reject");
    assert_eq!(judge(&twice(3)).disposition(mail), "deliver");
    let both = |combine| {
        format!(
            "{{words: [gamma], expressions: [{{location: Body, type: Contains, value: beta}}], combine: {combine}}}"
        )
    };
    assert_eq!(judge(&both("Any")).disposition(mail), "reject");
    assert_eq!(judge(&both("All")).disposition(mail), "deliver");
}

#[test]
fn r059_a_refused_pattern_says_where_and_what_instead() {
    let with = |pattern: &str| {
        judge(&format!("{{expressions: [{{location: Body, type: MatchesRegex, value: '{pattern}'}}]}}"))
            .problems()
    };
    for (pattern, told) in [
        ("a(?=b)", "look-around"),
        (r"(a)\1", "back-references"),
        ("a(b", "offset 1"),
        (r"\p{L}{1000}{1000}", "when compiled"),
    ] {
        let problems = with(pattern);
        assert!(problems.iter().any(|problem| problem.contains(told)), "{pattern}: {problems:?}");
    }
    assert!(with("(a+)+$").is_empty(), "it is linear here");
}

#[test]
fn r063_the_trace_says_what_matched_and_where() {
    let judge = judge(
        "{words: [secret, 機密], expressions: [{location: Subject, type: Contains, value: plan}], combine: All}",
    );
    let explained = judge.mail(plain("the plan", "größer, 機密 and secret"));
    let why = explained["messages"][0]["rules"][0]["why"].as_array().expect("a list").clone();
    let told: Vec<_> = why
        .iter()
        .map(|one| {
            (
                one["part"].as_str().unwrap(),
                one["entry"].as_str().unwrap(),
                one["offset"].as_u64().unwrap(),
                one["length"].as_u64().unwrap(),
            )
        })
        .collect();
    for expected in [("body", "secret", 21, 6), ("body", "機密", 10, 6), ("subject", "plan", 4, 4)] {
        assert!(told.contains(&expected), "{expected:?} in {told:?}");
    }
}

use super::*;

const LIMITS: Limits = Limits { decoded_bytes: 1 << 20, parts: 1000, depth: 100, entries: 1000, nesting: 5 };

fn texts(message: &str) -> Vec<String> {
    walk(message.as_bytes(), LIMITS).pieces.into_iter().map(|piece| piece.text).collect()
}

fn has(message: &str, text: &str) -> bool {
    texts(message).iter().any(|piece| piece.contains(text))
}

const TWO: &str = "Content-Type: multipart/mixed; boundary=b\n\npreamble\n--b\n\none\n--b\n\
                   Content-Disposition: attachment; filename=n.txt\n\ntwo\n--b--\nepilogue\n";

#[test]
fn a_multipart_gives_its_parts_and_what_surrounds_them() {
    let walked = walk(TWO.as_bytes(), LIMITS);
    let found: Vec<_> = walked
        .pieces
        .iter()
        .map(|p| (p.path.as_str(), p.text.trim(), p.attachment, p.name.as_deref()))
        .collect();
    assert_eq!(
        found,
        [
            ("", "preamble", false, None),
            ("", "epilogue", false, None),
            ("1", "one", false, None),
            ("2", "two", true, Some("n.txt")),
        ]
    );
    assert_eq!(walked.stopped, None);
}

#[test]
fn ambiguous_messages_are_given_in_every_reading() {
    let doubled = "Content-Type: multipart/mixed; boundary=x; boundary=y\n\n--y\n\
                   Content-Transfer-Encoding: base64\n\nZm9yYmlkZGVu\n--y--\n";
    assert!(has(doubled, "forbidden"));
    assert!(has(
        "Content-Transfer-Encoding: 7bit\nContent-Transfer-Encoding: base64\n\nZm9yYmlkZGVu\n",
        "forbidden"
    ));
    assert!(has("From: a@b\nforbidden text\n\nmore\n", "forbidden"));
    assert!(has("Content-Type: multipart/mixed; boundary=b\n\n--b\n\nopen forbidden", "forbidden"));
    assert!(has("Content-Type: multipart/mixed\n\nno boundary forbidden", "forbidden"));
    assert!(has("\r\nContent-Transfer-Encoding: base64\n\nZm9yYmlkZGVu\n", "forbidden"));
    let outer = "Content-Type: multipart/mixed; boundary=b\nContent-Transfer-Encoding: base64\n\n";
    // "--b\n\nforbidden\n--b--\n"
    assert!(has(&format!("{outer}LS1iCgpmb3JiaWRkZW4KLS1iLS0K\n"), "forbidden"));
    let nested = "Content-Type: multipart/mixed; boundary=ab\n\n--ab\nContent-Type: multipart/mixed; \
                  boundary=abc\n\n--abc\nContent-Transfer-Encoding: base64\n\nZm9yYmlkZGVu\n--abc--\n--ab--\n";
    assert!(has(nested, "forbidden"));
}

#[test]
fn messages_inside_messages_are_opened_encoded_or_not() {
    let inner = "Subject: old =?utf-8?q?th=C3=A9me?=\n\nwas forbidden\n";
    let plain = format!("Content-Type: message/rfc822\n\n{inner}");
    assert!(has(&plain, "forbidden") && has(&plain, "old théme"));
    // "Subject: s\n\nforbidden\n"
    assert!(has(
        "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nU3ViamVjdDogcwoKZm9yYmlkZGVuCg==",
        "forbidden"
    ));
    assert!(has(
        &format!("Content-Type: multipart/digest; boundary=b\n\n--b\n\n{inner}--b--\n"),
        "was forbidden"
    ));
}

#[test]
fn type_is_told_by_content() {
    assert!(has("Content-Type: application/octet-stream; name=n.txt\n\nforbidden\n", "forbidden"));
    let picture =
        "Content-Type: image/png\nContent-Transfer-Encoding: base64\n\niVBORw0KGgoAAAAA/forbidden/AAA=\n";
    assert_eq!(texts(picture), Vec::<String>::new());
}

#[test]
fn ten_thousand_parts_inside_parts_stop_at_the_limit_and_crash_nothing() {
    let mut message = String::new();
    for depth in 0..10_000 {
        message.push_str(&format!("Content-Type: multipart/mixed; boundary=b{depth}\n\n--b{depth}\n"));
    }
    assert!(walk(message.as_bytes(), LIMITS).stopped.is_some());
    let messages = "Content-Type: message/rfc822\n\n".repeat(10_000);
    assert!(walk(messages.as_bytes(), LIMITS).stopped.is_some());
    let doubled =
        "Content-Type: message/rfc822\nContent-Type: multipart/digest; boundary=b\n\n--b\n".repeat(10_000);
    assert!(walk(doubled.as_bytes(), LIMITS).stopped.is_some());
}

#[test]
fn limits_stop_the_walk_and_say_so() {
    let many = format!("Content-Type: multipart/mixed; boundary=b\n\n{}", "--b\n\nx\n".repeat(2000));
    assert_eq!(walk(many.as_bytes(), LIMITS).stopped, Some("too many parts"));
    let long = format!("Subject: x\n\n{}", "filler ".repeat(200_000));
    let walked = walk(long.as_bytes(), LIMITS);
    assert_eq!(walked.stopped, Some("more text than may be searched"));
    assert_eq!(walked.pieces[0].text.len(), 1 << 20, "what fits is searched all the same");
}

#[test]
fn alternatives_know_that_they_are_choices() {
    let message = "Content-Type: multipart/alternative; boundary=b\n\n--b\n\none\n--b\nContent-Type: text/html\n\n\
                   two\n--b--\n";
    let branches: Vec<_> =
        walk(message.as_bytes(), LIMITS).pieces.iter().map(|p| (p.branch, p.html)).collect();
    assert_eq!(branches, [(Some((1, 1)), false), (Some((1, 2)), true)]);
}

fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    use std::io::Write as _;
    let mut writer = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, ::zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn attached(name: &str, content: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(content);
    let head = format!(
        "Content-Type: application/octet-stream\r\nContent-Disposition: attachment; filename=\"{name}\"\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n"
    );
    [head.as_bytes(), encoded.as_bytes()].concat()
}

#[test]
fn files_inside_archives_are_named_by_all_that_is_around_them() {
    let inner = zip(&[("list.txt", b"forbidden"), ("a.png", b"\x89PNG\r\n\x1a\n0000")]);
    let outer = zip(&[("folder/inner.zip", &inner), ("readme.txt", b"nothing")]);
    let walked = walk(&attached("report.zip", &outer), LIMITS);
    let piece = walked.pieces.iter().find(|piece| piece.text.contains("forbidden")).unwrap();
    assert_eq!(piece.name.as_deref(), Some("report.zip/folder/inner.zip/list.txt"));
    assert!(piece.attachment);
    let files: Vec<_> =
        walked.files.iter().map(|f| (f.name.as_deref().unwrap(), f.kind, f.inside_archive)).collect();
    assert_eq!(
        files,
        [
            ("report.zip", "application/zip", false),
            ("report.zip/folder/inner.zip", "application/zip", true),
            ("report.zip/folder/inner.zip/list.txt", "text/plain", true),
            ("report.zip/folder/inner.zip/a.png", "image/png", true),
            ("report.zip/readme.txt", "text/plain", true),
        ]
    );
    assert_eq!((walked.stopped, walked.unreadable), (None, vec![]));
}

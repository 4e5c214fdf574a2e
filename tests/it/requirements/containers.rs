//! Requirements of this part, one test each, named by its number (see docs/requirements.md).

use std::io::Write as _;

use base64::Engine as _;

use crate::support::judge::Judge;
use crate::support::site::OWN;

fn judge() -> Judge {
    Judge::new(&Judge::compliance("r", "{words: [forbidden]}", "{reject: {}}"))
}

fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).expect("in memory");
        writer.write_all(content).expect("in memory");
    }
    writer.finish().expect("in memory").into_inner()
}

fn mail_with(name: &str, content: &[u8]) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(content);
    let lines = encoded.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).expect("ASCII"));
    let lines: Vec<&str> = lines.collect();
    format!(
        "From: {OWN}\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
         --b\r\n\r\nsee the file\r\n--b\r\nContent-Type: application/octet-stream\r\nContent-Disposition: \
         attachment; filename=\"{name}\"\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n--b--\r\n",
        lines.join("\r\n")
    )
}

fn html(body: &str) -> String {
    format!("From: {OWN}\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/html\r\n\r\n{body}\r\n")
}

#[test]
fn r051_subject_body_and_text_attachments_are_searched() {
    let judge = judge();
    let subject = format!("From: {OWN}\r\nSubject: FORBIDDEN\r\n\r\nhello\r\n");
    assert_eq!(judge.disposition(subject), "reject");
    assert!(judge.rejects_body("a forbidden word") && !judge.rejects_body("a word"));
    assert_eq!(judge.disposition(mail_with("n.txt", b"a forbidden word")), "reject");
    assert_eq!(judge.disposition(mail_with("n.txt", b"a forbiddenness")), "deliver");
}

#[test]
fn r055_html_is_matched_as_people_see_it_and_hidden_text_is_told() {
    let judge = judge();
    for seen in [
        "<p>for<b>bid</b>den</p>",
        "for<span style='display:none'>xx</span>bidden",
        "<p>for&#8203;bid&shy;den",
        "<style>.x{font-size:0}</style>for<i class=x>yy</i>bidden",
    ] {
        assert_eq!(judge.disposition(html(seen)), "reject", "{seen}");
    }
    for other in ["<p>for</p><p>bidden</p>", "<p title=forbidden>x</p>", "<!-- forbidden -->x"] {
        assert_eq!(judge.disposition(html(other)), "deliver", "{other}");
    }
    let hidden = judge.mail(html("<p>shown</p><p style='color:#fff'>forbidden</p>"));
    let why = &hidden["messages"][0]["rules"][0]["why"][0];
    assert_eq!(hidden["messages"][0]["disposition"], "reject");
    assert_eq!(why["part"], "body", "{hidden:#}");
}

#[test]
fn r060_a_bomb_is_a_match_unless_the_rule_says_otherwise_and_what_is_locked_is_not() {
    let judge = judge();
    let bomb = zip(&[("a.txt", &vec![b'a'; 12 << 20])]);
    let explained = judge.mail(mail_with("bomb.zip", &bomb));
    assert_eq!(explained["messages"][0]["disposition"], "reject", "{explained:#}");
    let mut deep = zip(&[("x.txt", b"x")]);
    for _ in 0..7 {
        deep = zip(&[("in.zip", &deep)]);
    }
    assert_eq!(judge.disposition(mail_with("deep.zip", &deep)), "reject");
    assert_eq!(judge.disposition(mail_with("a.7z", b"7z\xbc\xaf\x27\x1c\0\x04\0\0\0\0")), "deliver");
}

#[test]
fn r061_attachments_are_opened_by_content_whatever_they_are_called() {
    let judge = judge();
    let document = |text: &str| {
        let xml = format!("<w:document><w:body><w:p>{text}</w:p></w:body></w:document>");
        zip(&[("[Content_Types].xml", b"<Types/>"), ("word/document.xml", xml.as_bytes())])
    };
    let split = document("<w:r><w:t>for</w:t></w:r><w:r><w:t>bidden</w:t></w:r>");
    let twin = document("<w:r><w:t>for</w:t></w:r></w:p><w:p><w:r><w:t>bidden</w:t></w:r>");
    let pdf = b"%PDF-1.4\n1 0 obj<</Type/Page/Contents 2 0 R>>endobj\n2 0 obj<</Length 24>>stream\n\
                BT (forbidden word) Tj ET\nendstream endobj";
    for (name, content, disposition) in [
        ("report.docx", split.clone(), "reject"),
        ("holiday.jpg", split, "reject"),
        ("report.docx", twin, "deliver"),
        ("a.zip", zip(&[("folder/list.csv", b"a;forbidden;b")]), "reject"),
        ("a.pdf", pdf.to_vec(), "reject"),
        ("a.rtf", b"{\\rtf1 for{\\i bidden}}".to_vec(), "reject"),
    ] {
        assert_eq!(judge.disposition(mail_with(name, &content)), disposition, "{name}");
    }
    let named = judge.mail(mail_with("a.zip", &zip(&[("folder/list.csv", b"a;forbidden;b")])));
    let part = &named["messages"][0]["rules"][0]["why"][0]["part"];
    assert_eq!(part, "attachment:a.zip/folder/list.csv");
}

#[test]
fn r062_the_amp_part_is_searched_with_the_others() {
    let judge = judge();
    let mail = |word: &str| {
        format!(
            "From: {OWN}\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=b\r\n\
             \r\n--b\r\n\r\nplain\r\n--b\r\nContent-Type: text/x-amp-html\r\n\r\n<html amp4email><p>{word}</p>\r\n\
             --b--\r\n"
        )
    };
    assert_eq!(judge.disposition(mail("for<b>bidden</b>")), "reject");
    assert_eq!(judge.disposition(mail("for<p>bidden")), "deliver");
}

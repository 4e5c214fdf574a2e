//! Text below a message, in its own charset and encoding (spec R91).

use mail_parser::MessageParser;

use super::super::*;
use super::bodies::*;

fn footer(text: &str) -> Edit {
    Edit::Footer(Footer { text: text.to_owned(), html: None })
}

#[track_caller]
fn texts(out: &str) -> (String, String) {
    let message = MessageParser::new().parse(out.as_bytes()).expect("it parses");
    let text = message.body_text(0).map(|text| text.into_owned()).unwrap_or_default();
    let html = message.body_html(0).map(|text| text.into_owned()).unwrap_or_default();
    (text.replace("\r\n", "|"), html.replace("\r\n", "|"))
}

#[test]
fn r091_a_footer_stands_below_a_plain_message_whose_bytes_stay() {
    let content = message(PLAIN);
    let (out, _) = edited(&content, &[footer("Solarmora Ltd\nJakarta")]);
    assert_eq!(out.as_bytes(), [&content[..], b"\r\nSolarmora Ltd\r\nJakarta\r\n"].concat());
    let bare = format!("{}\r\nno MIME", FRONT.replace("MIME-Version: 1.0\r\n", ""));
    let (out, _) = edited(bare.as_bytes(), &[footer("Solarmora")]);
    assert_eq!(out, format!("{bare}\r\n\r\nSolarmora\r\n"));
}

#[test]
fn r091_every_displayed_alternative_gets_its_form_and_nothing_else_is_touched() {
    let related = multipart("related", "rel", &[HTML, LOGO]);
    let alternative = multipart("alternative", "alt", &[PLAIN, &related]);
    let attached =
        "Content-Type: text/plain; name=notes.txt\r\nContent-Disposition: attachment\r\n\r\nnotes\r\n";
    let content = message(&multipart("mixed", "mix", &[&alternative, attached, PDF]));
    let (out, _) = edited(&content, &[footer("Solarmora <Ltd>")]);
    has(&out, &[attached, PDF, LOGO, "preamble rel", "epilogue alt", "epilogue mix"]);
    has(&out, &["plain text.\r\n\r\nSolarmora <Ltd>\r\n\r\n--alt"]);
    has(
        &out,
        &[
            "<img src=\"cid:logo@x\">\r\n<div class=\"postern-footer\">\r\nSolarmora &lt;Ltd&gt;\r\n</div>\r\n</body></html>",
        ],
    );
    assert_eq!(out.matches("Solarmora").count(), 2);
    let own = Edit::Footer(Footer { text: "t".to_owned(), html: Some("<b>Größe</b>".to_owned()) });
    let (out, _) = edited(&content, &[own]);
    has(&out, &["<b>Gr&#246;&#223;e</b>"]);
}

#[test]
fn r091_charsets_and_encodings_are_kept_where_they_can_say_it() {
    let part = |charset: &str, transfer: &str, body: &str| {
        message(&format!(
            "Content-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: {transfer}\r\n\r\n{body}"
        ))
    };
    for (content, kept, shown) in [
        (part("iso-8859-1", "quoted-printable", "Gr=FC=DFe\r\n"), "Gr=FC=DFe\r\n\r\nB=FCro", "Grüße||Büro"),
        (part("utf-8", "quoted-printable", "soft=\r\n break="), "soft=\r\n break=", "soft break||Büro"),
        (part("utf-8", "base64", "R3LDvMOfZQ==\r\n"), "charset=utf-8", "Grüße||Büro"),
        (part("us-ascii", "7bit", "plain\r\n"), "quoted-printable", "plain||Büro"),
        (part("utf-8", "8bit", "Grüße\r\n"), "Grüße\r\n\r\nBüro\r\n", "Grüße||Büro"),
        (part("iso-2022-jp", "7bit", "\u{1b}$B5!L)\u{1b}(B\r\n"), "charset=utf-8", "機密||Büro"),
        (
            part("iso-8859-1; format=flowed", "quoted-printable", "Gr=FC=DFe\r\n"),
            "format=flowed",
            "Grüße||Büro",
        ),
    ] {
        let (out, notes) = edited(&content, &[footer("Büro")]);
        assert!(notes.is_empty(), "{notes:?}");
        assert!(out.contains(kept), "{kept}: {out}");
        assert_eq!(texts(&out).0.trim_end_matches('|'), shown, "{out}");
    }
    let (out, _) = edited(&part("iso-8859-1", "quoted-printable", "Gr=FC=DFe\r\n"), &[footer("機密")]);
    assert_eq!(texts(&out).0.trim_end_matches('|'), "Grüße||機密", "{out}");
    let (out, _) = edited(&part("iso-2022-jp", "base64", "GyRCNSFMKRsoQg0K\r\n"), &[footer("機")]);
    assert!(out.contains("charset=iso-2022-jp") && texts(&out).0.contains("機密||機"), "{out}");
}

#[test]
fn r091_html_in_every_encoding_has_the_footer_inside_its_body() {
    for (charset, transfer, body) in [
        ("utf-8", "quoted-printable", "<html><body><p>Gr=C3=BC=C3=9Fe</p></body></html>\r\n"),
        ("utf-8", "quoted-printable", "<html><body><p>x</p>=3C/BODY></html>\r\n"),
        ("iso-8859-1", "base64", "PGh0bWw+PGJvZHk+PHA+R3L832U8L3A+PC9ib2R5PjwvaHRtbD4=\r\n"),
        ("utf-8", "7bit", "<p>no end tags</p>\r\n"),
        ("iso-2022-jp", "7bit", "<html><body>\u{1b}$B5!L)\u{1b}(B</body></html>\r\n"),
    ] {
        let content = message(&format!(
            "Content-Type: text/html; charset={charset}\r\nContent-Transfer-Encoding: {transfer}\r\n\r\n{body}"
        ));
        let (out, _) = edited(&content, &[footer("Büro")]);
        let html = texts(&out).1;
        let at = html.find("B&#252;ro").unwrap_or_else(|| panic!("{html}"));
        assert!(html.to_lowercase().find("</body").is_none_or(|end| at < end), "{html}");
    }
}

#[test]
fn r091_several_footers_stand_in_order_and_each_once_even_when_another_gateway_added_it() {
    let content = message(&multipart("alternative", "alt", &[PLAIN, HTML]));
    let (both, _) = edited(&content, &[footer("A"), footer("B"), footer("A")]);
    assert_eq!((both.matches("\r\nA\r\n").count(), both.matches("\r\nB\r\n").count()), (2, 2), "{both}");
    for again in [vec![footer("A")], vec![footer("B")], vec![footer("B"), footer("A")]] {
        assert_eq!(edited(both.as_bytes(), &again).0, both);
    }
    // The same words in the text are not the footer.
    let words = message("Content-Type: text/plain\r\n\r\nAnd\r\nA\r\nis one.\r\n");
    assert!(edited(&words, &[footer("A")]).0.ends_with("is one.\r\n\r\nA\r\n"));
    // A quoted answer has the footer of the question, which is not its own.
    let answer = message("Content-Type: text/plain\r\n\r\n> Hello\r\n>\r\n> A\r\n");
    assert!(edited(&answer, &[footer("A")]).0.ends_with("> A\r\n\r\nA\r\n"));
}

#[test]
fn r091_signed_and_encrypted_mail_gets_none() {
    let signature =
        "Content-Type: application/pgp-signature\r\n\r\n-----BEGIN PGP SIGNATURE-----\r\n\r\niQ==\r\n";
    for content in [
        message(&multipart("signed", "sig", &[PLAIN, signature])),
        message(&multipart("mixed", "mix", &[&multipart("signed", "sig", &[PLAIN, signature]), PDF])),
        message(
            "Content-Type: application/pkcs7-mime\r\nContent-Transfer-Encoding: base64\r\n\r\nMIAGCSqGSIb3DQEHA6CA\r\n",
        ),
        message("Content-Type: text/plain\r\n\r\n-----BEGIN PGP SIGNED MESSAGE-----\r\n\r\nx\r\n"),
        message("Content-Type: text/plain; charset=a; charset=b\r\n\r\nx\r\n"),
        message(&multipart("mixed; boundary=other", "mix", &[PLAIN, PDF])),
        message(PDF),
    ] {
        let (out, notes) = edited(&content, &[footer("Solarmora")]);
        assert_eq!(out.as_bytes(), content);
        assert!(matches!(notes.as_slice(), [Note::FooterLeftOut(_), ..]), "{notes:?}");
    }
}

#[test]
fn r106_attachments_go_before_the_footer_comes_and_the_subject_before_the_headers() {
    let content = message(&multipart("mixed", "mix", &[PLAIN, PDF]));
    let removal = Removal { all: true, notice: Some("gone".to_owned()), ..Removal::default() };
    let mut edits = vec![
        Edit::Journal {
            sender: "ani@solarmora.com".to_owned(),
            recipients: vec!["b@partner.example".to_owned()],
        },
        Edit::AddHeader { name: "X-Rule".to_owned(), value: "r".to_owned() },
        Edit::PrefixSubject { text: "Rahasia".to_owned() },
        footer("Solarmora"),
        Edit::RemoveAttachments(removal),
    ];
    let one = apply_all(&content, &edits).unwrap().into_bytes();
    edits.reverse();
    assert_eq!(one, apply_all(&content, &edits).unwrap().into_bytes(), "the order of a list means nothing");
    let text = String::from_utf8(one).unwrap();
    let journal = text.find("message/rfc822").unwrap();
    let inside = &text[journal..];
    has(inside, &["X-Rule: r", "Subject: [Rahasia] s", "plain text.\r\n\r\nSolarmora\r\n\r\n--mix", "gone"]);
    assert!(!text.contains("JVBER"));
}

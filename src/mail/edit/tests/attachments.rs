//! Which attachments go, and what stays (spec R90, R62).

use super::super::*;
use super::bodies::*;

fn remove(removal: Removal) -> Edit {
    Edit::RemoveAttachments(removal)
}

fn all() -> Removal {
    Removal { all: true, notice: Some("Entfernt: gemäß Regel".to_owned()), ..Removal::default() }
}

fn types(types: &[&str]) -> Removal {
    Removal { types: types.iter().map(|t| (*t).to_owned()).collect(), ..Removal::default() }
}

fn names(names: &[&str]) -> Removal {
    Removal { names: names.iter().map(|t| (*t).to_owned()).collect(), ..Removal::default() }
}

const EML: &str = "Content-Type: message/rfc822\r\n\r\nFrom: c@d.example\r\nSubject: inner\r\n\
                   Content-Type: multipart/mixed; boundary=in\r\n\r\n--in\r\n\r\ninner text\r\n--in\r\n\
                   Content-Type: application/octet-stream; name=x.zip\r\nContent-Transfer-Encoding: base64\r\n\r\n\
                   UEsDBAoAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n--in--\r\n";

#[test]
fn r090_all_attachments_go_and_a_note_with_their_names_stands_where_the_first_was() {
    let related = multipart("related", "rel", &[HTML, LOGO]);
    let text = multipart("alternative", "alt", &[PLAIN, &related]);
    let csv = "Content-Type: text/csv; name*=utf-8''gr%C3%B6%C3%9Fe.csv\r\n\r\na;b\r\n";
    let content = message(&multipart("mixed", "mix", &[&text, PDF, csv, EML]));
    assert_eq!(removed(&content, &all()).unwrap(), ["Report.pdf", "größe.csv", "message/rfc822"]);
    let (out, notes) = edited(&content, &[remove(all())]);
    assert_eq!(notes.iter().filter(|n| matches!(n, Note::Removed(_))).count(), 3);
    has(&out, &[FRONT, &text, "preamble mix", "epilogue mix", LOGO]);
    for gone in ["JVBERi0", "a;b", "inner text", "Report.pdf\"", "x.zip"] {
        assert!(!out.contains(gone), "{gone}: {out}");
    }
    let leaves = leaves(out.as_bytes());
    let note = "Entfernt: gemäß Regel||[Attachment removed: Report.pdf]";
    assert!(leaves.iter().any(|l| l.starts_with("text/plain") && l.contains(note)), "{leaves:#?}");
    assert!(leaves.iter().any(|l| l.starts_with("text/html") && l.contains("Entfernt")), "{leaves:#?}");
    // Text, HTML, picture, and the note in two forms.
    assert_eq!(leaves.len(), 5, "{leaves:#?}");
}

#[test]
fn r090_types_are_told_by_content_and_names_ignore_case_and_their_encoding() {
    let disguised = PDF.replace("application/pdf", "text/plain").replace("Report.pdf", "notes.txt");
    let bare = "Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\nJVBERi0xLjQKJcOkw7zDtsOfCg==\r\n";
    let picture = LOGO.replace("inline", "attachment");
    let content = message(&multipart("mixed", "mix", &[PLAIN, &disguised, bare, &picture, EML]));
    let gone = |removal: &Removal| removed(&content, removal).unwrap();
    assert_eq!(gone(&types(&["application/pdf"])), ["notes.txt", "application/pdf"]);
    assert_eq!(gone(&types(&["IMAGE/*"])), ["logo.png"]);
    assert_eq!(gone(&types(&["message/rfc822"])), ["message/rfc822"]);
    assert_eq!(gone(&types(&["application/zip"])), ["x.zip"]);
    assert_eq!(gone(&names(&["*.TXT", "LOGO.?ng"])), ["notes.txt", "logo.png"]);
    assert_eq!(gone(&names(&["ogo.png", "*.tx"])), [""; 0]);
    let encoded = PDF.replace("; name=\"Report.pdf\"", "; name=\"=?utf-8?q?B=C3=BCro=2Eexe?=\"");
    let two = message(&multipart("mixed", "mix", &[PLAIN, &encoded]));
    assert_eq!(removed(&two, &names(&["büro.EXE"])).unwrap(), ["Report.pdf"], "any name counts");
}

#[test]
fn r090_sizes_are_those_of_the_decoded_bytes() {
    let content = message(&multipart("mixed", "mix", &[PLAIN, PDF]));
    let over =
        |limit| removed(&content, &Removal { larger_than: Some(limit), ..Removal::default() }).unwrap();
    assert_eq!(over(18), ["Report.pdf"]);
    assert_eq!(over(19), [""; 0]);
}

#[test]
fn r090_pictures_in_the_text_stay_unless_they_are_named() {
    let content = message(&multipart("related", "rel", &[HTML, LOGO]));
    assert!(removed(&content, &all()).unwrap().is_empty());
    assert!(removed(&content, &Removal { larger_than: Some(1), ..Removal::default() }).unwrap().is_empty());
    let (out, _) = edited(&content, &[remove(types(&["image/*"]))]);
    assert!(!out.contains("iVBORw0"), "{out}");
    has(&out, &[HTML]);
    assert_eq!(leaves(out.as_bytes()).len(), 3, "the note is beside the related part: {out}");
    // What only says that it is a picture, or that nobody shows, is an attachment.
    for other in [LOGO.replace("iVBORw0K", "UEsDBAoA"), LOGO.replace("logo@x", "other@x")] {
        let content = message(&multipart("related", "rel", &[HTML, &other]));
        assert_eq!(removed(&content, &all()).unwrap(), ["logo.png"]);
    }
}

#[test]
fn r090_a_message_that_is_one_attachment_becomes_the_note() {
    let content = message(PDF);
    let (out, _) = edited(&content, &[remove(all())]);
    assert!(out.starts_with("Received: from app"), "{out}");
    has(&out, &["From: ani@solarmora.com", "Subject: s", "[Attachment removed: Report.pdf]"]);
    assert!(!out.contains("application/pdf") && out.matches("MIME-Version").count() == 1, "{out}");
    assert_eq!(leaves(out.as_bytes()).len(), 1);
    // The same inside a forwarded message.
    let inner = format!("Content-Type: message/rfc822\r\n\r\nSubject: fw\r\n{PDF}");
    let (out, _) = edited(
        &message(&multipart("mixed", "mix", &[PLAIN, &inner])),
        &[remove(types(&["application/pdf"]))],
    );
    has(&out, &["Subject: fw\r\n", PLAIN, "[Attachment removed: Report.pdf]"]);
    assert!(!out.contains("JVBERi0"), "{out}");
}

#[test]
fn r090_a_note_never_stands_where_it_would_be_shown_instead_of_the_text() {
    let calendar = "Content-Type: text/calendar; name=invite.ics\r\n\r\nBEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n";
    let alternative = multipart("alternative", "alt", &[PLAIN, HTML, calendar]);
    for content in [message(&alternative), message(&multipart("mixed", "mix", &[&alternative, LOGO]))] {
        let (out, _) = edited(&content, &[remove(names(&["*.ics"]))]);
        has(&out, &[PLAIN, HTML, "[Attachment removed: invite.ics]", "preamble alt", "epilogue alt"]);
        assert!(!out.contains("VCALENDAR"), "{out}");
        let message = mail_parser::MessageParser::new().parse(out.as_bytes()).unwrap();
        assert!(message.body_text(0).unwrap().contains("plain text."));
        assert!(message.body_html(0).unwrap().contains("<p>Hello</p>"));
    }
    // A multipart that loses all its parts goes with them.
    let content =
        message(&multipart("mixed", "mix", &[PLAIN, &multipart("alternative", "alt", &[calendar, PDF])]));
    let (out, _) = edited(&content, &[remove(all())]);
    assert!(!out.contains("alt"), "{out}");
    assert!(out.contains("[Attachment removed: invite.ics]\r\n[Attachment removed: Report.pdf]"), "{out}");
}

#[test]
fn r137_removals_add_up_and_each_notice_is_told_once() {
    let content = message(&multipart("mixed", "mix", &[PLAIN, PDF, &LOGO.replace("inline", "attachment")]));
    let notice = |removal: Removal, text: &str| remove(Removal { notice: Some(text.to_owned()), ..removal });
    let edits = [
        notice(types(&["application/pdf"]), "no files"),
        notice(types(&["image/png"]), "no files"),
        notice(names(&["*.exe"]), "no programs"),
    ];
    let (out, _) = edited(&content, &edits);
    assert_eq!(out.matches("no files").count(), 1, "{out}");
    assert!(!out.contains("no programs") && !out.contains("JVBER") && !out.contains("iVBOR"), "{out}");
}

#[test]
fn r090_a_signed_message_that_loses_a_part_loses_its_void_signature_and_it_is_reported() {
    let signature = "Content-Type: application/pkcs7-signature; name=smime.p7s\r\nContent-Disposition: attachment; \
                     filename=smime.p7s\r\nContent-Transfer-Encoding: base64\r\n\r\n\
                     MIAGCSqGSIb3DQEHAqCAMIACAQExDzANBglghkgBZQMEAgEFADCABgkqhkiG9w0BBwE=\r\n";
    let inner = multipart("mixed", "in", &[PLAIN, PDF]);
    let kind = "signed; protocol=\"application/pkcs7-signature\"; micalg=sha-256";
    let content = message(&multipart(kind, "sig", &[&inner, signature]));
    assert_eq!(removed(&content, &all()).unwrap(), ["Report.pdf"], "the signature is no attachment");
    let (out, notes) = edited(&content, &[remove(all())]);
    assert!(notes.contains(&Note::SignatureVoid));
    assert!(!out.contains("multipart/signed") && !out.contains("MIAGCSq"), "{out}");
    has(&out, &[PLAIN]);
    // Nothing to remove: the signature stays whole.
    let content = message(&multipart(kind, "sig", &[PLAIN, signature]));
    assert_eq!(edited(&content, &[remove(all())]).0.as_bytes(), content);
    // What only calls itself a signature is an attachment.
    let forged =
        signature.replace("MIAGCSqGSIb3DQEHAqCAMIACAQExDzANBglghkgBZQMEAgEFADCABgkqhkiG9w0BBwE=", "TVqQAAMA");
    let content = message(&multipart(kind, "sig", &[PLAIN, &forged]));
    assert_eq!(removed(&content, &all()).unwrap(), ["smime.p7s"]);
}

#[test]
fn r090_encrypted_mail_stays_and_what_only_claims_to_be_does_not() {
    let pgp = "Content-Type: application/octet-stream; name=encrypted.asc\r\n\r\n-----BEGIN PGP MESSAGE-----\r\n\r\nhQ==\r\n-----END PGP MESSAGE-----\r\n";
    let version = "Content-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n";
    let encrypted =
        message(&multipart("encrypted; protocol=\"application/pgp-encrypted\"", "enc", &[version, pgp]));
    let (out, notes) = edited(&encrypted, &[remove(all())]);
    assert_eq!((out.as_bytes(), notes.as_slice()), (&encrypted[..], &[Note::EncryptedKept][..]));
    let false_one = message(&multipart("encrypted", "enc", &[version, PDF]));
    assert!(removed(&false_one, &all()).unwrap().contains(&"Report.pdf".to_owned()));
    let opaque = "Content-Type: application/pkcs7-mime; smime-type=signed-data\r\nContent-Transfer-Encoding: base64\r\n\r\n\
                  MIAGCSqGSIb3DQEHAqCAMIACAQExDzANBglghkgBZQMEAgEFADCABgkqhkiG9w0BBwE=\r\n";
    let program = opaque.replace("MIAG", "TVqQ");
    assert_eq!(
        removed(&message(&program), &all()).unwrap(),
        ["application/vnd.microsoft.portable-executable"]
    );
}

#[test]
fn r090_what_is_read_differently_by_different_programs_does_not_leave_unremoved() {
    for ambiguous in [
        multipart("mixed; boundary=other", "mix", &[PLAIN, PDF]),
        multipart("mixed", "mix", &[PLAIN, PDF]).replace("--mix--", "--mix-x"),
        multipart("mixed", "mix", &[PLAIN, PDF])
            .replace("multipart/mixed;", "multipart/mixed; x=y\r\nContent-Type: text/plain;"),
        multipart("mixed", "mix", &[PLAIN, PDF]).replace("boundary=", "limit="),
        multipart("mixed", "mix", &[PLAIN, &PDF.replacen("\r\n\r\n", "\r\n", 1)]),
        format!("Content-Transfer-Encoding: base64\r\n{}", multipart("mixed", "mix", &[PLAIN, PDF])),
    ] {
        let content = message(&ambiguous);
        let refused = apply_all(&content, &[remove(all())]);
        assert!(matches!(refused, Err(EditError::Structure(_))), "{ambiguous}");
    }
    // A missing end is read alike by all.
    let open = multipart("mixed", "mix", &[PLAIN, PDF]).split("--mix--").next().unwrap().to_owned();
    assert_eq!(removed(&message(&open), &all()).unwrap(), ["Report.pdf"]);
}

#[test]
fn r090_what_is_signed_as_a_whole_is_opened_only_when_something_in_it_goes() {
    use super::encryption::Keys;
    let keys = Keys::new("opaque", &["rsa:2048"], &[]);
    for inside in [multipart("mixed", "mix", &[PLAIN, PDF]), PLAIN.to_owned()] {
        let content = [FRONT.replace("MIME-Version: 1.0\r\n", "").as_bytes(), &keys.signed(&inside)].concat();
        let (out, notes) = edited(&content, &[remove(all())]);
        if inside == PLAIN {
            assert_eq!(out.as_bytes(), content, "the signature stays");
            continue;
        }
        assert!(notes.contains(&Note::SignatureVoid), "{notes:?}");
        has(&out, &["Subject: s\r\n", PLAIN, "[Attachment removed: Report.pdf]"]);
        assert!(!out.contains("pkcs7") && !out.contains("JVBER"), "{out}");
        assert_eq!(removed(&content, &all()).unwrap(), ["Report.pdf"]);
    }
}

#[test]
fn r090_files_written_into_a_text_are_attachments() {
    let file = "begin 644 tool.exe\r\n#0V%T\r\n`\r\nend\r\n";
    let text = |body: &str| message(&format!("Content-Type: text/plain; charset=utf-8\r\n\r\n{body}"));
    let content = text(&format!("Grüße\r\n{file}after\r\nbegin with this\r\n"));
    assert_eq!(removed(&content, &names(&["*.EXE"])).unwrap(), ["tool.exe"]);
    assert!(removed(&content, &names(&["*.zip"])).unwrap().is_empty());
    let (out, _) = edited(&content, &[remove(names(&["*.exe"]))]);
    assert_eq!(
        out.as_bytes(),
        text("Grüße\r\n[Attachment removed: tool.exe]\r\nafter\r\nbegin with this\r\n")
    );
}

#[test]
fn r062_amp_goes_and_its_neighbours_stay() {
    let amp = "Content-Type: text/x-amp-html; charset=utf-8\r\n\r\n<html amp4email>x</html>\r\n";
    let content = message(&multipart("alternative", "alt", &[PLAIN, amp, HTML]));
    let (out, _) = edited(&content, &[Edit::StripAmp]);
    assert_eq!(out.as_bytes(), message(&multipart("alternative", "alt", &[PLAIN, HTML])));
    let (out, _) = edited(&message(&multipart("alternative", "alt", &[PLAIN, amp])), &[Edit::StripAmp]);
    assert_eq!(out.as_bytes(), message(&multipart("alternative", "alt", &[PLAIN])));
    for content in [message(amp), message(&multipart("alternative", "alt", &[amp]))] {
        let (out, _) = edited(&content, &[Edit::StripAmp]);
        assert!(!out.contains("x-amp") && !out.contains("amp4email"), "{out}");
        assert!(leaves(out.as_bytes())[0].starts_with("text/plain"));
    }
    let twice = format!("Content-Type: text/plain\r\n{amp}");
    assert!(matches!(apply_all(&message(&twice), &[Edit::StripAmp]), Err(EditError::Structure(_))));
    let spoken = message("Content-Type: text/plain\r\n\r\nWe speak of text/x-amp-html here.\r\n");
    assert_eq!(edited(&spoken, &[Edit::StripAmp]).0.as_bytes(), spoken);
}

#[test]
fn globs_are_matched_in_bounded_time() {
    use super::super::attachments::fits;
    for (glob, name, expected) in [
        ("*.exe", "A.EXE", true),
        ("*.exe", "a.exe.txt", false),
        ("a?c*", "abcdef", true),
        ("*", "", true),
        ("", "x", false),
        ("STRASSE*", "strasse.pdf", true),
        ("*ö*", "BÖSE", true),
    ] {
        assert_eq!(fits(glob, name), expected, "{glob} {name}");
    }
    assert!(!fits(&"*a".repeat(200), &"a".repeat(150)));
}

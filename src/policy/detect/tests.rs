//! Numbers here are made up, or printed in the documentation of those who issue them.

use super::*;

/// The surest find of a detector in a text.
fn surest(detector: Detector, text: &str) -> Option<Confidence> {
    let mut best = None;
    scan(&[detector], text, &mut |_, find| best = best.max(Some(find.confidence)));
    best
}

/// Different finds that are at least so sure.
fn count(detector: Detector, least: Confidence, text: &str) -> usize {
    let mut keys = std::collections::HashSet::new();
    scan(&[detector], text, &mut |_, find| {
        if find.confidence >= least {
            keys.insert(find.key);
        }
    });
    keys.len()
}

const LOW: Option<Confidence> = Some(Confidence::Low);
const MEDIUM: Option<Confidence> = Some(Confidence::Medium);
const HIGH: Option<Confidence> = Some(Confidence::High);

fn check(detector: Detector, cases: &[(&str, Option<Confidence>)]) {
    for (text, expected) in cases {
        assert_eq!(surest(detector, text), *expected, "{detector:?} in {text:?}");
    }
}

#[test]
fn cards_of_every_network_however_they_are_written() {
    check(
        Detector::PaymentCard,
        &[
            ("4111111111111111", MEDIUM),
            ("4111 1111 1111 1111", MEDIUM),
            ("4111-1111-1111-1111.", MEDIUM),
            ("4111.1111.1111.1111", MEDIUM),
            ("4111 - 1111 - 1111 - 1111", MEDIUM),
            ("4111 1111\n1111 1111", MEDIUM),
            ("4111\u{a0}1111\u{a0}1111\u{a0}1111", MEDIUM),
            ("4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", MEDIUM),
            ("12 4111 1111 1111 1111 12/29", MEDIUM),
            ("٤١١١ ١١١١ ١١١١ ١١١١", MEDIUM),
            ("Visa: 4111 1111 1111 1111", HIGH),
            ("信用卡4111111111111111", HIGH),
            ("номер карты 4111 1111 1111 1111", HIGH),
            ("4111 1111 1111 1112", LOW),
            ("378282246310005", MEDIUM),
            ("3782 822463 10005", MEDIUM),
            ("3056 930902 5904", MEDIUM),
            ("5555555555554444", MEDIUM),
            ("6011111111111117", MEDIUM),
            ("3530111333300000", MEDIUM),
            ("2200000000000053", MEDIUM),
            ("6759649826438453", MEDIUM),
            ("4222222222222", MEDIUM),
            ("1234567812345670", None),
            ("41111111111111111111111", None),
            ("x4111111111111111", None),
            ("1-4111111111111111", None),
            ("4.11 1.11 1.11 1.11 1.11 1.1", None),
        ],
    );
}

#[test]
fn ibans_by_country() {
    check(
        Detector::Iban,
        &[
            ("DE89 3704 0044 0532 0130 00", MEDIUM),
            ("de89370400440532013000", MEDIUM),
            ("IBAN: GB82 WEST 1234 5698 7654 32", HIGH),
            ("NO93 8601 1117 947", MEDIUM),
            ("MT84MALT011000012345MTLCAST001S", MEDIUM),
            ("DE88 3704 0044 0532 0130 00", LOW),
            ("DE89 3704 0044 0532 0130 0", None),
            ("ZZ89 3704 0044 0532 0130 00", None),
        ],
    );
}

#[test]
fn national_numbers_with_their_check_digits() {
    use Detector::*;
    check(
        UsSocialSecurityNumber,
        &[
            ("219-45-6789", MEDIUM),
            ("SSN 219-45-6789", HIGH),
            ("219456789", None),
            ("social security 219456789", HIGH),
            ("000-45-6789", LOW),
            ("666-45-6789", LOW),
            ("900-45-6789", LOW),
            ("219-00-6789", LOW),
            ("1219-45-6789", None),
        ],
    );
    check(
        UkNationalInsuranceNumber,
        &[
            ("AB123456C", MEDIUM),
            ("ab 12 34 56 c", MEDIUM),
            ("National Insurance AB123456C", HIGH),
            ("BG123456C", LOW),
            ("AB123456E", LOW),
            ("AB12345C", None),
        ],
    );
    check(
        GermanTaxId,
        &[
            ("86095742719", MEDIUM),
            ("86 095 742 719", MEDIUM),
            ("Steuer-ID: 47036892816", HIGH),
            ("86095742718", LOW),
            ("06095742719", None),
        ],
    );
    check(
        FrenchSocialSecurityNumber,
        &[
            ("2 55 08 14 168 025 38", MEDIUM),
            ("255081416802538", MEDIUM),
            ("1 84 03 2A 012 345 96", MEDIUM),
            ("sécurité sociale 255081416802538", HIGH),
            ("255081416802539", LOW),
            ("955081416802538", None),
        ],
    );
    check(
        SpanishDni,
        &[
            ("12345678Z", MEDIUM),
            ("12345678-Z", MEDIUM),
            ("X-1234567-L", MEDIUM),
            ("DNI 12.345.678-Z", HIGH),
            ("12345678A", LOW),
        ],
    );
    check(
        ItalianFiscalCode,
        &[
            ("RSSMRA85T10A562S", MEDIUM),
            ("rss mra 85t10 a562s", MEDIUM),
            ("Codice fiscale: RSSMRA85T10A562S", HIGH),
            ("RSSMRA85T10A562T", LOW),
            ("RSSMRA85Z10A562S", None),
        ],
    );
    check(
        DutchBsn,
        &[("111222333", MEDIUM), ("1112.22.333", MEDIUM), ("BSN: 123456782", HIGH), ("111222334", LOW)],
    );
    check(
        SwedishPersonalNumber,
        &[
            ("811218-9876", MEDIUM),
            ("19811218-9876", MEDIUM),
            ("8112189876", MEDIUM),
            ("personnummer 811218-9876", HIGH),
            ("811218-9877", LOW),
            ("811318-9876", None),
        ],
    );
    check(
        IndonesianNik,
        &[
            ("3174055708900001", MEDIUM),
            ("NIK: 3174055708900001", HIGH),
            ("3174059908900001", LOW),
            ("9974055708900001", None),
        ],
    );
    check(
        JapaneseMyNumber,
        &[("1234 5678 9018", MEDIUM), ("マイナンバー：123456789018", HIGH), ("123456789019", LOW)],
    );
    check(
        ChineseResidentId,
        &[
            ("11010519491231002X", MEDIUM),
            ("身份证号11010519491231002x", HIGH),
            ("110105194912310021", LOW),
            ("110105194913310021", None),
        ],
    );
    check(
        IndianAadhaar,
        &[
            ("2341 2341 2346", MEDIUM),
            ("Aadhaar 234123412346", HIGH),
            ("234123412347", LOW),
            ("134123412346", None),
        ],
    );
    check(
        BrazilianCpf,
        &[
            ("111.444.777-35", MEDIUM),
            ("CPF 11144477735", HIGH),
            ("111.444.777-36", LOW),
            ("111.111.111-11", None),
        ],
    );
}

#[test]
fn addresses_and_telephone_numbers() {
    check(
        Detector::EmailAddress,
        &[
            ("ani@solarmora.com", MEDIUM),
            ("Kontakt: jörg@bücher.example", HIGH),
            ("<a.b+c@d.e-f.co.uk>", MEDIUM),
            ("a@b", None),
            ("@example.org", None),
            ("a..b@example.org", None),
        ],
    );
    check(
        Detector::PhoneNumber,
        &[
            ("+62 812-3456-7890", MEDIUM),
            ("Tel. +49 (0) 89 1234567", HIGH),
            ("+1 (415) 555-0123", MEDIUM),
            ("call 0812 3456 7890", HIGH),
            ("0812 3456 7890", None),
            ("phone (415) 555-0123", HIGH),
            ("電話03-1234-5678", HIGH),
            ("+999", None),
            ("Tel 12 Stück", None),
            ("order 2026-11-22", None),
        ],
    );
}

#[test]
fn keys_and_tokens() {
    let body = "MIIEpAIBAAKCAQEA7v3b0n6s1Q0Jm5t9uW2xYz8AbCdEfGhIjKlMnOpQrStUv";
    check(
        Detector::PrivateKey,
        &[
            (&format!("-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----"), HIGH),
            (&format!("-----BEGIN OPENSSH PRIVATE KEY-----\\n{body}"), HIGH),
            (&format!("> -----BEGIN PRIVATE KEY-----\n> {body}"), HIGH),
            ("a file starts with -----BEGIN PRIVATE KEY----- and ends so", LOW),
            (&format!("-----BEGIN PUBLIC KEY-----\n{body}"), None),
        ],
    );
    // In two pieces, so that no scanner of sources takes them for keys that leaked.
    let made = |start: &str, rest: &str| format!("{start}{rest}");
    check(
        Detector::AccessKey,
        &[
            (&made("AKIA", "Q7R2T5W8Y3Z4X6V9"), MEDIUM),
            (&made("access key AKIA", "Q7R2T5W8Y3Z4X6V9"), HIGH),
            (&made("AKIA", "Q7R2T5W8Y3Z4X6V9Z"), None),
            (&made("ghp_", "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"), MEDIUM),
            (&made("glpat-", "a1B2c3D4e5F6g7H8i9J0"), MEDIUM),
            (&made("xoxb-", "123456789012-abcdefABCDEF"), MEDIUM),
            (&made("AIza", "SyA1B2C3D4E5F6G7H8I9J0K1L2M3N4O5P6Q"), MEDIUM),
            (&made("sk_live_", "a1B2c3D4e5F6g7H8i9J0"), MEDIUM),
            (
                &made("Bearer eyJ", "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"),
                HIGH,
            ),
            (&made("aws_secret_access_key = ", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYz1a2b3c4d5"), HIGH),
            (&made("ghp_", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), LOW),
        ],
    );
}

#[test]
fn different_finds_count_once_each_however_they_are_written() {
    let text = "4111 1111 1111 1111, 4111-1111-1111-1111 and 5555555555554444; 4111 1111 1111 1112";
    assert_eq!(count(Detector::PaymentCard, Confidence::Medium, text), 2);
    assert_eq!(count(Detector::PaymentCard, Confidence::Low, text), 3);
    assert_eq!(count(Detector::EmailAddress, Confidence::Low, "A@x.org a@X.org b@x.org"), 2);
}

#[test]
fn a_find_is_where_it_stands_also_far_into_a_long_text() {
    let text = format!("{}card 4111 1111 1111 1111", "1 23 456 x ".repeat(20_000));
    let mut found = Vec::new();
    scan(&[Detector::PaymentCard], &text, &mut |_, find| found.push(find));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (&text[found[0].range.clone()], found[0].confidence),
        ("4111 1111 1111 1111", Confidence::High)
    );
}

proptest::proptest! {
    /// Whatever the text: finds lie inside it on whole characters.
    #[test]
    fn finds_lie_inside_the_text(text in "[ -~0-9é機٤+\\n\\-]{0,80}|(\\PC{0,60})") {
        let all = [
            Detector::PaymentCard, Detector::Iban, Detector::EmailAddress, Detector::PhoneNumber,
            Detector::UsSocialSecurityNumber, Detector::UkNationalInsuranceNumber, Detector::GermanTaxId,
            Detector::FrenchSocialSecurityNumber, Detector::SpanishDni, Detector::ItalianFiscalCode,
            Detector::DutchBsn, Detector::SwedishPersonalNumber, Detector::IndonesianNik, Detector::JapaneseMyNumber,
            Detector::ChineseResidentId, Detector::IndianAadhaar, Detector::BrazilianCpf, Detector::PrivateKey,
            Detector::AccessKey,
        ];
        scan(&all, &text, &mut |_, find| {
            assert!(text.get(find.range.clone()).is_some_and(|found| !found.is_empty()), "{find:?}");
        });
    }
}

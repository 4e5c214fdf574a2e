//! Dialogues: the golden ones of `tests/golden/dialogue`, those of `../shared` when they are there, and
//! the golden ones once more with an octet at a time.

use std::path::{Path, PathBuf};

use super::support::{Client, check, escape, replay};
use crate::mail::rate::Rate;
use crate::smtp::auth::Users;
use crate::smtp::settings::{Settings, TlsMode};

fn golden() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dialogue");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 20, "there are only {} dialogues in {}", files.len(), folder.display());
    files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// Small limits, so that dialogues can reach them.
fn settings() -> Settings {
    let mut settings = Settings::new("gw.example");
    settings.limits.message_size = 1000;
    settings.limits.recipients = 3;
    settings.limits.errors = 5;
    settings.limits.chatter = 12;
    settings
}

/// With `# users` somewhere, `app` may log in with `pencil`, and has three tries.
fn settings_for(transcript: &str) -> Settings {
    let mut settings = settings();
    settings.timeouts.failed_login = std::time::Duration::ZERO;
    settings.limits.failed_logins = Rate::whole(3, std::time::Duration::from_secs(600));
    if transcript.contains("# users") {
        settings.users = std::sync::Arc::new(Users::new([("app", Box::<[u8]>::from(&b"pencil"[..]))]));
    }
    settings
}

fn mode(transcript: &str) -> TlsMode {
    match transcript.lines().next() {
        Some("# tls: Required") => TlsMode::Required,
        Some("# tls: Implicit") => TlsMode::Implicit,
        _ => TlsMode::Optional,
    }
}

/// `UPDATE=1` writes down what happens now; read the difference before you commit it.
#[tokio::test]
async fn every_golden_dialogue_goes_as_written() {
    let update = std::env::var_os("UPDATE").is_some();
    let mut differ = Vec::new();
    for (path, transcript) in golden() {
        let mut client = Client::connect(settings_for(&transcript), mode(&transcript));
        let played = replay(&mut client, &transcript).await;
        if update {
            std::fs::write(&path, played).unwrap();
        } else if played != transcript {
            differ.push(format!("{}: expected\n{transcript}\nbut was\n{played}", path.display()));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

/// The server's side of a dialogue does not depend on how the client's octets arrive.
#[tokio::test]
async fn every_golden_dialogue_goes_the_same_octet_by_octet() {
    for (path, transcript) in golden() {
        // What a client may not send ahead is judged by whether it was sent ahead.
        if transcript.contains("# in one segment") {
            continue;
        }
        let mut client = Client::connect(settings_for(&transcript), mode(&transcript));
        client.octet_by_octet = true;
        let played = replay(&mut client, &transcript).await;
        let of_server = |text: &str| {
            text.lines().filter(|line| !line.starts_with('C')).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of_server(&played), of_server(&transcript), "{}", path.display());
    }
}

#[tokio::test]
async fn a_hundred_recipients_are_taken_once_each() {
    let mut client = Client::connect(Settings::new("gw.example"), TlsMode::Optional);
    let recipients: String = (0..100).map(|n| format!("RCPT TO:<r{n}@b.example>\r\n")).collect();
    client.send(format!("EHLO c\r\nMAIL FROM:<>\r\n{recipients}DATA\r\nhi\r\n.\r\n").as_bytes()).await;
    client.hear().await;
    let taken = client.script.taken.lock().unwrap();
    let taken: Vec<_> = taken[0].recipients.iter().map(|r| r.mailbox.local().to_owned()).collect();
    assert_eq!(taken, (0..100).map(|n| format!("r{n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn two_hundred_bad_commands_end_in_421() {
    let mut client = Client::connect(Settings::new("gw.example"), TlsMode::Optional);
    client.send("XYZZY\r\n".repeat(200).as_bytes()).await;
    let heard = String::from_utf8(client.hear().await).unwrap();
    let lines: Vec<&str> = heard.lines().skip(1).collect();
    assert_eq!(lines.len(), 22);
    assert!(lines[..20].iter().all(|line| line.starts_with("500 5.5.2 ")));
    assert_eq!(lines[20..], ["421 4.7.0 Too many errors", "<closed>"]);
}

#[tokio::test]
async fn long_lines_and_eight_bit_octets_arrive_as_they_were() {
    for length in [998, 1200, 70_000, 2 << 20] {
        let mut client = Client::connect(Settings::new("gw.example"), TlsMode::Optional);
        let line: Vec<u8> = (0..length).map(|n| [0x80, 0xff, b'.', b' ', b'x', b'\t', 1][n % 7]).collect();
        let content = [b"Subject: x\r\n\r\n", &line[..], b"\r\n"].concat();
        client.send(b"EHLO c\r\nMAIL FROM:<> BODY=8BITMIME\r\nRCPT TO:<b@b.example>\r\nDATA\r\n").await;
        client.send(&content).await;
        client.send(b".\r\n").await;
        client.hear().await;
        assert!(client.script.taken.lock().unwrap()[0].content == content, "{length} octets");
    }
}

/// Random octets from a fixed seed: whatever comes, the server answers or closes, and no message is
/// taken that was not asked for.
#[tokio::test]
async fn noise_is_survived() {
    use rand::{Rng, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(4711);
    let words = [
        "EHLO c\r\n",
        "MAIL FROM:<a@b.c>",
        "RCPT TO:<",
        "DATA\r\n",
        "\r\n.\r\n",
        "\0",
        "\n",
        "\r",
        "STARTTLS\r\n",
    ];
    for round in 0..500 {
        let mut client = Client::connect(settings(), TlsMode::Optional);
        let mut noise: Vec<u8> = Vec::new();
        for _ in 0..random.random_range(1..20) {
            match round % 2 {
                0 => noise.push(random.random()),
                _ => noise.extend(words[random.random_range(0..words.len())].bytes()),
            }
        }
        client.send(&noise).await;
        let heard = client.hear().await;
        assert!(heard.starts_with(b"220 gw.example ESMTP"), "{}", escape(&noise));
        let positive = String::from_utf8_lossy(&heard).matches("250 2.0.0 Taken").count();
        assert_eq!(client.script.taken.lock().unwrap().len(), positive, "{}", escape(&noise));
    }
}

#[tokio::test]
async fn tls_on_the_plain_port_is_told_so() {
    let mut client = Client::connect(settings(), TlsMode::Optional);
    let mut hello = vec![0x16, 3, 1, 0, 200];
    hello.resize(205, 7);
    client.send(&hello).await;
    let heard = String::from_utf8(client.hear().await).unwrap();
    assert!(
        heard.ends_with("554 5.5.2 TLS begins with STARTTLS on this port; closing\r\n<closed>\r\n"),
        "{heard}"
    );
}

/// The dialogues handed to us from outside. Those that need a whole gateway (no steps) are not ours.
#[tokio::test]
async fn the_shared_protocol_dialogues_pass() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mail-cases/protocol.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    for case in all["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let mut client = Client::connect(Settings::new("gw.example"), TlsMode::Optional);
        let mut heard = String::from_utf8(client.hear().await).unwrap();
        assert!(heard.starts_with("220 "), "{name}: {heard}");
        for step in case["steps"].as_array().into_iter().flatten() {
            let (say, expect) = (step[0].as_str().unwrap(), step[1].as_str().unwrap());
            match say {
                "<TLS handshake>" => client.start_tls().await.unwrap(),
                "<TLS handshake if 220>" if heard.starts_with("220") => client.start_tls().await.unwrap(),
                "<TLS handshake if 220>" => {}
                _ => {
                    if !say.starts_with('<') {
                        client.send(say.as_bytes()).await;
                    }
                    heard = String::from_utf8(client.hear().await).unwrap();
                    assert!(fits(expect, &heard), "{name}: {say:?} was answered {heard:?}, not {expect:?}");
                }
            }
            if let Some(replies) = case["replies"].as_u64().filter(|_| say.contains("\nDATA")) {
                let last_lines = heard.lines().filter(|line| line.as_bytes().get(3) == Some(&b' ')).count();
                assert_eq!(last_lines as u64, replies, "{name}: {heard}");
            }
        }
        let taken = client.script.taken.lock().unwrap();
        let to = |address: &serde_json::Value| {
            taken.iter().flat_map(|taken| &taken.recipients).any(|r| address == &r.mailbox.to_string())
        };
        assert!(case["delivers"].is_null() || to(&case["delivers"]), "{name}: not delivered");
        assert!(!to(&case["never_delivers"]), "{name}: delivered to {}", case["never_delivers"]);
        if case["sender"] == "" {
            assert_eq!(taken[0].sender.mailbox, None, "{name}");
        }
    }
}

/// Matches a pattern of the shared file; `(?!.*WORD)`, which `regex` does not know, only ever ends one.
fn fits(pattern: &str, heard: &str) -> bool {
    let (pattern, unwanted) = match pattern.split_once("(?!.*") {
        Some((pattern, rest)) => (pattern, rest.strip_suffix(')')),
        None => (pattern, None),
    };
    regex::Regex::new(pattern).unwrap().is_match(heard) && unwanted.is_none_or(|word| !heard.contains(word))
}

#[tokio::test]
async fn postmaster_needs_no_domain() {
    check(
        settings(),
        TlsMode::Optional,
        r"S: 220 gw.example ESMTP Postern
          C: HELO c.example
          S: 250 gw.example
          C: MAIL FROM:<>
          C: RCPT TO:<PostMaster>
          C: DATA
          S: 250 2.1.0 Sender OK
          S: 250 2.1.5 Recipient OK
          S: 354 End data with <CR><LF>.<CR><LF>
          C: hi
          C: .
          S: 250 2.0.0 Taken
          M: <> -> <PostMaster@gw.example> by HELO c.example: hi\r\n
          ",
    )
    .await;
}

#[tokio::test]
async fn garbage_instead_of_a_handshake_ends_the_session_and_nothing_more() {
    let mut client = Client::connect(settings(), TlsMode::Optional);
    client.send(b"STARTTLS\r\n").await;
    client.hear().await;
    client.send(b"this is not TLS at all\r\nEHLO c\r\n").await;
    let heard = client.hear().await;
    assert!(heard.ends_with(b"<closed>\r\n") && !heard.starts_with(b"2"), "{}", escape(&heard));
}

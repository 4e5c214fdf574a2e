//! Whatever the message: no panic, nothing changed that no edit names, twice is once.

use proptest::prelude::*;

use super::super::*;
use super::bodies::*;

/// A leaf: fields and body, and whether it is an attachment.
#[derive(Debug, Clone)]
struct Leaf {
    text: String,
    attachment: bool,
}

#[derive(Debug, Clone)]
enum Node {
    Leaf(Leaf),
    Many(&'static str, Vec<Node>),
}

fn leaf() -> impl Strategy<Value = Leaf> {
    let word = "[a-z ]{1,20}";
    prop_oneof![
        word.prop_map(|w| Leaf {
            text: format!("Content-Type: text/plain; charset=utf-8\r\n\r\nText {w}\r\n"),
            attachment: false
        }),
        word.prop_map(|w| Leaf {
            text: format!("Content-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<p>=41{w}</p></body>"),
            attachment: false,
        }),
        "[A-Za-z0-9]{8}".prop_map(|w| Leaf {
            text: format!(
                "Content-Type: application/octet-stream; name={w}.bin\r\nContent-Transfer-Encoding: base64\r\n\r\nAAEC{w}\r\n"
            ),
            attachment: true,
        }),
        "[A-Za-z0-9]{8}".prop_map(|w| Leaf {
            text: format!("Content-Type: message/rfc822\r\n\r\nSubject: {w}\r\n\r\nforwarded {w}\r\n"),
            attachment: true,
        }),
    ]
}

fn node() -> impl Strategy<Value = Node> {
    let kind = prop_oneof![Just("mixed"), Just("alternative"), Just("related"), Just("x-unknown")];
    leaf().prop_map(Node::Leaf).prop_recursive(4, 24, 5, move |inner| {
        (kind.clone(), prop::collection::vec(inner, 1..5)).prop_map(|(kind, nodes)| Node::Many(kind, nodes))
    })
}

/// The entity, and its leaves in order.
fn write(node: &Node, number: &mut usize, leaves: &mut Vec<Leaf>) -> String {
    match node {
        Node::Leaf(leaf) => {
            leaves.push(leaf.clone());
            leaf.text.clone()
        }
        Node::Many(kind, nodes) => {
            *number += 1;
            let boundary = format!("=b{}_", *number);
            let parts: Vec<String> = nodes.iter().map(|node| write(node, number, leaves)).collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            multipart(kind, &boundary, &parts)
        }
    }
}

fn built(node: &Node) -> (Vec<u8>, Vec<Leaf>) {
    let mut leaves = Vec::new();
    let text = write(node, &mut 0, &mut leaves);
    (message(&text), leaves)
}

fn all_gone() -> Edit {
    Edit::RemoveAttachments(Removal { all: true, ..Removal::default() })
}

fn body_edits() -> Vec<Edit> {
    vec![
        all_gone(),
        Edit::StripAmp,
        Edit::Footer(Footer { text: "Füße\n-- \nx".to_owned(), html: None }),
        Edit::PrefixSubject { text: "P".to_owned() },
        Edit::SetHeader { name: "X-Set".to_owned(), value: "v".to_owned() },
    ]
}

fn fragment() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"Content-Type: multipart/mixed; boundary=a\r\n".to_vec()),
        Just(b"Content-Type: multipart/alternative; boundary=\"a b\"\r\n".to_vec()),
        Just(b"Content-Type: multipart/signed; boundary=c\r\n".to_vec()),
        Just(b"Content-Type: text/html; charset=utf-16\r\n".to_vec()),
        Just(b"Content-Type: text/x-amp-html\r\n".to_vec()),
        Just(b"Content-Type: message/rfc822\r\n".to_vec()),
        Just(b"Content-Type: application/pkcs7-mime\r\n".to_vec()),
        Just(b"Content-Transfer-Encoding: base64\r\n".to_vec()),
        Just(b"Content-Transfer-Encoding: quoted-printable\r\n".to_vec()),
        Just(b"Content-Disposition: attachment; filename=x\r\n".to_vec()),
        Just(b"--a\r\n".to_vec()),
        Just(b"--a--\r\n".to_vec()),
        Just(b"--a b\r\n".to_vec()),
        Just(b"--c\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"text =\r\n".to_vec()),
        Just(b"</body>\n".to_vec()),
        Just(b"Subject: x\r\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..12),
    ]
}

proptest! {
    #[test]
    fn no_edit_changes_no_byte(content in prop::collection::vec(fragment(), 0..30)) {
        let content = content.concat();
        let edited = apply_all(&content, &[]).unwrap();
        prop_assert_eq!([edited.head(), edited.rest()].concat(), content);
    }

    #[test]
    fn nothing_panics_and_twice_is_once(content in prop::collection::vec(fragment(), 0..30), which in 0usize..32) {
        let content = content.concat();
        let edits: Vec<Edit> =
            body_edits().into_iter().enumerate().filter(|(at, _)| which & (1 << at) != 0).map(|(_, e)| e).collect();
        if let Ok(once) = apply_all(&content, &edits) {
            let once = once.into_bytes();
            let twice = apply_all(&once, &edits).map(Edited::into_bytes);
            prop_assert_eq!(twice.as_deref().map(String::from_utf8_lossy), Ok(String::from_utf8_lossy(&once)));
        }
        let journal = Edit::Journal { sender: String::new(), recipients: vec!["a@b.example".to_owned()] };
        prop_assert!(apply_all(&content, &[journal]).is_ok());
    }

    #[test]
    fn a_removal_takes_the_attachments_and_leaves_every_other_part_as_it_was(node in node()) {
        let (content, parts) = built(&node);
        let out = apply_all(&content, &[all_gone()]).unwrap().into_bytes();
        let text = String::from_utf8(out.clone()).unwrap();
        let mut at = 0;
        for part in parts.iter().filter(|part| !part.attachment) {
            let found = text[at..].find(part.text.trim_end_matches("\r\n"));
            prop_assert!(found.is_some(), "{} is missing or out of order in\n{}", part.text, text);
            at += found.unwrap();
        }
        for part in parts.iter().filter(|part| part.attachment) {
            let body = part.text.split("\r\n\r\n").last().unwrap();
            prop_assert!(!text.contains(body), "{body} is still there");
        }
        let left = removed(&out, &Removal { all: true, ..Removal::default() }).unwrap();
        prop_assert!(left.is_empty(), "{left:?}");
        if parts.iter().all(|part| !part.attachment) {
            prop_assert_eq!(&out, &content);
        }
        // Another parser sees the same texts.
        let texts = |content: &[u8]| -> Vec<String> {
            leaves(content).into_iter().filter(|l| l.contains("Text ") || l.contains("<p>A")).collect()
        };
        prop_assert_eq!(texts(&out), texts(&content));
        prop_assert_eq!(apply_all(&out, &[all_gone()]).unwrap().into_bytes(), out);
    }

    #[test]
    fn a_footer_leaves_attachments_and_structure_as_they_were(node in node(), words in "[a-zé機]{3,12}") {
        let (content, parts) = built(&node);
        let edits = [Edit::Footer(Footer { text: words, html: None })];
        let out = apply_all(&content, &edits).unwrap().into_bytes();
        let text = String::from_utf8(out.clone()).unwrap();
        for part in parts.iter().filter(|part| part.attachment) {
            prop_assert!(text.contains(part.text.trim_end_matches("\r\n")));
        }
        prop_assert_eq!(leaves(&out).len(), leaves(&content).len());
        prop_assert_eq!(apply_all(&out, &edits).unwrap().into_bytes(), out);
    }
}

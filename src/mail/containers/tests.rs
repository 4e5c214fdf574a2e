//! One message around one attachment of each kind, made here from parts one can read: what is found,
//! what is not, and what is said of it.

use std::io::Write as _;

use super::*;
use crate::mail::filetype;
use crate::mail::message::parts::walk;
use crate::mail::message::{Limits, Pieces};

const LIMITS: Limits =
    Limits { decoded_bytes: 10 << 20, parts: 10_000, depth: 100, entries: 10_000, nesting: 5 };

pub(crate) fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, ::zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zlib(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn docx(body: &str) -> Vec<u8> {
    let document = format!("<?xml version='1.0'?><w:document><w:body>{body}</w:body></w:document>");
    zip_of(&[("[Content_Types].xml", b"<Types/>"), ("word/document.xml", document.as_bytes())])
}

fn xlsx(shared: &str, sheet: &str) -> Vec<u8> {
    zip_of(&[
        ("[Content_Types].xml", b"<Types/>"),
        ("xl/workbook.xml", b"<workbook><sheets><sheet name='First'/></sheets></workbook>"),
        ("xl/sharedStrings.xml", format!("<sst>{shared}</sst>").as_bytes()),
        (
            "xl/worksheets/sheet1.xml",
            format!("<worksheet><sheetData>{sheet}</sheetData></worksheet>").as_bytes(),
        ),
    ])
}

fn pptx(slide: &str, notes: &str) -> Vec<u8> {
    zip_of(&[
        ("[Content_Types].xml", b"<Types/>"),
        ("ppt/slides/slide1.xml", format!("<p:sld>{slide}</p:sld>").as_bytes()),
        ("ppt/notesSlides/notesSlide1.xml", format!("<p:notes>{notes}</p:notes>").as_bytes()),
    ])
}

fn open_document(kind: &str, content: &str, more: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored =
        ::zip::write::SimpleFileOptions::default().compression_method(::zip::CompressionMethod::Stored);
    writer.start_file("mimetype", stored).unwrap();
    writer.write_all(kind.as_bytes()).unwrap();
    for (name, content) in [("content.xml", content.as_bytes())].iter().chain(more) {
        writer.start_file(*name, ::zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A PDF of these objects, without a table of them: nobody needs one.
fn pdf(objects: &[&str]) -> Vec<u8> {
    let mut out = b"%PDF-1.7\n".to_vec();
    for (at, object) in objects.iter().enumerate() {
        out.extend(format!("{} 0 obj\n{object}\nendobj\n", at + 1).bytes());
    }
    out.extend(b"trailer <</Root 1 0 R>>\n%%EOF\n");
    out
}

/// A page with this content, and what else its fonts need.
fn page(content: &str, font: &str, more: &[&str]) -> Vec<u8> {
    let stream = format!("<</Length {}>>\nstream\n{content}\nendstream", content.len());
    let page = "<</Type/Page/Parent 2 0 R/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>";
    let mut objects =
        vec!["<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[3 0 R]/Count 1>>", page, &stream, font];
    objects.extend(more);
    pdf(&objects)
}

const HELVETICA: &str = "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>";

pub(crate) fn mail(name: &str, content: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(content);
    let lines: Vec<&str> =
        encoded.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!(
        "Subject: x\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment; \
         filename=\"{name}\"\r\nContent-Transfer-Encoding: base64\r\n\r\n{}\r\n",
        lines.join("\r\n")
    )
    .into_bytes()
}

fn read(name: &str, content: &[u8]) -> Pieces {
    walk(&mail(name, content), LIMITS)
}

/// Whether a word or phrase stands in one of the texts, between what is no letter.
fn finds(pieces: &Pieces, word: &str) -> bool {
    pieces.pieces.iter().any(|piece| {
        piece.text.match_indices(word).any(|(at, _)| {
            let before = piece.text[..at].chars().next_back();
            let after = piece.text[at + word.len()..].chars().next();
            !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
        })
    })
}

#[test]
fn r061_a_word_is_found_in_every_kind_of_attachment_and_its_twin_is_not() {
    let run = |text: &str| format!("<w:r><w:t>{text}</w:t></w:r>");
    let bold = |text: &str| format!("<w:r><w:rPr><w:b/></w:rPr><w:t xml:space='preserve'>{text}</w:t></w:r>");
    let para = |runs: &str| format!("<w:p>{runs}</w:p>");
    let unicode = "<</Type/Font/Subtype/Type0/Encoding/Identity-H/ToUnicode 6 0 R/DescendantFonts[]>>";
    let cmap =
        "1 begincodespacerange<0000><ffff>endcodespacerange 1 beginbfrange<0001><001a><0061>endbfrange";
    let cmap = format!("<</Length {}>>\nstream\n{cmap}\nendstream", cmap.len());
    let packed = zlib(b"BT /F1 12 Tf 72 700 Td (forbidden) Tj ET");
    let mut flate = b"%PDF-1.5\n4 0 obj<</Filter/FlateDecode/Length 9999>>stream\r\n".to_vec();
    flate.extend(&packed);
    flate.extend(b"\nendstream endobj 3 0 obj<</Type/Page/Contents 4 0 R>>endobj");
    let eml = b"From: a@b.c\r\nTo: d@e.f\r\nSubject: forbidden\r\n\r\nx\r\n";
    let inner = zip_of(&[("deep.txt", b"forbidden")]);
    let twins: Vec<(&str, Vec<u8>, bool)> = vec![
        ("plain.txt", b"a forbidden word".to_vec(), true),
        ("plain.txt", b"unforbiddenly".to_vec(), false),
        ("table.csv", b"a;forbidden;b\r\n".to_vec(), true),
        ("page.html", b"<html><p>forbidden".to_vec(), true),
        ("mail.eml", eml.to_vec(), true),
        ("a.zip", zip_of(&[("x.txt", b"forbidden")]), true),
        ("a.zip", zip_of(&[("x.txt", b"for bidden")]), false),
        ("b.zip", zip_of(&[("in.zip", &inner)]), true),
        ("named.txt", zip_of(&[("x", b"forbidden")]), true),
        ("a.tar", tar_of(&[("d/x.txt", b"forbidden")]), true),
        ("a.tgz", gzip(&tar_of(&[("d/x.txt", b"forbidden")])), true),
        ("a.gz", gzip(b"forbidden"), true),
        ("two.gz", [gzip(b"nothing, "), gzip(b"forbidden")].concat(), true),
        ("a.docx", docx(&para(&(run("for") + &bold("bidden")))), true),
        ("a.docx", docx(&(para(&run("for")) + &para(&run("bidden")))), false),
        ("a.docx", docx(&para(&(run("for") + "<w:r><w:tab/></w:r>" + &run("bidden")))), false),
        (
            "a.docx",
            docx(&format!(
                "<w:tbl><w:tr><w:tc>{}</w:tc><w:tc>{}</w:tc></w:tr></w:tbl>",
                para(&run("for")),
                para(&run("bidden"))
            )),
            false,
        ),
        ("a.docx", docx(&para(&run("f&#111;rbidden"))), true),
        (
            "a.docx",
            docx(&para(
                &(run("for") + "<w:r><w:rPr><w:vanish/></w:rPr><w:t>xx</w:t></w:r>" + &run("bidden")),
            )),
            true,
        ),
        (
            "n.docx",
            zip_of(&[("[Content_Types].xml", b""), ("word/footnotes.xml", b"<w:t>forbidden</w:t>")]),
            true,
        ),
        (
            "e.docx",
            zip_of(&[
                ("[Content_Types].xml", b""),
                ("word/d.xml", b""),
                ("word/afchunk.html", b"<html>forbidden"),
            ]),
            true,
        ),
        ("a.xlsx", xlsx("<si><r><t>for</t></r><r><t>bidden</t></r></si>", "<c t='s'><v>0</v></c>"), true),
        (
            "a.xlsx",
            xlsx("<si><t>for</t></si><si><t>bidden</t></si>", "<c t='s'><v>0</v></c><c t='s'><v>1</v></c>"),
            false,
        ),
        ("a.xlsx", xlsx("", "<c t='inlineStr'><is><t>forbidden</t></is></c>"), true),
        ("a.xlsx", xlsx("", "<c t='str'><f>\"x\"</f><v>forbidden</v></c>"), true),
        ("a.pptx", pptx("<a:p><a:r><a:t>for</a:t></a:r><a:r><a:t>bidden</a:t></a:r></a:p>", ""), true),
        ("a.pptx", pptx("", "<a:p><a:r><a:t>forbidden</a:t></a:r></a:p>"), true),
        ("a.pptx", pptx("<a:p><a:t>for</a:t></a:p><a:p><a:t>bidden</a:t></a:p>", ""), false),
        (
            "a.odt",
            open_document(filetype::ODT, "<text:p>for<text:span>bid</text:span>den</text:p>", &[]),
            true,
        ),
        ("a.odt", open_document(filetype::ODT, "<text:p>for</text:p><text:p>bidden</text:p>", &[]), false),
        (
            "h.odt",
            open_document(
                filetype::ODT,
                "",
                &[("styles.xml", b"<style:header><text:p>forbidden</text:p></style:header>")],
            ),
            true,
        ),
        (
            "a.ods",
            open_document(
                filetype::ODS,
                "<table:table-cell><text:p>forbidden</text:p></table:table-cell>",
                &[],
            ),
            true,
        ),
        (
            "a.odp",
            open_document(filetype::ODP, "<draw:page><text:p>forbidden</text:p></draw:page>", &[]),
            true,
        ),
        ("a.pdf", page("BT /F1 12 Tf 72 700 Td (a forbidden word) Tj ET", HELVETICA, &[]), true),
        ("t.pdf", page("BT /F1 12 Tf 72 700 Td [(for) -10 (bid) 20 (den)] TJ ET", HELVETICA, &[]), true),
        ("t.pdf", page("BT /F1 12 Tf 72 700 Td [(for) -400 (bidden)] TJ ET", HELVETICA, &[]), false),
        (
            "m.pdf",
            page("BT /F1 10 Tf 1 0 0 1 72 700 Tm (for) Tj 1 0 0 1 84 700 Tm (bidden) Tj ET", HELVETICA, &[]),
            true,
        ),
        (
            "m.pdf",
            page("BT /F1 10 Tf 1 0 0 1 72 700 Tm (for) Tj 1 0 0 1 72 688 Tm (bidden) Tj ET", HELVETICA, &[]),
            false,
        ),
        ("x.pdf", page("BT /F1 12 Tf <666f72 62696464656e> Tj ET", HELVETICA, &[]), true),
        (
            "o.pdf",
            page(
                r"BT /F1 12 Tf (\146orbid\
den) Tj ET",
                HELVETICA,
                &[],
            ),
            true,
        ),
        (
            "u.pdf",
            page("BT /F1 12 Tf <0006000f00120002000900040004 0005000e> Tj ET", unicode, &[&cmap]),
            true,
        ),
        ("z.pdf", flate, true),
        ("annot.pdf", pdf(&["<</Subtype/Text/Rect[0 0 1 1]/Contents(forbidden)>>"]), true),
        ("field.pdf", pdf(&["<</FT/Tx/V<feff0066006f007200620069006400640065006e>>>"]), true),
        ("a.rtf", b"{\\rtf1\\ansi a forbidden word}".to_vec(), true),
        ("a.rtf", b"{\\rtf1\\ansi for{\\b bid}den}".to_vec(), true),
        ("a.rtf", b"{\\rtf1\\ansi for\\par bidden}".to_vec(), false),
        ("a.rtf", b"{\\rtf1\\ansi \\'66or\\u98?idden}".to_vec(), true),
        ("a.rtf", b"{\\rtf1 for\\v xx\\v0 bidden}".to_vec(), true),
        ("a.rtf", b"{\\rtf1{\\*\\generator forbidden;}x}".to_vec(), false),
        ("a.rtf", b"{\\rtf1 for{\\pict\\bin3 }}}\\'00}bidden}".to_vec(), true),
        ("utf16.txt", "\u{feff}forbidden".encode_utf16().flat_map(u16::to_le_bytes).collect(), true),
    ];
    let mut wrong = Vec::new();
    for (name, content, expected) in &twins {
        let pieces = read(name, content);
        if finds(&pieces, "forbidden") != *expected
            || pieces.stopped.is_some()
            || !pieces.unreadable.is_empty()
        {
            wrong.push((name, expected, pieces));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn r061_letters_of_other_code_pages_are_read() {
    for (name, content, word) in [
        ("a.rtf", b"{\\rtf1\\ansi\\ansicpg1251 \\'e7\\'e0\\'ef\\'f0\\'e5\\'f2}".to_vec(), "запрет"),
        ("b.rtf", b"{\\rtf1{\\fonttbl{\\f1\\fcharset128 MS;}}\\f1 \\'8b\\'40\\'96\\'a7}".to_vec(), "機密"),
        ("c.rtf", b"{\\rtf1\\uc1 \\u-10179?\\u-8704?}".to_vec(), "\u{1f600}"),
        ("d.docx", docx("<w:p><w:r><w:t>gr\u{fc}\u{df}e</w:t></w:r></w:p>"), "grüße"),
        (
            "e.pdf",
            page(
                "BT /F1 9 Tf (a\\200b) Tj ET",
                "<</Type/Font/Subtype/TrueType/Encoding<</Differences[128/eacute]>>>>",
                &[],
            ),
            "aéb",
        ),
        (
            "f.pdf",
            page("BT /F1 9 Tf <8b4096a7> Tj ET", "<</Type/Font/Subtype/Type0/Encoding/90ms-RKSJ-H>>", &[]),
            "機密",
        ),
    ] {
        let pieces = read(name, &content);
        assert!(finds(&pieces, word), "{name}: {pieces:#?}");
    }
}

#[test]
fn r060_what_cannot_be_read_is_told_by_name_and_is_no_limit() {
    let mut locked = zip_of(&[("secret.txt", b"forbidden"), ("open.txt", b"open")]);
    // The bit that says encrypted, in the header of the first file and in the directory.
    let local = memchr::memmem::find(&locked, b"PK\x03\x04").unwrap();
    let central = memchr::memmem::find(&locked, b"PK\x01\x02").unwrap();
    locked[local + 6] |= 1;
    locked[central + 8] |= 1;
    let ole = |text: &str| {
        let text: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        [b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".as_slice(), &[0; 504], &text].concat()
    };
    let encrypted_odt = open_document(
        filetype::ODT,
        "\u{0}garbage",
        &[(
            "META-INF/manifest.xml",
            b"<manifest:file-entry><manifest:encryption-data/></manifest:file-entry>",
        )],
    );
    let mut locked_pdf = page("BT (x) Tj ET", HELVETICA, &[]);
    locked_pdf.extend(b"trailer <</Encrypt 9 0 R>>");
    let damaged = &gzip(&b"forbidden ".repeat(500))[..12];
    for (name, content, unreadable, encrypted) in [
        ("a.zip", locked, vec![("a.zip/secret.txt", ENCRYPTED), ("a.zip", ENCRYPTED)], true),
        ("b.docx", ole("EncryptedPackage"), vec![("b.docx", ENCRYPTED)], true),
        ("c.doc", ole("Word Document"), vec![("c.doc", UNKNOWN)], false),
        ("d.odt", encrypted_odt, vec![("d.odt", ENCRYPTED)], true),
        ("e.pdf", locked_pdf, vec![("e.pdf", ENCRYPTED)], true),
        ("f.7z", b"7z\xbc\xaf\x27\x1c\0\x04aaaaaaaaaaaaaa".to_vec(), vec![("f.7z", UNKNOWN)], false),
        ("g.zip", b"PK\x03\x04broken".to_vec(), vec![("g.zip", DAMAGED)], false),
        ("h.gz", damaged.to_vec(), vec![("h.gz/h", DAMAGED)], false),
        ("i.asc", b"-----BEGIN PGP MESSAGE-----\n\nabc".to_vec(), vec![("i.asc", ENCRYPTED)], true),
        ("j.zip", zip_of(&[("in.7z", b"7z\xbc\xaf\x27\x1c\0\x04")]), vec![("j.zip/in.7z", UNKNOWN)], false),
        ("k.pdf", b"%PDF-1.7 nothing".to_vec(), vec![("k.pdf", DAMAGED)], false),
        (
            "l.pdf",
            page("BT /F1 9 Tf <00010002> Tj ET", "<</Type/Font/Subtype/Type0/Encoding/Identity-H>>", &[]),
            vec![("l.pdf", "text in a font without a map to characters")],
            false,
        ),
    ] {
        let pieces = read(name, &content);
        let told: Vec<_> = pieces.unreadable.iter().map(|(name, why)| (name.as_str(), *why)).collect();
        assert_eq!((told, pieces.stopped), (unreadable, None), "{name}");
        let file = pieces.files.iter().find(|file| file.name.as_deref() == Some(name)).unwrap();
        assert_eq!(file.encrypted, encrypted, "{name}: {:?}", pieces.files);
    }
    // What stands beside the locked file is searched.
    let beside = zip_of(&[("in.7z", b"7z\xbc\xaf\x27\x1c\0\x04"), ("x.txt", b"forbidden")]);
    assert!(finds(&read("m.zip", &beside), "forbidden"));
}

#[test]
fn r060_bombs_end_at_a_limit_and_cost_little() {
    let zeros = vec![b'a'; 8 << 20];
    let flat = zip_of(&[("a.txt", &zeros), ("b.txt", &zeros), ("c.txt", &zeros)]);
    let mut nested = zip_of(&[("x.txt", b"x")]);
    for _ in 0..8 {
        nested = zip_of(&[("in.zip", &nested)]);
    }
    let many: Vec<(String, Vec<u8>)> = (0..11_000).map(|n| (format!("{n}"), Vec::new())).collect();
    let many: Vec<(&str, &[u8])> =
        many.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    let dense = gzip(&gzip(&vec![b'a'; 64 << 20]));
    // Every entry of the directory names the same packed file.
    let one = zip_of(&[("kernel.txt", &zeros[..4 << 20])]);
    let central = memchr::memmem::find(&one, b"PK\x01\x02").unwrap();
    let end = memchr::memmem::rfind(&one, b"PK\x05\x06").unwrap();
    let mut overlapping = one[..central].to_vec();
    (0..1000).for_each(|_| overlapping.extend(&one[central..end]));
    overlapping.extend(&one[end..]);
    let at = overlapping.len() - 10;
    overlapping[at..at + 4].copy_from_slice(&((1000 * (end - central)) as u32).to_le_bytes());
    let budget = Budget::new(10 << 20, 10_000, 5);
    assert_eq!(zip::members(&overlapping, &budget).unwrap().len(), 1000);
    let docx = docx(&format!("<w:t>{}</w:t>", "word ".repeat(3 << 20)));
    let stream = zlib(&vec![b' '; 60 << 20]);
    let mut pdf = b"%PDF-1.7\n".to_vec();
    for number in 4..8 {
        pdf.extend(format!("{number} 0 obj<</Filter/FlateDecode/Length {}>>stream\n", stream.len()).bytes());
        pdf.extend(&stream);
        pdf.extend(b"\nendstream endobj\n");
    }
    pdf.extend(b"3 0 obj<</Type/Page/Contents[4 0 R 5 0 R 6 0 R 7 0 R]>>endobj");
    for (name, content) in [
        ("flat.zip", flat),
        ("nested.zip", nested),
        ("many.zip", zip_of(&many)),
        ("dense.gz", dense),
        ("overlapping.zip", overlapping),
        ("long.docx", docx),
        ("stream.pdf", pdf),
        ("deep.rtf", b"{\\rtf1 ".repeat(20_000)),
    ] {
        let start = std::time::Instant::now();
        let pieces = read(name, &content);
        assert!(pieces.stopped.is_some() || !pieces.unreadable.is_empty(), "{name}: {:?}", pieces.files);
        let held: usize = pieces.pieces.iter().map(|piece| piece.text.len()).sum();
        assert!(held <= 11 << 20, "{name} holds {held}");
        assert!(start.elapsed().as_secs() < 60, "{name} took {:?}", start.elapsed());
    }
    // At the limit and not beyond: five archives inside each other are opened.
    let mut inside = zip_of(&[("x.txt", b"forbidden")]);
    for _ in 0..4 {
        inside = zip_of(&[("in.zip", &inside)]);
    }
    let pieces = read("five.zip", &inside);
    assert!(finds(&pieces, "forbidden") && pieces.stopped.is_none());
}

#[test]
fn every_structure_of_an_ambiguous_archive_is_read() {
    let (one, two) = (zip_of(&[("a.txt", b"first")]), zip_of(&[("b.txt", b"second")]));
    let both = [one.clone(), two.clone()].concat();
    let pieces = read("both.zip", &both);
    assert!(finds(&pieces, "first") && finds(&pieces, "second"), "{pieces:#?}");
    let end = memchr::memmem::find(&one, b"PK\x01\x02").unwrap();
    assert!(finds(&read("cut.zip", &one[..end]), "first"), "an archive without its directory");
    let program = [b"MZ\0\0program".as_slice(), &two].concat();
    assert!(finds(&read("setup.exe", &program), "second"), "a program that unpacks itself");
    let picture = [b"\x89PNG\r\n\x1a\n\0\0\0\0".as_slice(), &two].concat();
    assert!(finds(&read("photo.png", &picture), "second"), "a picture with an archive behind it");
    let mut lying = one.clone();
    lying[6] |= 1;
    assert!(finds(&read("lying.zip", &lying), "first"), "encrypted says one place, and it is not");
    let doubled =
        pdf(&["<</Type/Page/Contents 2 0 R>>", "<</Length 20>>\nstream\nBT (forbidden) Tj ET\nendstream"]);
    let doubled =
        [doubled.as_slice(), b"2 0 obj<</Length 13>>stream\nBT (x) Tj ET\nendstream endobj"].concat();
    assert!(finds(&read("versions.pdf", &doubled), "forbidden"), "a page as it was before a change");
}

#[test]
fn r055_what_a_document_hides_is_searched_and_told_as_hidden() {
    let run = |more: &str, text: &str| format!("<w:r><w:rPr>{more}</w:rPr><w:t>{text}</w:t></w:r>");
    let hidden = |pieces: &Pieces| {
        pieces.pieces.iter().any(|piece| {
            piece
                .hidden
                .iter()
                .any(|range| piece.text.get(range.clone()).is_some_and(|text| text.contains("forbidden")))
        })
    };
    for (name, content) in [
        ("a.docx", docx(&format!("<w:p>{}</w:p>", run("<w:vanish/>", "forbidden")))),
        ("b.docx", docx(&format!("<w:p>{}</w:p>", run("<w:color w:val='FFFFFF'/>", "forbidden")))),
        ("c.docx", docx(&format!("<w:p>{}</w:p>", run("<w:sz w:val='1'/>", "forbidden")))),
        ("d.rtf", b"{\\rtf1 shown {\\v forbidden} shown}".to_vec()),
        ("e.rtf", b"{\\rtf1{\\colortbl;\\red255\\green255\\blue255;}x {\\cf1 forbidden}}".to_vec()),
        ("f.pdf", page("BT /F1 9 Tf 3 Tr (forbidden) Tj ET", HELVETICA, &[])),
        ("g.pdf", page("BT /F1 9 Tf 1 1 1 rg (forbidden) Tj ET", HELVETICA, &[])),
        (
            "h.odt",
            open_document(
                filetype::ODT,
                "<style:style style:name='T1'><style:text-properties text:display='none'/></style:style>\
                 <text:p>x <text:span text:style-name='T1'>forbidden</text:span></text:p>",
                &[],
            ),
        ),
    ] {
        assert!(hidden(&read(name, &content)), "{name}: {:#?}", read(name, &content));
    }
    let plain = docx(
        "<w:p><w:r><w:rPr><w:vanish w:val='0'/><w:color w:val='FF0000'/></w:rPr><w:t>forbidden</w:t></w:r></w:p>",
    );
    assert!(!hidden(&read("z.docx", &plain)));
}

/// SignedData with its content, lengths left open as streaming signers do.
fn signed(content: &[u8], pieces: usize) -> Vec<u8> {
    let oid = |last: u8| [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, last];
    let mut out = [&[0x30, 0x80][..], &oid(2), &[0xa0, 0x80, 0x30, 0x80, 0x02, 0x01, 0x01]].concat();
    out.extend([0x31, 0x80, 0x30, 0x03, 0x06, 0x01, 0x2a, 0, 0]);
    out.extend([&[0x30, 0x80][..], &oid(1), &[0xa0, 0x80, 0x24, 0x80]].concat());
    for piece in content.chunks(content.len().div_ceil(pieces)) {
        out.extend([0x04, 0x82]);
        out.extend((piece.len() as u16).to_be_bytes());
        out.extend(piece);
    }
    out.extend([0; 12]);
    out
}

#[test]
fn what_smime_signs_is_read_and_what_it_encrypts_is_told() {
    let entity = b"Content-Type: text/plain\r\n\r\na forbidden word\r\n";
    for pieces in [1, 3] {
        let read = read("smime.p7m", &signed(entity, pieces));
        assert!(finds(&read, "forbidden") && read.smime_signed && !read.smime_encrypted, "{read:#?}");
    }
    let enveloped =
        [0x30, 0x80, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x03, 0xa0, 0x80];
    let locked = read("smime.p7m", &enveloped);
    assert!(locked.smime_encrypted && locked.files[0].encrypted);
    assert_eq!(locked.unreadable, [("smime.p7m".to_owned(), ENCRYPTED)]);
    let detached = "Content-Type: multipart/signed; protocol=\"application/pkcs7-signature\"; boundary=b\r\n\r\n\
                    --b\r\n\r\nhello\r\n--b--\r\n";
    let walked = walk(detached.as_bytes(), LIMITS);
    assert!(walked.smime_signed && walked.unreadable.is_empty());
    let pgp = "Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=b\r\n\r\n--b\r\n\
               Content-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n--b\r\nContent-Type: \
               application/octet-stream\r\n\r\n-----BEGIN PGP MESSAGE-----\r\n\r\nabc\r\n--b--\r\n";
    let walked = walk(pgp.as_bytes(), LIMITS);
    assert!(walked.unreadable.iter().all(|(_, why)| *why == ENCRYPTED) && !walked.unreadable.is_empty());
}

#[test]
fn winmail_dat_and_uuencoded_files_are_opened() {
    let attribute = |id: u32, data: &[u8]| {
        let mut out = vec![1];
        out.extend(id.to_le_bytes());
        out.extend((data.len() as u32).to_le_bytes());
        out.extend(data);
        out.extend([0, 0]);
        out
    };
    let mut tnef = b"\x78\x9f\x3e\x22\x01\0".to_vec();
    tnef.extend(attribute(0x0002_800c, b"body text\0"));
    tnef.extend(attribute(0x0006_9002, &[0; 14]));
    tnef.extend(attribute(0x0001_8010, b"list.txt\0"));
    tnef.extend(attribute(0x0006_800f, b"a forbidden word"));
    let pieces = read("winmail.dat", &tnef);
    assert!(finds(&pieces, "forbidden") && finds(&pieces, "body text"), "{pieces:#?}");
    assert!(pieces.files.iter().any(|file| file.name.as_deref() == Some("winmail.dat/list.txt")));
    let text =
        "Subject: x\r\n\r\nsee\r\nbegin 644 list.txt\r\n0869@9F]R8FED9&5N('=O<F0\r\n`\r\nend\r\nbye\r\n";
    let walked = walk(text.as_bytes(), LIMITS);
    assert!(walked.files.iter().any(|file| file.name.as_deref() == Some("list.txt")), "{walked:#?}");
    assert!(walked.pieces.iter().any(|piece| piece.name.as_deref() == Some("list.txt")), "{walked:#?}");
}

#[test]
fn r062_the_amp_part_is_searched_like_the_others() {
    let amp = "Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\r\nplain\r\n--b\r\nContent-Type: \
               text/x-amp-html\r\n\r\n<html amp4email><p>for<b>bidden</b></p>\r\n--b--\r\n";
    let walked = walk(amp.as_bytes(), LIMITS);
    assert!(walked.pieces.iter().any(|piece| piece.html && piece.text.contains("for<b>bidden")));
}

/// Flips, cuts and doubles octets of the formats above: a reader must come back, within its budget.
fn mangled(seed: u64, content: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    let mut state = seed | 1;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for _ in 0..1 + next(8) {
        let at = next(content.len());
        match next(6) {
            0 if !content.is_empty() => content[at] = next(256) as u8,
            1 if !content.is_empty() => content[at] ^= 1 << next(8),
            2 => content.truncate(at),
            3 => {
                let piece = content[at..(at + next(64)).min(content.len())].to_vec();
                content.splice(at..at, piece);
            }
            4 => {
                content.drain(at..(at + next(16)).min(content.len()));
            }
            _ if content.len() >= 4 => {
                let at = at.min(content.len() - 4);
                content[at..at + 4].copy_from_slice(&[0xff, 0xff, 0xff, 0x7f]);
            }
            _ => {}
        }
    }
    content
}

fn seeds() -> Vec<Vec<u8>> {
    let unicode = "<</Type/Font/Subtype/Type0/Encoding/Identity-H/ToUnicode 6 0 R/DescendantFonts[7 0 R]>>";
    let cmap = "<</Length 60>>\nstream\n1 beginbfrange<0001><001a><0061>endbfrange 1 beginbfchar<01><02>endbfchar\nendstream";
    let widths = "<</DW 500/W[1[500 400]3 900 700]>>";
    vec![
        zip_of(&[("a.txt", b"forbidden"), ("b.gz", &gzip(b"x")), ("c.tar", &tar_of(&[("d", b"e")]))]),
        tar_of(&[("a", b"forbidden"), (&"long/".repeat(60), b"x")]),
        gzip(b"forbidden"),
        docx("<w:p><w:r><w:rPr><w:vanish/></w:rPr><w:t>for &amp; &#x41;</w:t></w:r></w:p>"),
        xlsx("<si><t>a</t></si>", "<c t='s'><v>0</v></c>"),
        open_document(filetype::ODT, "<text:p>a<text:s text:c='3'/></text:p>", &[]),
        page("q 1 0 0 1 0 0 cm BT /F1 9 Tf [<00010002> -200 (x)] TJ 0 -9 Td (y) ' ET Q", unicode, &[cmap, widths]),
        page("BI /W 1 ID \0\0 EI BT /F1 9 Tf (a\\050b) Tj ET", HELVETICA, &["<</Type/ObjStm/N 1/First 4/Length 20>>\nstream\n9 0 <</V(x)/FT/Tx>>\nendstream"]),
        b"{\\rtf1\\ansicpg1251{\\fonttbl{\\f1\\fcharset128 a;}}{\\v x}\\u-100?\\'e9{\\object{\\*\\objdata d0cf11e0}}\\bin3 abc}".to_vec(),
        signed(b"Content-Type: text/plain\r\n\r\nforbidden", 2),
        b"\x78\x9f\x3e\x22\x01\0\x01\x03\x90\x06\0\x10\0\0\0\x01\0\0\0\x1e\0\x37\0\x01\0\0\0\x02\0\0\0ab\0\0\0\0".to_vec(),
        b"begin 644 a.txt\n#0V%T\n`\nend\n".to_vec(),
        [b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".as_slice(), b"w\0o\0r\0d\0s\0 \0h\0e\0r\0e\0", &[0; 64]].concat(),
    ]
}

fn survives(content: &[u8]) {
    let limits = Limits { decoded_bytes: 1 << 18, parts: 100, depth: 10, entries: 100, nesting: 3 };
    let pieces = walk(&mail("x", content), limits);
    for piece in &pieces.pieces {
        for range in &piece.hidden {
            assert!(piece.text.get(range.clone()).is_some());
        }
    }
}

#[test]
fn damaged_files_of_every_kind_are_survived() {
    for seed in seeds() {
        survives(&seed);
        for round in 1..150u64 {
            survives(&mangled(round.wrapping_mul(0x9e37_79b9_7f4a_7c15), &seed));
        }
    }
}

/// The same for as long as one likes: `POSTERN_FUZZ_SECONDS=600 cargo test --release --lib fuzz_for -- --ignored`.
#[test]
#[ignore = "runs for POSTERN_FUZZ_SECONDS"]
fn fuzz_for_a_while() {
    let seconds = std::env::var("POSTERN_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    let (mut round, seeds) = (1u64, seeds());
    let mut pool = seeds.clone();
    while std::time::Instant::now() < end {
        for at in 0..pool.len() {
            round = round.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let content = mangled(round, &pool[at]);
            let start = std::time::Instant::now();
            survives(&content);
            assert!(start.elapsed().as_secs() < 20, "{content:?} took {:?}", start.elapsed());
            // Damage adds up, then starts again.
            pool[at] = if round >> 60 == 0 { seeds[at].clone() } else { content };
            if pool[at].is_empty() || pool[at].len() > 1 << 16 {
                pool[at] = seeds[at].clone();
            }
        }
    }
}

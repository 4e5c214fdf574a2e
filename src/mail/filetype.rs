//! What a file is, told by its content and never by its name: a name is what the sender wants it to be.
//!
//! Used for every attachment and every file inside an archive, so it is cheap: magic numbers, the names
//! in a zip's directory, and for text a look at its beginning. Nothing is unpacked here.

use memchr::memmem;

pub const OCTETS: &str = "application/octet-stream";
pub const ZIP: &str = "application/zip";
pub const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
pub const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
pub const PPTX: &str = "application/vnd.openxmlformats-officedocument.presentationml.presentation";
pub const XPS: &str = "application/oxps";
pub const ODT: &str = "application/vnd.oasis.opendocument.text";
pub const ODS: &str = "application/vnd.oasis.opendocument.spreadsheet";
pub const ODP: &str = "application/vnd.oasis.opendocument.presentation";
pub const ODG: &str = "application/vnd.oasis.opendocument.graphics";
pub const EPUB: &str = "application/epub+zip";
pub const PDF: &str = "application/pdf";
pub const RTF: &str = "application/rtf";
pub const GZIP: &str = "application/gzip";
pub const TAR: &str = "application/x-tar";
pub const OLE: &str = "application/x-ole-storage";
pub const TNEF: &str = "application/ms-tnef";
pub const SEVEN_ZIP: &str = "application/x-7z-compressed";
pub const RAR: &str = "application/vnd.rar";
pub const BZIP2: &str = "application/x-bzip2";
pub const XZ: &str = "application/x-xz";
pub const ZSTD: &str = "application/zstd";
pub const LZ4: &str = "application/x-lz4";
pub const CAB: &str = "application/vnd.ms-cab-compressed";
pub const ARJ: &str = "application/x-arj";
pub const LZH: &str = "application/x-lzh-compressed";
pub const ACE: &str = "application/x-ace-compressed";
pub const ISO: &str = "application/x-iso9660-image";
pub const ONENOTE: &str = "application/onenote";
pub const PKCS7: &str = "application/pkcs7-mime";
pub const PGP_ENCRYPTED: &str = "application/pgp-encrypted";
pub const PGP_SIGNATURE: &str = "application/pgp-signature";
pub const PGP_KEYS: &str = "application/pgp-keys";
pub const EXE: &str = "application/vnd.microsoft.portable-executable";
pub const HTML: &str = "text/html";
pub const XML: &str = "text/xml";
pub const PLAIN: &str = "text/plain";
pub const MESSAGE: &str = "message/rfc822";

/// Magic numbers at the first octet. The longest that fits need not come first: none is a prefix of
/// another one here.
const MAGIC: &[(&[u8], &str)] = &[
    (b"{\\rtf", RTF),
    (b"\x1f\x8b", GZIP),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", OLE),
    (b"\x78\x9f\x3e\x22", TNEF),
    (b"7z\xbc\xaf\x27\x1c", SEVEN_ZIP),
    (b"Rar!\x1a\x07", RAR),
    (b"BZh", BZIP2),
    (b"\xfd7zXZ\0", XZ),
    (b"\x28\xb5\x2f\xfd", ZSTD),
    (b"\x04\x22\x4d\x18", LZ4),
    (b"MSCF\0\0\0\0", CAB),
    (b"\x60\xea", ARJ),
    (b"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d", ONENOTE),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"\0\0\x01\0", "image/vnd.microsoft.icon"),
    (b"8BPS", "image/vnd.adobe.photoshop"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"\x1a\x45\xdf\xa3", "video/x-matroska"),
    (b"\x7fELF", "application/x-elf"),
    (b"\xcf\xfa\xed\xfe", "application/x-mach-binary"),
    (b"\xce\xfa\xed\xfe", "application/x-mach-binary"),
    (b"\xca\xfe\xba\xbe", "application/java-vm"),
    (b"\x4c\0\0\0\x01\x14\x02\0", "application/x-ms-shortcut"),
    (b"ITSF", "application/vnd.ms-htmlhelp"),
    (b"SQLite format 3\0", "application/vnd.sqlite3"),
    (b"wOFF", "font/woff"),
    (b"wOF2", "font/woff2"),
    (b"\0asm", "application/wasm"),
    (b"%!PS", "application/postscript"),
    (b"-----BEGIN PGP MESSAGE-----", PGP_ENCRYPTED),
    (b"-----BEGIN PGP SIGNATURE-----", PGP_SIGNATURE),
    (b"-----BEGIN PGP PUBLIC KEY BLOCK-----", PGP_KEYS),
    (b"-----BEGIN PGP PRIVATE KEY BLOCK-----", PGP_KEYS),
    (b"-----BEGIN PKCS7-----", PKCS7),
];

/// The media type of a file, told by its content. Never fails; `application/octet-stream` if nothing
/// is known of it. Costs no more than a look at its beginning, at its end, and at a zip's directory.
pub fn detect(content: &[u8]) -> &'static str {
    if let Some((_, kind)) = MAGIC.iter().find(|(magic, _)| content.starts_with(magic)) {
        return kind;
    }
    if content.starts_with(b"PK\x03\x04") || content.starts_with(b"PK\x05\x06") {
        return zip_kind(content);
    }
    if is_executable(content) {
        return EXE;
    }
    let at = |offset: usize, magic: &[u8]| content.get(offset..).is_some_and(|c| c.starts_with(magic));
    if at(257, b"ustar") || old_tar(content) {
        return TAR;
    }
    if content.starts_with(b"RIFF") {
        return match content.get(8..12) {
            Some(b"WEBP") => "image/webp",
            Some(b"WAVE") => "audio/wav",
            Some(b"AVI ") => "video/x-msvideo",
            _ => OCTETS,
        };
    }
    if at(4, b"ftyp") {
        return match content.get(8..11) {
            Some(b"hei" | b"mif") => "image/heic",
            Some(b"avi") => "image/avif",
            Some(b"M4A") => "audio/mp4",
            Some(b"qt ") => "video/quicktime",
            _ => "video/mp4",
        };
    }
    if at(2, b"-lh") && at(6, b"-") {
        return LZH;
    }
    if at(7, b"**ACE**") {
        return ACE;
    }
    if at(0x8001, b"CD001") {
        return ISO;
    }
    if is_bitmap(content) {
        return "image/bmp";
    }
    // Readers look for the mark in the first kilobyte (ISO 32000-1 annex H, note 13), so junk before it
    // does not make a PDF anything else.
    if memmem::find(&content[..content.len().min(1024)], b"%PDF-").is_some() {
        return PDF;
    }
    if is_pkcs7(content) {
        return PKCS7;
    }
    if is_pgp(content) {
        return PGP_ENCRYPTED;
    }
    text_kind(content)
}

/// Whether it is a container whose text needs a reader we do not have.
pub fn is_unknown_container(kind: &str) -> bool {
    matches!(
        kind,
        SEVEN_ZIP | RAR | BZIP2 | XZ | ZSTD | LZ4 | CAB | ARJ | LZH | ACE | ISO | OLE | ONENOTE | XPS
    )
}

fn is_executable(content: &[u8]) -> bool {
    // "MZ" alone may begin a text; the header names where the new one starts, or it is a plain DOS
    // program, which no text looks like.
    content.starts_with(b"MZ")
        && (content.get(..64).is_some_and(|head| head.contains(&0)) || content.contains(&0))
}

fn is_bitmap(content: &[u8]) -> bool {
    // "BM" begins many a word; the reserved fields of the header are zero, a text has none.
    content.starts_with(b"BM") && content.get(6..10) == Some(&[0; 4])
}

/// A tar from before 1988: no mark, but a checksum of the first header.
fn old_tar(content: &[u8]) -> bool {
    let Some(header) = content.get(..512) else { return false };
    let digits = &header[148..156];
    let text: String = digits.iter().map(|&b| char::from(b)).collect();
    let Ok(sum) = u32::from_str_radix(text.trim_matches(['\0', ' ']), 8) else { return false };
    let mine: u32 = header
        .iter()
        .enumerate()
        .map(|(at, &b)| if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(b) })
        .sum();
    header[0] != 0 && mine == sum
}

/// DER or BER of a ContentInfo (RFC 5652 section 3) whose type is one of PKCS #7.
fn is_pkcs7(content: &[u8]) -> bool {
    const PREFIX: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07];
    // Content types of S/MIME: compressed, encrypted with authentication.
    const SMIME: &[u8] = &[0x06, 0x0b, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x01];
    let Some((0x30, rest)) = content.split_first().map(|(first, rest)| (*first, rest)) else { return false };
    let length = match rest.first() {
        Some(&long) if long & 0x80 != 0 => usize::from(long & 0x7f) + 1,
        Some(_) => 1,
        None => return false,
    };
    rest.get(length..).is_some_and(|inner| inner.starts_with(PREFIX) || inner.starts_with(SMIME))
}

/// An OpenPGP public-key or passphrase encrypted session key packet (RFC 9580 sections 5.1 and 5.3).
fn is_pgp(content: &[u8]) -> bool {
    match *content {
        // Old packet format, length in one or two octets; version 3 of the packet.
        [0x84, _, 3, ..] | [0x85, 0..=4, _, 3, ..] => true,
        // Packet 3, version 4, a known cipher and a known way to make a key.
        [0x8c, 4..=60, 4, 1..=13, 0..=4, ..] | [0xc3, 4..=60, 4, 1..=13, 0..=4, ..] => true,
        [0xc1, 8..=255, 3, ..] => content.len() > 64 && !super::message::looks_like_text(content),
        _ => false,
    }
}

/// What a zip is: an office document, told by the names in it, or just a zip.
fn zip_kind(content: &[u8]) -> &'static str {
    let mut office = None;
    let mut content_types = false;
    let mut see = |name: &[u8]| {
        content_types |= name == b"[Content_Types].xml";
        let kind = match name {
            _ if name.starts_with(b"word/") => DOCX,
            _ if name.starts_with(b"xl/") => XLSX,
            _ if name.starts_with(b"ppt/") => PPTX,
            _ if name.ends_with(b".fpage") || name.ends_with(b".fdseq") => XPS,
            _ => return,
        };
        office.get_or_insert(kind);
    };
    if let Some(kind) = open_document(content) {
        return kind;
    }
    zip_names(content, &mut see);
    office.filter(|_| content_types).unwrap_or(ZIP)
}

/// OpenDocument and EPUB say what they are in their first entry, stored as it is.
fn open_document(content: &[u8]) -> Option<&'static str> {
    let name = content.get(30..38)?;
    let extra = usize::from(u16::from_le_bytes([*content.get(28)?, *content.get(29)?]));
    let said = content.get(38 + extra..)?;
    if name != b"mimetype" {
        return None;
    }
    let said = &said[..said.len().min(100)];
    let templates = said.strip_prefix(b"application/vnd.oasis.opendocument.");
    match templates {
        Some(rest) if rest.starts_with(b"text") => Some(ODT),
        Some(rest) if rest.starts_with(b"spreadsheet") => Some(ODS),
        Some(rest) if rest.starts_with(b"presentation") => Some(ODP),
        Some(_) => Some(ODG),
        None if said.starts_with(b"application/epub+zip") => Some(EPUB),
        None => None,
    }
}

/// Names of a zip's directory, of the first ones only; of its local headers when it has no directory.
fn zip_names(content: &[u8], see: &mut dyn FnMut(&[u8])) {
    const MOST: usize = 4096;
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = content.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |sum, &b| sum << 8 | usize::from(b)))
    };
    let tail = content.len().saturating_sub(22 + 0xffff);
    let end = memmem::rfind(&content[tail..], b"PK\x05\x06").map(|at| tail + at);
    let start = end.and_then(|end| {
        let (size, offset) = (number(end + 12, 4)?, number(end + 16, 4)?);
        // Something may stand before the archive, then the offsets are short by its length.
        let by_size = end.checked_sub(size);
        [by_size, Some(offset)]
            .into_iter()
            .flatten()
            .find(|&at| content.get(at..).is_some_and(|directory| directory.starts_with(b"PK\x01\x02")))
    });
    let mut seen = 0;
    if let Some(mut at) = start {
        while seen < MOST && content.get(at..).is_some_and(|rest| rest.starts_with(b"PK\x01\x02")) {
            let lengths = (number(at + 28, 2), number(at + 30, 2), number(at + 32, 2));
            let (Some(name), Some(extra), Some(comment)) = lengths else { return };
            let Some(text) = content.get(at + 46..at + 46 + name) else { return };
            see(text);
            at += 46 + name + extra + comment;
            seen += 1;
        }
        return;
    }
    for at in memmem::find_iter(content, b"PK\x03\x04").take(MOST) {
        let Some(name) = number(at + 26, 2) else { return };
        if let Some(text) = content.get(at + 30..at + 30 + name) {
            see(text);
        }
    }
}

/// Whether a zip's directory stands at the end of a file, whatever stands at its beginning: programs
/// that unpack themselves, pictures with an archive behind them.
pub fn has_zip_at_the_end(content: &[u8]) -> bool {
    let tail = content.len().saturating_sub(22 + 0xffff);
    memmem::rfind(&content[tail..], b"PK\x05\x06").is_some() && memmem::find(content, b"PK\x01\x02").is_some()
}

fn text_kind(content: &[u8]) -> &'static str {
    if !super::message::looks_like_text(content) {
        return OCTETS;
    }
    let start = super::message::beginning_of_text(content);
    if super::message::looks_like_html(&start) {
        return HTML;
    }
    let trimmed = start.trim_start_matches('\u{feff}').trim_start();
    if trimmed.starts_with("<svg") {
        return "image/svg+xml";
    }
    if trimmed.starts_with("<?xml") {
        return match trimmed.contains("<svg") {
            true => "image/svg+xml",
            false => XML,
        };
    }
    if trimmed.starts_with("-----BEGIN PGP MESSAGE-----") {
        return PGP_ENCRYPTED;
    }
    if is_message(content) {
        return MESSAGE;
    }
    PLAIN
}

/// A mail saved as a file begins with header fields that only mail has.
fn is_message(content: &[u8]) -> bool {
    const OF_MAIL: &[&str] = &[
        "received",
        "return-path",
        "delivered-to",
        "message-id",
        "mime-version",
        "dkim-signature",
        "from",
        "to",
        "subject",
        "date",
        "cc",
        "reply-to",
        "content-type",
        "content-transfer-encoding",
        "x-mailer",
    ];
    let head = &content[..content.len().min(8 << 10)];
    let message = super::message::Message::read(head);
    let ours = message.fields.iter().take(20);
    let known = ours.filter(|field| OF_MAIL.iter().any(|name| field.is(name))).count();
    known >= 2 && message.stray.is_none_or(|stray| stray > 64 && known >= 3)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn zip(names: &[&str]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for name in names {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(b"word/document.xml xl/workbook.xml").unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn r061_the_type_of_a_file_is_told_by_its_content() {
        let pad = |magic: &[u8]| [magic, &[0; 64]].concat();
        let ole = pad(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1");
        for (content, kind) in [
            (b"plain words\r\n".to_vec(), PLAIN),
            ("grüße".as_bytes().to_vec(), PLAIN),
            (b"\xff\xfew\0o\0r\0d\0".to_vec(), PLAIN),
            (b"a,b\n1,2\n".to_vec(), PLAIN),
            (b" \n<!DOCTYPE html><p>x".to_vec(), HTML),
            (b"<HTML><body>".to_vec(), HTML),
            (b"<?xml version='1.0'?><a/>".to_vec(), XML),
            (b"<svg xmlns='x'/>".to_vec(), "image/svg+xml"),
            (b"%PDF-1.7\n".to_vec(), PDF),
            (b"junk\n%PDF-1.7\n".to_vec(), PDF),
            (b"{\\rtf1 x}".to_vec(), RTF),
            (pad(b"\x1f\x8b\x08"), GZIP),
            (ole, OLE),
            (pad(b"7z\xbc\xaf\x27\x1c"), SEVEN_ZIP),
            (pad(b"Rar!\x1a\x07\x01\0"), RAR),
            (pad(b"BZh91AY"), BZIP2),
            (pad(b"\xfd7zXZ\0"), XZ),
            (pad(b"\x89PNG\r\n\x1a\n"), "image/png"),
            (pad(b"\xff\xd8\xff\xe0"), "image/jpeg"),
            (pad(b"GIF89a"), "image/gif"),
            (pad(b"RIFF\0\0\0\0WEBP"), "image/webp"),
            (pad(b"MZ\x90\0"), EXE),
            (b"MZ is a licence plate".to_vec(), PLAIN),
            (b"BM is a unit".to_vec(), PLAIN),
            (pad(b"\0\0\0\x18ftypmp42"), "video/mp4"),
            (b"From: a@b.c\r\nSubject: x\r\n\r\nbody".to_vec(), MESSAGE),
            (b"To: a colleague\nwho asked, here is the list\n".to_vec(), PLAIN),
            (b"-----BEGIN PGP MESSAGE-----\n\nhQ".to_vec(), PGP_ENCRYPTED),
            (b"\x30\x80\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x03\xa0\x80".to_vec(), PKCS7),
            (b"\x78\x9f\x3e\x22\x01\0".to_vec(), TNEF),
            (vec![0, 1, 2, 3, 4, 5, 6, 7], OCTETS),
            (Vec::new(), OCTETS),
        ] {
            assert_eq!(detect(&content), kind, "{:?}", String::from_utf8_lossy(&content));
        }
    }

    #[test]
    fn a_zip_is_told_by_the_names_in_it_not_by_what_they_hold() {
        for (names, kind) in [
            (&["a.txt", "word/x.txt"][..], ZIP),
            (&["[Content_Types].xml", "word/document2.xml"], DOCX),
            (&["xl/workbook.xml", "[Content_Types].xml"], XLSX),
            (&["[Content_Types].xml", "ppt/slides/slide1.xml"], PPTX),
            (&["inner.docx"], ZIP),
        ] {
            assert_eq!(detect(&zip(names)), kind, "{names:?}");
        }
        let mut odt = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let stored =
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        odt.start_file("mimetype", stored).unwrap();
        odt.write_all(ODS.as_bytes()).unwrap();
        assert_eq!(detect(&odt.finish().unwrap().into_inner()), ODS);
        let sfx = [&[b'M', b'Z', 0, 0][..], &zip(&["a"])].concat();
        assert_eq!(detect(&sfx), EXE);
        assert!(has_zip_at_the_end(&sfx) && !has_zip_at_the_end(b"MZ\0\0"));
    }

    #[test]
    fn a_tar_is_known_with_and_without_its_mark() {
        let mut header = tar::Header::new_ustar();
        header.set_size(1);
        header.set_path("a.txt").unwrap();
        header.set_cksum();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append(&header, &b"x"[..]).unwrap();
        assert_eq!(detect(&archive.into_inner().unwrap()), TAR);
        let mut old = tar::Header::new_old();
        old.set_size(1);
        old.set_path("a.txt").unwrap();
        old.set_cksum();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append(&old, &b"x"[..]).unwrap();
        assert_eq!(detect(&archive.into_inner().unwrap()), TAR);
    }

    proptest::proptest! {
        #[test]
        fn any_octets_have_a_type(content: Vec<u8>) {
            assert!(detect(&content).contains('/'));
            for magic in ["PK\x03\x04", "PK\x05\x06", "MZ", "RIFF", "\u{30}"] {
                assert!(detect(&[magic.as_bytes(), &content].concat()).contains('/'));
            }
        }
    }
}

//! The MIME fields of an entity, in each way a client may take them.

use super::media::Media;
use super::{Field, transfer};

/// Readings of one part that are worth following: combinations of doubled fields multiply.
const MAX_READINGS: usize = 16;
/// One way to take the MIME fields of an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub media: Media,
    pub encoding: Encoding,
    pub attachment: bool,
    pub name: Option<String>,
}

impl Reading {
    /// Each Content-Type with each Content-Transfer-Encoding.
    pub fn all(fields: &[Field<'_>], digest: bool) -> Vec<Self> {
        let named = |name: &'static str| fields.iter().filter(move |field| field.is(name));
        let default = if digest { "message/rfc822" } else { "text/plain" };
        let mut types: Vec<Media> = Vec::new();
        for field in named("content-type") {
            let media = Media::read(&field.unfolded());
            if !types.contains(&media) {
                types.push(media);
            }
        }
        if types.is_empty() {
            types.push(Media::read(default));
        }
        let mut encodings: Vec<Encoding> = Vec::new();
        for field in named("content-transfer-encoding") {
            let encoding = Encoding::read(&field.unfolded());
            if !encodings.contains(&encoding) {
                encodings.push(encoding);
            }
        }
        if encodings.is_empty() {
            encodings.push(Encoding::Identity);
        }
        let disposition = named("content-disposition").map(|field| Media::read(&field.unfolded()));
        let disposition: Vec<Media> = disposition.collect();
        let attachment = disposition.iter().any(|d| d.kind == "attachment");
        let file = disposition.iter().find_map(|d| d.first("filename"));
        let mut readings = Vec::new();
        for media in types {
            let name = file.or_else(|| media.first("name")).map(str::to_owned);
            for &encoding in &encodings {
                readings.push(Self { media: media.clone(), encoding, attachment, name: name.clone() });
            }
        }
        readings.truncate(MAX_READINGS);
        readings
    }

    /// RFC 3676 with DelSp: the reader joins words over line ends.
    pub fn flowed(&self) -> bool {
        let is =
            |name: &str, value: &str| self.media.first(name).is_some_and(|v| v.eq_ignore_ascii_case(value));
        is("format", "flowed") && is("delsp", "yes")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Base64,
    QuotedPrintable,
}

impl Encoding {
    pub fn read(value: &str) -> Self {
        let value = value.to_ascii_lowercase();
        if value.contains("base64") {
            Encoding::Base64
        } else if value.contains("quoted-printable") {
            Encoding::QuotedPrintable
        } else {
            Encoding::Identity
        }
    }

    pub fn decode(self, body: &[u8], limit: usize) -> transfer::Decoded {
        match self {
            Encoding::Base64 => transfer::base64(body, limit),
            Encoding::QuotedPrintable => transfer::quoted_printable(body, limit),
            Encoding::Identity => {
                let bytes = body[..body.len().min(limit)].to_vec();
                transfer::Decoded { bytes, damaged: false, cut: body.len() > limit }
            }
        }
    }

    /// How many octets the whole of it decodes to, near enough, without decoding it.
    pub fn decoded_len(self, body: &[u8]) -> u64 {
        let letters = |b: &&u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
        match self {
            Encoding::Base64 => body.iter().filter(letters).count() as u64 * 3 / 4,
            Encoding::QuotedPrintable => transfer::quoted_printable(body, usize::MAX).bytes.len() as u64,
            Encoding::Identity => body.len() as u64,
        }
    }
}

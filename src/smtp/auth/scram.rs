//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side: the password never crosses the wire, and the client
//! learns that we know it too. No channel binding (the `-PLUS` form), which clients of SMTP hardly know.

use std::num::NonZeroU32;
use std::sync::Arc;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Users;

/// What RFC 7677 asks for. More would only cost: passwords stand in a Secret anyway, nothing derived is stored.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("it is not zero");

const LENGTH: usize = digest::SHA256_OUTPUT_LEN;

/// The client's first message was read, ours is on its way.
pub struct Scram {
    /// Whose proof it would be; `None`: nobody's, and the exchange goes on to its end all the same.
    name: Option<Arc<str>>,
    salted: [u8; LENGTH],
    /// The header of the client's first message, which its last one repeats.
    header: String,
    nonce: String,
    /// The client's first message without its header, and ours.
    said: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unproven {
    Wrong,
    Malformed,
}

impl Scram {
    /// `n,,n=user,r=nonce` → `r=nonce…,s=salt,i=iterations`. `ours` is our half of the nonce.
    pub fn begin(first: &[u8], users: &Users, ours: &str) -> Option<(Self, String)> {
        let first = std::str::from_utf8(first).ok()?;
        let mut parts = first.splitn(3, ',');
        let (binding, identity, bare) = (parts.next()?, parts.next()?, parts.next()?);
        // `y`: the client could bind the channel and thinks that we cannot, which is so.
        if !matches!(binding, "n" | "y") {
            return None;
        }
        let mut fields = bare.split(',');
        let name = unescape(fields.next()?.strip_prefix("n=")?)?;
        let theirs = fields.next()?.strip_prefix("r=")?;
        let acts_for = match identity {
            "" => None,
            text => Some(unescape(text.strip_prefix("a=")?)?),
        };
        let printable = |text: &str| text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b',');
        if name.is_empty() || theirs.is_empty() || !printable(theirs) {
            return None;
        }
        let known = users.by_name.get_key_value(name.as_str());
        // Nobody may act for somebody else.
        let known = known.filter(|_| acts_for.is_none_or(|other| other == name));
        // The same for the same name, whether there is such a user or not.
        let salt = blake3::keyed_hash(&users.key, name.as_bytes());
        let salt = &salt.as_bytes()[..16];
        let password = known.map_or(&users.key[..], |(_, password)| password);
        let mut salted = [0; LENGTH];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, salt, password, &mut salted);
        let nonce = format!("{theirs}{ours}");
        let challenge = format!("r={nonce},s={},i={ITERATIONS}", STANDARD.encode(salt));
        let scram = Self {
            name: known.map(|(name, _)| Arc::clone(name)),
            salted,
            header: format!("{binding},{identity},"),
            nonce,
            said: format!("{bare},{challenge}"),
        };
        Some((scram, challenge))
    }

    /// `c=header,r=nonce,p=proof` → the name, and `v=signature` for the client.
    pub fn prove(self, last: &[u8]) -> Result<(Arc<str>, String), Unproven> {
        let last = std::str::from_utf8(last).map_err(|_| Unproven::Malformed)?;
        let (without, proof) = last.rsplit_once(",p=").ok_or(Unproven::Malformed)?;
        let proof = STANDARD.decode(proof).ok().filter(|proof| proof.len() == LENGTH);
        let proof = proof.ok_or(Unproven::Malformed)?;
        let mut fields = without.split(',');
        let repeated = format!("c={}", STANDARD.encode(&self.header));
        let nonce = format!("r={}", self.nonce);
        if fields.next() != Some(&repeated) || fields.next() != Some(&nonce) {
            return Err(Unproven::Wrong);
        }
        let message = format!("{},{without}", self.said);
        let stored = digest::digest(&digest::SHA256, mac(&self.salted, b"Client Key").as_ref());
        let signature = mac(stored.as_ref(), message.as_bytes());
        let key: Vec<u8> = proof.iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let same = constant_time::verify_slices_are_equal(
            digest::digest(&digest::SHA256, &key).as_ref(),
            stored.as_ref(),
        );
        let name = self.name.filter(|_| same.is_ok()).ok_or(Unproven::Wrong)?;
        let server = mac(mac(&self.salted, b"Server Key").as_ref(), message.as_bytes());
        Ok((name, format!("v={}", STANDARD.encode(server))))
    }
}

fn mac(key: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
}

/// `=2C` is a comma and `=3D` an equals sign in a name; no other `=` may stand there.
fn unescape(text: &str) -> Option<String> {
    let mut name = String::with_capacity(text.len());
    let mut parts = text.split('=');
    name.push_str(parts.next()?);
    for part in parts {
        let (c, rest) = match (part.get(..2)?, part.get(2..)?) {
            ("2C", rest) => (',', rest),
            ("3D", rest) => ('=', rest),
            _ => return None,
        };
        name.push(c);
        name.push_str(rest);
    }
    Some(name)
}

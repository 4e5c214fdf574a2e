//! A blocking SMTP client that says exactly what a test tells it to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

pub struct Client {
    reader: BufReader<Wire>,
    pub greeting: String,
}

enum Wire {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    fn tcp(&self) -> &TcpStream {
        match self {
            Wire::Clear(stream) => stream,
            Wire::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Wire::Clear(stream) => stream.read(buffer),
            Wire::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        match self {
            Wire::Clear(stream) => stream.write(buffer),
            Wire::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Wire::Clear(stream) => stream.flush(),
            Wire::Tls(stream) => stream.flush(),
        }
    }
}

impl Client {
    /// Connects and reads the greeting.
    pub fn connect(to: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_nodelay(true)?;
        let mut client = Self { reader: BufReader::new(Wire::Clear(stream)), greeting: String::new() };
        client.greeting = client.reply()?;
        Ok(client)
    }

    /// Connects and says EHLO.
    pub fn hello(to: SocketAddr) -> Self {
        let mut client = Self::connect(to).expect("the gateway accepts connections");
        assert!(client.greeting.starts_with("220 "), "{}", client.greeting);
        let reply = client.say("EHLO client.example").expect("EHLO is answered");
        assert!(reply.starts_with("250"), "{reply}");
        client
    }

    /// The same, under TLS.
    pub fn hello_tls(to: SocketAddr) -> Self {
        Self::hello_tls_as(to, None)
    }

    /// The same with a certificate and its key, both PEM.
    pub fn hello_tls_as(to: SocketAddr, certificate: Option<(&str, &str)>) -> Self {
        let mut client = Self::hello(to);
        let reply = client.say("STARTTLS").expect("STARTTLS is answered");
        assert!(reply.starts_with("220"), "{reply}");
        let mut client = client.secured(certificate);
        let reply = client.say("EHLO client.example").expect("EHLO is answered");
        assert!(reply.starts_with("250"), "{reply}");
        client
    }

    /// Takes whatever certificate there is.
    fn secured(self, certificate: Option<(&str, &str)>) -> Self {
        let Self { reader, greeting } = self;
        let Wire::Clear(stream) = reader.into_inner() else { panic!("TLS is on already") };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows them")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting));
        let config = match certificate {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = CertificateDer::pem_slice_iter(chain.as_bytes());
                let chain = chain.collect::<Result<_, _>>().expect("certificates in PEM");
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key in PEM");
                config.with_client_auth_cert(chain, key).expect("the key fits")
            }
        };
        let name = ServerName::try_from("gateway.example").expect("a host name");
        let session = ClientConnection::new(Arc::new(config), name).expect("a plain configuration");
        let wire = Wire::Tls(Box::new(StreamOwned::new(session, stream)));
        Self { reader: BufReader::new(wire), greeting }
    }

    /// One reply; its lines joined by `\n`.
    pub fn reply(&mut self) -> std::io::Result<String> {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            text.push_str(line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(text);
            }
            text.push('\n');
        }
    }

    pub fn say(&mut self, line: &str) -> std::io::Result<String> {
        self.raw(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    /// Logs in with PLAIN; the reply.
    pub fn log_in(&mut self, name: &str, password: &str) -> String {
        use base64::Engine as _;
        let message = base64::engine::general_purpose::STANDARD.encode(format!("\0{name}\0{password}"));
        self.say(&format!("AUTH PLAIN {message}")).expect("AUTH is answered")
    }

    /// Content in chunks of so many octets, and the reply to the last.
    pub fn chunks(&mut self, content: &[u8], size: usize) -> std::io::Result<String> {
        let mut rest = content;
        loop {
            let (chunk, after) = rest.split_at(rest.len().min(size));
            rest = after;
            let last = if rest.is_empty() { " LAST" } else { "" };
            self.raw(&[format!("BDAT {}{last}\r\n", chunk.len()).as_bytes(), chunk].concat())?;
            let reply = self.reply()?;
            if rest.is_empty() || !reply.starts_with('2') {
                return Ok(reply);
            }
        }
    }

    /// Sends octets as they are.
    pub fn raw(&mut self, octets: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(octets)?;
        self.reader.get_mut().flush()
    }

    /// Ends our half of the connection and gives every reply that still comes.
    pub fn rest(mut self) -> Vec<String> {
        let _ = self.reader.get_ref().tcp().shutdown(Shutdown::Write);
        std::iter::from_fn(|| self.reply().ok()).collect()
    }

    /// A whole transaction; the reply that ended it: that of the first refused command, or the one after
    /// the data.
    pub fn send(&mut self, from: &str, to: &[&str], content: &str) -> std::io::Result<String> {
        self.send_with(&format!("<{from}>"), to, content.as_bytes())
    }

    /// The same with octets, and with parameters of MAIL behind `<from>`.
    pub fn send_with(&mut self, from: &str, to: &[&str], content: &[u8]) -> std::io::Result<String> {
        let reply = self.say(&format!("MAIL FROM:{from}"))?;
        if !reply.starts_with('2') {
            return Ok(reply);
        }
        for to in to {
            let reply = self.say(&format!("RCPT TO:<{to}>"))?;
            if !reply.starts_with('2') {
                self.say("RSET")?;
                return Ok(reply);
            }
        }
        let reply = self.say("DATA")?;
        if !reply.starts_with('3') {
            return Ok(reply);
        }
        self.data(content)
    }

    /// Content with its final dot, and the reply to it.
    pub fn data(&mut self, content: &[u8]) -> std::io::Result<String> {
        let mut stuffed = Vec::with_capacity(content.len() + 64);
        for line in content.split_inclusive(|octet| *octet == b'\n') {
            if line.starts_with(b".") {
                stuffed.push(b'.');
            }
            stuffed.extend_from_slice(line);
        }
        if !stuffed.ends_with(b"\r\n") {
            stuffed.extend_from_slice(b"\r\n");
        }
        stuffed.extend_from_slice(b".\r\n");
        self.raw(&stuffed)?;
        self.reply()
    }
}

/// One message over a connection of its own, after EHLO.
pub fn send(gateway: SocketAddr, from: &str, to: &[&str], content: &str) -> String {
    Client::hello(gateway).send(from, to, content).expect("the transaction is answered")
}

#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

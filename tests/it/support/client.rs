//! A blocking SMTP client that says exactly what a test tells it to.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub struct Client {
    reader: BufReader<TcpStream>,
    pub greeting: String,
}

impl Client {
    /// Connects and reads the greeting.
    pub fn connect(to: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_nodelay(true)?;
        let mut client = Self { reader: BufReader::new(stream), greeting: String::new() };
        client.greeting = client.reply()?;
        Ok(client)
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
        self.reader.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    /// A whole transaction; the reply that ended it: that of the first refused command, or the one after
    /// the data.
    pub fn send(&mut self, from: &str, to: &[&str], content: &str) -> std::io::Result<String> {
        let reply = self.say(&format!("MAIL FROM:<{from}>"))?;
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
        let stuffed = content.replace("\r\n.", "\r\n..");
        self.reader.get_mut().write_all(stuffed.as_bytes())?;
        self.say(if stuffed.ends_with("\r\n") { "." } else { "\r\n." })
    }
}

/// One message over a connection of its own, after EHLO.
pub fn send(gateway: SocketAddr, from: &str, to: &[&str], content: &str) -> String {
    let mut client = Client::connect(gateway).expect("the gateway accepts connections");
    client.say("EHLO client.example").expect("EHLO is answered");
    client.send(from, to, content).expect("the transaction is answered")
}

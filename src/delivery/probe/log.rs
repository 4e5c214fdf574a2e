//! How far a session came, and how long each stage took.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::delivery::client::connect::{Milestone, Watch};
use crate::delivery::outcome::Stage;

#[derive(Debug)]
pub struct Log(Mutex<Heard>);

/// What a session said so far; times are of the stage alone.
#[derive(Debug, Clone)]
pub struct Heard {
    last: Instant,
    pub connected: Option<Duration>,
    pub greeting: Option<(String, Duration)>,
    /// Time of the first EHLO and keywords of the last.
    pub hello: Option<(Vec<String>, Duration)>,
    /// Whether the last EHLO was after the handshake.
    pub hello_protected: bool,
    /// Whether the first EHLO response, in clear text, had STARTTLS in it.
    pub starttls: bool,
    /// Protocol and cipher suite.
    pub encrypted: Option<(String, Duration)>,
}

impl Default for Log {
    fn default() -> Self {
        Self(Mutex::new(Heard {
            last: Instant::now(),
            connected: None,
            greeting: None,
            hello: None,
            hello_protected: false,
            starttls: false,
            encrypted: None,
        }))
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn heard(&self) -> Heard {
        self.lock().clone()
    }

    /// How long the stage takes that is under way.
    pub fn since_last(&self) -> Duration {
        self.lock().last.elapsed()
    }

    /// The stage that is under way.
    pub fn stage(&self) -> Stage {
        let heard = self.lock();
        match (&heard.greeting, &heard.hello) {
            (None, _) => Stage::Greeting,
            (Some(_), None) => Stage::Ehlo,
            (Some(_), Some(_)) => Stage::StartTls,
        }
    }
}

impl Watch for Log {
    fn reached(&self, milestone: Milestone<'_>) {
        let mut heard = self.lock();
        let took = heard.last.elapsed();
        heard.last = Instant::now();
        match milestone {
            Milestone::Connected => heard.connected = Some(took),
            Milestone::Greeted(reply) => heard.greeting = Some((reply.text.clone(), took)),
            Milestone::Hello(reply) => {
                // The first line greets; each other one is a keyword with its parameters.
                let keywords: Vec<String> = reply.text.split('\n').skip(1).map(clean).collect();
                let first = heard.hello.as_ref().map_or(took, |(_, first)| *first);
                heard.hello_protected = heard.encrypted.is_some();
                if !heard.hello_protected {
                    let word = |line: &String| {
                        line.split(' ').next().is_some_and(|word| word.eq_ignore_ascii_case("STARTTLS"))
                    };
                    heard.starttls = keywords.iter().any(word);
                }
                heard.hello = Some((keywords, first));
            }
            Milestone::Encrypted(facts) => heard.encrypted = Some((facts.to_owned(), took)),
        }
    }
}

/// Words of a stranger, for a terminal.
pub fn clean(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

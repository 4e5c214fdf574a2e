//! The classification as a table, the life of a standing as a story.

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn heard(stage: Stage, code: u16, enhanced: Option<[u16; 3]>, text: &str) -> Option<Sign> {
    let reply = Reply { code, enhanced, text: text.to_owned() };
    sign(&Trouble::Refused(stage, reply), Some("192.0.2.1".parse().unwrap()))
}

#[test]
fn r002_replies_about_our_pace_and_our_name_are_told_from_those_about_the_message() {
    use Sign::{Blocked, Slow};
    use Stage::{Ehlo, End, Greeting, Mail, Rcpt};
    for (stage, code, enhanced, text, expected) in [
        (Mail, 421, Some([4, 7, 0]), "Try again later, closing connection", Some(Slow)),
        (Mail, 421, None, "4.3.2 bye", Some(Slow)),
        (Greeting, 421, None, "Too many concurrent SMTP connections", Some(Slow)),
        (Greeting, 450, None, "busy", Some(Slow)),
        (Ehlo, 451, None, "not now", Some(Slow)),
        (Mail, 450, Some([4, 7, 1]), "Error: too much mail", Some(Slow)),
        (End, 451, Some([4, 7, 650]), "The mail server has been temporarily rate limited", Some(Slow)),
        (Rcpt, 452, None, "Requested action aborted: rate limit", Some(Slow)),
        (Mail, 451, Some([4, 3, 2]), "Server busy, please slow down", Some(Slow)),
        (Mail, 421, Some([4, 7, 0]), "[192.0.2.1] IP address has a poor reputation", Some(Blocked)),
        (Rcpt, 451, Some([4, 7, 1]), "192.0.2.1 is on our block list", Some(Blocked)),
        (Greeting, 554, None, "no SMTP service here", Some(Blocked)),
        (Rcpt, 550, Some([5, 7, 1]), "Service unavailable; client host [192.0.2.1] blocked", Some(Blocked)),
        (Mail, 553, None, "5.7.1 blocked using zen.spamhaus.org", Some(Blocked)),
        // About the message, the recipient or the host alone.
        (Greeting, 521, None, "host takes no mail", None),
        (Rcpt, 450, Some([4, 2, 0]), "Greylisted, come back in 5 minutes", None),
        (Rcpt, 451, Some([4, 7, 1]), "Greylisting in action", None),
        (Rcpt, 452, Some([4, 5, 3]), "Too many recipients", None),
        (Rcpt, 452, Some([4, 2, 2]), "Over quota: message limit of the mailbox", None),
        (End, 451, Some([4, 3, 0]), "disk", None),
        (End, 452, Some([4, 3, 1]), "Insufficient system storage", None),
        (Rcpt, 550, Some([5, 1, 1]), "no such user 192.0.2.1", None),
        (End, 550, Some([5, 7, 1]), "message contains a virus", None),
        (End, 554, Some([5, 7, 1]), "192.0.2.100 may, you may not", None),
    ] {
        assert_eq!(heard(stage, code, enhanced, text), expected, "{code} {text}");
    }
    assert_eq!(sign(&Trouble::Closed(Stage::Greeting), None), Some(Slow));
    assert_eq!(sign(&Trouble::Closed(Stage::End), None), None);
    assert_eq!(sign(&Trouble::Unreachable("refused".into()), None), Some(Sign::Down));
    assert_eq!(sign(&Trouble::StartTlsMissing, None), None);
}

struct Story {
    standing: Standing,
    schedule: Schedule,
}

impl Story {
    fn new() -> Self {
        Self { standing: Standing::new(at(0)), schedule: Schedule::default() }
    }

    /// Starts as many as may start, at most `most`.
    fn start(&mut self, most: u32, now: i64) -> u32 {
        let may = |standing: &Standing| standing.may_start(at(now)).is_ok();
        (0..most)
            .take_while(|_| {
                may(&self.standing) && {
                    self.standing.started(at(now));
                    true
                }
            })
            .count() as u32
    }

    fn sign(&mut self, sign: Sign, now: i64) -> bool {
        let paused = self.standing.signed(sign, "421 4.7.0 slow down", &self.schedule, at(now));
        self.standing.ended();
        paused
    }

    fn serve(&mut self, count: u32, now: i64) {
        for _ in 0..count {
            self.standing.served(20, &self.schedule, at(now));
            self.standing.ended();
        }
    }
}

#[test]
fn r002_signs_halve_then_slow_then_stop_and_recovery_is_step_by_step() {
    let mut story = Story::new();
    assert_eq!(story.start(16, 0), 16);
    assert!(!story.sign(Sign::Slow, 1));
    assert!(!story.sign(Sign::Slow, 2), "one round is one sign");
    story.serve(14, 3);
    // Half of what ran, and a little more for each success since.
    let Step::Limited { connections, .. } = story.standing.stage else { panic!("{:?}", story.standing) };
    assert!((8.0..10.0).contains(&connections), "{connections}");
    assert_eq!(story.start(20, 4), connections as u32);
    for round in 1..=2 {
        assert!(!story.sign(Sign::Slow, 10 * round + 5), "patience");
        story.serve(0, 0);
    }
    assert!(story.sign(Sign::Slow, 36), "the third round without any success");
    assert_eq!(story.standing.may_start(at(40)), Err(at(96)));
    // What still runs changes nothing.
    assert!(!story.sign(Sign::Slow, 50));
    story.serve(20, 51);
    assert_eq!(story.standing.may_start(at(95)), Err(at(96)));
    // One message asks; its failure doubles the pause.
    assert_eq!(story.start(5, 96), 1);
    assert!(story.sign(Sign::Slow, 97));
    assert_eq!(story.standing.may_start(at(98)), Err(at(97 + 120)));
    assert_eq!(story.start(5, 217), 1);
    story.serve(1, 218);
    assert_eq!(story.start(5, 219), 1, "one, then two, then more");
    story.serve(1, 219);
    assert_eq!(story.start(5, 220), 2);
    story.serve(2, 220);
    let mut rounds = 0;
    while story.standing.stage != Step::Free {
        rounds += 1;
        let started = story.start(20, 221 + rounds);
        story.serve(started, 221 + rounds);
        assert!(rounds < 100);
    }
    assert!(rounds >= 10, "{rounds}");
    assert!(story.standing.is_forgotten(&story.schedule, at(400)));
}

#[test]
fn one_connection_that_is_too_many_gets_slower() {
    let mut story = Story::new();
    assert_eq!(story.start(1, 0), 1);
    story.sign(Sign::Slow, 0);
    assert_eq!(story.start(1, 1), 1);
    story.serve(1, 1);
    // A success in between: the strikes begin anew, the pace does not.
    let mut waits = Vec::new();
    for n in 1..6 {
        let now = 40 * n;
        assert_eq!(story.start(1, now), 1);
        story.sign(Sign::Slow, now);
        let next = story.standing.may_start(at(now)).err().map(|t| t.duration_since(at(now)).as_millis());
        waits.push(next.unwrap_or(0));
        assert_eq!(story.start(1, now + 31), 1);
        story.standing.served_since_sign = true;
        story.standing.ended();
    }
    assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]) && waits[4] >= 4000, "{waits:?}");
}

#[test]
fn a_block_stops_at_once_and_longer_each_time_up_to_hours() {
    let mut story = Story::new();
    let mut now = 0;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        assert_eq!(story.start(1, now), 1);
        assert!(story.sign(Sign::Blocked, now));
        let until = story.standing.may_start(at(now)).unwrap_err();
        pauses.push(until.duration_since(at(now)).as_secs() / 60);
        now = until.as_second();
    }
    assert_eq!(pauses, [15, 30, 60, 120, 240, 240, 240, 240]);
}

#[test]
fn a_dead_host_is_asked_again_within_minutes_and_a_clock_that_was_set_back_stops_nothing() {
    let mut story = Story::new();
    for n in 0..3 {
        assert_eq!(story.start(1, 1000 + 20 * n), 1);
        story.sign(Sign::Down, 1000 + 20 * n);
    }
    assert_eq!(story.standing.may_start(at(1050)), Err(at(1070)));
    assert_eq!(story.standing.may_start(at(0)), Ok(()), "before the pause began");
    for _ in 0..10 {
        let now = story.standing.may_start(at(1050)).err().map_or(1050, |t| t.as_second());
        story.start(1, now);
        story.sign(Sign::Down, now);
        let pause = story.standing.may_start(at(now)).unwrap_err().as_second() - now;
        assert!(pause <= 300, "{pause}");
    }
}

//! The promise behind 250 and what the machine runs out of: order of writes, disk, inodes, descriptors, memory
//! (E4, E7-E9, E27). These tests mount, trace and limit: they need root, as `make test` has it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::kill::number_from;
use crate::support::client::{Client, send};
use crate::support::gateway::Standalone;
use crate::support::inbox::Inbox;
use crate::support::site::{OWN, PARTNER, Site, message};
use crate::support::wait_for;

fn run(program: &str, arguments: &[&str]) {
    let output =
        Command::new(program).args(arguments).output().expect("the program is there: run `make deps`");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error} (these tests need root)");
}

/// A small file system of its own for the state folder; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(site: &Site, options: &str) -> Self {
        let state = site.folder.0.join("state");
        fs::create_dir_all(&state).unwrap();
        run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", state.to_str().unwrap()]);
        Self(state)
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut file = fs::File::options().create(true).append(true).open(self.0.join("filler")).unwrap();
        for size in [1 << 20, 4096] {
            while file.write(&vec![0; size]).is_ok_and(|written| written > 0) {}
        }
    }

    /// Takes all the inodes that are left.
    fn fill_inodes(&self) {
        let folder = self.0.join("inodes");
        fs::create_dir(&folder).unwrap();
        assert!((0..10_000).any(|n| fs::File::create(folder.join(n.to_string())).is_err()));
    }

    fn free(&self) {
        let _ = fs::remove_file(self.0.join("filler"));
        let _ = fs::remove_dir_all(self.0.join("inodes"));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what a killed gateway had mapped may take a moment to go.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn large(subject: &str, size: usize) -> String {
    message(subject) + &format!("{}\r\n", "x".repeat(900)).repeat(size / 902)
}

fn subjects(sink: &Inbox) -> Vec<String> {
    let mut subjects: Vec<String> = sink.mail().iter().filter_map(|mail| mail.header("Subject")).collect();
    subjects.sort();
    subjects
}

fn alive(gateway: &Standalone) {
    assert_eq!(gateway.get("/livez").map(|(status, _)| status), Some(200));
    assert!(Client::hello(gateway.smtp).say("NOOP").unwrap().starts_with("250"));
}

#[test]
fn r158_e7_a_full_disk_is_452_and_nothing_that_was_accepted_is_lost_or_repeated() {
    let sink = Inbox::start();
    let site = Site::new("disk-full", sink.address);
    let disk = SmallDisk::mount(&site, "size=64m");
    let gateway = site.start();
    sink.set_busy(true);
    let mut client = Client::hello(gateway.smtp);
    let mut accepted = Vec::new();
    let full = loop {
        let subject = format!("m{}", accepted.len());
        let reply = client.send(OWN, &[PARTNER], &large(&subject, 400_000)).unwrap();
        if !reply.starts_with("250") {
            break reply;
        }
        accepted.push(subject);
        assert!(accepted.len() < 200, "64 MiB do not hold this much");
    };
    assert!(full.starts_with("452 4.3.1"), "{full}");
    assert!(accepted.len() > 40, "only {} messages found room", accepted.len());
    disk.fill();
    let refused = wait_for("small mail is refused too", Duration::from_secs(10), || {
        let reply = send(gateway.smtp, OWN, &[PARTNER], &message("full"));
        if reply.starts_with("250") {
            accepted.push("full".to_owned());
        }
        (!reply.starts_with("250")).then_some(reply)
    });
    assert!(refused.starts_with("452 4.3.1"), "{refused}");
    alive(&gateway);
    assert!(gateway.metric("postern_no_room", "of=\"disk\"") >= 2);
    assert_eq!(
        gateway.get("/readyz").map(|(status, _)| status),
        Some(200),
        "it answers 452: that is no failure"
    );
    // What was accepted leaves although not a byte is free.
    sink.set_busy(false);
    sink.wait(accepted.len());
    disk.free();
    wait_for("mail is taken again", Duration::from_secs(10), || {
        send(gateway.smtp, OWN, &[PARTNER], &message("again")).starts_with("250").then_some(())
    });
    assert!(client.send(OWN, &[PARTNER], &large("again large", 400_000)).unwrap().starts_with("250"));
    accepted.extend(["again".to_owned(), "again large".to_owned()]);
    gateway.wait_empty();
    accepted.sort();
    assert_eq!(subjects(&sink), accepted);
}

#[test]
fn e8_a_disk_without_inodes_is_452_for_what_needs_one_and_recovers() {
    let sink = Inbox::start();
    let site = Site::new("inodes", sink.address);
    let disk = SmallDisk::mount(&site, "size=64m,nr_inodes=100");
    let gateway = site.start();
    disk.fill_inodes();
    let mut accepted = Vec::new();
    let mut refused = 0;
    // Small mail needs no file of its own until its segment is full.
    for n in 0..60 {
        let (subject, size) = (format!("m{n}"), if n % 10 == 0 { 400_000 } else { 100_000 });
        let reply = send(gateway.smtp, OWN, &[PARTNER], &large(&subject, size));
        if reply.starts_with("250") {
            accepted.push(subject);
        } else {
            assert!(reply.starts_with("452 4.3.1"), "{reply}");
            refused += 1;
        }
    }
    assert!(refused >= 6, "large messages cannot have found an inode");
    alive(&gateway);
    disk.free();
    wait_for("large mail is taken again", Duration::from_secs(10), || {
        send(gateway.smtp, OWN, &[PARTNER], &large("again", 400_000)).starts_with("250").then_some(())
    });
    accepted.push("again".to_owned());
    gateway.wait_empty();
    accepted.sort();
    assert_eq!(subjects(&sink), accepted);
}

/// strace, attached to a gateway that runs; detached when dropped.
struct Tracing(Child);

impl Tracing {
    fn attach(gateway: &Standalone, arguments: &[&str]) -> Self {
        let pid = gateway.pid().to_string();
        let child = Command::new("strace")
            .args(["-f", "-qq", "-p", &pid])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is there: run `make deps`");
        Self(child)
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// E9. A file system cannot be remounted read-only while a file of it is open for writing; what the gateway would
/// see if it could be is injected by strace into the very system calls.
#[test]
fn r158_e9_a_disk_that_became_read_only_is_451_until_it_can_be_written_again() {
    for errno in ["EROFS", "EIO"] {
        let sink = Inbox::start();
        let site = Site::new(&format!("disk-{errno}"), sink.address);
        let gateway = site.start();
        assert!(send(gateway.smtp, OWN, &[PARTNER], &message("before")).starts_with("250"));
        gateway.wait_empty();
        let mut accepted = vec!["before".to_owned()];

        let calls = "pwrite64,pwritev,pwritev2,fdatasync,fsync,fallocate,ftruncate";
        let inject = format!("inject={calls}:error={errno}");
        let tracing = Tracing::attach(&gateway, &["-e", &format!("trace={calls}"), "-e", &inject]);
        let mut n = 0;
        let refused = wait_for("the disk fails", Duration::from_secs(20), || {
            n += 1;
            let reply = send(gateway.smtp, OWN, &[PARTNER], &message(&format!("before {n}")));
            if reply.starts_with("250") {
                accepted.push(format!("before {n}"));
            }
            (!reply.starts_with("250")).then_some(reply)
        });
        assert!(refused.starts_with("451 4.3.0"), "{refused}");
        for size in [100, 400_000] {
            let reply = send(gateway.smtp, OWN, &[PARTNER], &large("failing", size));
            assert!(reply.starts_with("451 4.3.0"), "{size}: {reply}");
        }
        alive(&gateway);
        wait_for("it is not ready", Duration::from_secs(5), || {
            (gateway.get("/readyz")?.0 == 503).then_some(())
        });
        assert_eq!(gateway.metric("postern_spool_failing", ""), 1);
        drop(tracing);
        // Without any mail: nobody sends to a pod that is not ready.
        gateway.wait_ready();
        assert_eq!(gateway.metric("postern_spool_failing", ""), 0);
        wait_for("mail is taken again", Duration::from_secs(10), || {
            send(gateway.smtp, OWN, &[PARTNER], &message("after")).starts_with("250").then_some(())
        });
        accepted.push("after".to_owned());
        gateway.wait_empty();
        // A restart finds the same: what was refused stays refused.
        gateway.stop();
        let gateway = site.start();
        gateway.wait_empty();
        accepted.sort();
        assert_eq!(subjects(&sink), accepted);
    }
}

/// One system call of a trace: at which lines of it the call began and was over.
#[derive(Debug)]
struct Call {
    name: String,
    text: String,
    began: usize,
    ended: usize,
    failed: bool,
}

fn calls(trace: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut open: std::collections::HashMap<&str, usize> = std::collections::HashMap::new();
    for (at, line) in trace.lines().enumerate() {
        let Some((pid, line)) = line.trim_start().split_once(' ') else { continue };
        let line = line.trim_start();
        let result = |line: &str| line.rsplit_once(" = ").is_some_and(|(_, result)| result.starts_with('-'));
        if line.starts_with("<... ") {
            if let Some(call) = open.remove(pid).map(|call| &mut calls[call]) {
                call.text += line;
                (call.ended, call.failed) = (at, result(line));
            }
        } else if let Some((name, _)) = line.split_once('(') {
            let unfinished = line.ends_with("<unfinished ...>");
            if unfinished {
                open.insert(pid, calls.len());
            }
            let ended = if unfinished { usize::MAX } else { at };
            let failed = !unfinished && result(line);
            calls.push(Call { name: name.to_owned(), text: line.to_owned(), began: at, ended, failed });
        }
    }
    calls
}

/// E4: no 250 before a sync that began after the message's bytes were written, no commit into a file whose name is
/// not durable.
#[test]
fn e4_every_250_follows_a_sync_that_covers_its_message_and_the_names_of_its_files() {
    const CLIENTS: usize = 4;
    let sink = Inbox::start();
    let site = Site::new("order-of-writes", sink.address);
    // On a small disk segments are small: several are begun, and what is larger than an eighth of one has a file.
    let _disk = SmallDisk::mount(&site, "size=96m");
    let trace = site.folder.0.join("trace");
    let launcher = [
        "strace",
        "-D",
        "-f",
        "-qq",
        "-y",
        "-s",
        "1200",
        "-e",
        "abbrev=none",
        "-e",
        "trace=openat,rename,renameat,renameat2,pwrite64,pwritev,pwritev2,fdatasync,fsync,write,writev,sendto,sendmsg",
        "-o",
        trace.to_str().unwrap(),
    ];
    let gateway = site.start_by(&launcher);
    let accepted = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for client in 0..CLIENTS {
            let (accepted, smtp) = (&accepted, gateway.smtp);
            threads.spawn(move || {
                let mut session = Client::hello(smtp);
                for n in 0..20 {
                    let subject = format!("order-{client}-{n}-");
                    let size = if n % 7 == 6 { 400_000 } else { 150_000 };
                    let reply = session.send(OWN, &[PARTNER], &large(&subject, size)).unwrap();
                    let id = reply.strip_prefix("250 2.0.0 Ok: queued as ").expect(&reply).to_owned();
                    accepted.lock().unwrap().push((subject, id));
                }
            });
        }
    });
    gateway.wait_empty();
    gateway.stop();
    let trace = wait_for("strace has written all", Duration::from_secs(20), || {
        let trace = fs::read_to_string(&trace).ok()?;
        let accepted = accepted.lock().unwrap();
        accepted.iter().all(|(_, id)| trace.contains(id)).then_some(trace)
    });
    let calls = calls(&trace);
    let path =
        |call: &Call| call.text.split_once('<').map(|(_, rest)| rest.split('>').next().unwrap().to_owned());
    let is_write = |call: &&Call| call.name.starts_with("pwrite") && !call.failed;
    let is_sync = |call: &&Call| (call.name == "fdatasync" || call.name == "fsync") && !call.failed;
    let synced = |file: &Path, after: usize, before: usize| {
        calls.iter().filter(is_sync).any(|sync| {
            sync.began > after && sync.ended < before && path(sync).is_some_and(|of| Path::new(&of) == file)
        })
    };
    // A file got its name when it was made, or when a dead segment got a new one.
    let named = |file: &Path| {
        let name = format!("\"{}\"", file.display());
        let made =
            |call: &Call| call.name == "openat" && call.text.contains("O_CREAT") && call.text.contains(&name);
        let renamed = |call: &Call| {
            call.name.starts_with("rename")
                && call.text.split_once(", ").is_some_and(|(_, to)| to.contains(&name))
        };
        calls
            .iter()
            .filter(|call| !call.failed)
            .find(|call| made(call) || renamed(call))
            .expect("the file got its name from somebody")
            .ended
    };
    let mut files = std::collections::BTreeSet::new();
    for (subject, id) in accepted.lock().unwrap().iter() {
        let reply = calls
            .iter()
            .find(|call| {
                call.text.contains(&format!("Ok: queued as {id}")) && !call.name.starts_with("pwrite")
            })
            .expect("the reply was written")
            .began;
        let write = calls
            .iter()
            .filter(is_write)
            .find(|call| call.text.contains(&format!("Subject: {subject}")))
            .expect("the message was written");
        let file = PathBuf::from(path(write).expect("strace names the file"));
        assert!(write.ended < reply, "{subject}: 250 before its message was written");
        let last = calls.iter().filter(is_write).filter(|call| {
            path(call).is_some_and(|of| Path::new(&of) == file) && !file.to_string_lossy().ends_with(".log")
        });
        let written = last.map(|call| call.ended).max().unwrap_or(write.ended).max(write.ended);
        assert!(synced(&file, written, reply), "{subject}: 250 before a sync of {}", file.display());
        let folder = file.parent().unwrap();
        assert!(synced(folder, named(&file), reply), "{subject}: 250 before the name was durable");
        if file.extension().is_some_and(|extension| extension == "log") {
            assert!(
                synced(folder, named(&file), write.began),
                "{}: named after its first record",
                file.display()
            );
        }
        files.insert(file);
    }
    assert_eq!(sink.wait(CLIENTS * 20).len(), CLIENTS * 20);
    let segments = files.iter().filter(|file| file.to_string_lossy().ends_with(".log")).count();
    assert!(segments >= 2 && files.len() > segments, "several segments and content files: {files:?}");
}

/// CPU time of a process so far.
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[test]
fn e27_running_out_of_descriptors_neither_spins_nor_loses_mail_and_recovers() {
    let sink = Inbox::start();
    let site = Site::new("descriptors", sink.address);
    site.gateway("  limits: {connections: 1000, connectionsPerClient: 1000}\n");
    let gateway = site.start_by(&["sh", "-c", "ulimit -n 128; exec \"$@\"", "sh"]);
    let mut first = Client::hello(gateway.smtp);
    let crowd: Vec<std::net::TcpStream> = (0..300)
        .map(|_| std::net::TcpStream::connect_timeout(&gateway.smtp, Duration::from_secs(5)).unwrap())
        .collect();
    wait_for("there are no descriptors left", Duration::from_secs(10), || {
        let open = fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count();
        (open >= 127).then_some(())
    });
    let (before, start) = (cpu(gateway.pid()), Instant::now());
    // A transaction in this state: taken or put off, but answered.
    let reply = first.send(OWN, &[PARTNER], &large("meanwhile", 400_000)).unwrap();
    assert!(reply.starts_with("250") || reply.starts_with('4'), "{reply}");
    // The window in which a loop that spins would show.
    std::thread::sleep(Duration::from_secs(2).saturating_sub(start.elapsed()));
    let (used, of) = (cpu(gateway.pid()) - before, start.elapsed());
    assert!(used < of / 4, "{used:?} of CPU in {of:?}");
    drop(crowd);
    wait_for("it takes mail again", Duration::from_secs(10), || {
        let mut client = Client::connect(gateway.smtp).ok()?;
        client.say("EHLO c.example").ok()?;
        client.send(OWN, &[PARTNER], &message("after")).ok()?.starts_with("250").then_some(())
    });
    gateway.wait_empty();
    let mut expected = vec!["after"];
    expected.extend(reply.starts_with("250").then_some("meanwhile"));
    assert_eq!(subjects(&sink), expected);
}

/// A memory cgroup for one process; removed when dropped.
struct Memory(PathBuf);

impl Memory {
    const LIMIT: u64 = 512 << 20;

    fn new() -> Self {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (root, limit) = match v1.is_dir() {
            true => (v1, "memory.limit_in_bytes"),
            false => (Path::new("/sys/fs/cgroup"), "memory.max"),
        };
        let folder = root.join(format!("postern-it-{}", std::process::id()));
        let made =
            fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join(limit), Self::LIMIT.to_string()));
        made.expect("a memory cgroup can be made: this test needs root and a writable /sys/fs/cgroup");
        Self(folder)
    }

    /// How often the kernel had to kill.
    fn kills(&self) -> u64 {
        let text = ["memory.oom_control", "memory.events"]
            .iter()
            .find_map(|name| fs::read_to_string(self.0.join(name)).ok())
            .expect("the cgroup says so");
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).expect("it counts kills");
        line.trim().parse().unwrap()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Its process may not be quite gone.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Memory that is the process's own; pages of files are the kernel's to drop.
fn own_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// `POSTERN_LARGE_SESSIONS` and `POSTERN_LARGE_MIB`: that many of that size instead of 50 of 20 MiB.
#[test]
fn r158_e27_large_messages_at_once_stay_within_the_memory_limit() {
    let sessions = number_from("POSTERN_LARGE_SESSIONS", 50);
    let size = number_from("POSTERN_LARGE_MIB", 20);
    let (sink, memory) = (Inbox::start(), Memory::new());
    sink.set_forgetful();
    let site = Site::new("memory", sink.address);
    site.add(
        "ComplianceRule",
        "word",
        "  messages: [Outbound]
  match: {words: [rahasia]}
  onScanLimit: TreatAsNoMatch
  action: {reject: {notice: Not this word}}
",
    );
    let join = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", memory.0.display());
    let gateway = site.start_by(&["sh", "-c", &join, "sh"]);
    // The limit is for what arrives: line ends and our own fields are in it.
    let content = large("large", (size << 20) - (size << 12)) + ".\r\n";
    let (mut taken, mut refused, mut most) = (0, 0, 0);
    let replies = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for n in 0..sessions {
            let (content, smtp, replies) = (&content, gateway.smtp, &replies);
            threads.spawn(move || {
                let mut client = Client::hello(smtp);
                client.say(&format!("MAIL FROM:<{OWN}>")).unwrap();
                client.say(&format!("RCPT TO:<r{n}@partner.example>")).unwrap();
                let mut reply = client.say("DATA").unwrap();
                if reply.starts_with("354") {
                    client.raw(content.as_bytes()).unwrap();
                    reply = client.reply().unwrap();
                }
                replies.lock().unwrap().push(reply);
            });
        }
        while replies.lock().unwrap().len() < sessions {
            most = most.max(own_memory(gateway.pid()));
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    for reply in replies.into_inner().unwrap() {
        assert!(reply.starts_with("250") || reply.starts_with("452 4.3.1"), "{reply}");
        taken += usize::from(reply.starts_with("250"));
        refused += u64::from(reply.starts_with("452"));
    }
    assert_eq!(gateway.metric("postern_no_room", "of=\"memory\""), refused, "each 452 is counted");
    wait_for("what was taken is delivered", Duration::from_secs(300), || {
        most = most.max(own_memory(gateway.pid()));
        (gateway.queued() == 0).then_some(())
    });
    crate::support::tell(&format!(
        "{taken} of {sessions} messages of {size} MiB taken, {refused} told to come later, at most {} MiB of {} MiB",
        most >> 20,
        Memory::LIMIT >> 20
    ));
    assert_eq!(sink.wait(taken).len(), taken);
    assert!(taken > 0);
    alive(&gateway);
    assert_eq!(memory.kills(), 0);
    assert!(most < Memory::LIMIT * 3 / 4, "{} MiB", most >> 20);
}

/// `POSTERN_FILES_A_SECOND`: that many instead of 2 (a debug build reads no 20 of them in a second).
#[test]
fn small_mail_is_accepted_promptly_beside_large_files() {
    let rate = number_from("POSTERN_FILES_A_SECOND", 2);
    const SECONDS: usize = 4;
    let sink = Inbox::start();
    sink.set_forgetful();
    let site = Site::new("beside-files", sink.address);
    site.add(
        "ComplianceRule",
        "word",
        "  messages: [Outbound]
  match: {words: [rahasia]}
  onScanLimit: TreatAsNoMatch
  action: {reject: {notice: Not this word}}
",
    );
    let gateway = site.start();
    let file = large("file", 5 << 20);
    let took = Mutex::new(Vec::new());
    let until = Instant::now() + Duration::from_secs(SECONDS as u64);
    std::thread::scope(|threads| {
        let (file, took, smtp) = (&file, &took, gateway.smtp);
        for n in 0..rate * SECONDS {
            threads.spawn(move || {
                // Each at its own time, whatever became of the one before.
                std::thread::sleep(Duration::from_millis((n * 1000 / rate) as u64));
                let reply = send(smtp, OWN, &[PARTNER], file);
                assert!(reply.starts_with("250") || reply.starts_with("452 4.3.1"), "{reply}");
            });
        }
        for _ in 0..4 {
            threads.spawn(move || {
                let mut client = Client::hello(smtp);
                while Instant::now() < until {
                    let start = Instant::now();
                    let reply = client.send(OWN, &[PARTNER], &message("small")).unwrap();
                    assert!(reply.starts_with("250"), "{reply}");
                    took.lock().unwrap().push(start.elapsed());
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
    });
    let mut took = took.into_inner().unwrap();
    took.sort();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    crate::support::tell(&format!(
        "{} small messages beside {rate} files of 5 MiB a second: accepted in {:?} (median), {:?} (p99)",
        took.len(),
        at(50),
        at(99)
    ));
    assert!(at(50) < Duration::from_secs(1), "{:?}", at(50));
    gateway.wait_empty();
}

/// strace holds up the very first thing a start does with the spool: its lock.
#[test]
fn r158_probes_are_answered_while_a_spool_is_being_recovered() {
    let sink = Inbox::start();
    let site = Site::new("slow-start", sink.address);
    let (config, state) = (site.folder.0.join("config"), site.folder.0.join("state"));
    let lock = state.join("spool/lock");
    fs::create_dir_all(state.join("spool")).unwrap();
    fs::write(&lock, "").unwrap();
    let slow = [
        "strace",
        "-D",
        "-f",
        "-qq",
        "-P",
        lock.to_str().unwrap(),
        "-e",
        "trace=flock",
        "-e",
        "inject=flock:delay_enter=3s",
        "-o",
        "/dev/null",
    ];
    let start = Instant::now();
    let gateway = Standalone::launch_by(&slow, &config, &state);
    wait_for("it is alive", Duration::from_secs(10), || (gateway.get("/livez")?.0 == 200).then_some(()));
    assert_eq!(gateway.get("/readyz").map(|(status, _)| status), Some(503));
    assert!(start.elapsed() < Duration::from_secs(3), "the recovery was over already: {:?}", start.elapsed());
    let mut answers = 0;
    while gateway.get("/readyz").is_some_and(|(status, _)| status == 503) {
        assert_eq!(gateway.get("/livez").map(|(status, _)| status), Some(200), "not one probe is lost");
        answers += 1;
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(answers > 10, "{answers}");
    assert!(start.elapsed() >= Duration::from_secs(3));
    assert!(send(gateway.smtp, OWN, &[PARTNER], &message("at last")).starts_with("250"));
    sink.wait(1);
}

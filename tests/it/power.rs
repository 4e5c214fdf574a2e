//! Power cuts on real file systems (spec R158). The gateway's disk is an ext4 or an XFS in a file; in the middle
//! of the load the file system is told to go down without writing anything more, as if the power were cut:
//! what is in the page cache or in the file system's own log buffers is gone. Then the gateway is killed, the
//! file system mounted again (it replays its journal), and the gateway started on what is left.
//!
//! A 250 counts that came before the cut began. After a real one nobody says anything; here a sync that the
//! kernel has just begun to abandon may still come back as done, and that 250 is worth nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::kill::{client, number_from};
use crate::support::client::{Client, send};
use crate::support::inbox::Inbox;
use crate::support::site::{OWN, PARTNER, Site, message};
use crate::support::wait_for;

/// `FS_IOC_SHUTDOWN`, and its flag for "write neither data nor log".
const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
const NO_LOG_FLUSH: u32 = 2;
const CLIENTS: usize = 8;

fn run(program: &str, arguments: &[&str]) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).output();
    let output = output.expect("the program is there: run `make deps`");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {error} (these tests need root and loop devices)"
    );
}

/// A file system in a file, mounted where the gateway keeps its state.
struct Disk {
    image: PathBuf,
    state: PathBuf,
    options: &'static str,
}

impl Disk {
    fn make(site: &Site, kind: &str, options: &'static str) -> Self {
        let (image, state) = (site.folder.0.join("disk"), site.folder.0.join("state"));
        fs::create_dir_all(&state).unwrap();
        fs::File::create(&image).and_then(|file| file.set_len(512 << 20)).unwrap();
        let quiet = if kind == "xfs" { ["-q", "-f"] } else { ["-q", "-F"] };
        run(&format!("mkfs.{kind}"), &[quiet[0], quiet[1], image.to_str().unwrap()]);
        let disk = Self { image, state, options };
        disk.mount();
        disk
    }

    fn mount(&self) {
        run("mount", &["-o", self.options, self.image.to_str().unwrap(), self.state.to_str().unwrap()]);
    }

    fn unmount(&self) {
        wait_for("nobody uses the disk", Duration::from_secs(20), || {
            let unmounted = Command::new("umount").arg(&self.state).output().unwrap().status.success();
            unmounted.then_some(())
        });
    }

    /// Nothing that is not on the disk by now will ever be.
    fn cut_power(&self) {
        let folder = fs::File::open(&self.state).unwrap();
        // SAFETY: the number and the flag are those of <linux/fs.h>; the kernel reads one u32.
        let cut = unsafe {
            rustix::ioctl::ioctl(&folder, rustix::ioctl::Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH))
        };
        cut.expect("the file system can be shut down");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: what a killed gateway had mapped may take a moment to go.
        let _ = Command::new("umount").arg("-l").arg(&self.state).status();
    }
}

fn power_cuts(kind: &str, options: &'static str) {
    let cuts = number_from("POSTERN_POWER_CUTS", 4);
    let sink = Inbox::start();
    let site = Site::new(&format!("power-{kind}"), sink.address);
    let disk = Disk::make(&site, kind, options);
    let accepted: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    // What got 250 before the power went, and what got it after.
    let (mut before, mut after) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..cuts {
        let gateway = site.start();
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (stop, accepted, smtp) = (Arc::clone(&stop), Arc::clone(&accepted), gateway.smtp);
                std::thread::spawn(move || client(number, round, smtp, &stop, &accepted))
            })
            .collect();
        let had = accepted.lock().unwrap().len();
        wait_for("there is load", Duration::from_secs(60), || {
            (accepted.lock().unwrap().len() > had + 20 + 13 * round % 50).then_some(())
        });
        // A moment that differs from round to round.
        std::thread::sleep(Duration::from_millis(11 * round as u64 % 97));
        before.extend(accepted.lock().unwrap().iter().filter(|subject| !after.contains(*subject)).cloned());
        disk.cut_power();
        // Whatever is said from now on must not be 250, unless it was durable before.
        wait_for("the gateway has noticed", Duration::from_secs(10), || {
            (gateway.get("/readyz")?.0 == 503).then_some(())
        });
        assert_eq!(gateway.metric("postern_spool_failing", ""), 1);
        gateway.kill();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("no client panicked");
        }
        after.extend(accepted.lock().unwrap().difference(&before).cloned());
        disk.unmount();
        disk.mount();
    }
    let gateway = site.start();
    wait_for("the spool is empty", Duration::from_secs(120), || (gateway.queued() == 0).then_some(()));
    assert_eq!(gateway.metric("postern_spool_damaged", ""), 0, "what was cut off is no damage");
    let mut copies: BTreeMap<String, usize> = BTreeMap::new();
    for mail in sink.mail() {
        *copies.entry(mail.header("Subject").unwrap_or_default()).or_default() += 1;
    }
    let lost: Vec<_> = before.iter().filter(|subject| !copies.contains_key(*subject)).collect();
    let abandoned = after.iter().filter(|subject| !copies.contains_key(*subject)).count();
    let duplicates: usize = copies.values().map(|count| count - 1).sum();
    crate::support::tell(&format!(
        "{cuts} power cuts on {kind}: accepted {}, lost {}, duplicates {duplicates}; answered while the power went \
         {}, of them not there afterwards {abandoned}",
        before.len(),
        lost.len(),
        after.len()
    ));
    assert!(lost.is_empty(), "lost: {lost:?}");
    drop(gateway);
}

#[test]
fn r158_power_cuts_on_ext4_lose_nothing() {
    power_cuts("ext4", "loop");
}

#[test]
fn r158_power_cuts_on_xfs_lose_nothing() {
    power_cuts("xfs", "loop");
}

/// The kernel makes an ext4 read-only by itself when it finds an error in it.
#[test]
fn r158_a_file_system_that_turned_read_only_is_451_and_unready_and_loses_nothing() {
    let sink = Inbox::start();
    let site = Site::new("emergency", sink.address);
    let disk = Disk::make(&site, "ext4", "loop,errors=remount-ro");
    let gateway = site.start();
    sink.set_busy(true);
    let mut accepted = vec![];
    for n in 0..20 {
        let subject = format!("before {n}");
        assert!(send(gateway.smtp, OWN, &[PARTNER], &message(&subject)).starts_with("250"));
        accepted.push(subject);
    }
    let source = fs::read_to_string("/proc/mounts").unwrap();
    let line =
        source.lines().find(|line| line.contains(disk.state.to_str().unwrap())).expect("it is mounted");
    let device = Path::new(line.split(' ').next().unwrap()).file_name().unwrap().to_owned();
    let trigger = Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error");
    fs::write(trigger, "1").expect("ext4 can be told that it is broken");
    let refused = wait_for("the disk fails", Duration::from_secs(20), || {
        let reply = send(gateway.smtp, OWN, &[PARTNER], &message("while"));
        // What was durable before the error may still be answered.
        assert!(reply.starts_with("250") || reply.starts_with("451 4.3.0"), "{reply}");
        (!reply.starts_with("250")).then_some(reply)
    });
    assert!(refused.starts_with("451 4.3.0"), "{refused}");
    wait_for("it is not ready", Duration::from_secs(5), || (gateway.get("/readyz")?.0 == 503).then_some(()));
    assert_eq!(gateway.get("/livez").map(|(status, _)| status), Some(200));
    assert!(Client::hello(gateway.smtp).say("NOOP").unwrap().starts_with("250"));
    // What waits is delivered; what became of it cannot be written down.
    sink.set_busy(false);
    sink.wait(accepted.len());
    gateway.kill();
    disk.unmount();
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    // Exit code 1: errors were corrected.
    let check = Command::new("e2fsck").args(["-fy"]).arg(&disk.image).env("PATH", path).output().unwrap();
    assert!(check.status.code() <= Some(1), "{check:?}");
    disk.mount();
    let gateway = site.start();
    gateway.wait_empty();
    assert_eq!(gateway.metric("postern_spool_damaged", ""), 0);
    assert!(send(gateway.smtp, OWN, &[PARTNER], &message("after")).starts_with("250"));
    accepted.push("after".to_owned());
    gateway.wait_empty();
    let got: BTreeSet<String> = sink.mail().iter().filter_map(|mail| mail.header("Subject")).collect();
    assert!(accepted.iter().all(|subject| got.contains(subject)), "{accepted:?} of {got:?}");
}

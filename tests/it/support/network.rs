//! A network of a test's own: loopback and nothing else, every port free. The test runs itself again inside.

use std::process::Command;

const INSIDE: &str = "POSTERN_TEST_NETWORK";

/// Runs `test`, which is the test of this name (`module::function`), in a network namespace of its own.
pub fn in_own_network(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let this = std::env::current_exe().expect("this is a program");
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(this)
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare (util-linux) starts; this needs root");
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{error}");
    assert!(out.contains("1 passed"), "the test is not called {name}:\n{out}");
}

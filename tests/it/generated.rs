//! What is generated and committed is what would be generated now.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::gateway::Folder;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of helm and kubectl, as `make deps` built them.
fn tools() -> PathBuf {
    let output =
        Command::new(root().join("tests/cluster/cluster")).arg("path").output().expect("python3 is there");
    assert!(output.status.success(), "the cluster's programs are not built: run `make deps`");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("HELM", tools().join("helm"))
        .current_dir(root())
        .output()
        .unwrap_or_else(|error| panic!("{} cannot be started ({error}): run `make deps`", program.display()));
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {arguments:?}:\n{text}", program.display());
    text
}

#[test]
fn the_chart_carries_the_crds_as_they_are() {
    for entry in fs::read_dir(root().join("crds")).expect("crds/ is there") {
        let path = entry.expect("readable").path();
        let copy = root().join("charts/postern/files/crds").join(path.file_name().expect("a file"));
        let same = fs::read(&path).expect("readable") == fs::read(&copy).unwrap_or_default();
        assert!(same, "{} differs from {}: run `make generate`", copy.display(), path.display());
    }
}

#[test]
fn install_yaml_is_the_rendered_chart() {
    let folder = Folder::new("render");
    let file = folder.0.join("install.yaml");
    run(&root().join("deploy/render"), &[file.to_str().expect("UTF-8")]);
    let same = fs::read(&file).expect("it was written")
        == fs::read(root().join("deploy/install.yaml")).expect("there");
    assert!(same, "deploy/install.yaml is not what the chart renders: run `make generate`");
}

#[test]
fn the_chart_renders_every_set_of_values_and_refuses_what_it_must() {
    let text = run(&root().join("charts/postern/ci/check"), &[]);
    assert!(text.contains("0 failed"), "{text}");
}

#[test]
fn argo_cd_tells_healthy_from_stalled() {
    let text = run(Path::new("lua5.1"), &["deploy/argocd/health_test.lua"]);
    assert!(text.contains("passed"), "{text}");
}

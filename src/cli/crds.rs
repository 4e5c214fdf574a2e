//! `postern crds`: the CustomResourceDefinitions, as committed in `crds/`.

use std::process::ExitCode;

pub fn run() -> anyhow::Result<ExitCode> {
    super::print(&crate::api::crds_yaml());
    Ok(ExitCode::SUCCESS)
}

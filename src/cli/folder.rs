//! A folder of YAML, translated: what `check`, `explain` and `standalone` begin with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::api::conditions::Reason;
use crate::api::{DEFAULT_GATEWAY, OutboundGateway};
use crate::bundle::document::FORMAT;
use crate::bundle::{Bundle, Materials, Revision, segment};
use crate::manifest::{self, Loaded};
use crate::policy::CompileError;
use crate::translate::{LastGood, ObjectKey, Outcome, translate, unattached};

/// The folder cannot be used at all; ends in exit code 64.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("there is no gateway {0}; the folder has: {1}")]
    NoSuchGateway(String, String),
    #[error("the folder has several gateways ({0}): choose one with --gateway")]
    SeveralGateways(String),
    #[error("the configuration does not compile: {0}")]
    Compile(CompileError),
    #[error("gateway {gateway} cannot be used: {why}")]
    Gateway { gateway: ObjectKey, why: String },
}

/// The folder as it was read.
pub struct Folder {
    pub loaded: Loaded,
}

/// One gateway with all that belongs to it.
pub struct Configured {
    pub bundle: Arc<Bundle>,
    pub revision: Revision,
    pub materials: Arc<Materials>,
    pub last_good: LastGood,
    /// What is not known here because no server is asked, in words for people.
    pub unasked: Option<String>,
}

impl Folder {
    pub fn read(path: &Path) -> Result<Self, Unusable> {
        let mut loaded =
            manifest::load(path).map_err(|source| Unusable::Read { path: path.to_owned(), source })?;
        // As in a cluster, the three public kinds alone give a gateway: the one they refer to by default.
        for namespace in unattached(&loaded.resources).wanted_defaults {
            loaded.resources.gateways.push(Arc::new(OutboundGateway::made_for(&namespace)));
        }
        Ok(Self { loaded })
    }

    pub fn keys(&self) -> Vec<ObjectKey> {
        self.loaded.resources.gateway_keys().into_iter().collect()
    }

    /// The gateway that is meant: the named one, else the only one, else the one called `default`.
    pub fn choose(&self, name: Option<&str>) -> Result<ObjectKey, Unusable> {
        let keys = self.keys();
        let list = || keys.iter().map(ObjectKey::to_string).collect::<Vec<_>>().join(", ");
        let meant = |key: &&ObjectKey| match name {
            Some(name) => key.name == name || key.to_string() == name,
            None => keys.len() == 1 || key.name == DEFAULT_GATEWAY,
        };
        let found: Vec<&ObjectKey> = keys.iter().filter(meant).collect();
        match found.as_slice() {
            [only] => Ok((*only).clone()),
            [] if keys.len() > 1 && name.is_none() => Err(Unusable::SeveralGateways(list())),
            [] => Err(Unusable::NoSuchGateway(name.unwrap_or(DEFAULT_GATEWAY).to_owned(), list())),
            _ => Err(Unusable::SeveralGateways(list())),
        }
    }

    pub fn gateway(&self, name: Option<&str>) -> Result<Configured, Unusable> {
        let key = self.choose(name)?;
        let (configured, outcomes) = self.translate(&key, None);
        configured.ok_or_else(|| {
            let own = outcomes.iter().flat_map(|outcome| &outcome.problems);
            let why = own.map(|problem| problem.text()).collect::<Vec<_>>().join("; ");
            Unusable::Gateway { gateway: key, why }
        })
    }

    /// One pass over everything that belongs to a gateway. `None`: it never was valid.
    pub fn translate(
        &self,
        key: &ObjectKey,
        last_good: Option<&LastGood>,
    ) -> (Option<Configured>, Vec<Outcome>) {
        let translation = translate(key, &self.loaded.resources, last_good);
        let Some(bundle) = translation.bundle else { return (None, translation.outcomes) };
        let revision = Revision::of(FORMAT, &segment::cut(&bundle), &translation.materials);
        let unasked = translation.outcomes.iter().find_map(|outcome| {
            let warning = outcome
                .warnings
                .iter()
                .find(|warning| matches!(warning.reason, Reason::LdapNotRead | Reason::NotAnswered))?;
            Some(format!("{}: {}", outcome.origin.object, warning.text()))
        });
        let configured = Configured {
            unasked,
            revision,
            materials: Arc::new(self.loaded.materials.clone()),
            last_good: LastGood { bundle: bundle.clone(), materials: translation.materials },
            bundle: Arc::new(bundle),
        };
        (Some(configured), translation.outcomes)
    }
}

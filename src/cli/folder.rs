//! A folder of YAML, translated: what `check`, `explain` and `standalone` begin with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::api::conditions::Reason;
use crate::api::{DEFAULT_GATEWAY, OutboundGateway};
use crate::bundle::document::FORMAT;
use crate::bundle::{Bundle, Materials, Revision, segment};
use crate::manifest::{self, Loaded, Stamps};
use crate::policy::CompileError;
use crate::translate::{LastGood, ObjectKey, Outcome, translate, unattached};

/// The folder cannot be used at all; ends in exit code 64.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "some of its files cannot be read, as is said above, and what they hold is not known: repair or remove them"
    )]
    Incomplete,
    #[error("there is no gateway {0}; the folder has: {1}")]
    NoSuchGateway(String, String),
    #[error("the folder has several gateways ({0}): choose one with --gateway")]
    SeveralGateways(String),
    #[error("the configuration does not compile: {0}")]
    Compile(CompileError),
    #[error("gateway {gateway} cannot be used: {why}")]
    Gateway { gateway: ObjectKey, why: String },
}

/// Whoever writes a file does so in several steps; we read when nothing has changed for this long.
const QUIET: Duration = Duration::from_millis(20);
/// So often without rest it is said: every 5 seconds or so.
const UNREST: u32 = 250;

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

    /// The folder as it is when nobody writes to it, and the stamps of that moment: a file in the middle of being
    /// written lacks what was in it, and a rule that is not there lets mail through. `last`: the stamps of the look
    /// before.
    pub async fn at_rest(path: &Path, last: &Stamps) -> Result<(Self, Stamps), Unusable> {
        let look =
            || manifest::stamps(path).map_err(|source| Unusable::Read { path: path.to_owned(), source });
        let mut before = look()?;
        let mut tries = 0_u32;
        loop {
            if before != *last {
                tokio::time::sleep(QUIET).await;
            }
            let folder = Self::read(path)?;
            let after = look()?;
            if after == before {
                return Ok((folder, after));
            }
            before = after;
            tries += 1;
            if tries.is_multiple_of(UNREST) {
                let folder = path.display();
                tracing::warn!("somebody writes to {folder} all the time; changes count when that ends");
            }
        }
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const RULE: &str = "apiVersion: postern.dev/v1alpha1\nkind: RoutingRule\nmetadata: {name: NAME}\nspec:\n  \
                        messages: [Outbound]\n  action: {modify: {subjectPrefix: X}}\n---\n";

    #[tokio::test(start_paused = true)]
    async fn a_folder_is_read_when_nobody_writes_to_it() {
        let path = std::env::temp_dir().join(format!("postern-at-rest-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder can be made");
        let rules = |names: [&str; 3]| names.map(|name| RULE.replace("NAME", name)).concat();
        let mut last = Stamps::default();
        for names in [["a", "b", "c"], ["d", "e", "f"]] {
            // Over the text that is there, document by document, as somebody who takes his time.
            let mut file = std::fs::File::create(path.join("rules.yaml")).expect("it can be written");
            let writing = tokio::spawn(async move {
                for piece in rules(names).as_bytes().chunks(RULE.len()) {
                    tokio::time::sleep(Duration::from_millis(15)).await;
                    file.write_all(piece).expect("the disk has room");
                }
            });
            let (folder, stamps) = Folder::at_rest(&path, &last).await.expect("it can be read");
            assert!(writing.is_finished());
            assert_eq!(folder.loaded.problems, []);
            let found = folder.loaded.resources.routing_rules.iter();
            let found: Vec<_> = found.filter_map(|rule| rule.metadata.name.as_deref()).collect();
            assert_eq!(found, names);
            last = stamps;
        }
        let before = tokio::time::Instant::now();
        Folder::at_rest(&path, &last).await.expect("it can be read");
        assert_eq!(before.elapsed(), Duration::ZERO, "what has not changed is not waited for");
        std::fs::remove_dir_all(&path).expect("it is ours");
    }
}

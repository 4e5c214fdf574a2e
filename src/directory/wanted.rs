//! Which Directories are to be read, and how: pure. Only one that a gateway names is, so nobody but the owner
//! of a gateway can make Postern connect somewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Settings;
use super::keeper::Wanted;
use crate::api::ldap::Ldap;
use crate::api::refs::{KeyRef, SecretRef, SourceKind};
use crate::bundle::material::{Material, MaterialKind, MaterialVersion};
use crate::translate::resources::{key, target};
use crate::translate::{ObjectKey, Resources};

/// Those of one gateway. `None`: the gateway cannot be read, so what is read stays as it is. A Directory whose
/// Secret or CA file is not there, or may not be used, is not read; its status says why.
pub fn wanted(
    gateway: &ObjectKey,
    resources: &Resources,
    bytes: impl Fn(&MaterialVersion) -> Option<Arc<[u8]>>,
) -> Option<BTreeMap<ObjectKey, Wanted>> {
    let Some(object) = resources.gateways.iter().find(|object| key(&***object) == *gateway) else {
        return (!resources.gateway_keys().contains(gateway)).then(BTreeMap::new);
    };
    let named = object.spec.directory_ref.as_ref();
    let named = named.map(|named| ObjectKey::new(&gateway.namespace, &named.name));
    let content = |material: &Material| bytes(&resources.version(material)?);
    let wanted = named.and_then(|named| {
        let directory = resources.directories.iter().find(|directory| key(&***directory) == named)?;
        if target(&directory.spec.gateway_ref, &named.namespace) != *gateway {
            return None;
        }
        let settings = settings(directory.spec.ldap.as_ref()?, &named.namespace, content)?;
        Some((named, Wanted { generation: directory.metadata.generation.unwrap_or(0), settings }))
    });
    Some(wanted.into_iter().collect())
}

fn settings(
    ldap: &Ldap,
    namespace: &str,
    content: impl Fn(&Material) -> Option<Arc<[u8]>>,
) -> Option<Settings> {
    let Ldap { url, ca_ref, bind_ref, base_dn, refresh, mapping } = ldap;
    let material = |kind, name: &str, key: &str| Material {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
    };
    let ca = match ca_ref {
        None => None,
        Some(KeyRef { kind, name, key }) => {
            let kind = match kind {
                SourceKind::ConfigMap => MaterialKind::ConfigMap,
                SourceKind::Secret => MaterialKind::Secret,
            };
            Some(content(&material(kind, name, key))?)
        }
    };
    let bind = match bind_ref {
        None => None,
        Some(SecretRef { name }) => {
            let text = |key| {
                let bytes = content(&material(MaterialKind::Secret, name, key))?;
                String::from_utf8(bytes.to_vec()).ok()
            };
            Some((text("username")?, text("password")?))
        }
    };
    Some(Settings {
        url: url.clone(),
        ca,
        bind,
        base: base_dn.clone(),
        mapping: mapping.clone(),
        refresh: refresh.get()?,
    })
}

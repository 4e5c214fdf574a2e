//! One reading of an LDAP server: TLS always, a time limit on all of it, entries in pages.

use std::sync::Arc;
use std::time::Duration;

use ldap3::adapters::{Adapter, EntriesOnly, PagedResults};
use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use super::Settings;
use super::entries::{self, Entry};
use crate::translate::ldap::Snapshot;

const CONNECT: Duration = Duration::from_secs(10);
/// For each answer of the server.
const ANSWER: Duration = Duration::from_secs(30);
/// For the whole reading.
const PATIENCE: Duration = Duration::from_secs(300);
/// Entries of a page: servers refuse a thousand and more at once.
const PAGE: i32 = 500;
/// Entries of one kind; more do not fit into a bundle.
const MAX_ENTRIES: usize = 200_000;

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the CA file is not PEM with certificates")]
    Ca,
    #[error("{0}")]
    Ldap(#[from] LdapError),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Slow,
    #[error("its answer cannot be read")]
    Garbled,
    #[error("there are more than {MAX_ENTRIES} entries")]
    TooMany,
    #[error("{0} has more members than the server gives at once")]
    CutOff(String),
}

/// Reads everybody. An answer that is not complete is an error.
pub async fn read(settings: &Settings) -> Result<Snapshot, ReadError> {
    let settings = settings.clone();
    // A task of its own: the library panics on answers that are no LDAP. Dropped with this future.
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move { timeout(PATIENCE, whole(&settings)).await });
    match task.join_next().await {
        Some(Ok(Ok(result))) => result,
        Some(Ok(Err(_))) => Err(ReadError::Slow),
        Some(Err(_)) | None => Err(ReadError::Garbled),
    }
}

async fn whole(settings: &Settings) -> Result<Snapshot, ReadError> {
    let connection = LdapConnSettings::new()
        .set_conn_timeout(CONNECT)
        .set_config(client_config(settings.ca.as_deref())?)
        .set_starttls(true);
    let (connection, ldap) = LdapConnAsync::with_settings(connection, &settings.url).await?;
    let work = ask(settings, ldap);
    tokio::pin!(work);
    tokio::select! {
        biased;
        result = &mut work => result,
        // What waits for an answer then is told that there is none.
        _ = connection.drive() => work.await,
    }
}

async fn ask(settings: &Settings, mut ldap: Ldap) -> Result<Snapshot, ReadError> {
    if let Some((name, password)) = &settings.bind {
        ldap.with_timeout(ANSWER).simple_bind(name, password).await?.success()?;
    }
    let (users, groups) = (&settings.mapping.users, &settings.mapping.groups);
    let wanted = users.aliases.iter().chain(&users.unit).chain([&users.address]).cloned().collect();
    let user_entries = search(&mut ldap, &settings.base, &users.filter, wanted).await?;
    let wanted = groups.members.iter().chain([&groups.address]).cloned().collect();
    let group_entries = search(&mut ldap, &settings.base, &groups.filter, wanted).await?;
    if let Some(cut) = user_entries.iter().chain(&group_entries).find(|entry| entry.is_cut()) {
        return Err(ReadError::CutOff(cut.dn.clone()));
    }
    let mut snapshot = entries::snapshot(&settings.base, (users, &user_entries), (groups, &group_entries));
    if let Some(mapping) = &settings.mapping.certificates {
        let base = mapping.base_dn.as_ref().unwrap_or(&settings.base);
        let wanted = vec![mapping.address.clone(), mapping.certificate.clone()];
        let entries = search(&mut ldap, base, &mapping.filter, wanted).await?;
        snapshot.certificates = entries::certificates(mapping, &entries);
    }
    let _ = ldap.unbind().await;
    Ok(snapshot)
}

async fn search(
    ldap: &mut Ldap,
    base: &str,
    filter: &str,
    attributes: Vec<String>,
) -> Result<Vec<Entry>, ReadError> {
    let adapters: Vec<Box<dyn Adapter<'_, String, Vec<String>>>> =
        vec![Box::new(EntriesOnly::new()), Box::new(PagedResults::new(PAGE))];
    let ldap = ldap.with_timeout(ANSWER);
    let mut answer = ldap.streaming_search_with(adapters, base, Scope::Subtree, filter, attributes).await?;
    let mut entries = Vec::new();
    while let Some(entry) = answer.next().await? {
        if entries.len() == MAX_ENTRIES {
            return Err(ReadError::TooMany);
        }
        let SearchEntry { dn, attrs, bin_attrs } = SearchEntry::construct(entry);
        entries.push(Entry { dn, attributes: attrs, binary: bin_attrs });
    }
    answer.finish().await.success()?;
    Ok(entries)
}

fn client_config(ca: Option<&[u8]>) -> Result<Arc<ClientConfig>, ReadError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(pem) = ca {
        let mut any = false;
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(|_| ReadError::Ca)?).map_err(|_| ReadError::Ca)?;
            any = true;
        }
        if !any {
            return Err(ReadError::Ca);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

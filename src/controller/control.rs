//! Where the control certificates are kept: the authority in a Secret of the operator's namespace, a pair for
//! each gateway beside its pods.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;
use tracing::info;

use super::apply::{ApplyError, MANAGER, bounded};
use super::authority::{Authority, AuthorityError, Pair};
use super::build::{control_secret, control_secret_name, is_dressed};
use super::reconcile::Context;
use crate::api::OutboundGateway;

/// A gateway's pair is looked at this often: it runs out, and somebody may delete it. Less than a round, or every
/// second round would come a moment too early.
const EVERY: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Api(#[from] ApplyError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("Secret {0} exists and does not belong to this OutboundGateway: rename or delete it")]
    Foreign(String),
}

/// The day by this machine's clock.
pub fn today() -> Date {
    Timestamp::now().to_zoned(TimeZone::UTC).date()
}

/// Reads the authority, or makes one; renews it in time.
pub async fn authority(client: &Client, namespace: &str, name: &str) -> Result<Authority, ControlError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let what = format!("Secret {namespace}/{name}");
    let found = match bounded(&what, api.get_opt(name)).await? {
        Some(found) => found,
        None => {
            info!(secret = what, "making the control CA");
            let secret = kept(name, Authority::create(today())?);
            match bounded(&what, api.create(&PostParams::default(), &secret)).await {
                Ok(made) => made,
                // Another controller was faster.
                Err(error) if error.is_conflict() => bounded(&what, api.get(name)).await?,
                Err(error) => return Err(error.into()),
            }
        }
    };
    let authority = Authority::load(&pair(&found, "ca.crt", "ca.key").ok_or_else(|| {
        AuthorityError::Unusable(format!("{what} has no ca.crt and ca.key; delete it to have it made anew"))
    })?)?;
    let Some(renewed) = authority.renewed(today())? else { return Ok(authority) };
    info!(secret = what, "renewing the control CA");
    let secret = kept(name, renewed.clone());
    let params = PatchParams::apply(MANAGER).force();
    bounded(&what, api.patch(name, &params, &Patch::Apply(&secret))).await?;
    Ok(Authority::load(&renewed)?)
}

fn kept(name: &str, pair: Pair) -> Secret {
    let data = [("ca.crt", pair.certificate), ("ca.key", pair.key)];
    Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
        data: Some(
            data.into_iter().map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes()))).collect(),
        ),
        ..Default::default()
    }
}

fn pair(secret: &Secret, certificate: &str, key: &str) -> Option<Pair> {
    let text = |key: &str| {
        let ByteString(bytes) = secret.data.as_ref()?.get(key)?;
        String::from_utf8(bytes.clone()).ok()
    };
    Some(Pair { certificate: text(certificate)?, key: text(key)? })
}

/// Keeps the pair of one gateway good.
#[derive(Debug, Default)]
pub struct Keeper {
    checked: Option<(String, Instant)>,
}

impl Keeper {
    pub async fn uphold(&mut self, ctx: &Context, gateway: &OutboundGateway) -> Result<(), ControlError> {
        let owner = gateway.uid().unwrap_or_default();
        if self.checked.as_ref().is_some_and(|(uid, at)| *uid == owner && at.elapsed() < EVERY) {
            return Ok(());
        }
        let namespace = gateway.namespace().unwrap_or_default();
        let name = control_secret_name(&gateway.name_any());
        let what = format!("Secret {namespace}/{name}");
        let api: Api<Secret> = Api::namespaced(ctx.client.clone(), &namespace);
        let found = bounded(&what, api.get_opt(&name)).await?;
        let is_ours = |secret: &Secret| {
            let owners = secret.owner_references();
            owners.is_empty() || owners.iter().any(|reference| reference.uid == owner)
        };
        if found.as_ref().is_some_and(|secret| !is_ours(secret)) {
            return Err(ControlError::Foreign(what));
        }
        let good = found.as_ref().is_some_and(|secret| {
            let trusts = secret.data.as_ref().and_then(|data| data.get("ca.crt"));
            let trusts_us = trusts.is_some_and(|ca| ca.0 == ctx.authority.certificate().as_bytes());
            let is_good = |pair| ctx.authority.is_good(&pair, &namespace, &gateway.name_any(), today());
            is_dressed(secret, &gateway.name_any(), &owner)
                && trusts_us
                && pair(secret, "tls.crt", "tls.key").is_some_and(is_good)
        });
        if !good {
            let pair = ctx.authority.for_gateway(&namespace, &gateway.name_any(), today())?;
            let secret = control_secret(gateway, &pair, ctx.authority.certificate());
            let params = PatchParams::apply(MANAGER).force();
            ctx.metrics.wrote();
            bounded(&what, api.patch(&name, &params, &Patch::Apply(&secret))).await?;
        }
        self.checked = Some((owner, Instant::now()));
        Ok(())
    }
}

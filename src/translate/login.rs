//! The identity of a route at its next hosts: login and client certificate → records that name Secrets.

use super::order::Pass;
use super::problem::{Findings, Problem};
use super::resources::ObjectKey;
use crate::api::checks;
use crate::api::login::{self as spec};
use crate::api::refs::SecretRef;
use crate::api::route::OutboundRouteSpec;
use crate::bundle::document::{AuthMechanism, Certificate, RouteAuth, RouteTls};

/// The login of a route.
pub(super) fn login(
    pass: &Pass<'_>,
    namespace: &str,
    route: &OutboundRouteSpec,
    tls: &RouteTls,
    findings: &mut Findings,
) -> Option<RouteAuth> {
    let spec::RouteAuth { credentials_ref, mechanism } = route.auth.as_ref()?;
    findings.check(tls.verifies_peer(), "spec.auth", &checks::AUTH_NEEDS_VERIFIED);
    // Names that DNS gave could be anybody's, and whoever has a certificate for one would get the password.
    let typed = !route.hosts.is_empty() && (!route.mx_lookup || tls.server_name.is_some());
    findings.check(typed, "spec.auth", &checks::AUTH_NEEDS_HOSTS);
    let mechanism = match mechanism {
        spec::AuthMechanism::Plain => AuthMechanism::Plain,
        spec::AuthMechanism::Login => AuthMechanism::Login,
        spec::AuthMechanism::CramMd5 => AuthMechanism::CramMd5,
        spec::AuthMechanism::ScramSha256 => AuthMechanism::ScramSha256,
        spec::AuthMechanism::XOAuth2 => AuthMechanism::XOAuth2,
    };
    let second = if mechanism == AuthMechanism::XOAuth2 { "token" } else { "password" };
    let object = ObjectKey::new(namespace, &credentials_ref.name);
    let keys = ["username", second].map(|key| pass.secret_key("spec.auth.credentialsRef", &object, key));
    // What is wrong with the Secret as a whole is told once.
    let keys: Vec<_> = findings.ok(keys.into_iter().collect::<Result<_, _>>())?;
    let [username, password] = <[_; 2]>::try_from(keys).ok()?;
    Some(RouteAuth { mechanism, username, password })
}

/// The certificate that a route shows.
pub(super) fn certificate(
    pass: &Pass<'_>,
    namespace: &str,
    reference: &SecretRef,
) -> Result<Certificate, Problem> {
    let path = "spec.tls.clientCertificateRef";
    let object = ObjectKey::new(namespace, &reference.name);
    let chain = pass.secret_key(path, &object, "tls.crt")?;
    Ok(Certificate { chain, key: pass.secret_key(path, &object, "tls.key")? })
}

//! The way out of a message: the best-ranked change of route, else the default route (spec R83, R130, R131).

use super::{Idle, Match, Setting};
use crate::bundle::document::{ChangeRoute, DefaultRoute, Modify};
use crate::mail::envelope::{RouteName, Via};
use crate::policy::verdict::Spam;

/// The rule to blame (`None`: the gateway's default route) and what is wrong.
type Unusable = (Option<usize>, String);

pub(super) fn decide(
    modifies: &[(Match<'_>, &Modify)],
    spam: Spam,
    setting: &Setting<'_>,
    idle: &mut Idle,
) -> Result<Via, Unusable> {
    let mut routes = modifies.iter().filter_map(|(one, modify)| Some((one, *modify, modify.route.as_ref()?)));
    let winner = routes.next();
    for (one, _, _) in routes {
        idle.add(one.rank, "route");
    }
    let Some((one, modify, route)) = winner else { return normal(setting) };
    // Spam takes the new route only where the rule says so, and only for people (R83, R116).
    if spam.spam && !(modify.reroute_spam && one.reach.person) {
        idle.add(one.rank, "route");
        return normal(setting);
    }
    changed(route, setting.broken).map_err(|why| (Some(one.rank), why))
}

/// The route a rule names.
pub(in crate::policy) fn changed(
    route: &ChangeRoute,
    broken: &dyn Fn(&RouteName) -> Option<String>,
) -> Result<Via, String> {
    match route {
        ChangeRoute::Missing(name) => Err(format!("route {name} does not exist")),
        ChangeRoute::To(name) => match broken(name) {
            Some(why) => Err(format!("route {name} cannot be used: {why}")),
            None => Ok(Via::Route(name.clone())),
        },
    }
}

fn normal(setting: &Setting<'_>) -> Result<Via, Unusable> {
    match setting.default_route {
        None | Some(DefaultRoute::Host(_)) => Ok(Via::Normal),
        Some(DefaultRoute::Missing(name)) => Err((None, format!("default route {name} does not exist"))),
        Some(DefaultRoute::Named(name)) => match (setting.broken)(name) {
            Some(why) => Err((None, format!("route {name} cannot be used: {why}"))),
            None => Ok(Via::Normal),
        },
    }
}

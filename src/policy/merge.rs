//! The rules that matched → one fate (spec R122-R138), a pure function whose result depends on the
//! rank of its inputs and not on their order. `docs/precedence.md` is its table, written by a test.

use crate::bundle::document::{ChangeRoute, DefaultRoute, Header, Modify, Reject};
use crate::mail::envelope::{RouteName, Via};

/// A rule that matched one recipient.
#[derive(Debug, Clone, Copy)]
pub struct Match<'a> {
    /// Place in the order of rules (spec R123); 0 is best. No two rules share one.
    pub rank: usize,
    pub effect: Effect<'a>,
}

#[derive(Debug, Clone, Copy)]
pub enum Effect<'a> {
    Reject(&'a Reject),
    Modify(&'a Modify),
    /// The rule is broken, or its scan limit says so.
    Defer(&'a str),
}

/// What is true of the message and the gateway, whatever matched.
pub struct Setting<'a> {
    /// The message came over TLS.
    pub tls: bool,
    pub default_route: Option<&'a DefaultRoute>,
    /// Why a route cannot be used.
    pub broken: &'a dyn Fn(&RouteName) -> Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged<'a> {
    pub fate: Fate<'a>,
    /// Rank of a rule, and the `modify` fields of it that another decided.
    pub overridden: Vec<(usize, Vec<&'static str>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate<'a> {
    Reject {
        rank: usize,
        why: Refusal<'a>,
    },
    Defer {
        /// The rule to blame; `None` for the gateway's default route.
        rank: Option<usize>,
        why: String,
    },
    Deliver(Changes<'a>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal<'a> {
    Notice(&'a Reject),
    /// The rule demands TLS and the message came in clear text (spec R93).
    ClearText,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes<'a> {
    pub via: Via,
    /// With the rank of the rule that adds each, in the order of rank, without repetitions.
    pub headers: Vec<(usize, &'a Header)>,
    /// Best rank first, which is outermost; without repetitions.
    pub prefixes: Vec<&'a str>,
    pub require_tls: bool,
}

pub fn merge<'a>(matches: &[Match<'a>], setting: &Setting<'_>) -> Merged<'a> {
    let mut ordered = matches.to_vec();
    ordered.sort_by_key(|one| one.rank);

    // Reject beats everything, whatever its rank (R124, R126, R127). A rule that demands TLS rejects
    // what came without, at its own rank.
    let refusal = ordered.iter().find_map(|one| match one.effect {
        Effect::Reject(reject) => Some((one.rank, Refusal::Notice(reject))),
        Effect::Modify(modify) if modify.require_tls && !setting.tls => Some((one.rank, Refusal::ClearText)),
        Effect::Modify(_) | Effect::Defer(_) => None,
    });
    if let Some((rank, why)) = refusal {
        return void(&ordered, Fate::Reject { rank, why });
    }
    let deferral = ordered.iter().find_map(|one| match one.effect {
        Effect::Defer(why) => Some((one.rank, why.to_owned())),
        Effect::Reject(_) | Effect::Modify(_) => None,
    });
    if let Some((rank, why)) = deferral {
        return void(&ordered, Fate::Defer { rank: Some(rank), why });
    }

    let modifies: Vec<(usize, &Modify)> = ordered
        .iter()
        .filter_map(|one| match one.effect {
            Effect::Modify(modify) => Some((one.rank, modify)),
            Effect::Reject(_) | Effect::Defer(_) => None,
        })
        .collect();
    let mut routes = modifies.iter().filter_map(|(rank, modify)| Some((*rank, modify.route.as_ref()?)));
    let winner = routes.next();
    let overridden: Vec<_> = routes.map(|(rank, _)| (rank, vec!["route"])).collect();
    let via = match route(winner, setting) {
        Ok(via) => via,
        Err((rank, why)) => return void(&ordered, Fate::Defer { rank, why }),
    };
    let mut headers: Vec<(usize, &Header)> = Vec::new();
    let mut prefixes: Vec<&str> = Vec::new();
    for (rank, modify) in &modifies {
        for header in &modify.headers {
            let same =
                |known: &Header| known.name.eq_ignore_ascii_case(&header.name) && known.value == header.value;
            // `{rule}` differs by rule, so such values are told apart after they are filled in.
            if header.value.contains('{') || !headers.iter().any(|(_, known)| same(known)) {
                headers.push((*rank, header));
            }
        }
        if let Some(prefix) = modify.subject_prefix.as_deref()
            && !prefixes.contains(&prefix)
        {
            prefixes.push(prefix);
        }
    }
    let require_tls = modifies.iter().any(|(_, modify)| modify.require_tls);
    Merged { fate: Fate::Deliver(Changes { via, headers, prefixes, require_tls }), overridden }
}

/// The way out: the best-ranked change of route, else the default route (R130, R131).
fn route(
    winner: Option<(usize, &ChangeRoute)>,
    setting: &Setting<'_>,
) -> Result<Via, (Option<usize>, String)> {
    let (rank, name) = match winner {
        Some((rank, ChangeRoute::Missing(name))) => {
            return Err((Some(rank), format!("route {name} does not exist")));
        }
        Some((rank, ChangeRoute::To(name))) => (Some(rank), name),
        None => match setting.default_route {
            None | Some(DefaultRoute::Host(_)) => return Ok(Via::Normal),
            Some(DefaultRoute::Missing(name)) => {
                return Err((None, format!("default route {name} does not exist")));
            }
            Some(DefaultRoute::Named(name)) => (None, name),
        },
    };
    match (setting.broken)(name) {
        Some(why) => Err((rank, format!("route {name} cannot be used: {why}"))),
        None if rank.is_some() => Ok(Via::Route(name.clone())),
        None => Ok(Via::Normal),
    }
}

/// A fate that leaves no modification in force.
fn void<'a>(ordered: &[Match<'a>], fate: Fate<'a>) -> Merged<'a> {
    let fields = |modify: &Modify| {
        let Modify { route, headers, subject_prefix, require_tls, .. } = modify;
        let set = [
            ("route", route.is_some()),
            ("headers", !headers.is_empty()),
            ("subjectPrefix", subject_prefix.is_some()),
            ("encryption", *require_tls),
        ];
        set.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect::<Vec<_>>()
    };
    // What decided the fate was not overridden in that.
    let decisive = match &fate {
        Fate::Reject { rank, why: Refusal::ClearText } => Some((*rank, "encryption")),
        Fate::Defer { rank: Some(rank), .. } => Some((*rank, "route")),
        Fate::Reject { .. } | Fate::Defer { .. } | Fate::Deliver(_) => None,
    };
    let overridden = ordered.iter().filter_map(|one| match one.effect {
        Effect::Modify(modify) => {
            let idle = fields(modify).into_iter().filter(|field| decisive != Some((one.rank, *field)));
            Some((one.rank, idle.collect::<Vec<_>>()))
        }
        Effect::Reject(_) | Effect::Defer(_) => None,
    });
    Merged { overridden: overridden.filter(|(_, fields)| !fields.is_empty()).collect(), fate }
}

#[cfg(test)]
mod tests;

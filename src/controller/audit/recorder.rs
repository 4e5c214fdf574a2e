//! From what was seen to records: the old form beside the new one, who wrote, what differs; then the form is kept
//! for the next time. Records first, forms after them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::forms::{Forms, Kept};
use super::sight::{Form, Sight};
use super::{Ledger, Store, managers, source};
use crate::audit::diff::diff;
use crate::audit::{Entry, Event, REASON_ANNOTATION};
use crate::bundle::document::{ObjectId, ObjectKind};
use crate::controller::metrics::Metrics;
use crate::controller::world::World;

/// Records that share a sync.
const BATCH: usize = 256;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// How often it is looked whether every watch has delivered its list.
const LOOK: Duration = Duration::from_millis(200);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Records what the world shows until `stop`. Without a store nothing is recorded.
pub async fn record(
    ledger: &Ledger,
    world: &Arc<World>,
    metrics: &Metrics,
    store: Option<&Store>,
    who: &str,
    stop: CancellationToken,
) {
    let Some(store) = store else {
        warn!("no audit log is configured (--audit): changes are not recorded, and the API does nothing");
        return;
    };
    let _ = stop.run_until_cancelled(work(ledger, world, metrics, store, who)).await;
    world.observer.end();
}

async fn work(ledger: &Ledger, world: &Arc<World>, metrics: &Metrics, store: &Store, who: &str) {
    let mut pause = FIRST_RETRY;
    let forms = loop {
        if ledger.open(store, who).await {
            match begin(world, store).await {
                Ok(forms) => break forms,
                Err(error) => drop(ledger.failed(&error)),
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_RETRY);
    };
    pause = FIRST_RETRY;
    let (mut complete, mut swept) = (false, Instant::now());
    ledger.expire().await;
    loop {
        if !complete && world.is_complete() {
            // Nothing was seen of what went while nobody looked.
            world.observe_losses();
            complete = true;
        }
        let sights = world.observer.take(BATCH);
        metrics.audit_pending(sights.len() + world.observer.waiting());
        if sights.is_empty() {
            if complete && !forms.is_complete() && forms.set_complete().is_err() {
                warn!(
                    "the audit log cannot note that it is complete; objects count as found at the next start"
                );
            }
            if swept.elapsed() >= DAY {
                ledger.expire().await;
                swept = Instant::now();
            }
            let look = if complete { DAY } else { LOOK };
            tokio::select! {
                biased;
                () = world.observer.news() => {}
                () = sleep(look) => {}
            }
            continue;
        }
        match write(ledger, &forms, &sights).await {
            Ok(()) => pause = FIRST_RETRY,
            Err(why) => {
                error!(error = why, waiting = sights.len(), "changes are not recorded yet; mail goes on");
                world.observer.put_back(sights);
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_RETRY);
            }
        }
    }
}

async fn begin(world: &Arc<World>, store: &Store) -> Result<Forms, String> {
    let folder = store.folder.clone();
    let read = tokio::task::spawn_blocking(move || {
        let forms = Forms::open(&folder)?;
        let known = forms.known()?;
        Ok::<_, std::io::Error>((forms, known))
    });
    let (forms, known) =
        read.await.map_err(|error| error.to_string())?.map_err(|error| format!("its forms: {error}"))?;
    world.observer.known(known);
    Ok(forms)
}

async fn write(ledger: &Ledger, forms: &Forms, sights: &[Sight]) -> Result<(), String> {
    let (reading, seen) = (forms.clone(), sights.to_vec());
    let made = tokio::task::spawn_blocking(move || {
        let complete = reading.is_complete();
        // Several forms of one object in a batch: each is compared with the one before.
        let mut newest: BTreeMap<ObjectId, Option<Kept>> = BTreeMap::new();
        let mut entries = Vec::new();
        for sight in &seen {
            let old = newest.get(&sight.object).cloned().unwrap_or_else(|| reading.get(&sight.object));
            entries.extend(entries_of(sight, old.as_ref(), complete));
            let kept = sight.form.as_ref().map(|form| Kept::of(&sight.object, form, old.as_ref()));
            newest.insert(sight.object.clone(), kept);
        }
        (entries, newest)
    });
    let (entries, newest) = made.await.map_err(|error| error.to_string())?;
    if !entries.is_empty() {
        ledger.record(entries).await.map_err(|error| error.to_string())?;
    }
    let keeping = forms.clone();
    let kept = tokio::task::spawn_blocking(move || {
        newest.iter().try_for_each(|(object, kept)| match kept {
            Some(kept) => keeping.put(kept),
            None => keeping.remove(object),
        })
    });
    match kept.await {
        Ok(Ok(())) => {}
        // What was recorded is recorded; at worst it will be recorded once more after a restart.
        Ok(Err(error)) => warn!(%error, "the form of an object is not kept"),
        Err(error) => error!(%error, "keeping the form of an object ended badly"),
    }
    Ok(())
}

/// What is to be said of a form, given the last one that was recorded. Pure.
pub fn entries_of(sight: &Sight, old: Option<&Kept>, complete: bool) -> Vec<Entry> {
    let Sight { object, at, form, skipped } = sight;
    let mut entries = Vec::new();
    let gone = |old: &Kept| Entry {
        uid: Some(old.uid.clone()),
        generation: Some(old.generation),
        unit: unit(&old.spec),
        ..Entry::new(*at, Event::Delete).about(object)
    };
    let Some(form) = form else {
        // The API server does not say who deleted it.
        entries.extend(old.map(|old| with_fields(gone(old), &whole(old), &json!({}), &[])));
        return entries;
    };
    // Deleted and made anew while nobody looked.
    let old = old.filter(|old| {
        let same = old.uid == form.uid;
        if !same {
            entries.push(with_fields(gone(old), &whole(old), &json!({}), &[]));
        }
        same
    });
    let event = match old {
        Some(_) => Event::Update,
        None if complete => Event::Create,
        None => Event::Found,
    };
    let before = old.map(whole).unwrap_or_else(|| json!({}));
    let known = old.map(|old| old.managers.as_slice()).unwrap_or_default();
    let changed =
        with_fields(Entry::new(*at, event).about(object), &before, &whole_form(form), &form.managers);
    if old.is_none() || !changed.fields.is_empty() {
        let names = managers::acting(known, &form.managers);
        let mut changed = Entry {
            uid: Some(form.uid.clone()),
            generation: Some(form.generation),
            unit: unit(&form.spec),
            source: source(&names),
            managers: names,
            reason: form.annotations.get(REASON_ANNOTATION).cloned(),
            ..changed
        };
        if let Some(old) = old.filter(|old| form.generation > old.generation + 1) {
            changed = changed.with("sinceGeneration", old.generation);
        }
        if *skipped > 0 {
            changed = changed.with("formsSkipped", *skipped);
        }
        entries.push(changed);
    }
    entries.extend(said(object, *at, form, old));
    entries
}

/// What the operator has said since.
fn said(object: &ObjectId, at: Timestamp, form: &Form, old: Option<&Kept>) -> Vec<Entry> {
    let mut entries = Vec::new();
    let before = old.map(|old| &old.said);
    let entry = |event| Entry {
        uid: Some(form.uid.clone()),
        generation: Some(form.generation),
        unit: unit(&form.spec),
        ..Entry::new(at, event).about(object)
    };
    if let Some(ready) = &form.said.ready {
        let told = before.and_then(|said| said.ready.as_ref()).is_some_and(|told| {
            // Of a rule it is said once for each generation; of a gateway for each revision.
            told.generation == ready.generation
                && (object.kind != ObjectKind::OutboundGateway || told.revision == ready.revision)
        });
        if !told {
            let mut said = Entry { revision: Some(ready.revision.clone()), ..entry(Event::Ready) }
                .with("since", ready.at.as_str())
                .with("pods", ready.pods);
            if let Some(millis) = ready.millis {
                said = said.with("millis", millis);
            }
            entries.push(said);
        }
    }
    if let Some(why) = &form.said.rejected
        && before.and_then(|said| said.rejected.as_ref()) != Some(why)
    {
        entries.push(entry(Event::Rejected).with("message", why.as_str()));
    }
    entries
}

fn with_fields(entry: Entry, old: &Value, new: &Value, managers: &[managers::Manager]) -> Entry {
    let (fields, omitted) = diff(old, new, &|path| managers::owners(managers, path));
    Entry { fields, omitted, ..entry }
}

fn unit(spec: &Value) -> Option<String> {
    spec.get("organizationalUnit").and_then(Value::as_str).map(str::to_owned)
}

fn whole(kept: &Kept) -> Value {
    parts(&kept.labels, &kept.annotations, &kept.spec)
}

fn whole_form(form: &Form) -> Value {
    parts(&form.labels, &form.annotations, &form.spec)
}

/// No labels and an empty set of them are the same.
fn parts(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>, spec: &Value) -> Value {
    let mut whole = json!({ "spec": spec });
    for (name, map) in [("labels", labels), ("annotations", annotations)] {
        if !map.is_empty() {
            whole["metadata"][name] = json!(map);
        }
    }
    whole
}

//! Detectors over one message: every text is looked at once for all detectors of all rules.

use std::collections::HashMap;

use super::text::{Clause, DETECTED, Way};
use super::{Answer, Asked, MAX_EVIDENCE, Texts};
use crate::bundle::document::{Confidence, Detection, Detector};
use crate::policy::detect;
use crate::policy::verdict::Evidence;

/// Different finds of one detector that are kept apart. Nobody asks for more.
const MAX_FINDS: usize = 10_000;

#[derive(Default)]
pub(super) struct Finds {
    by_detector: HashMap<Detector, Vec<(Confidence, Evidence)>>,
}

impl Texts<'_> {
    pub(super) fn detection(&self, number: u16, detection: &Detection, asked: Asked<'_>) -> Answer {
        let finds = self.finds.get_or_init(|| self.detect());
        let found = finds.by_detector.get(&detection.detector).map_or(&[][..], Vec::as_slice);
        let sure = found.iter().filter(|(confidence, _)| *confidence >= detection.confidence);
        let mut open = self.open_places(&DETECTED, asked);
        open.limit |= found.len() == MAX_FINDS;
        if sure.clone().count() >= detection.min_count.max(1) as usize {
            let evidence = |(_, evidence): &(Confidence, Evidence)| Evidence {
                expression: Some(number),
                ..evidence.clone()
            };
            Answer::Yes(sure.take(MAX_EVIDENCE).map(evidence).collect())
        } else if open.any() {
            Answer::Unknown(open)
        } else {
            Answer::No
        }
    }

    fn detect(&self) -> Finds {
        let mut finds = Finds::default();
        // The same number twice is one find; the surer one counts.
        let mut known: HashMap<(Detector, String), usize> = HashMap::new();
        for place in DETECTED {
            for text in self.places.texts(place) {
                let view = match text.compatible() {
                    Some(_) => text.view(Way::Compatible),
                    None => text.view(Way::Display),
                };
                detect::scan(&self.policy.content.detectors, &view.text, &mut |detector, find| {
                    let found = finds.by_detector.entry(detector).or_default();
                    let clause = Clause { entry: detect::name(detector), expression: None, secret: true };
                    let evidence = || text.evidence(view, &find.range, clause);
                    match known.get(&(detector, find.key.clone())) {
                        Some(at) if found[*at].0 >= find.confidence => {}
                        Some(at) => found[*at] = (find.confidence, evidence()),
                        None if found.len() == MAX_FINDS => {}
                        None => {
                            known.insert((detector, find.key.clone()), found.len());
                            found.push((find.confidence, evidence()));
                        }
                    }
                });
            }
        }
        finds
    }
}

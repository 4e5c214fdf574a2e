//! The entries of all lists that read a text the same way, searched for in one pass.
//!
//! A set grows: entries that come later go into a small second automaton beside the large one, and entries of
//! lists that are gone are passed over. So one changed rule of ten thousand costs what its own words cost.
//! Who compiles sees to it that the second stays small (`policy::compile`), since each text is read by both.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use aho_corasick::AhoCorasick;

use super::{HITS_PER_BYTE, Hit, TooManyHits, Use, WordError, automaton, stands_alone};
use crate::policy::text::fold::{Folding, View};

#[derive(Debug, Clone)]
pub struct Set {
    folding: Folding,
    main: Arc<Part>,
    /// Patterns that came since `main` was built; their numbers go on behind it.
    late: Option<Arc<Part>>,
    /// By list: no rule has it any more. Empty: all are in use.
    idle_lists: Arc<[bool]>,
    /// By pattern: only such lists have it. Empty: all are in use.
    idle: Arc<[bool]>,
    mixed_only: bool,
}

#[derive(Debug)]
struct Part {
    automaton: AhoCorasick,
    uses: Vec<Vec<Use>>,
    /// The patterns, of a part to which more are added.
    texts: Vec<String>,
}

/// Characters that are Latin or of no script, and stay so when normalised (µ becomes a Greek letter): text of
/// them alone mixes no scripts.
pub(super) fn is_plain_latin(c: char) -> bool {
    matches!(c, '\0'..='\u{b4}' | '\u{b6}'..='\u{24f}' | '\u{2000}'..='\u{206f}' | '\u{20ac}')
}

fn sorted(patterns: HashMap<String, Vec<Use>>) -> Vec<(String, Vec<Use>)> {
    let mut patterns: Vec<_> = patterns.into_iter().collect();
    patterns.sort_by(|a, b| a.0.cmp(&b.0));
    patterns
}

impl Set {
    pub(super) fn new(folding: Folding, patterns: HashMap<String, Vec<Use>>) -> Result<Self, WordError> {
        let patterns = sorted(patterns);
        let automaton = automaton(patterns.iter().map(|(pattern, _)| pattern))?;
        let uses: Vec<_> = patterns.into_iter().map(|(_, uses)| uses).collect();
        let mixed_only = uses.iter().flatten().all(|u| u.mixed_only);
        let main = Arc::new(Part { automaton, uses, texts: Vec::new() });
        let (idle, idle_lists) = (Arc::default(), Arc::default());
        Ok(Self { folding, main, late: None, idle_lists, idle, mixed_only })
    }

    /// The same set with further patterns, those of lists it has not had so far.
    pub(super) fn and(&self, new: HashMap<String, Vec<Use>>) -> Result<Self, WordError> {
        let mut grown = Self { idle: Arc::default(), idle_lists: Arc::default(), ..self.clone() };
        if !new.is_empty() {
            let (mut texts, mut uses) = match &self.late {
                Some(late) => (late.texts.clone(), late.uses.clone()),
                None => Default::default(),
            };
            for (text, used) in sorted(new) {
                texts.push(text);
                uses.push(used);
            }
            grown.late = Some(Arc::new(Part { automaton: automaton(&texts)?, uses, texts }));
        }
        let mixed_only = grown.uses().flatten().all(|u| u.mixed_only);
        grown.mixed_only = mixed_only;
        Ok(grown)
    }

    /// Passes over these lists from now on.
    pub(super) fn rest(&mut self, lists: &Arc<[bool]>) {
        let gone = |uses: &Vec<Use>| uses.iter().all(|u| lists[u.list]);
        let idle = self.uses().map(gone).collect();
        self.idle = idle;
        self.idle_lists = lists.clone();
        let mixed_only = self.uses().flatten().filter(|u| !lists[u.list]).all(|u| u.mixed_only);
        self.mixed_only = mixed_only;
    }

    /// Nothing in it is searched for.
    pub(super) fn is_idle(&self) -> bool {
        !self.idle.is_empty() && self.idle.iter().all(|idle| *idle)
    }

    fn uses(&self) -> impl Iterator<Item = &Vec<Use>> {
        self.main.uses.iter().chain(self.late.iter().flat_map(|late| &late.uses))
    }

    pub fn folding(&self) -> Folding {
        self.folding
    }

    /// Whether nothing of this set can be in a text of these characters.
    pub fn skips(&self, text: &str) -> bool {
        self.mixed_only && text.chars().all(is_plain_latin)
    }

    /// What a message has shown so far of the entries of this set.
    pub fn progress(&self) -> Progress {
        let late = self.late.as_ref().map_or(0, |late| late.uses.len());
        Progress { done: vec![false; self.main.uses.len() + late] }
    }

    /// Reports hits. `report` says whether the entry needs no further hit: a pattern whose entries all
    /// need none is passed over from then on, in later texts too, so a word that a thousand rules have
    /// costs them once.
    pub fn search(
        &self,
        view: &View,
        progress: &mut Progress,
        report: impl FnMut(Hit) -> bool,
    ) -> Result<(), TooManyHits> {
        let text = view.text.as_str();
        let left = text.len().saturating_mul(HITS_PER_BYTE).saturating_add(1024);
        let mut hits = Hits { set: self, view, progress, report, left, last: None };
        let mut main = self.main.automaton.find_overlapping_iter(text);
        let Some(late) = &self.late else {
            return main.try_for_each(|found| hits.add(found.pattern().as_usize(), found.range()));
        };
        // Both tell hits by their ends, of those the longest first; so does the merge of the two.
        let mut late = late.automaton.find_overlapping_iter(text).peekable();
        let key = |range: &Range<usize>| (range.end, Reverse(range.len()));
        let offset = self.main.uses.len();
        for found in main {
            while let Some(other) = late.next_if(|other| key(&other.range()) < key(&found.range())) {
                hits.add(offset + other.pattern().as_usize(), other.range())?;
            }
            hits.add(found.pattern().as_usize(), found.range())?;
        }
        late.try_for_each(|other| hits.add(offset + other.pattern().as_usize(), other.range()))
    }

    fn used(&self, pattern: usize) -> &[Use] {
        match (pattern.checked_sub(self.main.uses.len()), &self.late) {
            (Some(pattern), Some(late)) => &late.uses[pattern],
            _ => &self.main.uses[pattern],
        }
    }
}

/// Patterns of one set that need no further hit.
#[derive(Debug)]
pub struct Progress {
    done: Vec<bool>,
}

/// One search under way.
struct Hits<'s, R> {
    set: &'s Set,
    view: &'s View,
    progress: &'s mut Progress,
    report: R,
    left: usize,
    last: Option<Range<usize>>,
}

impl<R: FnMut(Hit) -> bool> Hits<'_, R> {
    fn add(&mut self, pattern: usize, range: Range<usize>) -> Result<(), TooManyHits> {
        if self.set.idle.get(pattern).is_some_and(|idle| *idle) {
            return Ok(());
        }
        // The same text in both parts is one hit, as it would be had they been built together.
        if self.last.replace(range.clone()).is_none_or(|last| last != range) {
            self.left = self.left.checked_sub(1).ok_or(TooManyHits)?;
        }
        if self.progress.done[pattern] {
            return Ok(());
        }
        let text = self.view.text.as_str();
        let mut whole = None;
        let mut done = true;
        for one in self.set.used(pattern) {
            if self.set.idle_lists.get(one.list).is_some_and(|idle| *idle) {
                continue;
            }
            let fits = one.substring || *whole.get_or_insert_with(|| stands_alone(text, &range));
            if fits && (!one.mixed_only || self.view.mixes_scripts(range.start, range.end)) {
                let hit = Hit { list: one.list, entry: one.entry, range: range.clone() };
                done &= (self.report)(hit);
            } else {
                done = false;
            }
        }
        self.progress.done[pattern] = done;
        Ok(())
    }
}

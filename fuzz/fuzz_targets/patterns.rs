//! Any pattern, word list and text: compiling never panics, what matches is never sieved out, and a match lies
//! inside the text it is found in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::bundle::document::{Confusables, WordOptions};
use postern::policy::matcher;
use postern::policy::pattern::{self, Sieve};
use postern::policy::text::fold::fold;

fuzz_target!(|input: (Vec<String>, Vec<String>, String, u8)| {
    let (patterns, words, text, options) = input;
    let known: Vec<_> =
        patterns.iter().take(8).filter_map(|p| Some((p, pattern::compile(p).ok()?))).collect();
    let sieve = Sieve::new(known.iter().map(|(written, _)| written.as_str()));
    let possible = sieve.possible(&text);
    for (number, (written, pattern)) in known.iter().enumerate() {
        assert!(!pattern.is_match(&text) || possible.has(number), "{written:?}");
        for range in pattern.find_iter(&text) {
            assert!(text.get(range).is_some());
        }
        let _ = pattern::compile_whole(written);
    }
    let options = WordOptions {
        ignore_accents: options & 1 != 0,
        turkish: options & 2 != 0,
        confusables: [Confusables::Disabled, Confusables::MixedScript, Confusables::All]
            [usize::from(options >> 2) % 3],
        substrings: words.iter().take(1).cloned().collect(),
    };
    let mut builder = matcher::Builder::default();
    builder.add(&words, &options, true).expect("lenient");
    let matcher = builder.build().expect("it is small");
    for set in matcher.sets() {
        let view = fold(&text, set.folding());
        let _ = set.search(&view, &mut set.progress(), |hit| {
            let (offset, length) = view.span(&text, hit.range.start, hit.range.end);
            assert!(text.get(offset..offset + length).is_some());
            false
        });
    }
});

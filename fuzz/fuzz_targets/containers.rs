//! Any octets as each kind of attachment: the readers never panic, never hang, never outgrow their budget.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::mail::containers::document;
use postern::mail::containers::{Budget, archive, legacy, signed, tnef, uuencode};
use postern::mail::filetype;

const TEXT: u64 = 1 << 18;

fuzz_target!(|content: &[u8]| {
    // The first octet says what it is taken for, so that the fuzzer need not find the magic numbers.
    let Some((&first, content)) = content.split_first() else { return };
    let budget = Budget::new(TEXT, 200, 5);
    let documents = [filetype::DOCX, filetype::XLSX, filetype::ODT, filetype::PDF, filetype::RTF];
    let archives = [filetype::ZIP, filetype::TAR, filetype::GZIP];
    match usize::from(first) % 12 {
        kind @ 0..5 => {
            let read = document::read(documents[kind], content, &budget);
            let held: usize = read.texts.iter().map(|extract| extract.text.len()).sum();
            assert!(held as u64 <= TEXT);
            for extract in &read.texts {
                assert!(extract.hidden.iter().all(|range| extract.text.get(range.clone()).is_some()));
                extract.shown();
            }
        }
        kind @ 5..8 => {
            if let Some(Ok((members, _))) = archive::members(archives[kind - 5], content, &budget) {
                for member in &members {
                    let _ = archive::take(member, content, &budget);
                }
            }
        }
        8 => drop(signed::open(content, &budget)),
        9 => drop(tnef::open(content, &budget)),
        10 => drop(legacy::read(content, &budget)),
        _ => {
            filetype::detect(content);
            uuencode::files(&String::from_utf8_lossy(content));
        }
    }
});

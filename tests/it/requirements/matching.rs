//! Matching, one test for each requirement, named by its number (see docs/requirements.md).

use crate::support::judge::Judge;

#[test]
fn r049_case_is_ignored() {
    let judge = Judge::new(&Judge::compliance("r", "{words: [BURUK]}", "{reject: {}}"));
    assert!(judge.rejects_body("buruk") && judge.rejects_body("BuRuK") && !judge.rejects_body("keburukan"));
}

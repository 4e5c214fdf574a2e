//! Pauses of those who wait for the same thing must differ, or all of them come back at once. No dice are thrown:
//! who waits, and how often he has waited, tell the pauses apart, so that a simulated history repeats itself.

use std::time::Duration;

/// `pause`, longer or shorter by up to `by` (0.2: 20 %).
pub fn spread(pause: Duration, by: f64, who: &str, turn: u64) -> Duration {
    let mut hasher = blake3::Hasher::new();
    hasher.update(who.as_bytes()).update(&turn.to_le_bytes());
    let number = u16::from_le_bytes([hasher.finalize().as_bytes()[0], hasher.finalize().as_bytes()[1]]);
    let share = f64::from(number) / f64::from(u16::MAX);
    pause.mul_f64(1.0 - by + 2.0 * by * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_within_their_bounds_and_differ_by_who_and_by_turn() {
        let second = Duration::from_secs(1);
        let pause = |who: &str, turn| spread(second, 0.3, who, turn);
        assert!((0..1000).all(|turn| (700..=1300).contains(&pause("a", turn).as_millis())));
        assert_ne!(pause("a", 1), pause("b", 1));
        assert_ne!(pause("a", 1), pause("a", 2));
        assert_eq!(pause("a", 1), pause("a", 1));
    }
}

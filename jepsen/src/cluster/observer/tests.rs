//! Gaps.

use super::*;

#[test]
fn only_long_gaps_count() {
    let mut at = BootTime(7);
    let mut acknowledged = vec![at];
    for millis in [100, 400, 1_500, 60, 900] {
        at = BootTime(at.0 + millis * 1_000_000);
        acknowledged.push(at);
    }
    let spans: Vec<u128> = gaps(&acknowledged).iter().map(|gap| gap.span().as_millis()).collect();
    assert_eq!(spans, [1_500, 900]);
}

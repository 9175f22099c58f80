//! Reading what `lgswitch inspect --json` prints.

use serde_json::Value;

/// The ports whose slots are held, in slot order.
#[must_use]
pub fn held(report: &Value) -> Vec<&Value> {
    report["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|port| port["held"] == true)
        .collect()
}

/// The numbers of the slots that are held.
#[must_use]
pub fn held_slots(report: &Value) -> Vec<u64> {
    held(report)
        .iter()
        .filter_map(|port| port["slot"].as_u64())
        .collect()
}

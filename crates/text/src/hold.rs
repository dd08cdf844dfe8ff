//! Looking for a marker in a text that comes in pieces.

/// Takes what stands before `marker` out of `held`, and the marker with it if it is there: whether it was. What may be its
/// beginning stays.
pub(crate) fn find_or_hold(held: &mut String, marker: &str) -> (String, bool) {
    if let Some(at) = held.find(marker) {
        let rest = held.split_off(at + marker.len());
        let mut before = std::mem::replace(held, rest);
        before.truncate(at);
        return (before, true);
    }
    let kept = (1..marker.len().min(held.len() + 1))
        .rev()
        .find(|&length| marker.get(..length).is_some_and(|start| held.ends_with(start)))
        .unwrap_or(0);
    let rest = held.split_off(held.len() - kept);
    (std::mem::replace(held, rest), false)
}

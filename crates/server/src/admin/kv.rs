//! `/debug/kv`: who holds which part of the memory, for people who want to see it.
//!
//! The names are those of [`folio_core::inspect`] and mean what is written there. Everything is destructured, so that a
//! number that is added there does not compile until it stands here.

use axum::extract::State;
use axum::response::Response;
use folio_core::inspect::{Activity, GroupReport, KvReport, Saved};
use folio_core::kv::KvStats;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::state::App;

/// The memory as it is between two steps.
pub(crate) async fn kv(State(app): State<App>) -> Result<Response, ApiError> {
    let report = app.engine.inspect().await.ok_or_else(|| {
        ApiError::unavailable(
            "the engine has ended, or a few others are looking already; try again in a moment",
        )
    })?;
    Ok(super::json(whole(report).to_string()))
}

fn whole(report: KvReport) -> Value {
    let KvReport { block_size, stats, by_tables, empty_positions, saved, groups, left_out } =
        report;
    let Saved { samples, beams, prefixes } = saved;
    let by_tables: Vec<Value> = by_tables
        .into_iter()
        .map(|(tables, blocks)| json!({ "tables": tables, "blocks": blocks }))
        .collect();
    let groups: Vec<Value> = groups.iter().map(group).collect();
    json!({
        "block_size": block_size,
        "stats": totals(stats),
        "by_tables": by_tables,
        "empty_positions": empty_positions,
        "saved": { "samples": samples, "beams": beams, "prefixes": prefixes },
        "groups": groups,
        "left_out": left_out,
    })
}

fn totals(stats: KvStats) -> Value {
    let KvStats {
        total,
        free,
        cached_free,
        used,
        shared,
        prefix_queries,
        prefix_hits,
        evictions,
        copies,
        partial_hits,
        held,
        pinned,
        swap_total,
        swap_used,
        swapped_out,
        swapped_in,
        swap_reused,
    } = stats;
    json!({
        "total": total,
        "free": free,
        "cached_free": cached_free,
        "used": used,
        "shared": shared,
        "prefix_queries": prefix_queries,
        "prefix_hits": prefix_hits,
        "evictions": evictions,
        "copies": copies,
        "partial_hits": partial_hits,
        "held": held,
        "pinned": pinned,
        "swap_total": swap_total,
        "swap_used": swap_used,
        "swapped_out": swapped_out,
        "swapped_in": swapped_in,
        "swap_reused": swap_reused,
    })
}

fn group(report: &GroupReport) -> Value {
    let &GroupReport {
        group,
        activity,
        beams,
        sequences,
        tokens,
        blocks,
        held,
        empty_positions,
        preemptions,
        swaps,
    } = report;
    let activity = match activity {
        Activity::Waiting => "waiting",
        Activity::AwaitingPrefix => "awaiting_prefix",
        Activity::Prompt => "prompt",
        Activity::Decode => "decode",
        Activity::Swapped => "swapped",
    };
    json!({
        "group": group.0,
        "activity": activity,
        "beams": beams,
        "sequences": sequences,
        "tokens": tokens,
        "blocks": blocks,
        "held": held,
        "empty_positions": empty_positions,
        "preemptions": preemptions,
        "swaps": swaps,
    })
}

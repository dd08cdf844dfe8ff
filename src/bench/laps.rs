//! Every step of a run, with where its time went, as the engine's thread saw it.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use folio_core::plan::StepPlan;
use folio_engine::{Observer, Part};
use folio_model::Profile;
use folio_model::profile::{Operation, OperationTimes};
use folio_sim::cost::{Sample, Step};
use serde_json::{Value, json};

/// The parts of the engine that are not the executor.
const PARTS: [(Part, &str); 4] = [
    (Part::Receive, "inbox"),
    (Part::Schedule, "schedule"),
    (Part::Commit, "commit"),
    (Part::Publish, "publish"),
];

/// One step.
#[derive(Clone, Debug)]
pub(crate) struct StepRecord {
    /// What it did.
    pub(crate) step: Step,
    /// When it ended.
    pub(crate) ended: Instant,
    /// Time of each [`Part`].
    parts: [Duration; 5],
    /// Time of each operation, where they were timed.
    operations: OperationTimes,
}

impl StepRecord {
    /// The step as a cost model is fitted to it: all the time from the inbox to the last update.
    pub(crate) fn sample(&self) -> Sample {
        let time: Duration = self.parts.iter().sum();
        Sample { step: self.step, micros: time.as_secs_f64() * 1e6 }
    }

    /// Whether it computed one token of each of `rows` sequences.
    pub(crate) fn decodes(&self, rows: u64) -> bool {
        (self.step.tokens, self.step.rows) == (rows, rows)
    }
}

/// All steps since they were last taken. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Steps(Arc<Mutex<Vec<StepRecord>>>);

impl Steps {
    /// The steps since this was last called.
    pub(crate) fn take(&self) -> Vec<StepRecord> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The observer that writes the list.
#[derive(Debug)]
pub(crate) struct Laps {
    steps: Steps,
    profile: Option<Profile>,
    last: Instant,
    parts: [Duration; 5],
}

impl Laps {
    pub(crate) fn new(steps: Steps, profile: Option<Profile>) -> Self {
        Self { steps, profile, last: Instant::now(), parts: [Duration::ZERO; 5] }
    }
}

impl Observer for Laps {
    fn began(&mut self) {
        self.last = Instant::now();
        self.parts = [Duration::ZERO; 5];
    }

    fn ended(&mut self, part: Part) {
        let now = Instant::now();
        self.parts[part as usize] += now - self.last;
        self.last = now;
    }

    fn finished(&mut self, plan: &StepPlan) {
        let operations = self.profile.as_ref().map(Profile::take).unwrap_or_default();
        // Every request of a benchmark is one sequence.
        let step = Step::of(plan, u64::try_from(plan.rows.len()).unwrap_or(u64::MAX));
        let record = StepRecord { step, ended: self.last, parts: self.parts, operations };
        self.steps.0.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }
}

/// Seconds from the end of one step to that of the next, for every two neighbours that computed one token of each of
/// `rows` sequences.
pub(crate) fn periods(steps: &[StepRecord], rows: u64) -> Vec<f64> {
    steps
        .windows(2)
        .filter_map(|pair| match pair {
            [before, step] if before.decodes(rows) && step.decodes(rows) => {
                Some((step.ended - before.ended).as_secs_f64())
            }
            _ => None,
        })
        .collect()
}

/// Where the time of the steps that `wanted` chooses went: the mean of each kind of work, in seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Breakdown {
    steps: usize,
    /// Name, seconds per step, and whether this is the work of a kernel.
    lines: Vec<(&'static str, f64, bool)>,
}

impl Breakdown {
    #[allow(clippy::cast_precision_loss, reason = "a mean")]
    pub(crate) fn of(steps: &[StepRecord], wanted: impl Fn(&StepRecord) -> bool) -> Self {
        let chosen: Vec<&StepRecord> = steps.iter().filter(|step| wanted(step)).collect();
        let count = chosen.len().max(1) as f64;
        let mean = |time: &dyn Fn(&StepRecord) -> Duration| {
            chosen.iter().map(|step| time(step).as_secs_f64()).sum::<f64>() / count
        };
        let mut lines = Vec::new();
        let mut operations = 0.0;
        for operation in Operation::ALL {
            let time = mean(&|step| step.operations[operation as usize]);
            operations += time;
            let kernel = !matches!(operation, Operation::Sample | Operation::Blocks);
            lines.push((operation.name(), time, kernel));
        }
        let execute = mean(&|step| step.parts[Part::Execute as usize]);
        lines.push(("other, executor", (execute - operations).max(0.0), false));
        for (part, name) in PARTS {
            lines.push((name, mean(&|step| step.parts[part as usize]), false));
        }
        Self { steps: chosen.len(), lines }
    }

    fn total(&self) -> f64 {
        self.lines.iter().map(|(_, time, _)| time).sum()
    }

    /// The share of the time that no kernel works in, sampling included.
    pub(crate) fn outside_kernels(&self) -> f64 {
        let outside: f64 =
            self.lines.iter().filter(|(.., kernel)| !kernel).map(|(_, time, _)| time).sum();
        outside / self.total().max(f64::MIN_POSITIVE)
    }

    /// As a table.
    pub(crate) fn table(&self, title: &str) -> String {
        let mut out = String::new();
        let total = self.total().max(f64::MIN_POSITIVE);
        let _ = writeln!(out, "{title}: mean of {} steps", self.steps);
        let mut row = |name: &str, time: f64| {
            let _ = writeln!(
                out,
                "  {name:<16} {:>10.3} ms {:>6.2} %",
                time * 1e3,
                time / total * 100.0
            );
        };
        for (name, time, _) in self.lines.iter().filter(|(_, time, _)| *time > 0.0) {
            row(name, *time);
        }
        row("a step", total);
        row("outside kernels", self.outside_kernels() * total);
        out
    }

    /// Milliseconds by name, and the share outside kernels.
    pub(crate) fn json(&self) -> Value {
        let lines: serde_json::Map<String, Value> = self
            .lines
            .iter()
            .map(|(name, time, _)| ((*name).to_owned(), json!(time * 1e3)))
            .collect();
        json!({
            "steps": self.steps,
            "milliseconds_per_step": lines,
            "outside_kernels": self.outside_kernels(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(tokens: u64, rows: u64, ended: Instant, execute_ms: u64, up_ms: u64) -> StepRecord {
        let mut record = StepRecord {
            step: Step { tokens, rows, ..Step::default() },
            ended,
            parts: [Duration::from_millis(1); 5],
            operations: OperationTimes::default(),
        };
        record.parts[Part::Execute as usize] = Duration::from_millis(execute_ms);
        record.operations[Operation::Up as usize] = Duration::from_millis(up_ms);
        record
    }

    #[test]
    fn only_neighbouring_decode_steps_have_a_period() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let steps = [
            step(9, 2, at(0), 9, 9),
            step(2, 2, at(10), 9, 9),
            step(2, 2, at(25), 9, 9),
            step(1, 1, at(30), 9, 9),
            step(2, 2, at(60), 9, 9),
        ];
        assert_eq!(periods(&steps, 2), [0.015]);
    }

    #[test]
    fn what_no_kernel_does_is_outside() {
        let now = Instant::now();
        let steps = [step(1, 1, now, 96, 90), step(7, 2, now, 1000, 0)];
        let breakdown = Breakdown::of(&steps, |step| step.decodes(1));
        // 90 of 96 + 4 ms.
        assert!((breakdown.outside_kernels() - 0.1).abs() < 1e-9);
        assert!(breakdown.table("decode").contains("10.000 ms  10.00 %"));
    }
}

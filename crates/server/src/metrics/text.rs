//! The Prometheus text format, version 0.0.4.

use std::fmt::Write;

/// A page of metrics, all of which carry the same first labels.
#[derive(Debug)]
pub(crate) struct Page {
    text: String,
    /// `model_name="…",engine="0"`
    labels: String,
}

impl Page {
    /// An empty page whose metrics all carry `labels`.
    pub(crate) fn new(labels: &[(&str, &str)]) -> Self {
        Self { text: String::new(), labels: render_labels(labels) }
    }

    /// The finished page.
    pub(crate) fn finish(self) -> String {
        self.text
    }

    /// Starts a metric; its samples follow.
    pub(super) fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A sample of the metric that was started last.
    pub(super) fn sample(&mut self, name: &str, more: &[(&str, &str)], value: f64) {
        let own = render_labels(more);
        let labels = &self.labels;
        let comma = if own.is_empty() || labels.is_empty() { "" } else { "," };
        let _ = writeln!(self.text, "{name}{{{labels}{comma}{own}}} {value:?}");
    }

    /// A gauge without further labels.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// A gauge per value of one label.
    pub(crate) fn gauges(&mut self, name: &str, help: &str, label: &str, values: &[(&str, f64)]) {
        self.head(name, "gauge", help);
        for (value, number) in values {
            self.sample(name, &[(label, value)], *number);
        }
    }

    /// A gauge whose value is 1 and whose labels are the message.
    pub(crate) fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) {
        self.head(name, "gauge", help);
        self.sample(name, labels, 1.0);
    }

    /// A counter without further labels.
    pub(crate) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.sample(name, &[], float(value));
    }

    /// A counter per value of one label.
    pub(crate) fn counters(&mut self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) {
        self.head(name, "counter", help);
        for (value, count) in values {
            self.sample(name, &[(label, value)], float(*count));
        }
    }

    /// A counter whose samples carry exactly these labels.
    pub(crate) fn labelled(
        &mut self,
        name: &str,
        help: &str,
        samples: &[(Vec<(&str, &str)>, u64)],
    ) {
        self.head(name, "counter", help);
        for (labels, count) in samples {
            let labels = render_labels(labels);
            let _ = writeln!(self.text, "{name}{{{labels}}} {:?}", float(*count));
        }
    }

    /// A histogram from counts per bucket, of which there is one more than bounds.
    pub(crate) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        self.head(name, "histogram", help);
        self.buckets(name, &[], (bounds, counts, sum));
    }

    /// The samples of a histogram with `labels`: bounds, counts per bucket, sum.
    pub(super) fn buckets(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        (bounds, counts, sum): (&[f64], &[u64], f64),
    ) {
        let bucket = format!("{name}_bucket");
        let mut total = 0;
        let up_to = |page: &mut Self, bound: &str, count| {
            page.sample(&bucket, &[labels, &[("le", bound)]].concat(), float(count));
        };
        for (bound, count) in bounds.iter().zip(counts) {
            total += count;
            up_to(self, &format!("{bound:?}"), total);
        }
        total = counts.iter().sum();
        up_to(self, "+Inf", total);
        self.sample(&format!("{name}_count"), labels, float(total));
        self.sample(&format!("{name}_sum"), labels, sum);
    }
}

#[allow(clippy::cast_precision_loss, reason = "the format's numbers are doubles")]
pub(super) fn float(value: u64) -> f64 {
    value as f64
}

fn render_labels(labels: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (index, (name, value)) in labels.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{comma}{name}=\"{value}\"");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_labels_escaped() {
        let mut page = Page::new(&[("model_name", "a\"b\\c\nd")]);
        page.histogram("h", "help", &[0.5, 1.0], &[2, 1, 4], 9.25);
        assert_eq!(
            page.finish(),
            "# HELP h help\n# TYPE h histogram\n\
             h_bucket{model_name=\"a\\\"b\\\\c\\nd\",le=\"0.5\"} 2.0\n\
             h_bucket{model_name=\"a\\\"b\\\\c\\nd\",le=\"1.0\"} 3.0\n\
             h_bucket{model_name=\"a\\\"b\\\\c\\nd\",le=\"+Inf\"} 7.0\n\
             h_count{model_name=\"a\\\"b\\\\c\\nd\"} 7.0\n\
             h_sum{model_name=\"a\\\"b\\\\c\\nd\"} 9.25\n"
        );
    }
}

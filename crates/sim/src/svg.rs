//! Charts as SVG: small enough to be written by hand, readable on a phone, in light and in dark.
//!
//! A chart is drawn 420 units wide, so that its text stays legible where a screen is no wider than that. Colours are CSS
//! variables ([`STYLE`]), which follow the reader's preference; series differ by dashes, too.

use std::fmt::Write as _;

/// Colours for both preferences; a page includes it once, a chart of its own brings it along.
pub const STYLE: &str = "\
:root{--ground:#fff;--text:#1b1f24;--faint:#57606a;--grid:#d8dee4;\
--c0:#0a58ca;--c1:#c2410c;--c2:#15803d;--c3:#7e22ce;--c4:#a16207;--c5:#0f766e}\
@media(prefers-color-scheme:dark){:root{--ground:#0d1117;--text:#e6edf3;--faint:#9da7b3;--grid:#30363d;\
--c0:#6cb6ff;--c1:#ff9966;--c2:#56d364;--c3:#d2a8ff;--c4:#e3b341;--c5:#39c5bb}}\
svg text{fill:var(--text);font:11px system-ui,sans-serif}svg .faint{fill:var(--faint)}\
svg .title{font-size:13px;font-weight:600}\
svg .grid{stroke:var(--grid);stroke-width:1}svg .line{fill:none;stroke-width:2}";

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 290.0;
const LEFT: f64 = 52.0;
// The last label is centred on it.
const RIGHT: f64 = 400.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 214.0;
const COLOURS: usize = 6;

/// One line, or one layer of a stack.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// Its points, by ascending x. Those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// A chart of lines, or of layers on top of each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// What lies along x, with its unit.
    pub x: String,
    /// What rises, with its unit.
    pub y: String,
    /// What is drawn.
    pub series: Vec<Series>,
    /// Layers on top of each other; all series then have the same xs.
    pub stacked: bool,
    /// The largest y that is shown; what is above leaves through the top.
    pub most_y: Option<f64>,
}

/// From values to places on the paper.
struct Scale {
    from: f64,
    to: f64,
    step: f64,
    low: f64,
    high: f64,
}

impl Scale {
    /// Round numbers from at or below `from` to at or above `to`, about `ticks` of them.
    fn new(from: f64, to: f64, ticks: f64, low: f64, high: f64) -> Self {
        let span = if to > from { to - from } else { 1.0 };
        let rough = span / ticks;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power);
        let step = step.into_iter().find(|step| *step >= rough * 0.999).unwrap_or(power * 10.0);
        let from = (from / step).floor() * step;
        let steps = ((from + span.max(to - from)) / step - from / step - 1e-9).ceil().max(1.0);
        Self { from, to: from + steps * step, step, low, high }
    }

    fn place(&self, value: f64) -> f64 {
        self.low + (value - self.from) / (self.to - self.from) * (self.high - self.low)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.to - self.from) / self.step).round();
        std::iter::successors(Some(0.0), |n| Some(n + 1.0))
            .take_while(move |n| *n <= count)
            .map(|n| self.from + n * self.step)
    }

    fn label(&self, value: f64) -> String {
        let digits = if self.step >= 1.0 {
            0
        } else if self.step >= 0.1 {
            1
        } else {
            2
        };
        match value {
            value if value.abs() >= 1e6 => format!("{:.1}M", value / 1e6),
            value if value.abs() >= 1e4 => format!("{:.0}k", value / 1e3),
            value => format!("{value:.digits$}"),
        }
    }
}

/// Text that may stand anywhere in HTML or SVG.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

impl Chart {
    /// The chart as an element of a page that has [`STYLE`].
    #[must_use]
    pub fn element(&self) -> String {
        self.draw("")
    }

    /// The chart as a file of its own.
    #[must_use]
    pub fn file(&self) -> String {
        let ground =
            format!("<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"var(--ground)\"/>");
        self.draw(&format!("<style>{STYLE}</style>{ground}"))
    }

    fn draw(&self, before: &str) -> String {
        let layers = self.layers();
        let points = || layers.iter().flat_map(|series| series.points.iter().copied());
        let (from, to) =
            points().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), p| (a.min(p.0), b.max(p.0)));
        let (from, to) = if from <= to { (from, to) } else { (0.0, 1.0) };
        let x = Scale::new(from, to, 5.0, LEFT, RIGHT);
        let highest = points().map(|p| p.1).fold(0.0, f64::max);
        let highest = self.most_y.map_or(highest, |most| highest.min(most));
        let y = Scale::new(0.0, if highest > 0.0 { highest } else { 1.0 }, 5.0, BOTTOM, TOP);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{}\">{before}",
            escape(&self.title)
        );
        self.axes(&x, &y, &mut out);
        if self.stacked {
            stack(&layers, &x, &y, &mut out);
        } else {
            lines(&layers, &x, &y, &mut out);
        }
        self.legend(&mut out);
        out.push_str("</svg>\n");
        out
    }

    /// The series as they are drawn: layers stand on those before them.
    fn layers(&self) -> Vec<Series> {
        let finite = |points: &[(f64, f64)]| {
            points.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite()).collect()
        };
        let mut layers: Vec<Series> = Vec::new();
        for series in &self.series {
            let mut points: Vec<(f64, f64)> = finite(&series.points);
            if self.stacked
                && let Some(below) = layers.last()
            {
                for (point, under) in points.iter_mut().zip(&below.points) {
                    point.1 += under.1;
                }
            }
            layers.push(Series { name: series.name.clone(), points });
        }
        layers
    }

    fn axes(&self, x: &Scale, y: &Scale, out: &mut String) {
        let middle = f64::midpoint(LEFT, RIGHT);
        let _ =
            write!(out, "<text class=\"title\" x=\"8\" y=\"16\">{}</text>", escape(&self.title));
        for tick in y.ticks() {
            let at = y.place(tick);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text class=\"faint\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 5.0,
                at + 4.0,
                y.label(tick)
            );
        }
        for tick in x.ticks() {
            let at = x.place(tick);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{BOTTOM}\" y2=\"{:.1}\"/>\
                 <text class=\"faint\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                BOTTOM + 4.0,
                BOTTOM + 16.0,
                x.label(tick)
            );
        }
        let _ = write!(
            out,
            "<text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(13 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            BOTTOM + 32.0,
            escape(&self.x),
            f64::midpoint(TOP, BOTTOM),
            escape(&self.y)
        );
    }

    /// Two or three names to a line, below the axis.
    fn legend(&self, out: &mut String) {
        let longest = self.series.iter().map(|series| series.name.chars().count()).max();
        let columns = if longest.unwrap_or(0) > 17 { 2 } else { 3 };
        let width = if columns == 2 { 190.0 } else { 128.0 };
        for (at, series) in self.series.iter().enumerate() {
            let place = |n: usize| f64::from(u32::try_from(n).unwrap_or(0));
            let x = 20.0 + width * place(at % columns);
            let y = BOTTOM + 48.0 + 14.0 * place(at / columns);
            let _ = write!(
                out,
                "<line x1=\"{x:.1}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{}\" \
                 stroke-width=\"{}\"{}/><text x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
                x + 18.0,
                y - 4.0,
                y - 4.0,
                if self.stacked {
                    layer_colour(at, self.series.len())
                } else {
                    format!("var(--c{})", at % COLOURS)
                },
                if self.stacked { 9 } else { 3 },
                if self.stacked { "" } else { dashes(at) },
                x + 23.0,
                escape(&series.name)
            );
        }
    }
}

/// What tells lines apart where colours do not.
fn dashes(at: usize) -> &'static str {
    match at % COLOURS {
        0 => "",
        1 => " stroke-dasharray=\"7 3\"",
        2 => " stroke-dasharray=\"2 3\"",
        3 => " stroke-dasharray=\"8 3 2 3\"",
        4 => " stroke-dasharray=\"4 2\"",
        _ => " stroke-dasharray=\"1 2\"",
    }
}

/// The last layer is what is left over, and stays in the background.
fn layer_colour(at: usize, layers: usize) -> String {
    if at > 0 && at + 1 == layers {
        return "var(--grid)".to_owned();
    }
    format!("var(--c{})", at % COLOURS)
}

fn lines(layers: &[Series], x: &Scale, y: &Scale, out: &mut String) {
    // All charts of a page are cut alike, so one name serves all.
    let _ = write!(
        out,
        "<clipPath id=\"paper\"><rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"/></clipPath>",
        LEFT - 2.0,
        TOP - 2.0,
        RIGHT - LEFT + 4.0,
        BOTTOM - TOP + 4.0
    );
    for (at, series) in layers.iter().enumerate() {
        let mut path = String::new();
        for (index, point) in series.points.iter().enumerate() {
            // Far above the paper is cut anyway.
            let place = y.place(point.1).max(-1e4);
            let verb = if index == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{verb}{:.1} {place:.1}", x.place(point.0));
        }
        let _ = write!(
            out,
            "<path class=\"line\" clip-path=\"url(#paper)\" d=\"{path}\" stroke=\"var(--c{})\"{}/>",
            at % COLOURS,
            dashes(at)
        );
    }
}

fn stack(layers: &[Series], x: &Scale, y: &Scale, out: &mut String) {
    for (at, series) in layers.iter().enumerate() {
        let mut path = String::new();
        for (index, point) in series.points.iter().enumerate() {
            let verb = if index == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{verb}{:.1} {:.1}", x.place(point.0), y.place(point.1));
        }
        let below = at.checked_sub(1).and_then(|below| layers.get(below));
        for (index, point) in series.points.iter().enumerate().rev() {
            let floor = below.and_then(|below| below.points.get(index)).map_or(0.0, |p| p.1);
            let _ = write!(path, "L{:.1} {:.1}", x.place(point.0), y.place(floor));
        }
        let _ = write!(
            out,
            "<path d=\"{path}Z\" fill=\"{}\" fill-opacity=\"0.85\"/>",
            layer_colour(at, layers.len())
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_go_from_round_number_to_round_number() {
        let ticks = |from, to| {
            let scale = Scale::new(from, to, 5.0, 0.0, 1.0);
            scale.ticks().map(|tick| scale.label(tick)).collect::<Vec<_>>()
        };
        assert_eq!(ticks(0.0, 0.93), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(ticks(0.0, 100.0), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(ticks(7.0, 33.0), ["0", "10", "20", "30", "40"]);
        assert_eq!(ticks(2.0, 2.0), ["2.0", "2.2", "2.4", "2.6", "2.8", "3.0"]);
        assert_eq!(ticks(0.0, 40_000.0), ["0", "10k", "20k", "30k", "40k"]);
    }

    #[test]
    fn a_chart_is_well_formed_whatever_it_shows() {
        let series =
            |points: &[(f64, f64)]| Series { name: "<a & b>".into(), points: points.into() };
        for stacked in [false, true] {
            for points in [&[][..], &[(1.0, f64::NAN)], &[(0.0, 0.0)], &[(0.0, 5.0), (1.0, 1e9)]] {
                let chart = Chart {
                    title: "\"x\" < y".into(),
                    series: vec![series(points), series(points)],
                    stacked,
                    most_y: Some(2.0),
                    ..Chart::default()
                };
                let file = chart.file();
                assert!(!file.contains("NaN") && !file.contains("inf"), "{file}");
                assert!(!file.contains("<a & b>"));
                assert_eq!(file.matches('<').count(), file.matches('>').count());
            }
        }
    }
}

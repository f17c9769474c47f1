//! One plot as SVG: two axes, lines with a mark at each point, a legend. Grey text and lines on no background can be read
//! on a light page and on a dark one; the colours of the lines have a shade for each.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
/// The area of the lines.
const LEFT: f64 = 76.0;
const RIGHT: f64 = 620.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 304.0;

const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #656d76 } \
.title { font-size: 15px; font-weight: 600 } \
.grid { stroke: #8b949e; stroke-opacity: 0.3 } \
.s0 { stroke: #0969da; fill: #0969da } .s1 { stroke: #bc4c00; fill: #bc4c00 } \
polyline { fill: none !important; stroke-width: 2 } \
@media (prefers-color-scheme: dark) { text { fill: #9198a1 } \
.s0 { stroke: #58a6ff; fill: #58a6ff } .s1 { stroke: #f0883e; fill: #f0883e } }";

/// Label and scale.
pub struct Axis(pub &'static str, pub Scale);

#[derive(Clone, Copy, PartialEq)]
pub enum Scale {
    /// From 0.
    Linear,
    /// To base 10; values are above 0.
    Log,
}

pub struct Series {
    pub label: &'static str,
    pub points: Vec<(f64, f64)>,
}

pub struct Plot<'a> {
    pub title: &'a str,
    pub x: &'a Axis,
    pub y: &'a Axis,
    /// At most two.
    pub series: &'a [Series],
}

impl Plot<'_> {
    /// A whole file. There is at least one point.
    pub fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Range::of(self.x.1, points().map(|point| point.0));
        let y = Range::of(self.y.1, points().map(|point| point.1));
        let to_x = |value| LEFT + x.share(value) * (RIGHT - LEFT);
        let to_y = |value| BOTTOM - y.share(value) * (BOTTOM - TOP);
        let mut parts = vec![text(LEFT, 22.0, "class='title'", self.title)];
        for tick in x.ticks() {
            let at = to_x(tick);
            parts.push(line((at, TOP), (at, BOTTOM)));
            parts.push(text(at, BOTTOM + 18.0, "text-anchor='middle'", &short(tick)));
        }
        for tick in y.ticks() {
            let at = to_y(tick);
            parts.push(line((LEFT, at), (RIGHT, at)));
            parts.push(text(LEFT - 8.0, at + 4.0, "text-anchor='end'", &short(tick)));
        }
        let (middle_x, middle_y) = (f64::midpoint(LEFT, RIGHT), f64::midpoint(TOP, BOTTOM));
        parts.push(text(middle_x, HEIGHT - 14.0, "text-anchor='middle'", self.x.0));
        let turned = format!("text-anchor='middle' transform='rotate(-90 18 {middle_y})'");
        parts.push(text(18.0, middle_y, &turned, self.y.0));
        for (number, series) in self.series.iter().enumerate() {
            let places: Vec<_> = series.points.iter().map(|point| (to_x(point.0), to_y(point.1))).collect();
            let line = places.iter().fold(String::new(), |line, (x, y)| line + &format!("{x:.1},{y:.1} "));
            parts.push(format!("<polyline class='s{number}' points='{}'/>", line.trim_end()));
            parts.extend(places.iter().map(|&place| mark(number, place)));
            let legend = LEFT + 150.0 * number as f64;
            parts.push(mark(number, (legend + 5.0, 43.0)));
            parts.push(text(legend + 16.0, 47.0, "", series.label));
        }
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' role='img'>\n\
             <title>{}</title>\n<style>{STYLE}</style>\n{}\n</svg>\n",
            self.title,
            parts.join("\n")
        )
    }
}

/// What an axis spans.
struct Range {
    scale: Scale,
    min: f64,
    max: f64,
}

impl Range {
    /// A linear range begins at 0 and ends at a tick, a logarithmic one spans the values.
    fn of(scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Self {
        let max = values.clone().fold(f64::MIN, f64::max);
        match scale {
            Scale::Linear => Self { scale, min: 0.0, max: (max / step(max)).ceil() * step(max) },
            Scale::Log => Self { scale, min: values.fold(f64::MAX, f64::min), max },
        }
    }

    /// Where `value` is, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let place = |value: f64| if self.scale == Scale::Log { value.log10() } else { value };
        let length = place(self.max) - place(self.min);
        if length > 0.0 { (place(value) - place(self.min)) / length } else { 0.5 }
    }

    fn ticks(&self) -> Vec<f64> {
        let is_inside = |tick: &f64| (self.min..=self.max).contains(tick);
        match self.scale {
            Scale::Linear => (0..=10).map(|n| f64::from(n) * step(self.max)).filter(is_inside).collect(),
            Scale::Log => (-3..=9).map(|n| 10_f64.powi(n)).filter(is_inside).collect(),
        }
    }
}

/// 1, 2 or 5 of a power of ten, of which 3 to 7 come to `max`.
fn step(max: f64) -> f64 {
    let power = 10_f64.powf((max / 7.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|of| of * power).into_iter().find(|step| max / step <= 7.0).unwrap_or(max)
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1e4 => format!("{}k", value / 1e3),
        value => format!("{value}"),
    }
}

fn text(x: f64, y: f64, attributes: &str, text: &str) -> String {
    format!("<text x='{x:.1}' y='{y:.1}' {attributes}>{text}</text>")
}

fn line(from: (f64, f64), to: (f64, f64)) -> String {
    let mut line = "<line class='grid'".to_owned();
    for (name, value) in [("x1", from.0), ("y1", from.1), ("x2", to.0), ("y2", to.1)] {
        // Into a String, which takes all.
        let _ = write!(line, " {name}='{value:.1}'");
    }
    line + "/>"
}

/// A circle or a square, so that colours are not needed to tell the series apart.
fn mark(series: usize, (x, y): (f64, f64)) -> String {
    if series == 0 {
        format!("<circle class='s0' cx='{x:.1}' cy='{y:.1}' r='4'/>")
    } else {
        format!("<rect class='s{series}' x='{:.1}' y='{:.1}' width='7' height='7'/>", x - 3.5, y - 3.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let linear = Range::of(Scale::Linear, [613.0, 20.0].into_iter());
        assert_eq!((linear.max, linear.ticks()), (700.0, (0..=7).map(|n| f64::from(n) * 100.0).collect()));
        let log = Range::of(Scale::Log, [4.0, 5000.0].into_iter());
        assert_eq!(log.ticks(), [10.0, 100.0, 1000.0]);
    }

    #[test]
    fn values_go_from_one_end_of_the_axis_to_the_other() {
        let log = Range::of(Scale::Log, [1.0, 100.0].into_iter());
        assert_eq!([1.0, 10.0, 100.0].map(|value| log.share(value).to_string()), ["0", "0.5", "1"]);
        // One value alone has no length to be on.
        assert_eq!(Range::of(Scale::Log, [3.0].into_iter()).share(3.0).to_string(), "0.5");
    }

    #[test]
    fn each_point_has_its_mark() {
        let axis = Axis("x", Scale::Linear);
        let series = [
            Series { label: "a", points: vec![(0.0, 1.0), (2.0, 3.0)] },
            Series { label: "b", points: vec![] },
        ];
        let svg = Plot { title: "t", x: &axis, y: &axis, series: &series }.svg();
        // Two points and the legend.
        assert_eq!((svg.matches("<circle").count(), svg.matches("<rect").count()), (3, 1));
        assert_eq!(svg.matches("<polyline").count(), 2);
    }
}

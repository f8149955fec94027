//! The pre-training figure: held-out log-likelihood above, held-out accuracy below, over one horizontal axis.
//!
//! Names stand at the ends of their lines where they fit and keep apart; otherwise in a legend at the right, outside the data.

use std::path::Path;

use plotters::coord::Shift;
use plotters::element::{Circle, DashedPathElement, PathElement, Polygon};
use plotters::prelude::{ChartBuilder, DrawingArea, DrawingBackend, Rectangle, WHITE};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, RGBColor, ShapeStyle};
use tcd_analysis::{CurvePoint, PretrainingCurve};

use crate::output::{Figure, PlotError, write_figure};
use crate::style::{FAINT, GRID, INK, Marker, Series, Sizes, font, series, width};

/// What the horizontal axis shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum XAxis {
    /// Optimizer steps.
    #[default]
    Steps,
    /// Tokens seen.
    Tokens,
    /// Hours at work.
    Hours,
}

impl XAxis {
    fn of(self, point: &CurvePoint) -> f64 {
        match self {
            XAxis::Steps => point.step as f64,
            XAxis::Tokens => point.tokens as f64,
            XAxis::Hours => point.wall_seconds / 3600.0,
        }
    }

    fn label(self) -> &'static str {
        match self {
            XAxis::Steps => "optimizer steps",
            XAxis::Tokens => "tokens seen in training",
            XAxis::Hours => "training time (hours)",
        }
    }
}

/// Choices for the figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurveOptions {
    /// Title above it.
    pub title: Option<String>,
    /// The horizontal axis.
    pub x: XAxis,
    /// Width in pixels, at least 400.
    pub width: u32,
    /// Height in pixels, at least 360.
    pub height: u32,
}

impl Default for CurveOptions {
    fn default() -> Self {
        Self {
            title: None,
            x: XAxis::default(),
            width: 900,
            height: 720,
        }
    }
}

const LEAST: (u32, u32) = (400, 360);
/// Most markers on a line.
const MARKERS: usize = 12;

type Value = fn(&CurvePoint) -> f64;

/// The panels: heading, value, and whether the range may not leave 0..100.
const PANELS: [(&str, Value, bool); 2] = [
    (
        "held-out log-likelihood (nats per masked token)",
        |p| p.heldout_log_likelihood,
        false,
    ),
    (
        "held-out accuracy (% of masked tokens)",
        |p| p.heldout_accuracy * 100.0,
        true,
    ),
];

struct CurveFigure<'a>(&'a [PretrainingCurve], &'a CurveOptions);

impl Figure for CurveFigure<'_> {
    fn size(&self) -> (u32, u32) {
        (self.1.width, self.1.height)
    }

    fn draw<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, Shift>,
        scale: f64,
    ) -> Result<(), PlotError>
    where
        DB::ErrorType: 'static,
    {
        draw_scaled(self.0, area, self.1, scale)
    }
}

/// Writes the figure to a file that ends in `.svg` or `.png`.
pub fn write_curves(
    curves: &[PretrainingCurve],
    path: &Path,
    options: &CurveOptions,
) -> Result<(), PlotError> {
    write_figure(&CurveFigure(curves, options), path)
}

/// Draws the figure on an area, whose own size counts.
pub fn draw_curves<DB: DrawingBackend>(
    curves: &[PretrainingCurve],
    area: &DrawingArea<DB, Shift>,
    options: &CurveOptions,
) -> Result<(), PlotError>
where
    DB::ErrorType: 'static,
{
    draw_scaled(curves, area, options, 1.0)
}

fn failed<E: std::error::Error + Send + Sync + 'static>(error: E) -> PlotError {
    PlotError::Draw(Box::new(error))
}

/// The finite points of a curve in one panel, and how many are not finite.
fn points(curve: &PretrainingCurve, x: XAxis, value: Value) -> (Vec<(f64, f64)>, usize) {
    let all = curve.points.iter().map(|p| (x.of(p), value(p)));
    let finite: Vec<_> = all
        .filter(|(x, y)| x.is_finite() && y.is_finite())
        .collect();
    let lost = curve.points.len() - finite.len();
    (finite, lost)
}

/// Least and greatest, with some room; never of zero length.
fn range(values: impl Iterator<Item = f64>, room: f64) -> Option<(f64, f64)> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
        (l.min(v), h.max(v))
    });
    if low > high {
        return None;
    }
    let span = (high - low).max(low.abs().max(high.abs()) * 1e-3).max(1e-9);
    Some((low - span * room, high + span * room))
}

/// A tick: as many decimals as the span of the axis asks for, thousands and more shortened.
fn tick(value: f64, span: f64) -> String {
    let (unit, suffix) = match span {
        s if s >= 2e9 => (1e9, "G"),
        s if s >= 2e6 => (1e6, "M"),
        s if s >= 2e4 => (1e3, "k"),
        _ => (1.0, ""),
    };
    let decimals = (1.0 - (span / unit).log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{:.*}", decimals, value / unit);
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    match text {
        "0" | "-0" => "0".to_owned(),
        other => format!("{}{suffix}", other.replacen('-', "\u{2212}", 1)),
    }
}

/// A name without control characters, broken into at most three lines of a width, the last shortened in its middle.
fn wrap(name: &str, size: f64, room: i32) -> Result<Vec<String>, PlotError> {
    let name: String = name
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let mut lines: Vec<String> = Vec::new();
    let mut rest: Vec<char> = name.chars().collect();
    while !rest.is_empty() {
        let text: String = rest.iter().collect();
        if width(&text, size)? <= room {
            lines.push(text);
            break;
        }
        let mut fits = 1;
        while fits < rest.len() && width(&rest[..=fits].iter().collect::<String>(), size)? <= room {
            fits += 1;
        }
        if lines.len() == 2 {
            // What tells runs apart often stands last, so the end is kept.
            let (head, tail) = (fits / 2, (fits.saturating_sub(1) / 2).max(1));
            let start: String = rest[..head].iter().collect();
            let end: String = rest[rest.len() - tail..].iter().collect();
            lines.push(format!("{start}\u{2026}{end}"));
            break;
        }
        let soft = rest[..fits]
            .iter()
            .rposition(|c| matches!(c, ' ' | '-' | '_' | '/' | ','));
        let cut = soft.map_or(fits, |at| if at + 1 > fits / 2 { at + 1 } else { fits });
        lines.push(rest.drain(..cut).collect());
    }
    Ok(lines)
}

/// Where names are shown.
#[derive(Debug, PartialEq)]
enum Names {
    /// At the ends of lines, in the panel where they stand apart.
    Direct(usize),
    /// In a legend at the right.
    Legend(Vec<Vec<String>>),
}

fn draw_scaled<DB: DrawingBackend>(
    curves: &[PretrainingCurve],
    area: &DrawingArea<DB, Shift>,
    options: &CurveOptions,
    scale: f64,
) -> Result<(), PlotError>
where
    DB::ErrorType: 'static,
{
    let (w, h) = area.dim_in_pixel();
    let least = (
        (f64::from(LEAST.0) * scale) as u32,
        (f64::from(LEAST.1) * scale) as u32,
    );
    if w < least.0 || h < least.1 {
        return Err(PlotError::Small {
            width: w,
            height: h,
            least_width: least.0,
            least_height: least.1,
        });
    }
    if curves.is_empty() {
        return Err(PlotError::Empty);
    }
    let sizes = Sizes::at(scale);
    let (w, h) = (w as i32, h as i32);
    let text = |size: f64, colour: RGBColor, h: HPos, v: VPos| -> Result<_, PlotError> {
        Ok(font(size)?.color(&colour).pos(Pos::new(h, v)))
    };
    area.fill(&WHITE).map_err(failed)?;

    let mut top = sizes.space;
    if let Some(title) = &options.title {
        let style = text(sizes.title, INK, HPos::Left, VPos::Top)?;
        for line in wrap(title, sizes.title, w - 4 * sizes.space)? {
            area.draw_text(&line, &style, (2 * sizes.space, top))
                .map_err(failed)?;
            top += (sizes.title * 1.3) as i32;
        }
        top += sizes.space / 2;
    }
    let line_height = (sizes.label * 1.3) as i32;
    let axis_height = (sizes.tick * 1.6 + sizes.label * 1.3) as i32;
    let lost: usize = curves
        .iter()
        .flat_map(|c| PANELS.map(|(_, value, _)| points(c, options.x, value).1))
        .sum();
    let foot = if lost > 0 { line_height } else { 0 };
    let panel_height = (h - top - axis_height - foot - sizes.space) / 2;

    // Ranges first: where lines end decides where names go.
    let xs = curves.iter().flat_map(|c| {
        c.points
            .iter()
            .map(|p| options.x.of(p))
            .filter(|x| x.is_finite())
    });
    let (x_low, x_high) = range(xs, 0.0).unwrap_or((0.0, 1.0));
    let x_low = if x_low > 0.0 && x_low < 0.3 * x_high {
        0.0
    } else {
        x_low
    };
    let ranges = PANELS.map(|(_, value, percent)| {
        let (low, high) = range(
            curves
                .iter()
                .flat_map(|c| points(c, options.x, value).0)
                .map(|p| p.1),
            0.06,
        )?;
        Some(if percent {
            (low.max(0.0), high.min(100.0).max(low.max(0.0) + 1e-6))
        } else {
            (low, high)
        })
    });
    let plot_height = panel_height - line_height - sizes.space * 3 / 2;
    let room = w * 30 / 100;
    let swatch = 4 * sizes.space;
    let names = choose_names(
        curves,
        options.x,
        &ranges,
        plot_height,
        line_height,
        room,
        &sizes,
    )?;
    let mut right = 2 * sizes.space;
    match &names {
        Names::Direct(_) => {
            for c in curves {
                right = right.max(width(&c.name, sizes.label)? + 3 * sizes.space);
            }
        }
        Names::Legend(entries) => {
            for line in entries.iter().flatten() {
                right = right.max(width(line, sizes.label)? + swatch + 4 * sizes.space);
            }
        }
    }

    let left = (sizes.tick * 5.2) as i32;
    for (number, (heading, value, _)) in PANELS.iter().enumerate() {
        let last = number == PANELS.len() - 1;
        let y0 = top + number as i32 * panel_height;
        let style = text(sizes.label, INK, HPos::Left, VPos::Top)?;
        area.draw_text(heading, &style, (2 * sizes.space, y0))
            .map_err(failed)?;
        let height = plot_height + if last { axis_height } else { 0 };
        let panel = area
            .clone()
            .shrink((0, y0 + line_height), (w as u32, height as u32));
        let (low, high) = ranges[number].unwrap_or((0.0, 1.0));
        let mut chart = ChartBuilder::on(&panel)
            .margin_right(right)
            .margin_top(sizes.space / 2)
            .x_label_area_size(if last { axis_height } else { 0 })
            .y_label_area_size(left)
            .build_cartesian_2d(x_low..x_high, low..high)
            .map_err(failed)?;
        let ticks = text(sizes.tick, FAINT, HPos::Left, VPos::Top)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE.mix(0.0))
            .bold_line_style(GRID)
            .axis_style(FAINT)
            .set_all_tick_mark_size(sizes.space * 6 / 10)
            .x_labels(if right > w / 4 { 5 } else { 7 })
            .y_labels(6)
            .label_style(ticks)
            .x_label_formatter(&|x| tick(*x, x_high - x_low))
            .y_label_formatter(&|y| tick(*y, high - low))
            .draw()
            .map_err(failed)?;
        if ranges[number].is_none() {
            let style = text(sizes.label, FAINT, HPos::Center, VPos::Center)?;
            let middle = (
                left + (w - left - right) / 2,
                y0 + line_height + plot_height / 2,
            );
            area.draw_text("no finite values", &style, middle)
                .map_err(failed)?;
            continue;
        }
        let base = area.strip_coord_spec().get_base_pixel();
        let place = |p: &(f64, f64)| {
            let (x, y) = chart.plotting_area().map_coordinate(p);
            (x - base.0, y - base.1)
        };
        for (i, curve) in curves.iter().enumerate() {
            let line: Vec<(i32, i32)> = points(curve, options.x, *value)
                .0
                .iter()
                .map(place)
                .collect();
            draw_line(area, &line, series(i), &sizes)?;
            if let (Names::Direct(at), Some(end)) = (&names, line.last())
                && *at == number
            {
                let style = text(
                    sizes.label,
                    darker(series(i).colour),
                    HPos::Left,
                    VPos::Center,
                )?;
                let beside = (end.0 + sizes.space, end.1);
                area.draw_text(&curve.name, &style, beside)
                    .map_err(failed)?;
            }
        }
    }
    let style = text(sizes.label, INK, HPos::Center, VPos::Bottom)?;
    let below = h - foot - sizes.space;
    area.draw_text(
        options.x.label(),
        &style,
        (left + (w - left - right) / 2, below),
    )
    .map_err(failed)?;
    if lost > 0 {
        let style = text(sizes.tick, FAINT, HPos::Left, VPos::Bottom)?;
        let note = format!("values left out as not finite: {lost}");
        area.draw_text(&note, &style, (2 * sizes.space, h - sizes.space / 2))
            .map_err(failed)?;
    }
    if let Names::Legend(entries) = &names {
        let x = w - right + 2 * sizes.space;
        let mut y = top + line_height + sizes.space;
        let style = text(sizes.label, INK, HPos::Left, VPos::Center)?;
        for (i, lines) in entries.iter().enumerate() {
            if y + line_height * lines.len() as i32 > h - sizes.space {
                let more = format!("and {} more", entries.len() - i);
                area.draw_text(&more, &style, (x, y)).map_err(failed)?;
                break;
            }
            draw_line(
                area,
                &[(x, y), (x + swatch / 2, y), (x + swatch, y)],
                series(i),
                &sizes,
            )?;
            for line in lines {
                area.draw_text(line, &style, (x + swatch + sizes.space, y))
                    .map_err(failed)?;
                y += line_height;
            }
            y += sizes.space / 2;
        }
    }
    area.present().map_err(failed)
}

/// Direct names in the first panel whose lines end a line of text apart, if every name fits in the room; else a legend.
fn choose_names(
    curves: &[PretrainingCurve],
    x: XAxis,
    ranges: &[Option<(f64, f64)>; 2],
    plot_height: i32,
    line_height: i32,
    room: i32,
    sizes: &Sizes,
) -> Result<Names, PlotError> {
    let mut fit = true;
    for c in curves {
        fit &= width(&c.name, sizes.label)? <= room && !c.name.chars().any(char::is_control);
    }
    let x_end = curves
        .iter()
        .flat_map(|c| c.points.iter().map(|p| x.of(p)))
        .fold(f64::NEG_INFINITY, f64::max);
    for (number, ((_, value, _), range)) in PANELS.iter().zip(ranges).enumerate() {
        let Some((low, high)) = range else { continue };
        let ends: Vec<_> = curves
            .iter()
            .filter_map(|c| points(c, x, *value).0.last().copied())
            .collect();
        // A line that ends early would have its name among the data.
        let together =
            ends.len() == curves.len() && ends.iter().all(|e| e.0 >= x_end - 0.02 * x_end.abs());
        let mut ys: Vec<f64> = ends
            .iter()
            .map(|e| (e.1 - low) / (high - low) * f64::from(plot_height))
            .collect();
        ys.sort_by(f64::total_cmp);
        if fit && together && ys.windows(2).all(|p| p[1] - p[0] >= f64::from(line_height)) {
            return Ok(Names::Direct(number));
        }
    }
    let room = room - 4 * sizes.space;
    Ok(Names::Legend(
        curves
            .iter()
            .map(|c| wrap(&c.name, sizes.label, room))
            .collect::<Result<_, _>>()?,
    ))
}

/// A colour dark enough for text on white.
fn darker(colour: RGBColor) -> RGBColor {
    let part = |c: u8| (f64::from(c) * 0.75) as u8;
    RGBColor(part(colour.0), part(colour.1), part(colour.2))
}

fn draw_line<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    line: &[(i32, i32)],
    looks: Series,
    sizes: &Sizes,
) -> Result<(), PlotError>
where
    DB::ErrorType: 'static,
{
    let stroke = looks.colour.stroke_width(sizes.line as u32);
    match looks.dash {
        _ if line.len() < 2 => {}
        None => area
            .draw(&PathElement::new(line.to_vec(), stroke))
            .map_err(failed)?,
        Some((ink, gap)) => {
            let dashed =
                DashedPathElement::new(line.to_vec(), ink * sizes.line, gap * sizes.line, stroke);
            area.draw(&dashed).map_err(failed)?;
        }
    }
    let every = line.len().div_ceil(MARKERS).max(1);
    let chosen: Vec<_> = match line {
        // A legend's sample has its marker in the middle.
        [_, middle, _] if line.iter().all(|p| p.1 == middle.1) => vec![*middle],
        _ => line.iter().rev().step_by(every).copied().collect(),
    };
    let (r, fill) = (sizes.marker, looks.colour.filled());
    for (x, y) in chosen {
        let shape = |corners: &[(i32, i32)]| -> Vec<(i32, i32)> {
            corners.iter().map(|c| (x + c.0, y + c.1)).collect()
        };
        match looks.marker {
            Marker::Circle => area.draw(&Circle::new((x, y), r, fill)),
            Marker::Square => area.draw(&Rectangle::new([(x - r, y - r), (x + r, y + r)], fill)),
            Marker::Triangle => area.draw(&Polygon::new(
                shape(&[(0, -r - 1), (r + 1, r), (-r - 1, r)]),
                fill,
            )),
            Marker::Diamond => area.draw(&Polygon::new(
                shape(&[(0, -r - 1), (r + 1, 0), (0, r + 1), (-r - 1, 0)]),
                fill,
            )),
            Marker::Ring => {
                area.draw(&Circle::new((x, y), r, ShapeStyle::from(&WHITE).filled()))
                    .map_err(failed)?;
                area.draw(&Circle::new((x, y), r, stroke))
            }
        }
        .map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

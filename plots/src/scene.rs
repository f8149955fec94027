//! What a figure is made of: shapes and texts in pixels, and marks that say which value stands where.
//!
//! A figure function lays everything out once, in pixels at scale 1; the scene then draws itself on any area of `plotters`, so
//! that SVG and PNG show the same.

use plotters::coord::Shift;
use plotters::element::{Circle, DashedPathElement, PathElement, Polygon};
use plotters::prelude::{DrawingArea, DrawingBackend, Rectangle, WHITE};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontTransform, RGBColor};
use serde::Serialize;

use crate::output::PlotError;
use crate::style::{FAINT, INK, Marker, font, width};

/// Notes below a figure; of more the rest is counted.
const MOST_NOTES: usize = 10;

/// Largest side of a figure in pixels.
const LARGEST: f64 = 16_000.0;
/// Space between parts.
pub(crate) const SPACE: f64 = 10.0;
/// Size of titles.
pub(crate) const TITLE: f64 = 20.0;
/// Size of headings, axes and names.
pub(crate) const LABEL: f64 = 16.0;
/// Size of tick labels and notes.
pub(crate) const TICK: f64 = 14.5;
/// Width of lines.
pub(crate) const STROKE: f64 = 2.0;
/// Radius of markers.
pub(crate) const RADIUS: f64 = 4.0;

/// A place in pixels, from the upper left corner.
pub(crate) type Place = (f64, f64);

/// A value in the drawing, for hover texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mark {
    /// Left edge, pixels of the SVG.
    pub x: f64,
    /// Upper edge.
    pub y: f64,
    /// Width; 0 for a point, around which a reader draws a small circle.
    pub width: f64,
    /// Height; 0 for a point.
    pub height: f64,
    /// What stands there, with its value.
    pub label: String,
}

/// Where a text stands at its place.
#[derive(Clone, Copy)]
pub(crate) struct Anchor(pub HPos, pub VPos);

impl std::fmt::Debug for Anchor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Anchor")
    }
}

pub(crate) const LEFT_TOP: Anchor = Anchor(HPos::Left, VPos::Top);
pub(crate) const LEFT: Anchor = Anchor(HPos::Left, VPos::Center);
pub(crate) const RIGHT: Anchor = Anchor(HPos::Right, VPos::Center);
pub(crate) const CENTRE: Anchor = Anchor(HPos::Center, VPos::Center);
pub(crate) const CENTRE_TOP: Anchor = Anchor(HPos::Center, VPos::Top);

/// One thing to draw.
#[derive(Clone, Debug)]
enum Shape {
    Line {
        points: Vec<Place>,
        colour: RGBColor,
        width: f64,
        dash: Option<(i32, i32)>,
    },
    Area {
        points: Vec<Place>,
        colour: RGBColor,
        opacity: f64,
    },
    Box {
        from: Place,
        to: Place,
        colour: RGBColor,
        filled: bool,
    },
    Marker {
        at: Place,
        marker: Marker,
        radius: f64,
        colour: RGBColor,
        opacity: f64,
    },
    Text {
        at: Place,
        text: String,
        size: f64,
        colour: RGBColor,
        anchor: Anchor,
        turned: bool,
    },
}

/// Shapes, marks, and the size that holds them.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    width: f64,
    height: f64,
    shapes: Vec<Shape>,
    marks: Vec<Mark>,
}

impl Scene {
    /// An empty scene; it grows downwards and to the right.
    pub fn new(width: f64) -> Self {
        Scene {
            width,
            height: 0.0,
            shapes: Vec::new(),
            marks: Vec::new(),
        }
    }

    /// Makes room down to there.
    pub fn grow(&mut self, right: f64, bottom: f64) {
        self.width = self.width.max(right);
        self.height = self.height.max(bottom);
    }

    /// Size in whole pixels.
    pub fn size(&self) -> (u32, u32) {
        let whole = |v: f64| v.clamp(1.0, LARGEST).ceil() as u32;
        (whole(self.width), whole(self.height))
    }

    /// The marks.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// Checks that the figure is not too large to be drawn.
    pub fn check(&self) -> Result<(), PlotError> {
        if self.width <= LARGEST && self.height <= LARGEST {
            return Ok(());
        }
        Err(PlotError::Large {
            width: self.width,
            height: self.height,
        })
    }

    pub fn line(&mut self, points: Vec<Place>, colour: RGBColor, width: f64) {
        self.dashed(points, colour, width, None);
    }

    pub fn dashed(
        &mut self,
        points: Vec<Place>,
        colour: RGBColor,
        width: f64,
        dash: Option<(i32, i32)>,
    ) {
        if points.len() > 1 {
            self.shapes.push(Shape::Line {
                points,
                colour,
                width,
                dash,
            });
        }
    }

    pub fn area(&mut self, points: Vec<Place>, colour: RGBColor, opacity: f64) {
        if points.len() > 2 {
            self.shapes.push(Shape::Area {
                points,
                colour,
                opacity,
            });
        }
    }

    pub fn filled(&mut self, from: Place, to: Place, colour: RGBColor) {
        self.shapes.push(Shape::Box {
            from,
            to,
            colour,
            filled: true,
        });
    }

    pub fn frame(&mut self, from: Place, to: Place, colour: RGBColor) {
        self.shapes.push(Shape::Box {
            from,
            to,
            colour,
            filled: false,
        });
    }

    pub fn marker(
        &mut self,
        at: Place,
        marker: Marker,
        radius: f64,
        colour: RGBColor,
        opacity: f64,
    ) {
        self.shapes.push(Shape::Marker {
            at,
            marker,
            radius,
            colour,
            opacity,
        });
    }

    pub fn text(&mut self, at: Place, text: &str, size: f64, colour: RGBColor, anchor: Anchor) {
        self.write(at, text, size, colour, anchor, false);
    }

    /// A text that reads upwards; its right end is at the place where the anchor says left, and so on.
    pub fn turned(&mut self, at: Place, text: &str, size: f64, colour: RGBColor, anchor: Anchor) {
        self.write(at, text, size, colour, anchor, true);
    }

    fn write(
        &mut self,
        at: Place,
        text: &str,
        size: f64,
        colour: RGBColor,
        anchor: Anchor,
        turned: bool,
    ) {
        let text = plain(text);
        if !text.trim().is_empty() {
            self.shapes.push(Shape::Text {
                at,
                text,
                size,
                colour,
                anchor,
                turned,
            });
        }
    }

    /// Notes that a value stands at a point.
    pub fn mark(&mut self, at: Place, label: String) {
        self.mark_box(at, at, label);
    }

    /// Notes that a value fills a rectangle.
    pub fn mark_box(&mut self, from: Place, to: Place, label: String) {
        self.marks.push(Mark {
            x: from.0.min(to.0),
            y: from.1.min(to.1),
            width: (to.0 - from.0).abs(),
            height: (to.1 - from.1).abs(),
            label: plain(&label),
        });
    }

    /// The figure's title over its whole width; the upper edge of what comes next.
    pub fn title(&mut self, title: &str) -> Result<f64, PlotError> {
        let mut y = SPACE;
        for line in wrap(title, TITLE, self.width - 4.0 * SPACE)? {
            self.text((2.0 * SPACE, y), &line, TITLE, INK, LEFT_TOP);
            y += TITLE * 1.3;
        }
        Ok(y + SPACE / 2.0)
    }

    /// Notes below everything so far, broken into lines.
    pub fn notes(&mut self, notes: &[String]) -> Result<(), PlotError> {
        let more = format!(
            "and {} more notes",
            notes.len().saturating_sub(MOST_NOTES - 1)
        );
        let shown: Vec<&str> = match notes.len() > MOST_NOTES {
            true => notes[..MOST_NOTES - 1]
                .iter()
                .map(String::as_str)
                .chain([more.as_str()])
                .collect(),
            false => notes.iter().map(String::as_str).collect(),
        };
        for note in shown {
            for line in lines(note, TICK, self.width - 4.0 * SPACE, 4)? {
                self.text((2.0 * SPACE, self.height), &line, TICK, FAINT, LEFT_TOP);
                self.height += TICK * 1.4;
            }
        }
        if !notes.is_empty() {
            self.height += SPACE / 2.0;
        }
        Ok(())
    }

    /// Draws everything, each pixel of the scene as `scale` pixels of the area.
    pub fn draw<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, Shift>,
        scale: f64,
    ) -> Result<(), PlotError>
    where
        DB::ErrorType: 'static,
    {
        self.check()?;
        area.fill(&WHITE).map_err(failed)?;
        for shape in &self.shapes {
            draw(area, shape, scale)?;
        }
        area.present().map_err(failed)
    }
}

fn failed<E: std::error::Error + Send + Sync + 'static>(error: E) -> PlotError {
    PlotError::Draw(Box::new(error))
}

fn draw<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    shape: &Shape,
    scale: f64,
) -> Result<(), PlotError>
where
    DB::ErrorType: 'static,
{
    let whole = |v: f64| (v * scale).round() as i32;
    let place = |p: Place| (whole(p.0), whole(p.1));
    match shape {
        Shape::Line {
            points,
            colour,
            width,
            dash,
        } => {
            let stroke = colour.stroke_width((width * scale).round().max(1.0) as u32);
            let points: Vec<(i32, i32)> = points.iter().map(|&p| place(p)).collect();
            match dash {
                None => area.draw(&PathElement::new(points, stroke)),
                Some((ink, gap)) => {
                    let length = |units: &i32| (f64::from(*units) * width * scale).round() as i32;
                    area.draw(&DashedPathElement::new(
                        points,
                        length(ink),
                        length(gap),
                        stroke,
                    ))
                }
            }
        }
        Shape::Area {
            points,
            colour,
            opacity,
        } => {
            let points: Vec<(i32, i32)> = points.iter().map(|&p| place(p)).collect();
            area.draw(&Polygon::new(points, colour.mix(*opacity).filled()))
        }
        Shape::Box {
            from,
            to,
            colour,
            filled,
        } => {
            let style = if *filled {
                colour.filled()
            } else {
                colour.stroke_width(scale.round().max(1.0) as u32)
            };
            area.draw(&Rectangle::new([place(*from), place(*to)], style))
        }
        Shape::Marker {
            at,
            marker,
            radius,
            colour,
            opacity,
        } => {
            let ((x, y), r) = (place(*at), whole(*radius).max(1));
            let fill = colour.mix(*opacity).filled();
            let corners = |corners: &[(i32, i32)]| -> Vec<(i32, i32)> {
                corners.iter().map(|c| (x + c.0, y + c.1)).collect()
            };
            match marker {
                Marker::Circle => area.draw(&Circle::new((x, y), r, fill)),
                Marker::Square => {
                    area.draw(&Rectangle::new([(x - r, y - r), (x + r, y + r)], fill))
                }
                Marker::Triangle => area.draw(&Polygon::new(
                    corners(&[(0, -r - 1), (r + 1, r), (-r - 1, r)]),
                    fill,
                )),
                Marker::Diamond => area.draw(&Polygon::new(
                    corners(&[(0, -r - 1), (r + 1, 0), (0, r + 1), (-r - 1, 0)]),
                    fill,
                )),
                Marker::Ring => {
                    area.draw(&Circle::new((x, y), r, WHITE.mix(*opacity).filled()))
                        .map_err(failed)?;
                    let stroke = (STROKE * 0.75 * scale).round().max(1.0) as u32;
                    area.draw(&Circle::new(
                        (x, y),
                        r,
                        colour.mix(*opacity).stroke_width(stroke),
                    ))
                }
            }
        }
        Shape::Text {
            at,
            text,
            size,
            colour,
            anchor,
            turned,
        } => {
            let font = font(size * scale)?;
            let font = if *turned {
                font.transform(FontTransform::Rotate270)
            } else {
                font
            };
            let style = font.color(colour).pos(Pos::new(anchor.0, anchor.1));
            // What stands in the middle of a line is for the most part as tall as a digit, not as an x.
            let lower = match anchor.1 {
                VPos::Center => size * 0.1,
                _ => 0.0,
            };
            let at = if *turned {
                (at.0 + lower, at.1)
            } else {
                (at.0, at.1 + lower)
            };
            area.draw_text(text, &style, place(at))
        }
    }
    .map_err(failed)
}

/// A text without control characters.
pub(crate) fn plain(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(clean).collect()
}

/// A name broken into at most three lines of a width in pixels, the last shortened in its middle.
pub(crate) fn wrap(name: &str, size: f64, room: f64) -> Result<Vec<String>, PlotError> {
    lines(name, size, room, 3)
}

/// A text broken into at most so many lines of a width in pixels, the last shortened in its middle.
pub(crate) fn lines(
    name: &str,
    size: f64,
    room: f64,
    most: usize,
) -> Result<Vec<String>, PlotError> {
    let room = room.max(size * 2.0) as i32;
    let mut lines: Vec<String> = Vec::new();
    let mut rest: Vec<char> = plain(name).trim().chars().collect();
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
        if lines.len() + 1 == most {
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
        lines.push(rest.drain(..cut).collect::<String>().trim_end().to_owned());
    }
    Ok(lines)
}

/// The widest of some texts, pixels.
pub(crate) fn widest<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    size: f64,
) -> Result<f64, PlotError> {
    let mut most = 0;
    for text in texts {
        most = most.max(width(&plain(text), size)?);
    }
    Ok(f64::from(most))
}

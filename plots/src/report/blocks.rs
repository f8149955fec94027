//! Paragraphs, tables and figures of a section.

use super::html::{Writer, escape};
use super::inline::inline;
use super::{Block, Picture, Table};

/// Sources that a block lists in full; of more it names the files alone.
const FULL_SOURCES: usize = 3;
/// Files that it names at most.
const NAMED_SOURCES: usize = 12;
/// Notes of a table that stand open where there are many.
const NOTES: usize = 6;

pub(super) fn block(w: &mut Writer, block: &Block) {
    match block {
        Block::Text(text) => w.element("p", text),
        Block::Table(t) => table(w, t),
        Block::Figure(f) => figure(w, f),
    }
}

fn table(w: &mut Writer, table: &Table) {
    w.tables += 1;
    let id = format!("table-{}", w.tables);
    let title = escape(&table.title);
    // A long one scrolls in a window of its own, under its headings.
    let long = if table.rows.len() > 24 { " long" } else { "" };
    // On paper a wide table is set smaller.
    let many = if table.columns.len() > 8 { " many" } else { "" };
    w.raw(&format!(
        "<div class=\"card\" id=\"{id}\"><h3 class=\"caption\" id=\"{id}-h\">{title}</h3>\n<div class=\"wide{long}\" tabindex=\"0\" role=\"group\" aria-label=\"{title}, scrolls\">\n<table class=\"sorts{many}\" aria-labelledby=\"{id}-h\"><thead><tr>"
    ));
    for column in &table.columns {
        let class = if column.numeric { " class=\"n\"" } else { "" };
        w.raw(&format!(
            "<th scope=\"col\"{class} data-n=\"{0}\" aria-sort=\"none\"><button type=\"button\">{0}</button></th>",
            escape(&column.name)
        ));
    }
    w.raw("</tr></thead><tbody>\n");
    let shown = table.rows.len().min(w.limits.table_rows);
    for row in &table.rows[..shown] {
        w.raw("<tr>");
        for (at, cell) in row.iter().enumerate() {
            let numeric = table.columns.get(at).is_some_and(|c| c.numeric);
            let class = if numeric { " class=\"n\"" } else { "" };
            let key = match cell.key {
                Some(key) if numeric => format!(" data-k=\"{key}\""),
                _ => String::new(),
            };
            // The first cell names its row.
            let tag = if at == 0 { "th scope=\"row\"" } else { "td" };
            let end = if at == 0 { "th" } else { "td" };
            w.raw(&format!(
                "<{tag}{class}{key}>{}</{end}>",
                escape(&cell.text)
            ));
        }
        w.raw("</tr>\n");
    }
    w.raw("</tbody></table></div>\n");
    // A page of notes would bury what follows.
    let open = match table.notes.len() {
        n if n > NOTES + 2 => NOTES,
        n => n,
    };
    let (first, folded) = table.notes.split_at(open);
    for note in first {
        w.element("p class=\"note\"", note);
    }
    if !folded.is_empty() {
        w.raw(&format!(
            "<details><summary>{} more notes</summary>\n",
            folded.len()
        ));
        for note in folded {
            w.element("p class=\"note\"", note);
        }
        w.raw("</details>\n");
    }
    let more = table.rows.len() - shown;
    if more > 0 {
        w.leave_out(format!(
            "{}: {more} of {} rows are not on the page; the source files have them all.",
            table.title,
            table.rows.len()
        ));
    }
    source_details(w, &table.sources);
    w.raw("</div>\n");
}

fn figure(w: &mut Writer, picture: &Picture) {
    w.figures += 1;
    let id = format!("figure-{}", w.figures);
    let label = format!("{}. {}", picture.title, picture.caption);
    let svg = inline(&picture.svg, &format!("{id}-"), &label);
    w.raw(&format!("<figure class=\"card\" id=\"{id}\">\n"));
    let too_large = |w: &Writer, svg: &str| {
        svg.len() > w.limits.figure_bytes || w.out.len() + svg.len() > w.limits.page_bytes
    };
    match svg {
        None => w.leave_out(format!("{}: the figure is no SVG.", picture.title)),
        Some(svg) if too_large(w, &svg) => w.leave_out(format!(
            "{}: the figure takes {:.1} MB and is not on the page; `tcd plot` draws it into a file.",
            picture.title,
            svg.len() as f64 / 1e6
        )),
        Some(svg) => drawn(w, picture, &id, &svg),
    }
    w.raw(&format!(
        "<figcaption><strong>{}</strong> {}</figcaption>\n",
        escape(&picture.title),
        escape(&picture.caption)
    ));
    if !picture.reading.is_empty() {
        w.raw("<details><summary>How to read it</summary>");
        w.element("p", &picture.reading);
        w.raw("</details>\n");
    }
    data(w, picture);
    source_details(w, &picture.sources);
    w.raw("</figure>\n");
}

fn drawn(w: &mut Writer, picture: &Picture, id: &str, svg: &str) {
    let (width, height) = picture.size;
    // A figure of many models scrolls in a window of its own.
    let keep = if picture.keep_colours { " keep" } else { "" };
    let tall = if f64::from(height) > 1.3 * f64::from(width) {
        " tall"
    } else {
        ""
    };
    w.raw(&format!(
        "<div class=\"wide plot{tall}\" tabindex=\"0\" role=\"group\" aria-label=\"{}, scrolls{}\">\n<div class=\"draw{keep}\" style=\"max-width:{width}px;min-width:min({width}px,720px);aspect-ratio:{width}/{height}\">{svg}</div></div>\n",
        escape(&picture.title),
        if picture.marks.is_empty() { "" } else { "; arrow keys read its values" }
    ));
    if picture.marks.is_empty() {
        return;
    }
    let kept = picture.marks.len().min(w.limits.marks);
    let marks: Vec<(f64, f64, f64, f64, &str)> = picture.marks[..kept]
        .iter()
        .map(|m| {
            let [x, y, width, height] = [m.x, m.y, m.width, m.height].map(tenth);
            (x, y, width, height, m.label.as_str())
        })
        .collect();
    // `<` would end the script early.
    let json = serde_json::to_string(&(width, height, marks))
        .unwrap_or_default()
        .replace('<', "\\u003c");
    w.raw(&format!(
        "<script type=\"application/json\" id=\"{id}-marks\">{json}</script>\n"
    ));
    if kept < picture.marks.len() {
        w.leave_out(format!(
            "{}: {} of {} points show no value when hovered.",
            picture.title,
            picture.marks.len() - kept,
            picture.marks.len()
        ));
    }
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn data(w: &mut Writer, picture: &Picture) {
    let Some((header, rows)) = &picture.data else {
        return;
    };
    if rows.len() > w.limits.data_rows {
        w.element(
            "p class=\"note\"",
            &format!(
                "Its {} rows of numbers are not on the page; they stand in the file beside its source.",
                rows.len()
            ),
        );
        return;
    }
    w.raw(&format!("<details><summary>Its numbers</summary><div class=\"wide\" tabindex=\"0\" role=\"group\" aria-label=\"Numbers of {}, scrolls sideways\"><table class=\"sorts\"><thead><tr>", escape(&picture.title)));
    let numeric: Vec<bool> = (0..header.len())
        .map(|at| {
            let mut cells = rows
                .iter()
                .filter_map(|row| row.get(at))
                .filter(|c| !c.is_empty())
                .peekable();
            cells.peek().is_some() && cells.all(|c| c.parse::<f64>().is_ok())
        })
        .collect();
    for (name, numeric) in header.iter().zip(&numeric) {
        let class = if *numeric { " class=\"n\"" } else { "" };
        w.raw(&format!(
            "<th scope=\"col\"{class} data-n=\"{0}\" aria-sort=\"none\"><button type=\"button\">{0}</button></th>",
            escape(name)
        ));
    }
    w.raw("</tr></thead><tbody>\n");
    for row in rows {
        w.raw("<tr>");
        for (at, cell) in row.iter().enumerate() {
            match (numeric.get(at), cell.parse::<f64>()) {
                (Some(true), Ok(value)) => w.raw(&format!(
                    "<td class=\"n\" data-k=\"{value}\">{}</td>",
                    escape(&short(value, cell))
                )),
                _ => w.raw(&format!("<td>{}</td>", escape(cell))),
            }
        }
        w.raw("</tr>\n");
    }
    w.raw("</tbody></table></div></details>\n");
}

/// A number of a figure's data: at most six significant digits.
fn short(value: f64, cell: &str) -> String {
    if cell.len() <= 7 || !value.is_finite() {
        return cell.to_owned();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e7).contains(&size) {
        return format!("{value:.4e}");
    }
    let whole = size.max(1.0).log10().floor() as usize + 1;
    format!("{value:.0$}", 6_usize.saturating_sub(whole))
}

fn source_details(w: &mut Writer, sources: &[usize]) {
    if sources.is_empty() {
        return;
    }
    w.raw("<details class=\"from\"><summary>Where it comes from</summary>\n");
    source_lines(w, sources);
    w.raw("</details>\n");
}

/// The files behind something, with commands and hashes where they are few.
pub(super) fn source_lines(w: &mut Writer, sources: &[usize]) {
    w.raw("<ul class=\"from\">\n");
    for &at in sources.iter().take(NAMED_SOURCES) {
        let Some(source) = w.sources.get(at) else {
            continue;
        };
        let mut line = format!(
            "<li><a href=\"#source-{}\"><code>{}</code></a>",
            at + 1,
            escape(&source.file)
        );
        if sources.len() <= FULL_SOURCES {
            if let Some(command) = &source.command {
                line += &format!("<pre tabindex=\"0\">{}</pre>", escape(command));
            }
            let facts: Vec<String> = source
                .facts
                .iter()
                .map(|(label, value)| format!("{}: {}", escape(label), escape(value)))
                .collect();
            line += &format!("<span class=\"facts\">{}</span>", facts.join("; "));
        }
        line += "</li>\n";
        w.raw(&line);
    }
    if sources.len() > NAMED_SOURCES {
        w.raw(&format!(
            "<li>and {} more: see <a href=\"#sources\">Sources</a></li>\n",
            sources.len() - NAMED_SOURCES
        ));
    }
    w.raw("</ul>\n");
}

//! The page as HTML: head, summary, contents, sections, sources, foot.

use super::blocks;
use super::{Claim, Limits, Page, Source, Verdict};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// A page that was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The HTML.
    pub html: String,
    /// What the limits kept out, a sentence each; the page says the same.
    pub left_out: Vec<String>,
}

/// A text as HTML shows it, also between quotes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // HTML knows no other control characters.
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A text whose parts between backticks are code; a backtick without a partner stays.
fn with_code(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return escape(text);
    }
    let each = parts.iter().enumerate();
    each.map(|(at, part)| match at % 2 {
        0 => escape(part),
        _ => format!("<code>{}</code>", escape(part)),
    })
    .collect()
}

/// A page under construction.
pub(super) struct Writer<'a> {
    pub out: String,
    pub limits: Limits,
    pub sources: &'a [Source],
    pub left_out: Vec<String>,
    /// Figures and tables so far: their anchors.
    pub tables: usize,
    pub figures: usize,
}

impl Writer<'_> {
    /// Adds HTML.
    pub fn raw(&mut self, html: &str) {
        self.out.push_str(html);
    }

    /// Adds an element that holds a text alone; what stands between backticks is set as code.
    pub fn element(&mut self, tag: &str, text: &str) {
        let name = tag.split(' ').next().unwrap_or(tag);
        let text = if name == "pre" {
            escape(text)
        } else {
            with_code(text)
        };
        self.out.push_str(&format!("<{tag}>{text}</{name}>\n"));
    }

    /// Notes that something is not on the page, here and at its end.
    pub fn leave_out(&mut self, what: String) {
        self.element("p class=\"note\"", &what);
        self.left_out.push(what);
    }
}

/// Writes the page.
pub fn html(page: &Page, limits: Limits) -> Written {
    let mut w = Writer {
        out: String::new(),
        limits,
        sources: &page.sources,
        left_out: Vec::new(),
        tables: 0,
        figures: 0,
    };
    head(&mut w, page);
    contents(&mut w, page);
    w.raw("<main id=\"main\" tabindex=\"-1\">\n");
    summary(&mut w, page);
    for section in &page.sections {
        w.raw(&format!(
            "<section id=\"{0}\" aria-labelledby=\"{0}-h\">\n<h2 id=\"{0}-h\">{1}</h2>\n",
            escape(&section.id),
            escape(&section.title)
        ));
        for block in &section.blocks {
            blocks::block(&mut w, block);
        }
        w.raw("</section>\n");
    }
    sources(&mut w, page);
    let left_out = std::mem::take(&mut w.left_out);
    end(&mut w, page, &left_out);
    Written {
        html: w.out,
        left_out,
    }
}

fn head(w: &mut Writer, page: &Page) {
    let title = escape(&page.title);
    w.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    w.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\n");
    w.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n");
    w.raw(&format!(
        "<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
    ));
    w.raw("<a class=\"skip\" href=\"#main\">Skip to the summary</a>\n");
    w.raw(&format!("<header class=\"top\"><h1>{title}</h1>\n<button type=\"button\" id=\"theme\" hidden>Colours: as the system</button></header>\n<div class=\"page\">\n"));
}

fn contents(w: &mut Writer, page: &Page) {
    w.raw(
        "<nav aria-label=\"Contents\"><h2>Contents</h2><ol>\n<li><a href=\"#summary\">Summary</a></li>\n",
    );
    for section in &page.sections {
        w.raw(&format!(
            "<li><a href=\"#{}\">{}</a></li>\n",
            escape(&section.id),
            escape(&section.title)
        ));
    }
    w.raw("<li><a href=\"#sources\">Sources</a></li>\n<li><a href=\"#left-out\">Left out</a></li>\n</ol></nav>\n");
}

/// How often each verdict was reached, in words.
fn tally(claims: &[Claim]) -> String {
    let count = |verdict| claims.iter().filter(|c| c.verdict == verdict).count();
    let parts: Vec<String> = [
        Verdict::Supported,
        Verdict::NotSupported,
        Verdict::Undecided,
    ]
    .into_iter()
    .map(|v| format!("{} {}", count(v), v.word()))
    .collect();
    format!(
        "{} {} looked at: {}.",
        claims.len(),
        if claims.len() == 1 {
            "claim was"
        } else {
            "claims were"
        },
        parts.join(", ")
    )
}

fn summary(w: &mut Writer, page: &Page) {
    w.raw("<section id=\"summary\" aria-labelledby=\"summary-h\">\n<h2 id=\"summary-h\">Summary</h2>\n");
    for paragraph in &page.lead {
        w.element("p class=\"lead\"", paragraph);
    }
    if page.claims.is_empty() {
        w.element("p", "These results bear on none of the claims.");
    } else {
        w.element("p", &tally(&page.claims));
        w.element("p class=\"note\"", "Supported: every interval lies on the claim's side. Not supported: every interval lies on the other side. Undecided: intervals hold zero, point both ways, or are missing, as with a single seed.");
        w.raw("<ul class=\"claims\">\n");
        for claim in &page.claims {
            one_claim(w, claim);
        }
        w.raw("</ul>\n");
    }
    if !page.unseen.is_empty() {
        w.raw("<details><summary>Claims that these results do not bear on</summary><ul>\n");
        for line in &page.unseen {
            w.element("li", line);
        }
        w.raw("</ul></details>\n");
    }
    w.raw("</section>\n");
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Supported => "yes",
        Verdict::NotSupported => "no",
        Verdict::Undecided => "open",
    }
}

fn badge(verdict: Verdict) -> String {
    format!(
        "<span class=\"badge {}\"><span aria-hidden=\"true\">{}</span> {}</span>",
        class(verdict),
        verdict.mark(),
        verdict.word()
    )
}

fn one_claim(w: &mut Writer, claim: &Claim) {
    w.raw(&format!(
        "<li id=\"claim-{}\" class=\"{}\"><h3>{} {}</h3>\n",
        escape(&claim.id),
        class(claim.verdict),
        badge(claim.verdict),
        escape(&claim.statement)
    ));
    w.element("p", &claim.reason);
    if !claim.evidence.is_empty() {
        w.raw("<details><summary>The numbers</summary><div class=\"wide\" tabindex=\"0\" role=\"group\" aria-label=\"The numbers, scrolls sideways\"><table><thead><tr><th scope=\"col\">compared</th><th scope=\"col\">difference</th><th scope=\"col\">interval</th><th scope=\"col\">alone it says</th></tr></thead><tbody>\n");
        for e in &claim.evidence {
            w.raw(&format!(
                "<tr><td>{}</td><td class=\"n\">{}</td><td>{}</td><td>{}</td></tr>\n",
                escape(&e.what),
                escape(&e.value),
                escape(&e.interval),
                badge(e.verdict)
            ));
        }
        w.raw("</tbody></table></div>\n");
        blocks::source_lines(w, &claim.sources);
        w.raw("</details>\n");
    }
    w.raw("</li>\n");
}

fn sources(w: &mut Writer, page: &Page) {
    w.raw("<section id=\"sources\" aria-labelledby=\"sources-h\">\n<h2 id=\"sources-h\">Sources</h2>\n");
    w.element(
        "p",
        "Every file that the page was computed from, with the command that made it and what it was made of. Hashes are BLAKE3.",
    );
    w.raw("<ol class=\"sources\">\n");
    for (at, source) in page.sources.iter().enumerate() {
        w.raw(&format!(
            "<li id=\"source-{}\"><details><summary><code>{}</code></summary>\n",
            at + 1,
            escape(&source.file)
        ));
        if let Some(command) = &source.command {
            w.element("pre tabindex=\"0\"", command);
        }
        if !source.facts.is_empty() {
            w.raw("<dl>\n");
            for (label, value) in &source.facts {
                w.raw(&format!(
                    "<div><dt>{}</dt><dd>{}</dd></div>\n",
                    escape(label),
                    escape(value)
                ));
            }
            w.raw("</dl>\n");
        }
        w.raw("</details></li>\n");
    }
    w.raw("</ol>\n</section>\n");
}

fn end(w: &mut Writer, page: &Page, left_out: &[String]) {
    w.raw("<section id=\"left-out\" aria-labelledby=\"left-out-h\">\n<h2 id=\"left-out-h\">Left out</h2>\n");
    if page.left_out.is_empty() && left_out.is_empty() {
        w.element("p", "Nothing that was found was left out.");
    } else {
        w.raw("<ul>\n");
        for line in page.left_out.iter().chain(left_out) {
            w.element("li", line);
        }
        w.raw("</ul>\n");
    }
    w.raw("</section>\n</main>\n</div>\n<footer>\n<dl>\n");
    for (label, value) in &page.colophon {
        w.raw(&format!(
            "<div><dt>{}</dt><dd>{}</dd></div>\n",
            escape(label),
            escape(value)
        ));
    }
    w.raw("</dl>\n</footer>\n<p id=\"live\" class=\"unseen\" aria-live=\"polite\"></p>\n");
    w.raw(&format!("<script>\n{SCRIPT}</script>\n</body>\n</html>\n"));
}

//! An SVG file made part of a page: its ids are its own, it scales, and it has a name for those who cannot see it.

/// The SVG with ids that begin with `prefix`, a fluid size and a label; nothing where it is no SVG.
pub fn inline(svg: &str, prefix: &str, label: &str) -> Option<String> {
    let start = svg.find("<svg")?;
    let mut out = String::with_capacity(svg.len() + 256);
    let mut rest = &svg[start..];
    let mut root = true;
    while let Some(at) = rest.find('<') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = tag_end(rest)?;
        let tag = &rest[..end];
        rest = &rest[end..];
        // Comments, declarations and elements that run or load something have no place in a page.
        if tag.starts_with("<!") || tag.starts_with("<?") {
            continue;
        }
        if tag.starts_with("<script") {
            rest = rest
                .find("</script>")
                .map_or("", |end| &rest[end + "</script>".len()..]);
            continue;
        }
        rewrite(tag, prefix, root.then_some(label), &mut out);
        root = false;
    }
    out.push_str(rest.trim_end());
    Some(out)
}

/// Length of the tag that `text` begins with, quoted `>` passed over.
fn tag_end(text: &str) -> Option<usize> {
    if text.starts_with("<!--") {
        return text.find("-->").map(|at| at + 3);
    }
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if c == q => quote = None,
            (None, '>') => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Writes a tag with its ids and references renamed; the outermost one gets its role, label and fluid size.
fn rewrite(tag: &str, prefix: &str, label: Option<&str>, out: &mut String) {
    let inner = tag.trim_start_matches('<').trim_end_matches('>');
    let name_end = inner
        .find(|c: char| c.is_whitespace() || c == '/')
        .filter(|&at| at > 0)
        .unwrap_or(inner.len());
    out.push('<');
    out.push_str(&inner[..name_end]);
    let mut rest = &inner[name_end..];
    while let Some(equals) = rest.find('=') {
        let name = rest[..equals].trim();
        let after = rest[equals + 1..].trim_start();
        let Some(quote) = after.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            break;
        };
        let Some(close) = after[1..].find(quote) else {
            break;
        };
        let value = &after[1..=close];
        rest = &after[close + 2..];
        let sizes = label.is_some() && matches!(name, "width" | "height" | "role" | "aria-label");
        if sizes || name.starts_with("on") {
            continue;
        }
        let value = match name {
            "id" => format!("{prefix}{value}"),
            "href" | "xlink:href" => match value.strip_prefix('#') {
                Some(id) => format!("#{prefix}{id}"),
                // A figure refers to nothing outside itself, but for pictures that it holds.
                None if value.starts_with("data:image/") => value.to_owned(),
                None => continue,
            },
            "aria-labelledby" | "aria-describedby" => value
                .split_whitespace()
                .map(|id| format!("{prefix}{id}"))
                .collect::<Vec<_>>()
                .join(" "),
            _ => value.replace("url(#", &format!("url(#{prefix}")),
        };
        out.push_str(&format!(" {name}={quote}{value}{quote}"));
    }
    if let Some(label) = label {
        out.push_str(&format!(
            " role=\"img\" aria-label=\"{}\"",
            super::html::escape(label)
        ));
    }
    if rest.trim_end().ends_with('/') {
        out.push('/');
    }
    out.push('>');
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_and_references_are_renamed_together_and_texts_are_not() {
        let svg = r##"<?xml version="1.0"?><!-- a > b --><svg width="9" height="8" viewBox="0 0 9 8"><defs><clipPath id="c"><rect width="3"/></clipPath></defs><g clip-path="url(#c)" title='x > "y"'><use xlink:href="#c"/><text>id="c" &lt;b&gt; url(#c)</text></g></svg>"##;
        let got = inline(svg, "f1-", "A <figure>").unwrap();
        assert_eq!(
            got,
            r##"<svg viewBox="0 0 9 8" role="img" aria-label="A &lt;figure&gt;"><defs><clipPath id="f1-c"><rect width="3"/></clipPath></defs><g clip-path="url(#f1-c)" title='x > "y"'><use xlink:href="#f1-c"/><text>id="c" &lt;b&gt; url(#c)</text></g></svg>"##
        );
    }

    #[test]
    fn nothing_that_runs_or_loads_comes_through() {
        let svg = r#"<svg onload="x()"><script>alert(1)</script><image href="http://x/y.png"/><image href="data:image/png;base64,AA"/></svg>"#;
        let got = inline(svg, "f-", "t").unwrap();
        assert_eq!(
            got,
            r#"<svg role="img" aria-label="t"><image/><image href="data:image/png;base64,AA"/></svg>"#
        );
        assert_eq!(inline("no figure", "f-", "t"), None);
        assert_eq!(inline("<svg broken", "f-", "t"), None);
    }
}

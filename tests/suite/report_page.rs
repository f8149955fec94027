//! `tcd report`: what the page says, and that it works in a browser at phone and desktop width, light and dark, on paper.
//!
//! The browser's part says so and does nothing where there is no Chromium; `cargo xtask test --install-browser` installs one.
//! With `TCD_SCREENSHOTS=DIR` it leaves its pictures there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::chrome::{Browser, program};
use crate::common::{refuse, succeed, tcd};
use crate::report_data::write_study;

/// The report of the made-up study, and what the program printed.
fn report(dir: &Path) -> (PathBuf, String) {
    write_study(dir);
    let page = dir.join("report.html");
    let output = succeed(tcd().arg("report").arg(dir).arg("--out").arg(&page));
    (page, String::from_utf8(output.stdout).unwrap())
}

/// Values of an attribute in the page.
fn attributes<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!(" {name}=\"");
    html.split(start.as_str())
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect()
}

#[test]
fn the_page_says_what_the_numbers_say() {
    let dir = tempfile::tempdir().unwrap();
    let (page, lines) = report(dir.path());
    for line in [
        "yes  The mixture of experts pre-trains better",
        "yes  At equal log-likelihood the mixture of experts transfers worse",
        "yes  At equal log-likelihood the distilled mixture of experts transfers better than the undistilled",
        "yes  The distilled mixture of experts scores higher on GLUE than the undistilled",
        "open The distilled mixture of experts scores higher on GLUE than the one taught by a random teacher",
        "no   The distilled mixture's features are nearer",
        "yes  Exported models answer alike",
    ] {
        assert!(lines.contains(line), "{line} is not in:\n{lines}");
    }
    let html = std::fs::read_to_string(&page).unwrap();
    // Names are data: they are shown, not run.
    assert!(html.contains("random-&lt;b&gt;teacher&lt;/b&gt;"));
    assert!(!html.contains("<b>teacher"));
    // Nothing is loaded.
    for loads in ["src=\"", "@import", "url(http", "href=\"http"] {
        assert!(!html.contains(loads), "{loads}");
    }
    let ids = attributes(&html, "id");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    for link in attributes(&html, "href") {
        if let Some(id) = link.strip_prefix('#') {
            assert!(ids.contains(&id), "{link} leads nowhere");
        }
    }
    // Commands and hashes stand beside the numbers, and what could not be read is named.
    assert!(html.contains("tcd analyze cka vanilla moe"));
    assert!(html.contains(&format!("{:064x}", 7)));
    assert!(html.contains("broken.json cannot be used"));
    assert!(html.contains("It takes <code>tcd analyze curve</code>"));
}

#[test]
fn a_folder_without_results_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("report.html");
    let text = refuse(tcd().arg("report").arg(dir.path()).arg("--out").arg(&out));
    assert!(
        text.contains("no results under") && text.contains("hint:"),
        "{text}"
    );
    assert!(!out.exists());
    let text = refuse(tcd().args(["report", "nowhere", "--out"]).arg(&out));
    assert!(text.contains("nowhere"), "{text}");
    let role = tcd()
        .args(["report", ".", "--role", "a=student", "--out", "x.html"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&role.stderr).contains("random-teacher"));
}

/// What is wrong with the layout as it stands: figures without a box, parts that make the page scroll sideways.
const FAULTS: &str = "(() => {
  const wrong = [], seen = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > seen) wrong.push('the page is ' + document.documentElement.scrollWidth + ' wide');
  const inside = (e) => e.closest('.wide, .unseen, .skip, svg, script');
  for (const e of document.querySelectorAll('body *')) {
    const box = e.getBoundingClientRect();
    if (box.right > seen + 1 && !inside(e)) wrong.push(e.tagName + '.' + e.className + ' ends at ' + box.right);
  }
  for (const svg of document.querySelectorAll('figure svg')) {
    const box = svg.getBoundingClientRect(), label = svg.getAttribute('aria-label');
    if (box.width < 200 || box.height < 100 || !label) wrong.push('figure ' + label + ': ' + box.width + ' by ' + box.height);
  }
  return wrong;
})()";

/// The contrast of each kind of text with what lies under it, least first.
const CONTRAST: &str = "(() => {
  const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
  const part = (v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * part(r) + .7152 * part(g) + .0722 * part(b);
  const under = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > .99) return c;
    }
    return [255, 255, 255];
  };
  const all = ['p', 'p.note', 'nav a', 'td', 'thead th', '.badge.yes', '.badge.no', '.badge.open', 'summary', 'figcaption', 'dt', '#theme'];
  return Math.min(...all.map((s) => document.querySelector(s)).filter(Boolean).map((e) => {
    const a = light(rgb(getComputedStyle(e).color)), b = light(under(e));
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  }));
})()";

#[test]
fn the_page_works_in_a_browser() {
    let Some(chromium) = program() else {
        #[allow(clippy::print_stderr)]
        {
            eprintln!(
                "skipped: no Chromium was found, so that the report was not opened; hint: cargo xtask test --install-browser"
            );
        }
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (page, _) = report(dir.path());
    let mut browser = Browser::start(&chromium, dir.path());
    let pictures = std::env::var_os("TCD_SCREENSHOTS").map(PathBuf::from);
    for (width, height) in [(390, 844), (1280, 900)] {
        for scheme in ["light", "dark"] {
            browser.look(width, height, scheme);
            browser.open(&page);
            assert_eq!(browser.evaluate(FAULTS), json!([]), "{width} {scheme}");
            let contrast = browser.evaluate(CONTRAST).as_f64().unwrap();
            assert!(contrast >= 4.5, "{width} {scheme}: {contrast}");
            if let Some(folder) = &pictures {
                let name = format!("report-{width}-{scheme}.png");
                std::fs::write(folder.join(name), browser.screenshot()).unwrap();
            }
        }
    }
    assert!(
        browser
            .evaluate("document.querySelectorAll('table.sorts').length")
            .as_u64()
            > Some(8)
    );
    let figures = browser.evaluate("document.querySelectorAll('figure svg').length");
    assert!(figures.as_u64() >= Some(16), "{figures}");
    sorting(&mut browser);
    theme(&mut browser);
    hovering(&mut browser);
    keyboard(&mut browser, &page);
    let pdf = browser.print();
    assert!(pdf.starts_with(b"%PDF"));
    if let Some(folder) = &pictures {
        std::fs::write(folder.join("report.pdf"), pdf).unwrap();
    }
    assert_eq!(browser.complaints, Vec::<String>::new());
}

/// A click on a heading sorts its column by value, a second one turns it round; cells without a number stay last.
fn sorting(browser: &mut Browser) {
    let faults = browser.evaluate(
        "(() => {
          const wrong = [];
          for (const table of document.querySelectorAll('table.sorts')) {
            Array.from(table.tHead.rows[0].cells).forEach((heading, at) => {
              for (const [want, way] of [['ascending', 1], ['descending', -1]]) {
                heading.firstElementChild.click();
                const name = table.getAttribute('aria-labelledby') + ' / ' + heading.textContent + ' ' + want;
                if (heading.getAttribute('aria-sort') !== want) wrong.push(name + ': says ' + heading.getAttribute('aria-sort'));
                if (!heading.classList.contains('n')) continue;
                const keys = Array.from(table.tBodies[0].rows, (r) => parseFloat(r.cells[at].dataset.k));
                for (let i = 1; i < keys.length; i++) {
                  const bad = isNaN(keys[i - 1]) ? !isNaN(keys[i]) : way * (keys[i - 1] - keys[i]) > 0;
                  if (bad) { wrong.push(name + ': ' + keys); break; }
                }
              }
            });
          }
          return wrong;
        })()",
    );
    assert_eq!(faults, json!([]));
}

/// The button goes from the system's colours to light and to dark, and back.
fn theme(browser: &mut Browser) {
    browser.look(1280, 900, "dark");
    let paper = "getComputedStyle(document.body).backgroundColor";
    let click = "document.getElementById('theme').click()";
    let by_system = browser.evaluate(paper);
    browser.evaluate(click);
    let light = browser.evaluate(paper);
    browser.evaluate(click);
    let dark = browser.evaluate(paper);
    assert_eq!(by_system, dark);
    assert_ne!(light, dark);
    browser.evaluate(click);
}

/// A figure's values show under the pointer, and by arrow key.
fn hovering(browser: &mut Browser) {
    let place = browser.evaluate(
        "(async () => {
          const store = document.querySelector(\"script[type='application/json']\"), draw = store.parentElement.querySelector('.draw');
          draw.scrollIntoView({block: 'center', behavior: 'instant'});
          // What scrolls hides the value a frame later.
          await new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)));
          const [w, , marks] = JSON.parse(store.textContent), box = draw.getBoundingClientRect(), m = marks[0];
          return [box.left + (m[0] + m[2] / 2) * box.width / w, box.top + (m[1] + m[3] / 2) * box.width / w];
        })()",
    );
    let at = |i: usize| place[i].as_f64().unwrap();
    browser.point(at(0) + 1.0, at(1) + 1.0);
    let tip = "(() => { const t = document.querySelector('.tip'); return t.hidden ? '' : t.textContent; })()";
    assert_ne!(browser.evaluate(tip), json!(""));
    browser.point(2.0, 2.0);
    assert_eq!(browser.evaluate(tip), json!(""));
    browser.evaluate("document.querySelector(\"script[type='application/json']\").parentElement.querySelector('.plot').focus()");
    browser.press("ArrowRight", 39);
    assert_ne!(browser.evaluate(tip), json!(""));
    let read = browser.evaluate("document.getElementById('live').textContent");
    assert_ne!(read, json!(""));
    browser.press("Escape", 27);
    assert_eq!(browser.evaluate(tip), json!(""));
}

/// The first stop of the Tab key is the link past the contents, and whatever has the focus shows it.
fn keyboard(browser: &mut Browser, page: &Path) {
    browser.open(page);
    browser.press("Tab", 9);
    let first = browser.evaluate("document.activeElement.className");
    assert_eq!(first, json!("skip"));
    for _ in 0..12 {
        let shown = browser.evaluate(
            "(() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2; })()",
        );
        assert_eq!(shown, json!(true));
        browser.press("Tab", 9);
    }
}

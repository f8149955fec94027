"use strict";
(() => {
  const root = document.documentElement;
  const live = document.getElementById("live");

  // Colours: as the system, light, dark. A browser that keeps nothing for files still changes them for this visit.
  const button = document.getElementById("theme");
  const themes = { "": "as the system", light: "light", dark: "dark" };
  const show = (theme) => {
    if (theme) root.dataset.theme = theme; else delete root.dataset.theme;
    button.textContent = "Colours: " + themes[theme];
  };
  let theme = "";
  try { theme = localStorage.getItem("tcd-theme") || ""; } catch { /* not allowed: as the system */ }
  show(theme in themes ? theme : "");
  button.hidden = false;
  button.addEventListener("click", () => {
    const names = Object.keys(themes);
    theme = names[(names.indexOf(root.dataset.theme || "") + 1) % names.length];
    show(theme);
    try { localStorage.setItem("tcd-theme", theme); } catch { /* not allowed: this visit only */ }
  });

  // Tables: a click or Enter on a heading sorts by it, a second one the other way. Cells without a number stay last.
  const words = new Intl.Collator("en", { numeric: true });
  const sort = (table, at, heading) => {
    const way = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
    const numeric = heading.classList.contains("n");
    const key = (row) => {
      const cell = row.cells[at];
      return numeric ? parseFloat(cell.dataset.k) : cell.textContent;
    };
    const compare = (a, b) => {
      if (!numeric) return way * words.compare(a, b);
      if (isNaN(a) || isNaN(b)) return isNaN(a) - isNaN(b);
      return way * (a - b);
    };
    const rows = Array.from(table.tBodies[0].rows, (row) => [key(row), row]);
    rows.sort((a, b) => compare(a[0], b[0]));
    table.tBodies[0].append(...rows.map((row) => row[1]));
    live.textContent = "sorted by " + heading.textContent + ", " + heading.getAttribute("aria-sort");
  };
  for (const table of document.querySelectorAll("table.sorts")) {
    Array.from(table.tHead.rows[0].cells).forEach((heading, at) => {
      heading.firstElementChild.addEventListener("click", () => sort(table, at, heading));
    });
  }

  // Figures: the value nearest to the pointer, or the next one by arrow key.
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  const ring = document.createElement("div");
  ring.className = "ring";
  document.body.append(tip);
  // The value shown, and whether a key chose it: then it stays while its figure scrolls to it.
  let shown = null, byKey = false;
  const hide = () => { tip.hidden = true; ring.remove(); shown = null; };
  const scrolled = () => { if (byKey && shown) point(...shown); else hide(); };
  const point = (draw, size, mark) => {
    shown = [draw, size, mark];
    const box = draw.getBoundingClientRect();
    const scale = box.width / size[0];
    const wide = mark[2] * scale, high = mark[3] * scale, dot = !wide && !high;
    ring.className = dot ? "ring" : "ring box";
    ring.style.left = mark[0] * scale + "px";
    ring.style.top = mark[1] * scale + "px";
    ring.style.width = dot ? "" : wide + "px";
    ring.style.height = dot ? "" : high + "px";
    draw.append(ring);
    tip.textContent = mark[4];
    tip.hidden = false;
    const x = box.left + mark[0] * scale + wide / 2, y = box.top + mark[1] * scale;
    const w = tip.offsetWidth, h = tip.offsetHeight, seen = root.clientWidth;
    tip.style.left = Math.max(4, Math.min(x + 14, seen - w - 4)) + "px";
    tip.style.top = (y - h - 12 > 4 ? y - h - 12 : y + 16) + "px";
  };
  for (const store of document.querySelectorAll("script[type='application/json']")) {
    const figure = store.parentElement;
    const frame = figure.querySelector(".plot"), draw = figure.querySelector(".draw");
    const [width, height, marks] = JSON.parse(store.textContent);
    const size = [width, height];
    const nearest = (event) => {
      const box = draw.getBoundingClientRect(), scale = box.width / width;
      const x = (event.clientX - box.left) / scale, y = (event.clientY - box.top) / scale;
      let best = null, least = (28 / scale) ** 2;
      for (const mark of marks) {
        // Distance to the mark's box; of boxes that hold the pointer the smallest.
        const dx = Math.max(mark[0] - x, 0, x - mark[0] - mark[2]), dy = Math.max(mark[1] - y, 0, y - mark[1] - mark[3]);
        const d = dx * dx + dy * dy + 1e-9 * mark[2] * mark[3];
        if (d < least) { least = d; best = mark; }
      }
      return best;
    };
    const follow = (event) => {
      const mark = nearest(event);
      byKey = false;
      if (mark) point(draw, size, mark); else hide();
    };
    draw.addEventListener("pointermove", follow);
    draw.addEventListener("pointerdown", follow);
    draw.addEventListener("pointerleave", hide);
    let at = -1;
    frame.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") hide();
      if (event.target !== frame || !step) return;
      event.preventDefault();
      at = (at + step + marks.length) % marks.length;
      const scale = draw.getBoundingClientRect().width / width;
      byKey = true;
      frame.scrollLeft = marks[at][0] * scale - frame.clientWidth / 2;
      frame.scrollTop = marks[at][1] * scale - frame.clientHeight / 2;
      point(draw, size, marks[at]);
      live.textContent = marks[at][4];
    });
    frame.addEventListener("blur", hide);
    frame.addEventListener("scroll", scrolled);
  }
  addEventListener("scroll", scrolled, { passive: true });

  // What does not scroll, and has no values to read, is no stop of the Tab key.
  const frames = document.querySelectorAll(".wide");
  // A faded edge says that there is more to the right.
  const fade = (frame) => frame.classList.toggle("more", frame.scrollLeft + frame.clientWidth < frame.scrollWidth - 2);
  for (const frame of frames) frame.addEventListener("scroll", () => fade(frame), { passive: true });
  const stops = () => {
    for (const frame of frames) {
      const values = frame.parentElement.querySelector(":scope > script");
      frame.tabIndex = values || frame.scrollWidth > frame.clientWidth || frame.scrollHeight > frame.clientHeight + 1 ? 0 : -1;
      fade(frame);
    }
  };
  stops();
  addEventListener("resize", stops);
  document.addEventListener("toggle", stops, true);

  // The section in view is marked in the contents.
  const links = new Map();
  for (const link of document.querySelectorAll("nav a")) links.set(link.hash.slice(1), link);
  if ("IntersectionObserver" in window) {
    const watch = new IntersectionObserver((seen) => {
      for (const entry of seen) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    }, { rootMargin: "0px 0px -75% 0px" });
    for (const id of links.keys()) watch.observe(document.getElementById(id));
  }

  // A link to a source opens it; paper shows everything.
  const open = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const details = target && target.querySelector("details");
    if (details && target.closest("#sources")) details.open = true;
  };
  addEventListener("hashchange", open);
  open();
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = Array.from(document.querySelectorAll("#sources details:not([open]), .claims details:not([open])"));
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of opened) details.open = false; });
})();

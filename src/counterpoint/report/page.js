"use strict";
/* Everything that a model wrote gets into the page through `textContent`, never as markup. */
const packed = document.getElementById("report");
const live = packed.dataset.live === "true";
const views = {};
let report, shown = "", stale = new Set();

const TABS = { result: "Result", training: "Training", answers: "Responses", samples: "Samples", runs: "Runs" };

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/* Text as it is, with what cannot be seen made visible: control characters, and those that turn the direction of others. As text.py. */
function visible(text) {
  return text
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe\uffff]/g, (c) => `⟨U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

function number(value) {
  if (value == null) return "–";
  return Math.abs(value) >= 1000 ? value.toLocaleString("en") : String(+value.toPrecision(4)).replace("-", "−");
}

/* ---- the answer ---- */

function drawHeadlines() {
  document.getElementById("headlines").replaceChildren(...report.headlines.map((headline) =>
    make("div", { class: "headline" },
      make("p", { class: "sentence" }, visible(headline.sentence)),
      headline.figures.length ? make("dl", {}, ...headline.figures.map((figure) =>
        make("div", {}, make("dt", {}, visible(figure.label)), make("dd", {}, make("strong", {}, figure.value), make("span", {}, visible(figure.detail)))))) : null,
      headline.how.length ? make("p", { class: "how" }, `${headline.how.join("; ")}.`) : null)));
  document.getElementById("footer").textContent =
    `Made ${report.made} by counterpoint ${report.counterpoint ?? ""}. This file holds everything that it shows and asks for nothing else.`;
}

function drawState(words) {
  const runs = report?.runs ?? [], running = runs.filter((run) => run.status === "running"), failed = runs.filter((run) => run.status === "failed" || run.status === "died");
  const state = document.getElementById("state");
  state.className = failed.length ? "failed" : running.length ? "running" : "";
  const each = [...failed.map((run) => run.status === "died" ? `${run.name} died after step ${run.steps}` : `${run.name} failed at step ${run.steps + 1}`),
    ...running.map((run) => `${run.name}: step ${run.steps}${run.planned ? ` of ${run.planned}` : ""}`)];
  const told = words || each.join(", ") || (live ? "finished" : "");
  if (state.textContent !== told) state.textContent = told;
}

/* ---- tabs ---- */

function parts() {
  return Object.keys(TABS).filter((name) =>
    name === "runs" || (name === "samples" ? report.samples.length : report.charts.some((chart) => chart.section === name)));
}

function drawTabs() {
  const names = parts(), bar = document.getElementById("tabs"), panels = document.getElementById("panels");
  if (bar.dataset.names === names.join()) return Promise.resolve();
  bar.dataset.names = names.join();
  for (const name of names) {
    if (panels.querySelector(`[data-tab=${name}]`)) continue;
    const next = Object.keys(TABS).slice(Object.keys(TABS).indexOf(name)).map((later) => document.getElementById(`panel-${later}`)).find(Boolean);
    panels.insertBefore(make("section", { id: `panel-${name}`, "data-tab": name, role: "tabpanel", "aria-labelledby": `tab-${name}`, hidden: true },
      make("h2", {}, TABS[name])), next ?? null);
    stale.add(name);
  }
  bar.replaceChildren(...names.map((name) =>
    make("button", { id: `tab-${name}`, role: "tab", type: "button", "aria-controls": `panel-${name}`, "data-tab": name, onclick: () => show(name) }, TABS[name])));
  bar.onkeydown = (event) => {
    const at = names.indexOf(shown);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(names[(to + names.length) % names.length]);
    document.getElementById(`tab-${shown}`).focus();
  };
  return show(names.includes(shown) ? shown : names.includes(location.hash.slice(1)) ? location.hash.slice(1) : names[0]);
}

function show(name) {
  shown = name;
  for (const tab of document.querySelectorAll("[role=tab]")) {
    tab.setAttribute("aria-selected", tab.dataset.tab === name);
    tab.tabIndex = tab.dataset.tab === name ? 0 : -1;
  }
  for (const panel of document.querySelectorAll("[role=tabpanel]")) {
    panel.hidden = panel.dataset.tab !== name;
    panel.classList.remove("behind");
  }
  try { history.replaceState(null, "", `#${name}`); } catch { /* a file opened where that is not allowed */ }
  window.dispatchEvent(new Event("resize")); /* a chart that was hidden when the window changed has no width */
  return fillPanel(name);
}

const filling = {};
function fillPanel(name) {
  if (!stale.delete(name)) return filling[name] ?? Promise.resolve();
  const panel = document.getElementById(`panel-${name}`);
  return filling[name] = name === "samples" ? drawSamples(panel) : name === "runs" ? drawRuns(panel) : drawCharts(panel, name);
}

/* ---- charts ---- */

function rowsOf(chart) {
  const names = Object.keys(chart.columns);
  return chart.columns[names[0]].map((_, i) => Object.fromEntries(names.map((name) => [name, chart.columns[name][i]])));
}

async function drawCharts(panel, section) {
  let grid = panel.querySelector(".charts");
  if (!grid) panel.append(grid = make("div", { class: "charts" }));
  for (const chart of report.charts.filter((chart) => chart.section === section)) {
    const old = views[chart.id], made = JSON.stringify([chart.spec, chart.series, chart.notes]);
    if (old && old.made === made) { old.chart = chart; old.refresh(); continue; }
    const figure = figureOf(chart, made);
    old ? old.figure.replaceWith(figure) : grid.append(figure);
    if (panel.classList.contains("behind")) await idle();
    await draw(views[chart.id]);
  }
}

function figureOf(chart, made) {
  const held = views[chart.id] = { chart, made, hidden: views[chart.id]?.hidden ?? new Set(), chosen: views[chart.id]?.chosen };
  const values = chart.choose ? [...new Set(chart.columns[chart.choose])] : [];
  if (!values.includes(held.chosen)) held.chosen = values[0];
  held.rows = () => rowsOf(held.chart).filter((row) => !held.hidden.has(row.series) && (!chart.choose || row[chart.choose] === held.chosen));
  held.drawing = make("div", { "aria-hidden": "true" }); /* Vega gives what it draws into a role of its own */
  held.place = make("div", chart.lines
    ? { class: "chart", tabindex: 0, role: "slider", "aria-label": `${chart.what}. Arrow keys read it off.`, "aria-valuemin": 0, "aria-valuemax": 0, "aria-valuenow": 0 }
    : { class: "chart", role: "img", "aria-label": chart.what }, held.drawing);
  held.refresh = () => { if (held.view) held.view.data("rows", held.rows()).runAsync(); if (held.table?.open) tableInto(held); };
  held.table = make("details", { ontoggle: () => tableInto(held) }, make("summary", {}, "Numbers"));
  held.figure = make("figure", { id: `chart-${chart.id}`, class: chart.section === "answers" ? "tall" : "" },
    make("h3", {}, chart.title), legendOf(held),
    chart.choose ? make("label", { class: "chooser" }, chart.choose[0].toUpperCase() + chart.choose.slice(1), selectOf(values, held.chosen, (value) => { held.chosen = value; held.refresh(); })) : null,
    held.place,
    chart.notes.length ? make("figcaption", {}, chart.notes.join("; ")) : null,
    make("div", { class: "actions" },
      make("button", { type: "button", "aria-label": `${chart.title}: numbers as CSV`, onclick: () => save(`${chart.id}.csv`, csv(held.chart)) }, "CSV"), held.table));
  return held.figure;
}

function specOf(held) {
  return { ...structuredClone(held.chart.spec), data: { name: "rows", values: held.rows() } };
}

async function draw(held) {
  const drawn = await vegaEmbed(held.drawing, specOf(held), { actions: false, renderer: "svg", logLevel: 1, /* errors only: an axis without points is none */ tooltip: { theme: "custom", sanitize: (value) => escaped(visible(String(value))) } });
  held.view = drawn.view;
  if (held.chart.lines) readable(held);
}

function escaped(text) {
  return text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}

function legendOf(held) {
  const { series, lines } = held.chart;
  if (series.length < 2 && report.groups.length < 2 && held.chart.title.toLowerCase().startsWith(series[0]?.name.toLowerCase() ?? "")) return null;
  const NS = "http://www.w3.org/2000/svg";
  return make("div", { class: "legend", role: "group", "aria-label": "Series; press to hide" }, ...series.map((one) => {
    const icon = document.createElementNS(NS, "svg"), colour = `var(--series-${one.colour})`;
    icon.setAttribute("viewBox", "0 0 26 12");
    icon.setAttribute("aria-hidden", "true");
    const mark = document.createElementNS(NS, lines ? "line" : "path");
    if (lines) for (const [name, value] of Object.entries({ x1: 0, x2: 26, y1: 6, y2: 6, stroke: colour, "stroke-width": 2, "stroke-dasharray": one.dash[1] ? one.dash.join(" ") : "none" })) mark.setAttribute(name, value);
    else { mark.setAttribute("d", SHAPES[one.shape]); mark.setAttribute("fill", colour); }
    icon.append(mark);
    return make("button", { type: "button", "aria-pressed": !held.hidden.has(one.name), onclick: (event) => {
      const hide = !held.hidden.has(one.name);
      hide ? held.hidden.add(one.name) : held.hidden.delete(one.name);
      event.currentTarget.setAttribute("aria-pressed", !hide);
      held.refresh();
    } }, icon, one.name);
  }));
}

const SHAPES = {
  circle: "M13 1a5 5 0 1 0 .01 0z", square: "M8 1h10v10h-10z", "triangle-up": "M13 1l5.5 10h-11z", diamond: "M13 0l5 6l-5 6l-5-6z",
  cross: "M11 1h4v3h3v4h-3v3h-4v-3h-3v-4h3z", "triangle-down": "M13 11l5.5-10h-11z", "triangle-right": "M8 .5l10 5.5l-10 5.5z",
};

/* A rule and the values under it, led by the pointer or the arrow keys. */
function readable(held) {
  const { place } = held, x = held.chart.x, rule = make("div", { class: "rule", hidden: true }), readout = make("div", { class: "readout", hidden: true });
  place.append(rule, readout);
  let at = null;
  const across = () => [...new Set(held.rows().map((row) => row[x]))].sort((a, b) => a - b);
  const hide = () => { rule.hidden = readout.hidden = true; };
  function read(value) {
    const stops = across();
    if (!stops.length) return;
    at = stops.reduce((best, stop) => (Math.abs(stop - value) < Math.abs(best - value) ? stop : best));
    const lines = held.chart.series.filter((one) => !held.hidden.has(one.name)).map((one) => {
      const row = held.rows().find((row) => row.series === one.name && row[x] === at);
      return row && `${one.name}: ${number(row.value)}${row.low < row.high ? ` (${number(row.low)} to ${number(row.high)})` : ""}`;
    }).filter(Boolean);
    const [left, top] = held.view.origin(), px = held.view.scale("x")(at);
    place.setAttribute("aria-valuemin", stops[0]);
    place.setAttribute("aria-valuemax", stops.at(-1));
    place.setAttribute("aria-valuenow", at);
    place.setAttribute("aria-valuetext", `${x} ${at}: ${lines.join(", ")}`);
    readout.replaceChildren(make("strong", {}, `${x} ${at}`), ...lines.map((line) => make("div", {}, line)));
    rule.hidden = readout.hidden = px < 0 || px > held.view.width();
    Object.assign(rule.style, { left: `${left + px}px`, top: `${top}px`, height: `${held.view.height()}px` });
    Object.assign(readout.style, px > held.view.width() / 2 ? { right: `${place.clientWidth - left - px + 8}px`, left: "auto" } : { left: `${left + px + 8}px`, right: "auto" });
  }
  place.onpointermove = (event) => read(held.view.scale("x").invert(event.clientX - place.getBoundingClientRect().left - held.view.origin()[0]));
  place.onpointerleave = place.onblur = hide;
  place.onkeydown = (event) => {
    const stops = across(), i = at === null ? -1 : stops.indexOf(at), leap = Math.max(1, Math.round(stops.length / 20));
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, ArrowUp: i + 1, ArrowDown: i - 1, PageUp: i + leap, PageDown: i - leap, Home: 0, End: stops.length - 1 }[event.key];
    if (event.key === "Escape") hide();
    if (to === undefined || !stops.length) return;
    event.preventDefault();
    read(stops[Math.min(stops.length - 1, Math.max(0, to))]);
  };
}

function tableInto(held) {
  const rows = rowsOf(held.chart), names = Object.keys(held.chart.columns), most = 200;
  if (!held.table.open) return;
  held.table.querySelector(".scroll")?.remove();
  held.table.append(make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Numbers of ${held.chart.title}` },
    make("table", {}, make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...rows.slice(0, most).map((row) => make("tr", {}, ...names.map((name) => make("td", {}, cell(row[name]))))))),
    rows.length > most ? make("p", {}, `${(rows.length - most).toLocaleString("en")} more rows are in the CSV.`) : ""));
}

function cell(value) {
  return typeof value === "number" ? number(value) : visible(String(value ?? "–"));
}

function csv(chart) {
  const names = Object.keys(chart.columns);
  /* a text that a spreadsheet would take for a formula is quoted for it */
  const quoted = (value) => (typeof value === "string" ? `"${(/^[=+\-@\t\r]/.test(value) ? `'${value}` : value).replaceAll('"', '""')}"` : value ?? "");
  return [names.join(), ...rowsOf(chart).map((row) => names.map((name) => quoted(row[name])).join())].join("\r\n") + "\r\n";
}

function save(name, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function selectOf(values, chosen, on) {
  return make("select", { onchange: (event) => on(values[event.target.selectedIndex]) }, ...values.map((value) => make("option", { selected: value === chosen }, visible(String(value)))));
}

/* ---- samples ---- */

const browse = { run: 0, filter: "all", words: "", question: null };

function drawSamples(panel) {
  const back = placeIn(panel);
  panel.querySelector(".browser")?.remove();
  const set = report.samples[browse.run] ?? report.samples[0];
  const filters = set.source === "evaluation" ? ["all", "right", "wrong", ...(set.before ? ["changed"] : [])] : ["all"];
  if (!filters.includes(browse.filter)) browse.filter = "all";
  const list = make("ul", { class: "questions", "aria-label": "Questions" }), detail = make("div", { class: "detail", "aria-live": "polite" }), count = make("span", { role: "status", class: "note" });
  const refill = () => {
    const found = set.questions.filter((asked) => kept(set, asked));
    count.textContent = `${found.length.toLocaleString("en")} of ${set.questions.length.toLocaleString("en")} questions`;
    if (!found.some((asked) => asked.id === browse.question)) browse.question = found[0]?.id ?? null;
    listInto(list, set, found, (asked) => { browse.question = asked.id; detailInto(detail, set, asked); });
    const asked = found.find((asked) => asked.id === browse.question);
    asked ? detailInto(detail, set, asked) : detail.replaceChildren(make("p", { class: "note" }, "No question fits."));
  };
  panel.append(make("div", { class: "browser" },
    make("div", { class: "filters" },
      report.samples.length > 1 ? make("label", {}, "Run", selectOf(report.samples.map((one) => one.run), set.run, (name) => {
        browse.run = report.samples.findIndex((one) => one.run === name); browse.question = null; drawSamples(panel); panel.querySelector("select").focus();
      })) : null,
      filters.length > 1 ? make("fieldset", { role: "radiogroup", "aria-label": "Which questions" }, ...filters.map((name) =>
        make("label", {}, make("input", { type: "radio", name: "filter", value: name, checked: browse.filter === name, onchange: () => { browse.filter = name; refill(); } }), name))) : null,
      make("label", {}, "Find", make("input", { type: "search", value: browse.words, oninput: (event) => { browse.words = event.target.value; refill(); } })),
      count,
      set.left_out ? make("span", { class: "note" }, `${set.left_out.toLocaleString("en")} more had no room here; the run directory has them`) : null,
      set.source === "training" ? make("span", { class: "note" }, "said in training; there is no evaluation yet") : null),
    list, detail));
  refill();
  back(list);
  return Promise.resolve();
}

/* Where the reader is in the samples: what has the focus and how far the list is scrolled. Returns what leads back there. */
function placeIn(panel) {
  const old = panel.querySelector(".questions"), focus = panel.contains(document.activeElement) ? document.activeElement : null;
  const top = old?.scrollTop ?? 0, ends = focus?.type === "search" ? [focus.selectionStart, focus.selectionEnd] : null;
  const same = !focus ? null : focus.closest("li") ? `[data-question="${CSS.escape(focus.dataset.question)}"]`
    : `${focus.tagName.toLowerCase()}${focus.value && focus.type === "radio" ? `[value=${focus.value}]` : focus.type === "search" ? "[type=search]" : ""}`;
  return (list) => {
    while (top > list.scrollHeight - list.clientHeight && list.onscroll(true));
    list.scrollTop = top;
    const found = same && panel.querySelector(`.browser ${same}`);
    found?.focus({ preventScroll: true });
    if (ends) found?.setSelectionRange(...ends);
  };
}

const rightOf = (set, asked, system) => asked.rows.filter((row) => set.systems[row[0]] === system && row[1] != null).map((row) => row[1]);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function kept(set, asked) {
  const words = browse.words.toLowerCase();
  if (words && !`${asked.text}\n${asked.reference}\n${asked.rows.map((row) => `${row[2]}\n${row[3]}`).join("\n")}`.toLowerCase().includes(words)) return false;
  const now = rightOf(set, asked, set.subject), then = rightOf(set, asked, set.before);
  if (browse.filter === "right") return now.length > 0 && now.every((reward) => reward >= 1);
  if (browse.filter === "wrong") return now.some((reward) => reward < 1);
  if (browse.filter === "changed") return now.length > 0 && then.length > 0 && mean(now) !== mean(then);
  return true;
}

function markOf(rewards) {
  if (!rewards.length) return make("span", { class: "mark between", title: "not graded" }, "·");
  const right = rewards.filter((reward) => reward >= 1).length;
  const words = rewards.length === 1 ? (right ? "right" : rewards[0] > 0 ? `reward ${number(rewards[0])}` : "wrong") : `${right} of ${rewards.length} right`;
  const kind = right === rewards.length ? "right" : right === 0 && rewards.every((reward) => reward < 0.5) ? "wrong" : "between";
  return make("span", { class: `mark ${kind}` }, `${{ right: "✓", wrong: "✗", between: "~" }[kind]} ${rewards.length === 1 ? words : `${right}/${rewards.length}`}`);
}

function listInto(list, set, found, choose) {
  let filled = 0;
  const more = () => {
    const next = found.slice(filled, filled += 200).map((asked) => make("li", {}, make("button", { type: "button", "data-question": asked.id, "aria-current": asked.id === browse.question, onclick: (event) => {
      for (const other of list.querySelectorAll("[aria-current=true]")) other.setAttribute("aria-current", false);
      event.currentTarget.setAttribute("aria-current", true);
      choose(asked);
    } }, set.subject ? markOf(rightOf(set, asked, set.subject)) : "", make("span", { dir: "auto" }, visible(asked.text.slice(0, 200))))));
    list.append(...next);
    return next.length > 0;
  };
  list.replaceChildren();
  list.scrollTop = 0;
  more();
  list.onscroll = (all) => (all === true || list.scrollTop + list.clientHeight > list.scrollHeight - 400) && more();
  list.onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key], item = document.activeElement.closest("li");
    if (!step || !item) return;
    event.preventDefault();
    (step > 0 ? item.nextElementSibling : item.previousElementSibling)?.firstElementChild.focus();
  };
}

function detailInto(detail, set, asked) {
  const order = [set.subject, set.before, ...set.systems].filter((name, i, all) => name && all.indexOf(name) === i);
  detail.replaceChildren(
    make("p", { class: "said ask", dir: "auto" }, visible(asked.text)),
    make("p", { class: "note" }, "Reference: ", make("span", { class: "said", dir: "auto" }, visible(asked.reference || "none")), ` · ${asked.id}`),
    ...(asked.probes.length ? [make("h3", {}, "At checkpoints"), make("p", { class: "note" }, "Struck out: what the next checkpoint no longer says."), make("div", { class: "columns" }, ...asked.probes.map((probe, i) => probeCard(probe, asked.probes[i + 1])))] : []),
    ...order.flatMap((system) => systemCards(set, asked, system)));
}

function probeCard(probe, next) {
  return make("div", { class: "card" }, make("h4", {}, `step ${probe.step}`),
    make("p", { class: "by" }, `M, ${probe.signal_tokens} tokens`), struck("signal", probe.signal, next?.signal),
    make("p", { class: "by" }, "m, aided ", markOf(probe.aided_reward == null ? [] : [probe.aided_reward])), said("answer", probe.aided ?? ""),
    probe.unaided == null ? null : make("p", { class: "by" }, "m, unaided ", markOf(probe.unaided_reward == null ? [] : [probe.unaided_reward])),
    probe.unaided == null ? null : said("answer", probe.unaided));
}

function systemCards(set, asked, system) {
  const rows = asked.rows.filter((row) => set.systems[row[0]] === system);
  if (!rows.length) return [];
  const after = asked.rows.filter((row) => set.systems[row[0]] === set.subject), together = new Map();
  rows.forEach((row, i) => {
    const key = JSON.stringify([row[1], row[2], row[3]]);
    together.has(key) ? together.get(key).times++ : together.set(key, { row, times: 1, next: system === set.before ? after[i]?.[2] : undefined });
  });
  const note = system === set.before && rows.some((row) => row[2]) ? make("p", { class: "note" }, "Struck out: what is not in the signal of the same number above.") : null;
  return [make("h3", {}, system, " ", markOf(rows.map((row) => row[1]).filter((reward) => reward != null))), ...(note ? [note] : []),
    make("div", { class: "columns" }, ...[...together.values()].map(({ row, times, next }) =>
      make("div", { class: "card" },
        make("p", { class: "by" }, markOf(row[1] == null ? [] : [row[1]]), times > 1 ? ` × ${times}` : "", row[2] && row[4] != null ? ` · M: ${row[4]} tokens` : ""),
        row[2] ? struck("signal", row[2], next) : null, said("answer", row[3]))))];
}

function said(kind, text) {
  return make("p", { class: `said ${kind}`, dir: "auto" }, visible(text));
}

/* `text` with what `next` no longer has struck out. */
function struck(kind, text, next) {
  const words = text.match(/\s+|\S+/g) ?? [], others = next == null ? null : next.match(/\s+|\S+/g) ?? [];
  if (others === null || words.length * others.length > 4e6) return said(kind, text);
  const width = others.length + 1, common = new Uint16Array((words.length + 1) * width);
  for (let i = words.length - 1; i >= 0; i--)
    for (let j = others.length - 1; j >= 0; j--)
      common[i * width + j] = words[i] === others[j] ? common[(i + 1) * width + j + 1] + 1 : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
  const pieces = [];
  for (let i = 0, j = 0; i < words.length; i++) {
    while (j < others.length && words[i] !== others[j] && common[i * width + j + 1] >= common[(i + 1) * width + j]) j++;
    const stays = j < others.length && words[i] === others[j];
    if (stays) j++;
    if (pieces.at(-1)?.stays === stays) pieces.at(-1).text += words[i];
    else pieces.push({ stays, text: words[i] });
  }
  return make("p", { class: `said ${kind}`, dir: "auto" }, ...pieces.map(({ stays, text }) => (stays ? visible(text) : make("del", {}, visible(text)))));
}

/* ---- runs ---- */

function drawRuns(panel) {
  const open = new Set([...panel.querySelectorAll("details[open]")].map((details) => details.dataset.run));
  panel.querySelector(".all-runs")?.remove();
  panel.append(make("div", { class: "all-runs" }, differencesTable(), make("div", { class: "runs" }, ...report.runs.map((run) => runCard(run, open.has(run.name))))));
  return Promise.resolve();
}

function differencesTable() {
  if (report.groups.length < 2) return "";
  if (!report.differences.length) return make("p", { class: "note" }, "The runs have the same configuration.");
  return make("div", {}, make("h3", {}, "What differs in their configuration"), make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Differences of configuration" }, make("table", { id: "differences" },
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "setting"), ...report.groups.map((group) => make("th", { scope: "col" }, group)))),
    make("tbody", {}, ...report.differences.map((row) => make("tr", {}, make("th", { scope: "row" }, row.setting), ...row.values.map((value) => make("td", {}, value == null ? "–" : visible(typeof value === "string" ? value : JSON.stringify(value))))))))));
}

function runCard(run, open) {
  const facts = {
    status: run.kind === "evaluation" ? null : run.status + (run.error ? `: ${run.error}` : ""), steps: run.kind === "evaluation" ? null : run.planned ? `${run.steps} of ${run.planned}` : run.steps,
    "time in steps": run.seconds == null ? null : run.seconds < 120 ? `${run.seconds} s` : `${(run.seconds / 60).toFixed(1)} min`, command: run.command, seed: run.seed, started: run.started,
    versions: Object.entries(run.versions).map(([name, version]) => `${name} ${version}`).join(", "),
    machine: Object.entries(run.platform).filter(([, value]) => value != null).map(([name, value]) => `${name} ${value}`).join(", "),
    missing: run.missing.join("; "),
  };
  return make("article", { class: "card" }, make("h3", {}, run.name),
    make("dl", {}, ...Object.entries(facts).filter(([, value]) => value != null && value !== "").flatMap(([name, value]) =>
      [make("dt", {}, name), make("dd", { class: name === "missing" || run.status === "failed" && name === "status" ? "alarm" : "" }, visible(String(value)))])),
    run.recipe ? make("details", { "data-run": run.name, open }, make("summary", {}, "Recipe, with every default written out"), make("pre", { tabindex: 0 }, visible(run.recipe)),
      make("button", { type: "button", onclick: () => save(`${run.name}.toml`, run.recipe) }, "Save")) : null);
}

/* ---- from start to end ---- */

async function update(next) {
  report = next;
  drawHeadlines();
  drawState();
  for (const name of parts()) stale.add(name);
  await drawTabs();
  await fillPanel(shown);
}

async function watch() {
  let tag = null;
  for (;;) {
    await new Promise((wake) => setTimeout(wake, 1500));
    try {
      const answer = await fetch("report", { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
      if (answer.status === 200) { tag = answer.headers.get("ETag"); await update(await unpack(await answer.text())); }
      else drawState(answer.status === 304 ? "" : `the watcher answered ${answer.status}`);
    } catch { drawState("the watcher has ended; this is what it last showed"); }
  }
}

/* Charts of tabs that are not shown are drawn while nothing else is to be done: paper has no tabs, and shows them all. */
async function drawBehind() {
  for (const name of parts()) {
    const panel = document.getElementById(`panel-${name}`);
    if (name === "samples" || !stale.has(name)) continue;
    panel.classList.add("behind");
    panel.hidden = false;
    await fillPanel(name);
    panel.classList.remove("behind");
    panel.hidden = name !== shown;
  }
  document.documentElement.dataset.whole = "true";
}

const idle = () => new Promise((wake) => (window.requestIdleCallback ?? setTimeout)(wake));

window.ready = unpack(packed.textContent).then(async (found) => {
  packed.remove();
  await update(found);
  document.documentElement.dataset.ready = "true";
  live ? watch() : drawBehind();
}).catch((error) => { drawState(`this browser cannot show the report: ${error.message}`); throw error; });

"use strict";
/* ---- charts ---- */

/* The charts of a tab that nobody sees yet; paper and the tests wait for them. */
let later = Promise.resolve();

function rowsOf(chart) {
  const names = Object.keys(chart.columns);
  return chart.columns[names[0]].map((_, i) => Object.fromEntries(names.map((name) => [name, chart.columns[name][i]])));
}

/* Those on the screen first; the others when nothing else is to be done. */
async function drawCharts(panel, section) {
  let grid = panel.querySelector(".charts");
  if (!grid) panel.append(grid = make("div", { class: "charts" }));
  const waiting = [];
  for (const chart of report.charts.filter((chart) => chart.section === section)) {
    const old = views[chart.id], made = JSON.stringify([chart.spec, chart.series, chart.notes]);
    if (old && old.made === made) { old.take(chart); continue; }
    const figure = figureOf(chart, made);
    old ? old.figure.replaceWith(figure) : grid.append(figure);
    waiting.push(views[chart.id]);
  }
  const behind = panel.classList.contains("behind");
  const seen = waiting.filter((held) => !behind && held.place.getBoundingClientRect().top < innerHeight);
  for (const held of seen) await draw(held);
  later = later.then(async () => {
    for (const held of waiting.filter((held) => !seen.includes(held))) { await idle(); await draw(held); }
  });
  if (behind) await later;
}

function figureOf(chart, made) {
  const held = views[chart.id] = { made, hidden: views[chart.id]?.hidden ?? new Set(), chosen: views[chart.id]?.chosen };
  const values = chart.choose ? [...new Set(chart.columns[chart.choose])] : [];
  if (!values.includes(held.chosen)) held.chosen = values[0];
  held.take = (chart) => { held.chart = chart; held.all = rowsOf(chart); held.refresh(); };
  held.refresh = () => {
    held.rows = held.all.filter((row) => !held.hidden.has(row.series) && (!chart.choose || row[chart.choose] === held.chosen));
    held.reader?.again();
    if (held.view) held.view.data("rows", held.rows).runAsync();
    if (held.table?.open) tableInto(held);
  };
  held.take(chart);
  held.drawing = make("div", { "aria-hidden": "true" }); /* Vega gives what it draws into a role of its own */
  held.place = make("div", { class: "chart", tabindex: 0, role: "slider", "aria-label": `${chart.what}. Arrow keys read it off.`,
    "aria-valuemin": 0, "aria-valuemax": 0, "aria-valuenow": 0 }, held.drawing);
  held.table = make("details", { ontoggle: () => tableInto(held) }, make("summary", {}, "Numbers"));
  held.figure = make("figure", { id: `chart-${chart.id}`, class: chart.section === "answers" ? "tall" : "" },
    make("h3", {}, chart.title), legendOf(held),
    chart.choose ? make("label", { class: "chooser" }, chart.choose[0].toUpperCase() + chart.choose.slice(1),
      selectOf(values, values.indexOf(held.chosen), (i) => { held.chosen = values[i]; held.refresh(); })) : null,
    held.place,
    chart.notes.length ? make("figcaption", {}, chart.notes.join("; ")) : null,
    make("div", { class: "actions" },
      make("button", { type: "button", "aria-label": `${chart.title}: numbers as CSV`,
        onclick: () => save(`${chart.id}.csv`, csv(held.chart)) }, "CSV"), held.table));
  return held.figure;
}

function specOf(held) {
  return { ...structuredClone(held.chart.spec), data: { name: "rows", values: held.rows } };
}

async function draw(held) {
  const drawn = await vegaEmbed(held.drawing, specOf(held), {
    actions: false, renderer: "svg", logLevel: 1, /* errors only: an axis without points is none */
    tooltip: { theme: "custom", sanitize: (value) => escaped(visible(String(value))) },
  });
  held.view = drawn.view;
  readable(held);
}

function escaped(text) {
  return text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
}

function legendOf(held) {
  const { series, title } = held.chart, named = title.toLowerCase().startsWith(series[0]?.name.toLowerCase() ?? "");
  if (series.length < 2 && report.groups.length < 2 && named) return null;
  const hide = (button, name, hidden) => {
    hidden ? held.hidden.add(name) : held.hidden.delete(name);
    button.setAttribute("aria-pressed", !hidden);
  };
  const buttons = series.map((one) => make("button", { type: "button", "aria-pressed": !held.hidden.has(one.name),
    onclick: (event) => { hide(event.currentTarget, one.name, !held.hidden.has(one.name)); held.refresh(); } },
  iconOf(held.chart, one), one.name));
  const all = (label, hidden) => make("button", { type: "button", class: "all", onclick: () => {
    series.forEach((one, i) => hide(buttons[i], one.name, hidden));
    held.refresh();
  } }, label);
  return make("div", { class: "legend", role: "group", "aria-label": "Series; press to hide" }, ...buttons,
    ...(series.length > 6 ? [all("all", false), all("none", true)] : []));
}

/* How a series is drawn: its dash, its shape, or both where points of lines stand alone. A long line has marks and no dash. */
function iconOf(chart, one) {
  const drawn = (tag, attributes, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const colour = `var(--series-${one.colour})`, has = (channel) => chart.spec.layer.some((layer) => layer.encoding[channel]);
  const several = chart.series.length > 1 || report.groups.length > 1;
  const points = !chart.lines || has("shape") && several, dash = chart.lines && has("strokeDash") && one.dash[1];
  return drawn("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" },
    ...(chart.lines ? [drawn("line", { x1: 0, x2: 26, y1: 6, y2: 6, stroke: colour, "stroke-width": 2,
      "stroke-dasharray": dash ? one.dash.join(" ") : "none" })] : []),
    ...(points ? [drawn("path", { d: SHAPES[one.shape], fill: colour })] : []));
}

const SHAPES = {
  circle: "M13 1a5 5 0 1 0 .01 0z", square: "M8 1h10v10h-10z", diamond: "M13 0l5 6l-5 6l-5-6z",
  cross: "M11 1h4v3h3v4h-3v3h-4v-3h-3v-4h3z", "triangle-up": "M13 1l5.5 10h-11z",
  "triangle-down": "M13 11l5.5-10h-11z", "triangle-right": "M8 .5l10 5.5l-10 5.5z",
  "triangle-left": "M18 .5l-10 5.5l10 5.5z",
};

/* What is drawn: the choice, without what is hidden. */
function tableInto(held) {
  const rows = held.rows, names = Object.keys(held.chart.columns), most = 200;
  if (!held.table.open) return;
  held.table.querySelector(".scroll")?.remove();
  held.table.append(make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Numbers of ${held.chart.title}` },
    make("table", {}, make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...rows.slice(0, most).map((row) =>
        make("tr", {}, ...names.map((name) => make("td", {}, cell(row[name]))))))),
    rows.length > most ? make("p", {}, `${(rows.length - most).toLocaleString("en")} more rows are in the CSV.`) : ""));
}

function cell(value) {
  return typeof value === "number" ? number(value) : visible(String(value ?? "–"));
}

function csv(chart) {
  const names = Object.keys(chart.columns);
  /* a text that a spreadsheet would take for a formula is quoted for it */
  const disarmed = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
  const quoted = (value) => (typeof value === "string" ? `"${disarmed(value).replaceAll('"', '""')}"` : value ?? "");
  return [names.join(), ...rowsOf(chart).map((row) => names.map((name) => quoted(row[name])).join())].join("\r\n") + "\r\n";
}

function save(name, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/* `on` is told the place of what is chosen: two labels may be the same. */
function selectOf(labels, chosen, on) {
  return make("select", { onchange: (event) => on(event.target.selectedIndex) },
    ...labels.map((label, i) => make("option", { selected: i === chosen }, visible(String(label)))));
}

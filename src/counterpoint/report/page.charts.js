"use strict";
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
  const rows = held.rows(), names = Object.keys(held.chart.columns), most = 200; /* what is drawn: the choice, without what is hidden */
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

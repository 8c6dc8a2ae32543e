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

/* Text as it is, with what cannot be seen made visible, as text.py does it and by its pattern. */
const invisible = new RegExp(packed.dataset.invisible, "g");
function visible(text) {
  return text.replace(invisible, (c) => {
    const code = c.charCodeAt(0);
    return code < 0x20 ? String.fromCharCode(0x2400 + code) : `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}

function number(value) {
  if (value == null) return "–";
  return Math.abs(value) >= 1000 ? value.toLocaleString("en") : String(+value.toPrecision(4)).replace("-", "−");
}

/* ---- the answer ---- */

function drawHeadlines() {
  const figureOf = (figure) => make("div", {}, make("dt", {}, visible(figure.label)),
    make("dd", {}, make("strong", {}, figure.value), make("span", {}, visible(figure.detail))));
  document.getElementById("headlines").replaceChildren(...report.headlines.map((headline) =>
    make("div", { class: "headline" },
      make("p", { class: "sentence" }, visible(headline.sentence)),
      headline.figures.length ? make("dl", {}, ...headline.figures.map(figureOf)) : null,
      headline.how.length ? make("p", { class: "how" }, `${headline.how.join("; ")}.`) : null)));
  document.getElementById("footer").textContent = `Made ${report.made} by counterpoint ${report.counterpoint ?? ""}. `
    + "This file holds everything that it shows and asks for nothing else.";
}

function drawState(words) {
  const runs = report?.runs ?? [], running = runs.filter((run) => run.status === "running");
  const failed = runs.filter((run) => run.status === "failed" || run.status === "died");
  const state = document.getElementById("state");
  state.className = failed.length ? "failed" : running.length ? "running" : "";
  const each = [...failed.map((run) =>
    run.status === "died" ? `${run.name} died after step ${run.steps}` : `${run.name} failed at step ${run.steps + 1}`),
  ...running.map((run) => `${run.name}: step ${run.steps}${run.planned ? ` of ${run.planned}` : ""}`)];
  const most = 3, more = each.length > most ? ` and ${each.length - most} more` : "";
  const told = words || each.slice(0, most).join(", ") + more || (live ? stateOfNone(runs) : "");
  if (state.textContent !== told) state.textContent = told;
}

/* What a watcher says of runs of which none goes on and none has failed. */
function stateOfNone(runs) {
  const ended = (run) => (run.kind === "evaluation" ? run.measured : run.status === "finished");
  return report.waiting || !runs.length ? "waiting" : runs.every(ended) ? "finished" : "not running";
}

/* ---- tabs ---- */

function tabNames() {
  return Object.keys(TABS).filter((name) =>
    name === "runs" || (name === "samples" ? report.samples.length : report.charts.some((chart) => chart.section === name)));
}

function drawTabs() {
  const names = tabNames(), bar = document.getElementById("tabs"), panels = document.getElementById("panels");
  if (bar.dataset.names === names.join()) return Promise.resolve();
  bar.dataset.names = names.join();
  for (const name of names) {
    if (panels.querySelector(`[data-tab=${name}]`)) continue;
    const all = Object.keys(TABS), next = all.slice(all.indexOf(name)).map((one) => document.getElementById(`panel-${one}`));
    const section = { id: `panel-${name}`, "data-tab": name, role: "tabpanel", "aria-labelledby": `tab-${name}`, hidden: true };
    panels.insertBefore(make("section", section, make("h2", {}, TABS[name])), next.find(Boolean) ?? null);
    stale.add(name);
  }
  bar.replaceChildren(...names.map((name) =>
    make("button", { id: `tab-${name}`, role: "tab", type: "button", "aria-controls": `panel-${name}`, "data-tab": name,
      onclick: () => show(name) }, TABS[name])));
  bar.onkeydown = (event) => {
    const at = names.indexOf(shown);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(names[(to + names.length) % names.length]);
    document.getElementById(`tab-${shown}`).focus();
  };
  return show([shown, location.hash.slice(1), names[0]].find((name) => names.includes(name)));
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
  const fill = { samples: drawSamples, runs: drawRuns }[name] ?? drawCharts;
  return filling[name] = fill(panel, name);
}

/* ---- runs ---- */

const FEW = 3; /* runs that are shown unfolded */

function drawRuns(panel) {
  const open = new Map([...panel.querySelectorAll("details")].map((details) => [details.dataset.run, details.open]));
  panel.querySelector(".all-runs")?.remove();
  panel.append(make("div", { class: "all-runs" }, differencesTable(),
    make("div", { class: "runs" }, ...report.runs.map((run, i) => runCard(run, i, open)))));
  return Promise.resolve();
}

/* What differs, a row a setting; of many groups a row a group. */
function differencesTable() {
  const { groups, differences } = report;
  if (groups.length < 2) return "";
  if (!differences.length) return make("p", { class: "note" }, "The runs have the same configuration.");
  const written = (one) => (typeof one === "number" ? String(+one.toPrecision(12)) : JSON.stringify(one));
  const value = (one) => (one == null ? "–" : broken(typeof one === "string" ? one : written(one)));
  const upright = groups.length > FEW && groups.length > differences.length;
  const settings = differences.map((row) => row.setting);
  const [corner, across, down] = upright ? ["run", settings, groups] : ["setting", groups, settings];
  const at = (i, j) => (upright ? differences[j].values[i] : differences[i].values[j]);
  return make("div", {}, make("h3", {}, "What differs in their configuration"),
    make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Differences of configuration" },
      make("table", { id: "differences", class: upright ? null : "by-setting" },
        make("thead", {}, make("tr", {}, ...[corner, ...across].map((name) => make("th", { scope: "col" }, broken(name))))),
        make("tbody", {}, ...down.map((name, i) => make("tr", {}, make("th", { scope: "row" }, broken(name)),
          ...across.map((_, j) => make("td", {}, value(at(i, j))))))))));
}

/* A name that may go on in the next line after a dot, a hyphen or an underscore. */
function broken(name) {
  return make("span", {}, ...visible(name).split(/(?<=[.\-_])/).flatMap((part, i) => (i ? [make("wbr"), part] : [part])));
}

function runCard(run, i, open) {
  const ended = run.kind !== "evaluation", failed = run.status === "failed" || run.status === "died";
  const steps = run.planned ? `${run.steps} of ${run.planned}` : run.steps;
  const named = (record) => Object.entries(record).filter(([, value]) => value != null).map((pair) => pair.join(" ")).join(", ");
  const facts = {
    status: ended ? run.status + (run.error ? `: ${run.error}` : "") : null,
    steps: ended ? steps : null,
    "time in steps": run.seconds == null ? null : run.seconds < 120 ? `${run.seconds} s` : `${(run.seconds / 60).toFixed(1)} min`,
    command: run.command, seed: run.seed, started: run.started,
    versions: named(run.versions),
    machine: named(run.platform),
    measured: run.measured, "not drawn": run.unrecorded.join("; "),
    missing: run.missing.join("; "),
  };
  const kind = (name) => (name === "missing" || failed && name === "status" ? "alarm" : "");
  const list = make("dl", {}, ...Object.entries(facts).filter(([, value]) => value != null && value !== "")
    .flatMap(([name, value]) => [make("dt", {}, name), make("dd", { class: kind(name) }, visible(String(value)))]));
  const key = `${i} ${run.name}`;
  const recipe = run.recipe ? make("details", { class: "recipe", "data-run": `${key} recipe`, open: open.get(`${key} recipe`) },
    make("summary", {}, "Recipe, with every default written out"), make("pre", { tabindex: 0 }, visible(run.recipe)),
    make("button", { type: "button", onclick: () => save(`${run.name}.toml`, run.recipe) }, "Save")) : null;
  if (report.runs.length <= FEW) return make("article", { class: "card" }, make("h3", {}, run.name), list, recipe);
  const told = ended ? `${run.status}, ${run.seed == null ? "" : `seed ${run.seed}, `}${steps} steps` : "an evaluation";
  return make("details", { class: "card", "data-run": key, open: open.get(key) ?? failed },
    make("summary", {}, make("h3", {}, run.name), make("span", { class: failed ? "alarm" : "by" }, told)), list, recipe);
}

/* ---- from start to end ---- */

async function update(next) {
  report = next;
  drawHeadlines();
  drawState();
  for (const name of tabNames()) stale.add(name);
  await drawTabs();
  await fillPanel(shown);
}

async function watch() {
  let tag = null;
  for (;;) {
    await drawBehind();
    await new Promise((wake) => setTimeout(wake, 1500));
    try {
      const answer = await fetch("report", { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
      if (answer.status === 200) {
        tag = answer.headers.get("ETag");
        await update(await unpack(await answer.text()));
      } else drawState(answer.status === 304 ? "" : `the watcher answered ${answer.status}`);
    } catch { drawState("the watcher has ended; this is what it last showed"); }
  }
}

/* Charts of tabs that are not shown are drawn while nothing else is to be done: paper has no tabs, and shows them all. */
async function drawBehind() {
  for (const name of tabNames()) {
    const panel = document.getElementById(`panel-${name}`);
    if (name === "samples" || !stale.has(name)) continue;
    panel.classList.add("behind");
    panel.hidden = false;
    await fillPanel(name);
    panel.classList.remove("behind");
    panel.hidden = name !== shown;
  }
  await later;
  document.documentElement.dataset.whole = "true";
}

/* On paper nothing can be unfolded. What was folded is so again on the screen. */
const unfolded = [];
addEventListener("beforeprint", () => {
  unfolded.push(...document.querySelectorAll(".runs details:not([open])"));
  for (const details of unfolded) details.open = true;
});
addEventListener("afterprint", () => { for (const details of unfolded.splice(0)) details.open = false; });

const idle = () => new Promise((wake) => (window.requestIdleCallback ?? setTimeout)(wake, { timeout: 200 }));

window.ready = unpack(packed.textContent).then(async (found) => {
  packed.remove();
  await update(found);
  performance.mark("ready"); /* what is on the screen is drawn */
  document.documentElement.dataset.ready = "true";
  live ? watch() : drawBehind();
}).catch((error) => { drawState(`this browser cannot show the report: ${error.message}`); throw error; });

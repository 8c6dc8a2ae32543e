"use strict";
/* ---- samples ---- */

const browse = { run: null, filter: "all", words: "", question: null };

/* What the runs are called: of several with one name, which of them too. */
function labelled(samples) {
  const all = samples.map((one) => one.run);
  return all.map((name, i) => {
    const alike = (names) => names.filter((other) => other === name).length;
    return alike(all) > 1 ? `${name} (${alike(all.slice(0, i + 1))} of ${alike(all)})` : name;
  });
}

function drawSamples(panel) {
  const back = placeIn(panel);
  panel.querySelector(".browser")?.remove();
  const labels = labelled(report.samples), chosen = Math.max(0, labels.indexOf(browse.run)), set = report.samples[chosen];
  const filters = set.source === "evaluation" ? ["all", "right", "wrong", ...(set.before ? ["changed"] : [])] : ["all"];
  if (!filters.includes(browse.filter)) browse.filter = "all";
  const list = make("ul", { class: "questions", "aria-label": "Questions" });
  const detail = make("div", { class: "detail", "aria-live": "polite" }), count = make("span", { role: "status", class: "note" });
  const refill = () => {
    const found = set.questions.filter((asked) => kept(set, asked));
    count.textContent = `${found.length.toLocaleString("en")} of ${set.questions.length.toLocaleString("en")} questions`;
    if (!found.some((asked) => asked.id === browse.question)) browse.question = found[0]?.id ?? null;
    listInto(list, set, found, (asked) => { browse.question = asked.id; detailInto(detail, set, asked); });
    const asked = found.find((asked) => asked.id === browse.question);
    asked ? detailInto(detail, set, asked) : detail.replaceChildren(make("p", { class: "note" }, "No question fits."));
  };
  const choose = (i) => {
    browse.run = labels[i];
    browse.question = null;
    drawSamples(panel);
    panel.querySelector("select").focus();
  };
  const note = (text) => make("span", { class: "note" }, text);
  panel.append(make("div", { class: "browser" },
    make("div", { class: "filters" },
      labels.length > 1 ? make("label", {}, "Run", selectOf(labels, chosen, choose)) : null,
      filters.length > 1 ? make("fieldset", { role: "radiogroup", "aria-label": "Which questions" }, ...filters.map((name) =>
        make("label", {}, make("input", { type: "radio", name: "filter", value: name, checked: browse.filter === name,
          onchange: () => { browse.filter = name; refill(); } }), name))) : null,
      make("label", {}, "Find", make("input", { type: "search", value: browse.words,
        oninput: (event) => { browse.words = event.target.value; refill(); } })),
      count,
      set.left_out ? note(`${set.left_out.toLocaleString("en")} more had no room here; the run directory has them`) : null,
      set.note ? note(set.note) : null),
    list, detail));
  refill();
  back(list);
  return Promise.resolve();
}

/* Where the reader is in the samples: what has the focus and how far the list is scrolled. Returns what leads back there. */
function placeIn(panel) {
  const old = panel.querySelector(".questions");
  const focus = panel.contains(document.activeElement) ? document.activeElement : null;
  const top = old?.scrollTop ?? 0, ends = focus?.type === "search" ? [focus.selectionStart, focus.selectionEnd] : null;
  const which = focus?.type === "radio" ? `[value=${focus.value}]` : focus?.type === "search" ? "[type=search]" : "";
  const same = !focus ? null : focus.closest("li") ? `[data-question="${CSS.escape(focus.dataset.question)}"]`
    : `${focus.tagName.toLowerCase()}${which}`;
  return (list) => {
    while (top > list.scrollHeight - list.clientHeight && list.onscroll(true));
    list.scrollTop = top;
    const found = same && panel.querySelector(`.browser ${same}`);
    found?.focus({ preventScroll: true });
    if (ends) found?.setSelectionRange(...ends);
  };
}

const rightOf = (set, asked, system) =>
  asked.rows.filter((row) => set.systems[row[0]] === system && row[1] != null).map((row) => row[1]);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function kept(set, asked) {
  const words = browse.words.toLowerCase();
  const texts = () => [asked.text, asked.reference, ...asked.rows.flatMap((row) => [row[2], row[3]])];
  if (words && !texts().join("\n").toLowerCase().includes(words)) return false;
  const now = rightOf(set, asked, set.subject), then = rightOf(set, asked, set.before);
  if (browse.filter === "right") return now.length > 0 && now.every((reward) => reward >= 1);
  if (browse.filter === "wrong") return now.some((reward) => reward < 1);
  if (browse.filter === "changed") return now.length > 0 && then.length > 0 && mean(now) !== mean(then);
  return true;
}

function markOf(rewards) {
  if (!rewards.length) return make("span", { class: "mark between", title: "not graded" }, "·");
  const right = rewards.filter((reward) => reward >= 1).length;
  const alone = right ? "right" : rewards[0] > 0 ? `reward ${number(rewards[0])}` : "wrong";
  const words = rewards.length === 1 ? alone : `${right}/${rewards.length}`;
  const kind = right === rewards.length ? "right" : right === 0 && rewards.every((reward) => reward < 0.5) ? "wrong" : "between";
  return make("span", { class: `mark ${kind}` }, `${{ right: "✓", wrong: "✗", between: "~" }[kind]} ${words}`);
}

function listInto(list, set, found, choose) {
  let filled = 0;
  const pick = (asked) => (event) => {
    for (const other of list.querySelectorAll("[aria-current=true]")) other.setAttribute("aria-current", false);
    event.currentTarget.setAttribute("aria-current", true);
    choose(asked);
  };
  const item = (asked) => make("li", {}, make("button", { type: "button", "data-question": asked.id,
    "aria-current": asked.id === browse.question, onclick: pick(asked) },
    set.subject ? markOf(rightOf(set, asked, set.subject)) : "",
    make("span", { dir: "auto" }, visible(asked.text.slice(0, 200)))));
  const more = () => {
    const next = found.slice(filled, filled += 200).map(item);
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
    make("p", { class: "note" },
      "Reference: ", make("span", { class: "said", dir: "auto" }, visible(asked.reference || "none")), ` · ${asked.id}`),
    ...(asked.probes.length ? probesOf(asked.probes) : []),
    ...order.flatMap((system) => systemCards(set, asked, system)));
}

function probesOf(probes) {
  const next = probes.length > 1 ? [make("p", { class: "note" }, "Struck out: what the next checkpoint no longer says.")] : [];
  return [make("h3", {}, "At checkpoints"), ...next,
    make("div", { class: "columns" }, ...probes.map((probe, i) => probeCard(probe, probes[i + 1])))];
}

function probeCard(probe, next) {
  const mark = (reward) => markOf(reward == null ? [] : [reward]);
  return make("div", { class: "card" }, make("h4", {}, `step ${probe.step}`),
    make("p", { class: "by" }, `M, ${probe.signal_tokens} tokens`), struck("signal", probe.signal, next?.signal),
    make("p", { class: "by" }, "m, aided ", mark(probe.aided_reward)), said("answer", probe.aided ?? ""),
    probe.unaided == null ? null : make("p", { class: "by" }, "m, unaided ", mark(probe.unaided_reward)),
    probe.unaided == null ? null : said("answer", probe.unaided));
}

function systemCards(set, asked, system) {
  const rows = asked.rows.filter((row) => set.systems[row[0]] === system);
  if (!rows.length) return [];
  const after = asked.rows.filter((row) => set.systems[row[0]] === set.subject), together = new Map();
  rows.forEach((row, i) => {
    const key = JSON.stringify([row[1], row[2], row[3]]);
    const next = system === set.before ? after[i]?.[2] : undefined;
    together.has(key) ? together.get(key).times++ : together.set(key, { row, times: 1, next });
  });
  const note = system === set.before && rows.some((row) => row[2])
    ? [make("p", { class: "note" }, "Struck out: what is not in the signal of the same number above.")] : [];
  return [make("h3", {}, system, " ", markOf(rows.map((row) => row[1]).filter((reward) => reward != null))), ...note,
    make("div", { class: "columns" }, ...[...together.values()].map(({ row, times, next }) =>
      make("div", { class: "card" },
        make("p", { class: "by" }, markOf(row[1] == null ? [] : [row[1]]), times > 1 ? ` × ${times}` : "",
          row[2] && row[4] != null ? ` · M: ${row[4]} tokens` : ""),
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
      common[i * width + j] = words[i] === others[j] ? common[(i + 1) * width + j + 1] + 1
        : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
  const pieces = [];
  for (let i = 0, j = 0; i < words.length; i++) {
    while (j < others.length && words[i] !== others[j] && common[i * width + j + 1] >= common[(i + 1) * width + j]) j++;
    const stays = j < others.length && words[i] === others[j];
    if (stays) j++;
    if (pieces.at(-1)?.stays === stays) pieces.at(-1).text += words[i];
    else pieces.push({ stays, text: words[i] });
  }
  return make("p", { class: `said ${kind}`, dir: "auto" },
    ...pieces.map(({ stays, text }) => (stays ? visible(text) : make("del", {}, visible(text)))));
}

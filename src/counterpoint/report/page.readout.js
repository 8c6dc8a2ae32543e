"use strict";
/* ---- reading a chart off: by pointer, finger or arrow keys ---- */

/* The place in `sorted` of what is nearest to `value`; -1 of nothing. */
function nearest(sorted, value, of = (one) => one) {
  let low = 0, high = sorted.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    of(sorted[middle]) < value ? low = middle + 1 : high = middle;
  }
  return low > 0 && value - of(sorted[low - 1]) <= of(sorted[low]) - value ? low - 1 : high;
}

/* Lines are read off along x: a stop for each x, and at a stop the row of every series that is there, or just beside it where
   lines were thinned. */
function alongLines(held) {
  const { x, series } = held.chart, lines = new Map(series.map((one) => [one.name, []]));
  for (const row of held.rows) lines.get(row.series)?.push(row);
  for (const rows of lines.values()) rows.sort((a, b) => a[x] - b[x]);
  const stops = [...new Set(held.rows.map((row) => row[x]))].sort((a, b) => a - b), beside = (stops.at(-1) - stops[0]) / 500;
  const across = () => held.view.scale("x");
  return {
    count: stops.length,
    min: stops[0], max: stops.at(-1), now: (i) => stops[i],
    nearest: (left) => nearest(stops, across().invert(left)),
    left: (i) => across()(stops[i]),
    title: (i) => `${x} ${stops[i]}`,
    lines: (i) => series.flatMap((one) => {
      const rows = lines.get(one.name), row = rows[nearest(rows, stops[i], (row) => row[x])];
      if (!row || Math.abs(row[x] - stops[i]) > beside) return [];
      const range = row.low < row.high ? ` (${number(row.low)} to ${number(row.high)})` : "";
      return [{ one, text: `${one.name}: ${number(row.value)}${range}${row[x] === stops[i] ? "" : `, ${x} ${row[x]}`}` }];
    }),
  };
}

/* Points are read off one by one, from left to right. */
function amongPoints(held) {
  const { spec, series } = held.chart, encoding = (spec.layer?.at(-1) ?? spec).encoding, fields = encoding.tooltip;
  const rows = [...held.rows].sort((a, b) => a.x - b.x || a.y - b.y);
  const left = (i) => held.view.scale("x")(rows[i].x), top = (i) => held.view.scale("y")(rows[i].y);
  return {
    count: rows.length,
    min: 1, max: rows.length, now: (i) => i + 1,
    nearest: (x, y) => {
      const far = rows.map((_, i) => Math.hypot(left(i) - x, top(i) - y)), least = Math.min(...far);
      return least < 40 ? far.indexOf(least) : -1;
    },
    left, top,
    title: (i) => visible(rows[i].series),
    lines: (i) => fields.filter((each) => each.field !== "series").map((each) => ({
      one: series.find((one) => one.name === rows[i].series), text: `${each.title}: ${cell(rows[i][each.field])}` })),
  };
}

let readNow = null; /* the chart whose read-out is shown */
addEventListener("pointerdown", (event) => {
  document.documentElement.classList.toggle("touch", event.pointerType === "touch");
  if (readNow && !readNow.place.contains(event.target)) readNow.hide();
});

/* A rule or a ring, and what is under it. The index of the rows is made once, and again when other rows are drawn. */
function readable(held) {
  const { place, chart } = held, rule = make("div", { class: chart.lines ? "rule" : "ring", hidden: true });
  const readout = make("div", { class: "readout", hidden: true }), icons = new Map();
  for (const old of place.querySelectorAll(".rule, .ring, .readout")) old.remove();
  place.append(rule, readout);
  let index = null, at = -1, asked = null, down = null;
  const indexed = () => index ??= chart.lines ? alongLines(held) : amongPoints(held);
  const hide = () => { rule.hidden = readout.hidden = true; asked = null; if (readNow?.place === place) readNow = null; };
  const shown = () => readNow?.place === place;

  function describe() {
    place.setAttribute("aria-valuemin", indexed().min ?? 0);
    place.setAttribute("aria-valuemax", indexed().max ?? 0);
    if (at >= 0) return;
    place.setAttribute("aria-valuenow", indexed().min ?? 0);
    place.setAttribute("aria-valuetext", "not read off yet");
  }

  function read(i) {
    if (i < 0 || i >= indexed().count) return hide();
    const px = index.left(i), lines = index.lines(i), [left, top] = held.view.origin();
    at = i;
    describe();
    place.setAttribute("aria-valuenow", index.now(i));
    place.setAttribute("aria-valuetext", `${index.title(i)}: ${lines.map((line) => line.text).join(", ")}`);
    readout.replaceChildren(make("strong", {}, index.title(i)), ...lines.map(({ one, text }) => {
      if (chart.lines && !icons.has(one.name)) icons.set(one.name, iconOf(chart, one));
      return make("div", {}, chart.lines ? icons.get(one.name) : null, text);
    }));
    readout.classList.toggle("many", lines.length > 12);
    rule.hidden = readout.hidden = px < 0 || px > held.view.width();
    Object.assign(rule.style, chart.lines ? { left: `${left + px}px`, top: `${top}px`, height: `${held.view.height()}px` }
      : { left: `${left + px}px`, top: `${top + index.top(i)}px` });
    const wide = readout.offsetWidth, room = place.clientWidth - wide;
    const beside = px > held.view.width() / 2 ? px - wide - 8 : px + 8;
    readout.style.left = `${Math.max(0, Math.min(room, left + beside))}px`;
    readNow = { place, hide };
  }

  function readAt(event) {
    const box = place.getBoundingClientRect(), [left, top] = held.view.origin();
    read(indexed().nearest(event.clientX - box.left - left, event.clientY - box.top - top));
  }

  place.onpointermove = (event) => {
    if (event.pointerType === "touch" || !chart.lines) return; /* a mouse has a point's own words */
    if (!asked) requestAnimationFrame(() => { if (asked) readAt(asked); asked = null; });
    asked = event;
  };
  place.onpointerleave = (event) => { if (event.pointerType !== "touch") hide(); };
  place.onpointerdown = (event) => { down = event; };
  place.onpointerup = (event) => { /* a finger that has scrolled the page does not come so far */
    const still = down && Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) < 12;
    if (event.pointerType === "touch" && still) readAt(event);
  };
  place.onblur = hide;
  place.onkeydown = (event) => {
    const last = indexed().count - 1, leap = Math.max(1, Math.round(last / 20));
    const to = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1,
      PageUp: at + leap, PageDown: at - leap, Home: 0, End: last }[event.key];
    if (event.key === "Escape") hide();
    if (to === undefined || last < 0) return;
    event.preventDefault();
    read(Math.min(last, Math.max(0, to)));
  };
  /* where other rows are drawn, the same place along x is read off again */
  held.reader = { again: () => {
    const value = at < 0 ? null : index?.now(at), open = shown();
    index = null;
    if (!open || !chart.lines) { at = -1; hide(); describe(); return; }
    const { count, now } = indexed(), stops = Array.from({ length: count }, (_, i) => now(i));
    at = nearest(stops, value);
    requestAnimationFrame(() => { if (shown()) read(Math.min(at, indexed().count - 1)); });
  } };
  describe();
}

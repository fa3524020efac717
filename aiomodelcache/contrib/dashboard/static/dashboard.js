"use strict";
// The page of the dashboard. All text from the server becomes text nodes, never markup: the content security policy
// of the page refuses innerHTML and its like.

const SVG = "http://www.w3.org/2000/svg";
const MAX_POINTS = 150;
const byId = (id) => document.getElementById(id);

/** Makes an element. Children are elements, or values that become text. Attributes beginning with "on" are listeners. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function draw(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// Numbers for people ---------------------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en");
const percent = (ratio) => (ratio === null || ratio === undefined ? "–" : `${(100 * ratio).toFixed(1)} %`);
const number = (value) => (value === null || value === undefined ? "–" : value >= 100 ? whole.format(Math.round(value)) : String(Math.round(value * 10) / 10));
const milliseconds = (value) => (value === null || value === undefined ? "–" : value >= 100 ? whole.format(Math.round(value)) : value >= 10 ? value.toFixed(1) : value.toFixed(2));

function duration(seconds) {
  if (seconds === null || seconds === undefined) return null;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

function size(bytes) {
  if (bytes === null || bytes === undefined) return null;
  let value = Number(bytes);
  for (const unit of ["B", "kB", "MB"]) {
    if (value < 1024) return `${unit === "B" ? value : value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} GB`;
}

// Charts ---------------------------------------------------------------------------------------------------------------

const WIDTH = 300, HEIGHT = 100;
let points = [];

/** Shows a chart. Series: {name, of, unit, format, kind}. Gaps are where there is no value. */
function showChart(id, series, top) {
  const figure = byId(id), end = points.length ? points[points.length - 1].time : 0;
  const minutes = Math.min(5, Math.max(1, Math.ceil((end - (points[0]?.time ?? end)) / 60))), begin = end - 60 * minutes;
  const highest = top ?? nice(Math.max(0, ...points.flatMap((point) => series.map((each) => each.of(point) ?? 0))));
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  const latest = points.length ? points[points.length - 1] : {};
  svg.setAttribute("aria-label", series.map((each) => `${each.name}: ${each.format(each.of(latest))} ${each.unit}`).join(", "));
  for (const y of [0, 50, 100]) svg.append(draw("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
  for (const each of series) {
    for (const part of parts(each.of)) {
      const places = part.map(([time, value]) => [Math.max(0, (time - begin) / (60 * minutes)) * WIDTH, HEIGHT - (value / highest) * HEIGHT]);
      const line = places.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" L");
      const [first, last] = [places[0][0].toFixed(1), places[places.length - 1][0].toFixed(1)];
      if (!each.kind) svg.append(draw("path", { class: "area", d: `M${first},${HEIGHT} L${line} L${last},${HEIGHT} Z` }));
      svg.append(draw("path", { class: `line ${each.kind ?? ""}`, d: `M${line}` }));
    }
  }
  const figures = make("div", { class: "figures" }, ...series.map((each) =>
    make("div", { class: "figure" },
      series.length > 1 ? make("i", { class: each.kind }) : null,
      make("b", {}, each.format(each.of(latest))), make("span", {}, series.length > 1 ? each.name : each.unit))));
  const caption = figure.querySelector("figcaption");
  caption.replaceChildren(caption.firstChild.textContent.trim(), make("span", {}, `to ${series[0].axis(highest)}`));
  figure.replaceChildren(caption, figures, svg, make("div", { class: "axis" }, make("span", {}, `${minutes} min ago`), make("span", {}, "now")));
}

/** Returns the parts of a series without gaps: of values that are there, with at most ten seconds between two. */
function parts(of) {
  const found = [];
  let part = [];
  for (const point of points) {
    const value = of(point);
    if (part.length && (value === null || value === undefined || point.time - part[part.length - 1][0] > 10)) {
      found.push(part);
      part = [];
    }
    if (value !== null && value !== undefined) part.push([point.time, value]);
  }
  return part.length ? [...found, part] : found;
}

function nice(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value);
}

function showCharts() {
  showChart("chart-ratio", [{ name: "hit ratio", unit: "", of: (p) => p.hit_ratio, format: percent, axis: () => "100 %" }], 1);
  showChart("chart-lookups", [
    { name: "lookups", unit: "/s", of: (p) => p.lookups, format: number, axis: (top) => `${number(top)} /s` },
    { name: "SQL", unit: "/s", of: (p) => p.statements, format: number, kind: "second" },
  ]);
  showChart("chart-latency", [
    { name: "store", unit: "ms", of: (p) => p.store_ms, format: milliseconds, axis: (top) => `${number(top)} ms` },
    { name: "p99", unit: "ms", of: (p) => p.lookup_ms, format: milliseconds, kind: "third" },
    { name: "miss", unit: "ms", of: (p) => p.miss_ms, format: milliseconds, kind: "second" },
  ]);
}

// Tables ---------------------------------------------------------------------------------------------------------------

const CLASS_COLUMNS = [
  { title: "Class", key: "cache", text: true },
  { title: "Lookups/s", key: "lookups", show: number },
  { title: "Hits", key: "hit_ratio", show: percent },
  { title: "ms/miss", key: "miss_ms", show: milliseconds },
  { title: "All hits", key: "hits", show: number, minor: true },
  { title: "Misses", key: "misses", show: number, minor: true },
  { title: "Fills", key: "fills", show: number, minor: true },
  { title: "Refused", key: "refused", show: number, minor: true },
  { title: "Stale", key: "stale", show: number, minor: true },
  { title: "Unusable", key: "unusable", show: number, minor: true },
];
let classes = [], sortKey = "lookups", descending = true;

function makeHead() {
  const row = make("tr", {}, ...CLASS_COLUMNS.map((column) =>
    make("th", { scope: "col", "data-key": column.key, class: column.minor ? "minor" : null }, make("button", { type: "button", onclick: () => sortBy(column) }, column.title))));
  byId("class-table").replaceChildren(make("thead", {}, row), make("tbody"));
}

function sortBy(column) {
  descending = column.key === sortKey ? !descending : !column.text;
  sortKey = column.key;
  showClasses();
}

function compare(one, other) {
  const [a, b] = [one[sortKey], other[sortKey]];
  if (a === b) return one.cache < other.cache ? -1 : 1;
  if (a === null || b === null) return a === null ? 1 : -1; // without a value last, in both directions
  return (a < b ? -1 : 1) * (descending ? -1 : 1);
}

function showClasses() {
  const wanted = byId("search").value.trim().toLowerCase();
  const shown = classes.filter((each) => each.cache.toLowerCase().includes(wanted)).sort(compare);
  for (const head of byId("class-table").querySelectorAll("th")) {
    if (head.dataset.key !== sortKey) head.removeAttribute("aria-sort");
    else head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  }
  byId("class-table").tBodies[0].replaceChildren(...shown.map((each) =>
    make("tr", {}, ...CLASS_COLUMNS.map((column) => column.text
      ? make("td", { class: "name", title: each.cache }, each.cache)
      : make("td", { class: `${column.minor ? "minor" : ""} ${each[column.key] ? "" : "zero"}` }, column.show(each[column.key]))))));
  byId("class-table").hidden = !shown.length;
  byId("class-empty").hidden = Boolean(shown.length);
  byId("class-empty").textContent = classes.length ? `No class is called “${wanted}”.` : "Nothing has been looked up yet.";
}

/** Shows rows: columns are [title, function of a row, class]. */
function showTable(table, columns, rows) {
  const head = make("thead", {}, make("tr", {}, ...columns.map(([title, , kind]) => make("th", { scope: "col", class: kind }, title))));
  const body = make("tbody", {}, ...rows.map((row) => make("tr", {}, ...columns.map(([, of, kind]) =>
    make("td", { class: kind }, of(row) ?? "–")))));
  table.replaceChildren(head, body);
}

const badge = (kind, text) => make("span", { class: `badge ${kind}` }, text);

function stateOf(worker) {
  if (worker.undelivered_keys) return badge("error", `${whole.format(worker.undelivered_keys)} keys undelivered`);
  return worker.breaker_open ? badge("error", "breaker open") : badge("ok", "ok");
}

function showFleet(workers, complete, now) {
  byId("fleet-count").textContent = complete ? whole.format(workers.length) : "others unknown";
  showTable(byId("fleet-table"), [
    ["Process", (w) => `${w.host} ${w.pid}${w.own ? " (this one)" : ""}`],
    ["State", stateOf, "text"],
    ["Up", (w) => duration(Math.max(0, now - w.started))],
    ["Hits", (w) => percent(w.hits + w.misses ? w.hits / (w.hits + w.misses) : null)],
    ["Lookups", (w) => whole.format(w.hits + w.misses), "minor"],
    ["Round trips", (w) => whole.format(w.round_trips), "minor"],
    ["SQL", (w) => whole.format(w.statements), "minor"],
    ["Store errors", (w) => whole.format(w.backend_errors), "minor"],
  ], workers);
}

// The store, keys, writes ----------------------------------------------------------------------------------------------

const SERVER = [
  ["redis_version", "Version"], ["role", "Role"], ["uptime_in_seconds", "Up", (v) => duration(Number(v))],
  ["used_memory", "Memory", size], ["maxmemory", "Limit", (v) => (v === "0" ? "none" : size(v))],
  ["maxmemory_policy", "Eviction"], ["evicted_keys", "Evicted keys", (v) => whole.format(Number(v))],
  ["connected_clients", "Clients", (v) => whole.format(Number(v))],
];

function pairs(list, values) {
  list.replaceChildren(...values.filter(([, value]) => value !== null && value !== undefined).flatMap(([name, value]) =>
    [make("dt", {}, name), make("dd", {}, value)]));
  return list;
}

function showStore(store, workers) {
  const worst = ["error", "warning"].find((level) => store.findings.some((each) => each.level === level));
  const state = byId("store-state"), undelivered = workers.reduce((sum, each) => sum + each.undelivered_keys, 0);
  const open = workers.filter((each) => each.breaker_open).length;
  const bad = !store.answers || undelivered || open;
  state.className = `badge ${bad ? "error" : worst ?? "ok"}`;
  state.textContent = !store.answers ? "does not answer" : bad ? "in trouble" : worst === "error" ? "faults" : worst ? "warnings" : "healthy";
  byId("store-where").textContent = store.where;
  const own = SERVER.map(([name, title, show]) => [title, name in store.server ? (show ?? String)(store.server[name]) : null]);
  pairs(byId("store-server"), [
    ["Breaker", open ? `open in ${open} of ${workers.length} processes` : "closed"],
    ["Undelivered", undelivered ? `${whole.format(undelivered)} keys` : "none"], ...(store.answers ? own : [])]);
  const order = { error: 0, warning: 1, ok: 2 };
  const findings = (store.answers ? [...store.findings] : []).sort((a, b) => order[a.level] - order[b.level]);
  byId("findings").replaceChildren(...findings.map((each) => make("li", {}, badge(each.level, each.level),
    make("div", {}, `${each.subject}: ${each.text}`, each.remedy ? make("small", {}, each.remedy) : null,
      ...each.paste.map((line) => make("code", {}, line))))));
}

function showKeys(keys, values, store) {
  const observed = keys.length > 0 && "rate" in keys[0];
  const highest = Math.max(...keys.map((each) => each.rate ?? each.heat));
  byId("keys-source").textContent = !keys.length ? "" : observed ? "lookups of this process" : "sampled from the store";
  byId("keys").replaceChildren(...keys.map((each) => {
    const bar = make("span", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${Math.min(100, (100 * (each.rate ?? each.heat)) / highest)}%`;
    return make("li", {}, bar, make("span", {}, each.cache ?? "unknown"),
      make("em", {}, "rate" in each ? `${number(each.rate)} /s` : `${(100 * each.heat).toFixed(0)} %`),
      make("code", {}, values ? each.key : `${each.key} #${each.digest}`));
  }));
  const empty = byId("keys-empty");
  empty.hidden = keys.length > 0;
  empty.textContent = store.answers ? "No key is being read." : "The store does not answer.";
}

const STAGES = { cleared: ["ok", "invalidated"], delivered: ["ok", "delivered late"], undelivered: ["error", "undelivered"], unknown: ["warning", "outcome unknown"] };

function showWrites(writes) {
  byId("writes").replaceChildren(...writes.map((write) => {
    const [kind, text] = STAGES[write.stage] ?? ["", write.stage];
    const at = new Date(1000 * write.time);
    const keys = write.whole ? "everything about it" : `${whole.format(write.keys)} ${write.keys === 1 ? "key" : "keys"}`;
    return make("li", {}, make("time", { datetime: at.toISOString() }, at.toLocaleTimeString("en-GB")),
      make("b", {}, write.caches.join(", ") || "tags"), badge(kind, text), make("small", {}, `${keys}, by ${write.host} ${write.pid}`));
  }));
  byId("writes-empty").hidden = Boolean(writes.length);
}

// Server-sent events ---------------------------------------------------------------------------------------------------

let config = { values: false, targets: [], clearable: [] };

function setStatus(state, text) {
  const status = byId("status");
  status.dataset.state = state;
  if (status.textContent !== text) status.textContent = text; // it is read out when it changes
}

function setBanner(text) {
  const banner = byId("banner");
  if (banner.textContent !== text) banner.textContent = text;
  banner.hidden = !text;
}

function onConfig(data) {
  config = data;
  byId("namespace").textContent = data.namespace;
  document.title = data.namespace ? `Model cache: ${data.namespace}` : "Model cache";
  if (!points.length) points = data.points;
  const options = (names) => names.map((name) => make("option", { value: name }, name));
  byId("targets").replaceChildren(...options(data.targets));
  if (byId("clear-target").options.length !== data.clearable.length + 1) byId("clear-target").replaceChildren(make("option", { value: "" }, "Choose one"), ...options(data.clearable));
  byId("clear-card").hidden = !data.clearable.length;
  byId("foot").textContent = `${data.values ? "Values are shown." : "Values are hidden."} ${data.clearable.length ? "Clearing is switched on." : "Read-only."} Rates are those of the last seconds.`;
  showCharts();
}

function onState(state) {
  setStatus("live", "Live");
  setBanner(state.complete ? "" : "The store does not answer. Numbers are those of this process alone, and lookups go to the database.");
  if (state.rates) {
    const { lookups, hit_ratio, miss_ms, store_ms, lookup_ms, statements } = state.rates;
    points = [...points, { time: state.time, lookups, hit_ratio, miss_ms, store_ms, lookup_ms, statements }].slice(-MAX_POINTS);
  }
  showCharts();
  classes = state.classes;
  showClasses();
  showFleet(state.workers, state.complete, state.time);
  showStore(state.store, state.workers);
  showKeys(state.keys, config.values, state.store);
  showWrites(state.writes);
}

let lost = 0;

/** Notes that the connection is there. */
function found() {
  clearTimeout(lost);
  lost = 0;
}

function connect() {
  const source = new EventSource("events");
  const later = (text) => {
    source.close();
    found();
    setStatus("lost", text);
    setTimeout(connect, 3000);
  };
  source.addEventListener("config", (event) => {
    found();
    onConfig(JSON.parse(event.data));
  });
  source.addEventListener("state", (event) => onState(JSON.parse(event.data)));
  source.addEventListener("closed", () => later("Cache closed"));
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) later("Disconnected");
    else lost ||= setTimeout(() => setStatus("lost", "Disconnected"), 2500); // the browser asks again by itself
  });
}

// What operators ask and do --------------------------------------------------------------------------------------------

async function post(path, data) {
  const token = document.querySelector("meta[name=csrf]").content;
  const headers = { "Content-Type": "application/json", "X-CSRF-Token": token };
  try {
    const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(data), credentials: "same-origin" });
    const answer = await response.json();
    return response.ok ? answer : { error: answer.error ?? `The server answered ${response.status}.` };
  } catch {
    return { error: "The server did not answer." };
  }
}

const KINDS = { cache: "ok", hit: "ok", negative: "ok", unchanged: "ok", database: "warning", missing: "warning", stale: "warning", leased: "warning", cleared: "warning", changed: "error", damaged: "error" };
const word = (value) => (value in KINDS ? badge(KINDS[value], value) : value);

function listed(title, columns, rows) {
  if (!rows || !rows.length) return [];
  const table = make("table");
  showTable(table, columns, rows);
  return [make("h3", {}, title), make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, table)];
}

const key = (each) => make("code", {}, each.key);

function showAnswer(answer) {
  if (answer.error) {
    byId("answer").replaceChildren(make("p", { class: "banner", role: "alert" }, answer.error));
    return;
  }
  const names = ["query", "source", "reason", "cache", "kind", "state", "token", "epoch"];
  const shown = names.filter((name) => answer[name]).map((name) => [name, word(answer[name])]);
  if (answer.key) shown.push(["key", make("code", {}, answer.key)]);
  for (const [name, show] of [["age", duration], ["expires_in", duration], ["size", size]]) shown.push([name.replace("_", " "), show(answer[name])]);
  const content = answer.content !== null && typeof answer.content === "object" ? Object.entries(answer.content) : null;
  if (!content && answer.content) shown.push(["content", answer.content]);
  const dependency = [["State", (e) => word(e.state)], ["Cache", (e) => e.cache, "text"], ["Key", key, "text"]];
  byId("answer").replaceChildren(
    pairs(make("dl"), shown),
    ...(content ? [make("h3", {}, "Content"), pairs(make("dl"), content.map(([name, value]) => [name, String(value)]))] : []),
    ...listed("Entries", [["State", (e) => word(e.state)], ["Cache", (e) => e.cache, "text"], ["Age", (e) => duration(e.age)], ["Life left", (e) => duration(e.expires_in)], ["Key", key, "text"]], answer.entries),
    ...listed("Writers", [["Token", (e) => e.token], ["Process", (e) => e.owner ?? "unknown"], ["Age", (e) => duration(e.age)], ["Life left", (e) => (e.live ? duration(e.expires_in) : "expired")]], answer.intents),
    ...listed("Depends on", dependency, answer.dependencies));
}

async function onLookup(event) {
  event.preventDefault();
  const action = event.submitter?.value ?? "explain";
  showAnswer(await post(action, { target: byId("target").value, arguments: byId("arguments").value, as_list: byId("as-list").checked }));
}

function onClear(event) {
  event.preventDefault();
  byId("confirm-name").textContent = byId("clear-target").value;
  byId("confirm").returnValue = "";
  byId("confirm").showModal();
}

async function onConfirmed() {
  if (byId("confirm").returnValue !== "clear") return;
  const target = byId("confirm-name").textContent;
  const answer = await post("clear", { target, confirmed: target });
  byId("cleared").textContent = answer.error ?? `Cleared ${answer.cleared.join(", ")}.`;
}

makeHead();
showClasses();
showCharts();
byId("search").addEventListener("input", showClasses);
byId("lookup").addEventListener("submit", onLookup);
byId("clear").addEventListener("submit", onClear);
byId("confirm").addEventListener("close", onConfirmed);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.ctrlKey && !event.metaKey && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
    event.preventDefault();
    byId("search").focus();
  }
});
connect();

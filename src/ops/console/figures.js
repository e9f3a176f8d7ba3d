// Owns the figures at the top: the format of numbers, the parsing of /metrics, and the charts.

export const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HISTORY = 10 * MINUTE;

export const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((node) => [node.id, node]));

export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Names and reasons come from strangers: strings become text, never markup. */
export function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export const whole = new Intl.NumberFormat("en").format;
export const count = (number, one, many = `${one}s`) => `${whole(number)} ${number === 1 ? one : many}`;
export const machine = ({ cpu, memory }) => `${cpu} CPU · ${memory} GB`;
const perSecond = (rate) => (rate > 0 && rate < 9.95 ? rate.toFixed(1) : whole(Math.round(rate)));
const mebibytes = (bytes) => (bytes ? `${(bytes / 2 ** 20).toFixed(bytes < 100 * 2 ** 20 ? 1 : 0)} MiB` : "0");

/** The ends of a scale are round numbers, shown without decimals. */
const short = (text) => text.replace(".0", "");

export function took(seconds) {
  const figures = (number) => (number < 9.95 ? number.toFixed(1) : number.toFixed(0));
  if (seconds < 0.0009995) return `${figures(seconds * 1e6)} µs`;
  return seconds < 0.9995 ? `${figures(seconds * 1e3)} ms` : `${seconds.toFixed(2)} s`;
}

export function waited(seconds) {
  const [minutes, hours] = [Math.floor(seconds / 60), Math.floor(seconds / 3600)];
  if (hours) return `${hours} h ${minutes % 60} min`;
  return minutes ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.floor(seconds)} s`;
}

// ---- charts

/** Draws one line (and the area below it) over a span of time that ends now; five seconds of silence break it. */
function draw(line, area, points, { now, span, low, high }) {
  let [stroke, fill, last] = ["", "", null];
  for (const { at, value } of points) {
    const x = (600 * (1 - (now - at) / span)).toFixed(1);
    const y = (100 - (100 * (value - low)) / (high - low)).toFixed(1);
    const joined = last !== null && at - last <= 5 * SECOND;
    // A single point shows as a dot, because the line has round ends.
    stroke += joined ? `L${x} ${y}` : `M${x} ${y}h0`;
    fill += joined ? `L${x} ${y}` : `${last === null ? "" : "V100Z"}M${x} 100V${y}`;
    last = at;
  }
  line.setAttribute("d", stroke);
  area?.setAttribute("d", fill && `${fill}V100Z`);
}

const highest = (points) => points.reduce((high, { value }) => Math.max(high, value), 0);

/** A chart from zero to the next round number, counted in `unit`. */
function drawTile(name, points, now, span, write, least, unit = 1) {
  const top = Math.max(highest(points) / unit, least);
  const step = 10 ** Math.floor(Math.log10(top));
  const high = unit * step * [1, 2, 5, 10].find((times) => times * step >= top);
  const chart = page[`${name}-chart`];
  draw(chart.querySelector(".line"), chart.querySelector(".area"), points, { now, span, low: 0, high });
  say(page[`${name}-scale`], `0 – ${short(write(high))}`);
  chart.setAttribute("aria-label", `now ${page[name].textContent}, highest ${write(highest(points))}`);
}

// ---- the answers of /metrics

const SERIES = /^(pilotlight_(?:dispatches_total|waiters|draining)|process_(?:resident_memory_bytes|start_time_seconds))(?:\{(.*)\})? (\S+)$/gm;
const minute = [];
const history = [];
let before = null;

function readMetrics(text) {
  const found = { at: performance.now(), dispatches: new Map(), waiters: 0, rss: 0, draining: false, started: 0 };
  for (const [, name, labels = "", figure] of text.matchAll(SERIES)) {
    const label = Object.fromEntries([...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, key, value]) => [key, value]));
    const value = Number(figure);
    if (name === "pilotlight_dispatches_total") found.dispatches.set(`${label.outcome} ${label.reason}`, value);
    else if (name === "pilotlight_waiters") found.waiters += value;
    else if (name === "pilotlight_draining") found.draining = value > 0;
    else if (name === "process_start_time_seconds") found.started = value;
    else found.rss = value;
  }
  return found;
}

/** The increase since the last scrape. A counter that fell has started again at zero, because the broker was restarted. */
function compare(found, past) {
  const rises = [...found.dispatches].map(([series, value]) => {
    const old = past.dispatches.get(series) ?? 0;
    return [series, value < old ? value : value - old];
  });
  const all = rises.reduce((sum, [, rise]) => sum + rise, 0);
  return { at: found.at, seconds: (found.at - past.at) / SECOND, rises, all };
}

/** Parses the text of /metrics, draws every tile, and returns the other values. */
export function takeMetrics(text) {
  const found = readMetrics(text);
  const { at: now } = found;
  history.push(found);
  if (before) minute.push(compare(found, before));
  while (history[0].at <= now - HISTORY) history.shift();
  while (minute[0]?.at <= now - MINUTE) minute.shift();
  const restarted = before !== null && found.started !== before.started;
  const silent = before ? now - before.at : 0;
  before = found;
  drawCounts(found);
  drawRatio();
  drawLatency(now);
  return { draining: found.draining, restarted, silent };
}

function drawCounts({ at: now, waiters, rss }) {
  say(page.waiters, whole(waiters));
  say(page.rss, rss ? mebibytes(rss) : "–");
  const lately = minute.slice(-5);
  const seconds = lately.reduce((sum, scrape) => sum + scrape.seconds, 0);
  say(page.rate, seconds ? perSecond(lately.reduce((sum, { all }) => sum + all, 0) / seconds) : "–");
  drawTile("waiters", history.map(({ at, waiters }) => ({ at, value: waiters })), now, HISTORY, whole, 10);
  drawTile("rss", history.map(({ at, rss }) => ({ at, value: rss })), now, HISTORY, mebibytes, 10, 2 ** 20);
  drawTile("rate", minute.map(({ at, all, seconds }) => ({ at, value: all / seconds })), now, MINUTE, perSecond, 1);
}

function drawRatio() {
  const sums = { hit: 0, miss: 0, refused: 0, aborted: 0 };
  const reasons = new Map();
  for (const [series, rise] of minute.flatMap(({ rises }) => rises)) {
    const [outcome, reason] = series.split(" ");
    sums[outcome] += rise;
    if (outcome === "miss" && rise) reasons.set(reason, (reasons.get(reason) ?? 0) + rise);
  }
  const tried = sums.hit + sums.miss;
  const hits = tried && (100 * sums.hit) / tried;
  // Rounded down: 100 % is shown only if there was no miss.
  say(page["hit-ratio"], tried ? `${Math.floor(hits * 10) / 10} %` : "–");
  page["share-hit"].setAttribute("width", hits);
  page["share-miss"].setAttribute("x", hits);
  page["share-miss"].setAttribute("width", tried && 100 - hits);
  const parts = [count(sums.hit, "hit"), count(sums.miss, "miss", "misses")];
  for (const outcome of ["refused", "aborted"]) if (sums[outcome]) parts.push(`${whole(sums[outcome])} ${outcome}`);
  say(page["hit-counts"], tried || parts.length > 2 ? parts.join(", ") : "no run in the last minute");
  const often = [...reasons].sort((a, b) => b[1] - a[1]).slice(0, 2);
  say(page["hit-reasons"], often.map(([reason, times]) => `${reason} ${whole(times)}`).join(", "));
}

// ---- time to answer: one histogram a second, in steps of 6 %, for a minute

const STEPS_PER_DECADE = 40;
const FINEST = 1e-6;
const latencies = Array.from({ length: 60 }, () => ({ second: -MINUTE, steps: new Uint32Array(7 * STEPS_PER_DECADE) }));

export function countLatency(seconds) {
  const second = Math.floor(performance.now() / SECOND);
  const slot = latencies[second % latencies.length];
  if (slot.second !== second) Object.assign(slot, { second }).steps.fill(0);
  const step = Math.round(STEPS_PER_DECADE * Math.log10(Math.max(seconds, FINEST) / FINEST));
  slot.steps[Math.min(step, slot.steps.length - 1)] += 1;
}

/** Begins anew, with the answers to other runs. */
export function forgetLatencies() {
  for (const slot of latencies) slot.second = -MINUTE;
}

function quantile(steps, share) {
  let left = Math.max(1, Math.ceil(share * steps.reduce((all, times) => all + times, 0)));
  return FINEST * 10 ** (steps.findIndex((times) => (left -= times) <= 0) / STEPS_PER_DECADE);
}

function drawLatency(now) {
  const fresh = latencies.filter(({ second }) => second * SECOND > now - MINUTE).sort((a, b) => a.second - b.second);
  const all = latencies[0].steps.map((_, step) => fresh.reduce((sum, { steps }) => sum + steps[step], 0));
  const [fast, slow] = [0.5, 0.99].map((share) =>
    fresh.map(({ second, steps }) => ({ at: second * SECOND, value: Math.log10(quantile(steps, share)) })));
  const low = fresh.length ? Math.floor(Math.min(...fast.map(({ value }) => value))) : -4;
  const high = fresh.length ? Math.max(low + 1, Math.ceil(Math.max(...slow.map(({ value }) => value)))) : -3;
  const chart = page["latency-chart"];
  draw(chart.querySelector(".fast"), null, fast, { now, span: MINUTE, low, high });
  draw(chart.querySelector(".slow"), null, slow, { now, span: MINUTE, low, high });
  const [p50, p99] = [0.5, 0.99].map((share) => (fresh.length ? took(quantile(all, share)) : "–"));
  say(page["latency-p50"], p50);
  say(page["latency-p99"], p99);
  say(page["latency-scale"], fresh.length ? [low, high].map((power) => short(took(10 ** power))).join(" – ") : "");
  chart.setAttribute("aria-label", `p50 ${p50}, p99 ${p99}`);
}

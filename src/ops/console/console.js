// Owns the console: the tables, what an operator can do, and the connection. The figures at the top are in figures.js, the
// brokers of a cluster in brokers.js, replies in replies.js, the marks of a run in marks.js.
// Every address is relative to the page's own: a proxy may serve all of this below a path.

import { cluster, holders, joinCluster, keyOf, merged, poolsPath, sayMissing, takeBrokers } from "./brokers.js";
import { SECOND, count, countLatency, element, forgetLatencies, machine, page, say, takeMetrics, took, waited, whole } from "./figures.js";
import { replyMark, verdictMark, waiterOf, words } from "./marks.js";
import { takeReplies } from "./replies.js";
import { eventsPath, isOfTopic, linkTo, readTopic, topic, topicName } from "./topic.js";

const ROWS = 200;
const REMEMBERED_RUNS = 1000;
const MOST_VERDICTS = 16;
const REDRAW = 250;
/** After this long without an answer the stream is replaced, too: its connection may be dead without an event. */
const LONG_SILENCE = 15 * SECOND;

const natural = new Intl.Collator("en", { numeric: true }).compare;
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// ---- pools

const ORDERS = {
  deployment: (a, b) => natural(a.deployment, b.deployment),
  version: (a, b) => natural(a.version, b.version),
  machine: (a, b) => a.cpu - b.cpu || a.memory - b.memory,
  waiters: (a, b) => a.waiters - b.waiters,
  oldest: (a, b) => a.oldest_seconds - b.oldest_seconds,
};
const poolRows = new Map();
let pools = [];
let order = { by: "waiters", falling: true };

async function takePools(answer) {
  const { pools: rows, missing } = await answer.json();
  pools = missing ? merged(rows) : rows;
  sayMissing(missing);
  drawPools();
}

function drawPools() {
  const wanted = page["pool-filter"].value.toLowerCase().split(/\s+/);
  const fits = (pool) => {
    const text = `${pool.deployment} ${pool.version} ${machine(pool)} ${holders(pool)}`.toLowerCase();
    return wanted.every((word) => text.includes(word));
  };
  const { deployment, version, machine: size } = ORDERS;
  const chosen = (a, b) => (order.falling ? -1 : 1) * ORDERS[order.by](a, b);
  const found = pools.filter(fits).sort((a, b) => chosen(a, b) || deployment(a, b) || version(a, b) || size(a, b));
  const rows = found.slice(0, ROWS).map(poolRow);
  const focused = document.activeElement;
  rows.forEach((row, place) => {
    const there = page["pools-body"].children[place];
    if (there !== row) page["pools-body"].insertBefore(row, there ?? null);
  });
  // A row that moves loses the focus, so the focus is set again: the next key must not act on another element.
  if (focused.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
  for (const [key, row] of poolRows) if (!rows.includes(row)) (row.remove(), poolRows.delete(key));

  const waiters = found.reduce((sum, pool) => sum + pool.waiters, 0);
  const shown = found.length > ROWS ? `, the first ${ROWS} shown` : "";
  say(page["pools-note"], pools.length ? `${count(found.length, "pool")}, ${count(waiters, "waiter")}${shown}` : "");
  page["pools-scroll"].hidden = !pools.length;
  page["pools-none"].hidden = found.length > 0;
  say(page["pools-none"], `No pool fits “${page["pool-filter"].value}”.`);
  page["empty-state"].hidden = pools.length > 0;
  page["empty-help"].hidden = link.draining;
  say(page["empty-title"], link.draining ? "no waiters: the broker is draining" : "no waiters yet");
}

function poolRow(pool) {
  const key = keyOf(pool);
  const row = poolRows.get(key) ?? makePoolRow(pool);
  poolRows.set(key, row);
  row.pool = pool;
  say(row.cells[3].lastChild, whole(pool.waiters));
  say(row.cells[4].lastChild, waited(pool.oldest_seconds));
  const where = row.querySelector(".holders");
  where.hidden = !pool.shares;
  say(where, holders(pool));
  return row;
}

function makePoolRow(pool) {
  const cell = (kind, label, text = "") =>
    element("td", { role: "cell", class: kind }, element("span", { class: "label" }, label), typeof text === "string" ? element("span", {}, text) : text);
  const button = element("button", { type: "button", class: "button danger", "data-testid": "retire" }, "Retire…");
  button.setAttribute("aria-label", `Retire ${pool.deployment}, version ${pool.version}, ${machine(pool)}`);
  const name = cell("", "", poolLink(pool, pool.deployment));
  name.append(element("span", { class: "holders", hidden: "", "data-testid": "holders" }));
  const row = element("tr", { role: "row", "data-testid": "pool-row" },
    name, cell("", "version ", pool.version), cell("machine", "", machine(pool)),
    cell("number", "waiters "), cell("number", "oldest "), element("td", { role: "cell" }, button));
  button.addEventListener("click", () => retire(row.pool));
  return row;
}

/** Shows the events of the pools of this deployment and version alone. */
function poolLink({ deployment, version }, text) {
  const link = element("a", { href: linkTo({ deployment, version }), "data-testid": "pool-link" }, text);
  link.title = `Only ${deployment}, version ${version}`;
  return link;
}

function sortBy(by, header) {
  order = { by, falling: order.by === by ? !order.falling : by === "waiters" || by === "oldest" };
  for (const other of header.parentElement.children) if (other.ariaSort) other.ariaSort = "none";
  header.ariaSort = order.falling ? "descending" : "ascending";
  drawPools();
}

// ---- what an operator can do

let confirmed = null;

function confirm(title, subject, text, yes, act) {
  const parts = { title, subject, text, yes, error: "" };
  for (const [part, said] of Object.entries(parts)) say(page[`dialog-${part}`], said);
  page["dialog-subject"].hidden = !subject;
  page["dialog-yes"].disabled = false;
  confirmed = act;
  page.dialog.showModal();
}

async function doConfirmed() {
  page["dialog-yes"].disabled = true;
  try {
    tell(await confirmed());
    await ask(poolsPath()).then(takePools).catch(() => {});
    page.dialog.close();
    if (document.activeElement === document.body) page["pool-filter"].focus();
  } catch (error) {
    say(page["dialog-error"], `That did not work: ${error.message}`);
    page["dialog-yes"].disabled = false;
  }
}

function retire({ deployment, version, cpu, memory, waiters }) {
  const text = "Every waiter of this pool is answered 410 Gone. Stock controllers exit on that and do not come back: "
    + "right for an old version after a deploy. Runs for this pool start cold until a controller waits again.";
  const pool = `${deployment} · version ${version} · ${machine({ cpu, memory })}`;
  const everywhere = cluster.name === null ? {} : { cluster: true };
  confirm(`Retire ${count(waiters, "waiter")}?`, pool, text, "Retire", async () => {
    const query = new URLSearchParams({ deployment, version, cpu, memory, ...everywhere });
    const { retired, missing = [] } = await (await ask(`retire?${query}`, { method: "POST" })).json();
    const unknown = missing.length ? ` Not answered: ${missing.join(", ")}.` : "";
    return `Retired ${count(retired, "waiter")} of ${deployment}, version ${version}.${unknown}`;
  });
}

function drain() {
  const text = "Every waiter is sent away politely, and every new run misses, so it starts cold. The process stays up, "
    + "but only a restart makes it take runs again.";
  confirm("Drain the whole broker?", "", text, "Drain", async () => {
    const answer = await ask("drain", { method: "POST" });
    setLink({ draining: true });
    return `Draining: ${count((await answer.json()).waiters, "waiter")} left to send away.`;
  });
}

let told = 0;

function tell(text) {
  clearTimeout(told);
  say(page.notice, text);
  told = setTimeout(() => say(page.notice, ""), 8 * SECOND);
}

// ---- recent dispatches

const runs = new Map();
const kept = { all: [], misses: [] };
let [taken, drawn, drawing, paused] = [0, 0, false, false];

function keep(record) {
  record.number = ++taken;
  for (const list of record.outcome === "hit" ? [kept.all] : [kept.all, kept.misses]) {
    list.push(record);
    if (list.length >= 2 * ROWS) list.splice(0, ROWS);
  }
  drawSoon();
}

/** Verdicts of a run may arrive before or after its dispatch event; a first offer after that event belongs to another dispatch. */
function offersOf(run, offer) {
  let known = runs.get(run);
  if (!known || (known.told && offer === 1)) runs.set(run, known = { told: false, verdicts: [], row: null });
  if (runs.size > REMEMBERED_RUNS) runs.delete(runs.keys().next().value);
  return known;
}

const STREAM = {
  verdict(verdict) {
    const known = offersOf(verdict.run, verdict.offer);
    if (known.verdicts.length >= MOST_VERDICTS) return;
    known.verdicts.push(verdict);
    known.row?.querySelector(".verdicts").append(verdictMark(verdict));
  },
  dispatch(dispatch) {
    if (dispatch.outcome === "hit" || dispatch.outcome === "miss") countLatency(dispatch.seconds);
    const known = offersOf(dispatch.run, dispatch.offers ? 0 : 1);
    known.told = true;
    keep({ ...dispatch, known });
  },
  reply(reply) {
    const known = runs.get(reply.run);
    if (!known) return keep({ ...reply, event: `the reply to ${reply.run} ended: ${reply.outcome}` });
    known.reply = reply;
    known.row?.querySelector(".verdicts").append(replyMark(reply));
  },
  retire({ at, retired, deployment, version, cpu, memory }) {
    const parts = Object.entries({ deployment, version, cpu, memory }).filter(([, value]) => value !== null);
    keep({ at, deployment, version, run: "", event: `retired ${count(retired, "waiter")} of ${parts.map((part) => part.join(" ")).join(", ")}` });
  },
  drain({ at, waiters }) { keep({ at, event: `drain began with ${count(waiters, "waiter")}` }); },
  missed({ missed }) { keep({ at: Date.now(), event: `${count(missed, "event")} came too fast for this page, or while it was away` }); },
};

function drawSoon() {
  if (drawing) return;
  drawing = true;
  setTimeout(() => requestAnimationFrame(drawRecent), REDRAW);
}

function drawRecent() {
  drawing = false;
  if (!paused) drawRows();
  say(page["recent-note"], paused ? `paused, ${whole(taken - drawn)} newer` : "");
}

function drawRows() {
  const rows = kept[page["misses-only"].checked ? "misses" : "all"].slice(-ROWS);
  const fresh = rows.filter(({ number }) => number > drawn).reverse();
  page.recent.prepend(...fresh.map(recentRow));
  while (page.recent.children.length > ROWS) page.recent.lastChild.remove();
  page["recent-none"].hidden = rows.length > 0;
  drawn = taken;
}

function recentRow(record) {
  const time = element("time", { datetime: new Date(record.at).toISOString() }, clock.format(record.at));
  if (record.event) return element("li", {}, time, element("span", { class: "event" }, record.event));
  const { outcome, run, deployment, version, reason, known } = record;
  const verdicts = element("span", { class: "verdicts" }, ...known.verdicts.map(verdictMark));
  if (known.reply) verdicts.append(replyMark(known.reply));
  const about = element("div", { class: "about" });
  const why = reason ?? (outcome === "hit" ? null : outcome);
  if (why) about.append(element("span", { class: "why", title: why }, words.get(why) ?? why));
  if (deployment) about.append(poolLink(record, `${deployment} · ${version} · ${machine(record)}`));
  const waiter = waiterOf(record);
  if (waiter) about.append(element("span", {}, `→ ${waiter}`));
  about.append(verdicts);
  const mark = element("span", { class: `outcome ${outcome}`, title: words.get(outcome) ?? "" }, outcome);
  return known.row = element("li", { "data-testid": "dispatch-row" }, time, mark,
    run ? element("a", { class: "run", href: linkTo({ run }), title: "Only this run" }, run) : element("span", { class: "run" }, "–"), element("span", { class: "took" }, took(record.seconds)), about);
}

function redrawRecent() {
  page.recent.replaceChildren();
  drawn = 0;
  drawRows();
}

// ---- the topic

/** Only the topic's events are asked for, so those of others are no longer shown, nor counted in the time to answer. */
function changeTopic() {
  const before = topicName();
  readTopic();
  const name = topicName();
  if (name === before) return;
  for (const [list, records] of Object.entries(kept)) kept[list] = records.filter(isOfTopic);
  if (before) keep({ at: Date.now(), event: `only ${before} was shown until now` });
  forgetLatencies();
  sayTopic(name);
  redrawRecent();
  openStream();
}

function sayTopic(name) {
  page.topic.hidden = !name;
  say(page["topic-name"], name);
  say(page["latency-of"], name ? `this ${topic.run ? "run" : "pool"}, 1 min` : "1 min");
  say(page["recent-none"], name ? "Nothing came since it was chosen." : "No run came since this page was opened.");
}

// ---- the connection

const link = { answers: false, stream: false, draining: false, ever: false };
let stream = null;

function setLink(change) {
  Object.assign(link, change);
  const live = link.answers && link.stream;
  link.ever ||= live;
  document.documentElement.dataset.link = live ? "live" : "lost";
  document.documentElement.toggleAttribute("data-draining", link.draining);
  const state = live ? "live" : link.ever ? "reconnecting…" : "connecting…";
  say(page.status, link.draining ? `${state} · draining` : state);
  page.draining.hidden = !link.draining;
  page.drain.disabled = link.draining || !link.answers;
  say(page.drain, link.draining ? "Draining" : "Drain…");
}

function openStream() {
  stream?.close();
  setLink({ stream: false });
  stream = new EventSource(eventsPath());
  const mine = stream;
  stream.onopen = () => setLink({ stream: true });
  stream.onerror = () => {
    setLink({ stream: false });
    // It reconnects by itself after a broken connection, but not after a response that is no event stream.
    if (mine.readyState === EventSource.CLOSED) setTimeout(() => mine === stream && openStream(), 2 * SECOND);
  };
  for (const [name, take] of Object.entries(STREAM)) {
    stream.addEventListener(name, ({ data }) => take(JSON.parse(data)));
  }
}

async function ask(path, options = {}) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(5 * SECOND), ...options });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new Error(problem.detail ?? problem.title ?? `the broker answered ${answer.status}`);
}

/** Polls at an interval that grows with the response time, so that the console causes little load. */
async function repeat(pause, path, take) {
  for (;;) {
    const began = performance.now();
    const answer = await ask(path()).catch(() => null);
    setLink({ answers: answer !== null });
    if (answer) await take(answer).catch((error) => console.error(error));
    const spent = performance.now() - began;
    await sleep(answer ? Math.max(pause - spent, 2 * spent) : pause);
  }
}

async function metrics(answer) {
  const text = await answer.text();
  const { draining, restarted, silent } = takeMetrics(text);
  takeReplies(text);
  // A restarted broker does not know the event ids of the process before it.
  if (restarted || silent > LONG_SILENCE) openStream();
  setLink({ draining });
  if (restarted || !page.version.textContent) learnAddress().catch(() => {});
}

async function learnAddress() {
  const { listen, version, cluster: name } = await (await ask("console.json")).json();
  if (joinCluster(name)) repeat(2 * SECOND, () => "brokers", takeBrokers);
  const reachable = listen.replace(/^(0\.0\.0\.0|\[::\])(?=:)/, location.hostname);
  const url = `http://${reachable}/v1/pools/hello/1/0.5/0.5`;
  say(page["curl-poll"], `curl -N "${url}"`);
  say(page["curl-run"], `curl -X POST -d 'hello' "${url}"`);
  say(page.version, version);
}

async function copy(button) {
  const command = page[button.dataset.copy];
  try {
    await navigator.clipboard.writeText(command.textContent);
    tell("Copied.");
  } catch {
    getSelection().selectAllChildren(command);
    tell("Selected: copy it with your keyboard.");
  }
}

for (const button of document.querySelectorAll("[data-sort]")) {
  button.addEventListener("click", () => sortBy(button.dataset.sort, button.closest("th")));
}
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
page["pool-filter"].addEventListener("input", drawPools);
page.drain.addEventListener("click", drain);
page["dialog-no"].addEventListener("click", () => page.dialog.close());
page["dialog-yes"].addEventListener("click", doConfirmed);
page["misses-only"].addEventListener("change", redrawRecent);
page.pause.addEventListener("click", () => {
  paused = !paused;
  say(page.pause, paused ? "Resume" : "Pause");
  drawRecent();
});

addEventListener("hashchange", changeTopic);

readTopic();
sayTopic(topicName());
openStream();
repeat(SECOND, () => "metrics", metrics);
repeat(2 * SECOND, poolsPath, takePools);

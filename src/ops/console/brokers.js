// Owns what the console shows of a cluster: its brokers, and at which of them the waiters of a pool are.

import { count, element, page, say, waited, whole } from "./figures.js";

const natural = new Intl.Collator("en", { numeric: true }).compare;
/** A broker that says nothing for this long is marked, as its heartbeats come each second. */
const SILENT = 3;
export const cluster = { name: null, isWatched: false };
export const poolsPath = () => (cluster.name === null ? "pools" : "pools?cluster=true");

/** Shows what only a cluster has. Returns whether the brokers are to be watched from now on. */
export function joinCluster(name) {
  if (name === cluster.name) return false;
  cluster.name = name;
  page.brokers.hidden = name === null;
  say(page["brokers-cluster"], name ?? "");
  for (const [link, list] of [[page["pools-link"], "pools"], [page["waiters-link"], "waiters"]]) {
    link.setAttribute("href", name === null ? list : `${list}?cluster=true`);
  }
  const isNew = name !== null && !cluster.isWatched;
  cluster.isWatched ||= isNew;
  return isNew;
}

export async function takeBrokers(answer) {
  const { broker: own, brokers } = await answer.json();
  if (!own) return;
  const state = own.connected ? "connected to NATS" : "not connected to NATS";
  const rows = brokers.map((other) => {
    const isSilent = !other.reachable || other.silent_seconds >= SILENT;
    const heard = `heard ${waited(other.silent_seconds)} ago`;
    return brokerRow(other, isSilent ? "silent" : "there", heard, count(other.pools, "pool"));
  });
  const mine = brokerRow(own, own.connected ? "there" : "alone", `this broker, ${state}`, "");
  page["brokers-list"].replaceChildren(mine, ...rows);
  say(page["brokers-note"], count(brokers.length + 1, "broker"));
}

function brokerRow({ name, id }, word, state, pools) {
  const mark = element("span", { class: `outcome ${word === "there" ? "hit" : "miss"}` }, word);
  return element("li", { "data-testid": "broker-row", title: `id ${id}` }, mark,
    element("span", { class: "run" }, name), element("span", { class: "muted" }, state), element("span", { class: "muted" }, pools));
}

/** One row per pool, whichever brokers have its waiters. */
export function merged(rows) {
  const found = new Map();
  for (const { broker, ...row } of rows) {
    const pool = found.get(keyOf(row));
    const share = { broker, waiters: row.waiters };
    if (!pool) {
      found.set(keyOf(row), { ...row, shares: [share] });
      continue;
    }
    pool.shares.push(share);
    pool.waiters += row.waiters;
    pool.oldest_seconds = Math.max(pool.oldest_seconds, row.oldest_seconds);
  }
  return [...found.values()];
}

export const keyOf = ({ deployment, version, cpu, memory }) => JSON.stringify([deployment, version, cpu, memory]);

/** Which broker has how many of a pool's waiters, the most first; nothing outside a cluster. */
export function holders({ shares = [] }) {
  const byWaiters = [...shares].sort((a, b) => b.waiters - a.waiters || natural(a.broker, b.broker));
  return byWaiters.map(({ broker, waiters }) => `${whole(waiters)} at ${broker}`).join(", ");
}

/** Says whose waiters are not in the list. */
export function sayMissing(missing = []) {
  page["pools-missing"].hidden = !missing.length;
  say(page["pools-missing"], `Not answered, so their waiters are not listed: ${missing.join(", ")}`);
}

// Owns the parsing of a dashboard's file: its panels, its expressions with the variables substituted, and its errors.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { dashboards } from "./prometheus.mjs";

const COLUMNS = 24;
/** Standard metrics of the process collector of the `prometheus` crate. */
const PROCESS = ["resident_memory_bytes", "virtual_memory_bytes", "cpu_seconds_total", "open_fds", "max_fds", "start_time_seconds"];
/** Metrics that operations.md names and the broker does not have yet: alert rules may use them, panels may not. */
export const LATER = /^pilotlight_(tls|config)_/;

export function load(name) {
  return JSON.parse(readFileSync(join(dashboards, `${name}.json`), "utf8"));
}

/** A query of a panel with its variables substituted; `seconds` is the displayed range. */
export function fill(expression, seconds) {
  const variables = { __rate_interval: "10s", __range: `${seconds}s`, __interval: "1s", job: ".+", instance: ".+" };
  const names = Object.keys(variables).join("|");
  const filled = expression.replace(new RegExp(`\\$(?:\\{(${names})\\}|(${names})\\b)`, "g"), (_, braced, bare) => variables[braced ?? bare]);
  if (filled.includes("$")) throw new Error(`an unknown variable in ${filled}`);
  return filled;
}

/** Every metric that an expression names, without a histogram's suffix. */
export function metrics(expression) {
  const names = expression.match(/\b(pilotlight|process)_[a-z_]+/g) ?? [];
  return [...new Set(names)].map((name) => name.replace(/_(bucket|sum|count)$/, ""));
}

/** The matchers of an expression on labels of the broker's own: metric, label, and each value that is named. */
export function matchers(expression) {
  const found = [];
  for (const [, metric, inside] of expression.matchAll(/\b(pilotlight_[a-z_]+)\{([^}]*)\}/g)) {
    for (const [, label, value] of inside.matchAll(/([a-z_]+)\s*(?:=|!=|=~|!~)\s*"([^"]*)"/g)) {
      if (label !== "job" && label !== "instance") found.push({ metric, label, values: value.split("|") });
    }
  }
  return found;
}

/** Every name of a metric in the broker's source, with its prefix. */
export function known() {
  const names = new Set(PROCESS.map((name) => `process_${name}`));
  const folder = new URL("../../src/metrics/", import.meta.url).pathname;
  for (const file of readdirSync(folder, { recursive: true }).filter((file) => file.endsWith(".rs"))) {
    const prefix = file === "cluster.rs" ? "pilotlight_cluster_" : "pilotlight_";
    for (const [, name] of readFileSync(join(folder, file), "utf8").matchAll(/"([a-z][a-z_]*)"/g)) names.add(prefix + name);
  }
  return names;
}

/** The errors of a dashboard that can be found without data, each as a sentence. */
export function faults(board) {
  const wrong = [];
  const claim = (holds, sentence) => holds || wrong.push(sentence);
  claim(board.schemaVersion === 42, "schemaVersion is not 42");
  claim(board.id === null, "it has the id of some Grafana");
  claim(!/\d+\.\d+\.\d+\.\d+|localhost/.test(JSON.stringify(board)), "it names a machine");
  const variables = board.templating.list.map(({ name }) => name);
  claim(variables.join() === "datasource,job,instance", `its variables are ${variables}`);
  const taken = new Map();
  const ids = new Set();
  for (const { id, type, title, description, gridPos, targets = [], fieldConfig, datasource } of board.panels) {
    claim(!ids.has(id), `${title}: its id is taken`);
    ids.add(id);
    claim(gridPos.x + gridPos.w <= COLUMNS, `${title}: it is beyond the right edge`);
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
        claim(!taken.has(`${x} ${y}`), `${title}: it lies over ${taken.get(`${x} ${y}`)}`);
        taken.set(`${x} ${y}`, title);
      }
    }
    if (type === "row") continue;
    claim(/^[^?]+\?/.test(description ?? ""), `${title}: its description asks no question`);
    if (type === "text") continue;
    claim(targets.length > 0, `${title}: it has no expression`);
    claim(fieldConfig.defaults.unit, `${title}: it has no unit`);
    claim(datasource.uid === "${datasource}", `${title}: its data source is fixed`);
    for (const { expr, refId, datasource } of targets) {
      claim(datasource.uid === "${datasource}", `${title} ${refId}: its data source is fixed`);
      const selectors = expr.match(/\b(pilotlight|process)_[a-z_]+(\{[^}]*\})?/g) ?? [];
      for (const selector of selectors) {
        const chosen = selector.includes('job=~"$job"') && selector.includes('instance=~"$instance"');
        claim(chosen, `${title} ${refId}: ${selector} looks at brokers that were not chosen`);
      }
    }
  }
  return wrong;
}

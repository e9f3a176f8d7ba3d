// Owns the tests of the alert rules and the names of metrics; they need no load.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Broker } from "./broker.mjs";
import { faults, known, LATER, load, metrics } from "./dashboard.mjs";
import { dashboards, missing } from "./prometheus.mjs";

const rules = readFileSync(join(dashboards, "alerts.yml"), "utf8");
const cases = readFileSync(join(dashboards, "alerts_test.yml"), "utf8");
const names = [...rules.matchAll(/^ +- alert: (\w+)$/gm)].map(([, name]) => name);

function promtool(...args) {
  const input = typeof args.at(-1) === "object" ? args.pop().input : "";
  const { status, stdout, stderr } = spawnSync("promtool", args, { input, encoding: "utf8", cwd: dashboards });
  assert.equal(status, 0, `promtool ${args.join(" ")}\n${stdout}\n${stderr}`);
  return stdout + stderr;
}

test("the rules and the example configuration are valid", { skip: missing }, () => {
  promtool("check", "rules", "alerts.yml");
  promtool("check", "config", "prometheus.yml");
});

test("each rule fires when it should, and does not when it should not", { skip: missing }, () => {
  promtool("test", "rules", "alerts_test.yml");
  assert.ok(names.length >= 14, `${names.length} rules`);
  for (const name of names) {
    const own = cases.split(/^  - name: /m).filter((text) => text.includes(`alertname: ${name}\n`));
    assert.ok(own.some((text) => text.includes("exp_labels:")), `no case in which ${name} fires`);
    assert.ok(own.some((text) => text.includes("exp_alerts: []")), `no case in which ${name} does not fire`);
  }
});

test("each rule has a severity, and says what to do", () => {
  for (const text of rules.split(/^ +- alert: /m).slice(1)) {
    const [name] = text.split("\n");
    assert.match(text, /severity: (warning|critical)\n/, name);
    assert.match(text, /summary: /, name);
    assert.match(text, /description: >-\n/, name);
  }
});

test("promtool has nothing to say about the broker's metrics", { skip: missing }, async () => {
  const broker = await Broker.start();
  try {
    const input = await (await fetch(`http://127.0.0.1:${broker.ops}/metrics`)).text();
    assert.match(input, /pilotlight_build_info/);
    assert.equal(promtool("check", "metrics", { input }), "");
  } finally {
    await broker.stop();
  }
});

test("every metric in dashboards and rules is one of the broker's", () => {
  const there = known();
  const code = rules.replace(/^ *#.*$/gm, "").replace(/^ +annotations:(\n {10}.*)+/gm, "");
  const unknown = metrics(code).filter((name) => !there.has(name) && !LATER.test(name));
  assert.deepEqual(unknown, [], "in alerts.yml");
  for (const name of ["overview", "capacity"]) {
    const unknown = load(name)
      .panels.flatMap(({ title, targets = [] }) => targets.flatMap(({ expr }) => metrics(expr).map((metric) => ({ title, metric }))))
      .filter(({ metric }) => !there.has(metric));
    assert.deepEqual(unknown, [], `in ${name}.json`);
  }
});

for (const name of ["overview", "capacity"]) {
  test(`the ${name} is well formed: questions, units, places, variables`, () => assert.deepEqual(faults(load(name)), []));
}

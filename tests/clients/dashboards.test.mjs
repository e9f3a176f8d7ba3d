// Owns the tests of the dashboards: under load every expression of every panel has data, and every panel can be drawn.
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { Broker, until } from "./broker.mjs";
import { fill, LATER, load, matchers } from "./dashboard.mjs";
import { Load, SHOWN } from "./load.mjs";
import { missing as withoutNats, Nats } from "./nats.mjs";
import { draw } from "./preview/draw.mjs";
import { missing, Prometheus } from "./prometheus.mjs";

const chromium = process.env.CHROMIUM ?? "/usr/bin/chromium";
const images = new URL("../../docs/images/", import.meta.url).pathname;
const previews = process.env.PILOTLIGHT_PREVIEWS === "1";
/** A rate is exact only after its whole window has been scraped. */
const WARM = 10;
/** The previews in docs/images show a whole wave of the load. */
const SCRAPES = previews ? 32 : 12;

describe("the dashboards", { skip: missing || withoutNats }, () => {
  let nats, broker, other, crowd, prometheus, window, metrics;
  const read = async () => (await fetch(`http://127.0.0.1:${broker.ops}/metrics`)).text();

  before(async () => {
    nats = await Nats.start();
    [broker, other] = [await Broker.start("--nats", nats.url), await Broker.start("--nats", nats.url)];
    crowd = new Load(broker, other);
    prometheus = await Prometheus.start(broker, other);
    let lacking;
    const shown = async () => {
      metrics = await read();
      lacking = SHOWN.filter((line) => metrics.includes(`${line} 0\n`) || !metrics.includes(`${line} `));
      return lacking.length === 0;
    };
    await until("the load has shown everything", shown, 40_000).catch((error) => {
      throw new Error(`${error.message}: ${lacking}`);
    });
    const { start, end } = await prometheus.scrapes(WARM + SCRAPES, 50_000);
    window = { start: start + WARM, end };
  });

  after(async () => {
    await crowd?.stop();
    await prometheus?.stop();
    for (const one of [broker, other, nats]) await one?.stop();
  });

  /** Each panel with its data; a sentence for each expression that has none. */
  async function look(board) {
    const failures = [];
    const panels = [];
    for (const panel of board.panels) {
      const series = [];
      for (const { expr, legendFormat, refId } of panel.targets ?? []) {
        const where = `${panel.title} ${refId}`;
        try {
          const results = await prometheus.range(fill(expr, window.end - window.start), window);
          if (!results.some(({ values }) => values.some((value) => value !== null))) {
            failures.push(`${where}: ${results.length ? "only NaN" : "empty"}: ${expr}`);
          }
          for (const { labels, values } of results) {
            const wanted = [...legendFormat.matchAll(/\{\{(\w+)\}\}/g)].map(([, label]) => label);
            for (const label of wanted.filter((label) => !labels[label])) failures.push(`${where}: no label ${label}`);
            const name = legendFormat.replace(/\{\{(\w+)\}\}/g, (_, label) => labels[label]);
            series.push({ name, values });
          }
        } catch (error) {
          failures.push(`${where}: ${error.message}: ${expr}`);
        }
      }
      panels.push({ panel, series });
    }
    return { failures, panels };
  }

  /** Draws the dashboard, to test that this works. The picture is kept in docs/images only if previews are requested. */
  async function drawn(model, name) {
    if (!existsSync(chromium)) return undefined;
    const folder = previews ? images : mkdtempSync(join(tmpdir(), "preview-"));
    const file = join(folder, name);
    try {
      return { ...(await draw({ ...model, chromium, file })), bytes: statSync(file).size };
    } finally {
      if (!previews) rmSync(folder, { recursive: true });
    }
  }

  for (const name of ["overview", "capacity"]) {
    test(`every expression of the ${name} has data under load, and it can be drawn`, async (context) => {
      const board = load(name);
      const { failures, panels } = await look(board);
      const picture = await drawn({ board, panels, window }, `dashboard-${name}.png`);
      assert.deepEqual(failures, []);
      if (!picture) return context.diagnostic(`${chromium} is not installed: nothing is drawn`);
      assert.deepEqual(picture.empty, [], "panels without ink");
      assert.equal(picture.width, 1600);
      assert.ok(picture.bytes > 50_000, `a picture of ${picture.bytes} bytes`);
    });
  }

  test("the values that expressions select exist", async () => {
    const { groups } = await prometheus.get("rules");
    const rules = groups.flatMap(({ rules }) => rules);
    assert.ok(rules.length >= 14);
    const panels = ["overview", "capacity"].flatMap((name) => load(name).panels.flatMap(({ targets = [] }) => targets));
    const expressions = [...panels.map(({ expr }) => expr), ...rules.map(({ query }) => query)];
    for (const { metric, label, values } of expressions.flatMap(matchers).filter(({ metric }) => !LATER.test(metric))) {
      for (const value of values) {
        const exists = metrics.split("\n").some((line) => line.startsWith(`${metric}{`) && line.includes(`${label}="${value}"`));
        assert.ok(exists, `${metric}{${label}="${value}"}`);
      }
    }
  });

  test("Prometheus evaluates every rule, and none fires in health", async () => {
    const evaluated = async () => {
      const { groups } = await prometheus.get("rules");
      const rules = groups.flatMap(({ rules }) => rules);
      return rules.every(({ health }) => health !== "unknown") && rules;
    };
    for (const { name, health, lastError, state } of await until("the rules are evaluated", evaluated, 15_000)) {
      assert.equal(health, "ok", `${name}: ${lastError}`);
      assert.notEqual(state, "firing", name);
    }
  });

  // The process collector of the `prometheus` crate counts whole seconds: the CPU panels show steps, or nothing.
  test("CPU is counted in fractions of a second", async () => {
    const [line] = /^process_cpu_seconds_total .*$/m.exec(await read());
    assert.match(line, /\.\d+$/);
  });

  test("the variables find the brokers", async () => {
    const series = await prometheus.get("series", { "match[]": "pilotlight_build_info" });
    const found = series.map(({ job, instance }) => `${job} ${instance}`).sort();
    assert.deepEqual(found, ["pilotlight broker-1", "pilotlight broker-2"]);
  });
});

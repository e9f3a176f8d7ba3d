// Owns Prometheus for the tests: the real program in a folder of its own, which scrapes brokers each second.
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort, until } from "./broker.mjs";

export const dashboards = new URL("../../dashboards/", import.meta.url).pathname;

/** Why the tests with Prometheus cannot run here, or false. */
export const missing = spawnSync("prometheus", ["--version"]).status !== 0 && "prometheus is not installed";

const target = ({ ops }, index) => `{ targets: ["127.0.0.1:${ops}"], labels: { instance: "broker-${index + 1}" } }`;
const config = (brokers) => `
global: { scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 5s }
rule_files: ["${dashboards}alerts.yml"]
scrape_configs:
  - job_name: pilotlight
    static_configs: [${brokers.map(target).join(", ")}]
`;

export class Prometheus {
  static async start(...brokers) {
    const prometheus = new Prometheus();
    prometheus.folder = mkdtempSync(join(tmpdir(), "prometheus-"));
    const port = await freePort();
    prometheus.url = `http://127.0.0.1:${port}/api/v1/`;
    const file = join(prometheus.folder, "prometheus.yml");
    writeFileSync(file, config(brokers));
    const flags = [
      `--config.file=${file}`,
      `--storage.tsdb.path=${prometheus.folder}/data`,
      `--web.listen-address=127.0.0.1:${port}`,
      "--log.level=warn",
    ];
    prometheus.process = spawn("prometheus", flags, { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, GOMAXPROCS: "1" } });
    prometheus.log = "";
    prometheus.process.stderr.on("data", (chunk) => (prometheus.log += chunk));
    prometheus.ended = new Promise((resolve) => prometheus.process.once("exit", resolve));
    try {
      const ready = () => fetch(`http://127.0.0.1:${port}/-/ready`).then((answer) => answer.ok, () => false);
      await until("Prometheus is ready", ready);
    } catch (error) {
      await prometheus.stop();
      throw new Error(`${error.message}\n${prometheus.log}`);
    }
    return prometheus;
  }

  async stop() {
    this.process.kill("SIGKILL");
    await this.ended;
    rmSync(this.folder, { recursive: true });
  }

  async get(path, query = {}) {
    const answer = await fetch(`${this.url}${path}?${new URLSearchParams(query)}`);
    const { data, error } = await answer.json();
    if (error) throw new Error(error);
    return data;
  }

  /** Waits for this many successful scrapes of each broker; returns the times of the first and the last, in seconds. */
  async scrapes(count, milliseconds) {
    const samples = await until(
      `${count} scrapes`,
      async () => {
        const { result } = await this.get("query", { query: 'up{job="pilotlight"}[10m]' });
        const good = result.map(({ values }) => values.filter(([, up]) => up === "1"));
        return good.length && good.every((samples) => samples.length >= count) && good.flat().sort(([one], [other]) => one - other);
      },
      milliseconds,
    );
    return { start: Math.ceil(samples[0][0]), end: Math.floor(samples.at(-1)[0]) };
  }

  /** One series per result, with a number for each second, and null where there is none. */
  async range(query, { start, end }) {
    const { result } = await this.get("query_range", { query, start, end, step: 1 });
    return result.map(({ metric, values }) => {
      const at = new Map(values.map(([time, value]) => [Math.round(time) - start, Number(value)]));
      const number = (second) => (Number.isFinite(at.get(second)) ? at.get(second) : null);
      return { labels: metric, values: Array.from({ length: end - start + 1 }, (_, second) => number(second)) };
    });
  }
}

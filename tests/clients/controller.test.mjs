// Owns the promises to Trigger.dev's managed run controller, the very program that runs in every container.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Broker, run, until } from "./broker.mjs";

const entryPoint = new URL("./node_modules/trigger.dev/dist/esm/entryPoints/managed-run-controller.js", import.meta.url);

/** The part of the supervisor that a controller talks to: it refuses every attempt, so the controller waits again. */
class Workload {
  attempts = [];

  async start() {
    this.server = createServer(async (request, response) => {
      let body = "";
      for await (const chunk of request) body += chunk;
      const attempt = /runs\/([^/]+)\/snapshots\/([^/]+)\/attempts\/start/.exec(request.url);
      if (attempt) this.attempts.push({ run: attempt[1], snapshot: attempt[2], ...JSON.parse(body) });
      response.writeHead(404).end("{}");
    }).listen(0, "127.0.0.1");
    await new Promise((resolve) => this.server.once("listening", resolve));
    this.port = this.server.address().port;
  }

  stop() {
    this.server.closeAllConnections();
    this.server.close();
  }
}

class Controller {
  constructor(broker, workload) {
    this.folder = mkdtempSync(join(tmpdir(), "controller-"));
    const manifest = { configPath: "trigger.config.ts", tasks: [], workerEntryPoint: "worker.mjs", runtime: "node" };
    writeFileSync(join(this.folder, "index.json"), JSON.stringify(manifest));
    const now = String(Date.now());
    this.process = spawn(process.execPath, [entryPoint.pathname], {
      cwd: this.folder,
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        PATH: process.env.PATH,
        NODE_ENV: "production",
        TRIGGER_CONTENT_HASH: "hash",
        TRIGGER_PROJECT_ID: "project_1",
        TRIGGER_PROJECT_REF: "proj_1",
        TRIGGER_DEPLOYMENT_ID: "deployment_1",
        TRIGGER_DEPLOYMENT_VERSION: "20260821.3",
        TRIGGER_ENV_ID: "env_1",
        OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${workload.port}/otel`,
        TRIGGER_WARM_START_URL: broker.url,
        TRIGGER_MACHINE_CPU: "0.5",
        TRIGGER_MACHINE_MEMORY: "0.5",
        TRIGGER_RUNNER_ID: "runner_1",
        TRIGGER_POD_SCHEDULED_AT_MS: now,
        TRIGGER_DEQUEUED_AT_MS: now,
        TRIGGER_SUPERVISOR_API_PROTOCOL: "http",
        TRIGGER_SUPERVISOR_API_DOMAIN: "127.0.0.1",
        TRIGGER_SUPERVISOR_API_PORT: String(workload.port),
        TRIGGER_WORKER_INSTANCE_NAME: "worker_1",
      },
    });
    this.output = "";
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream.on("data", (chunk) => (this.output += chunk));
    }
    this.ended = new Promise((resolve) => this.process.once("exit", (code, signal) => resolve(code ?? signal)));
  }

  async stop() {
    this.process.kill("SIGKILL");
    await this.ended;
    rmSync(this.folder, { recursive: true });
  }
}

async function play(args, story) {
  const broker = await Broker.start(...args);
  const workload = new Workload();
  await workload.start();
  const controller = new Controller(broker, workload);
  try {
    await broker.waitForWaiters(1);
    await story({ broker, workload, controller });
  } catch (error) {
    console.error(controller.output.slice(-2000));
    throw error;
  } finally {
    await controller.stop();
    workload.stop();
    await broker.stop();
  }
}

async function dispatch({ broker, workload }, name) {
  await broker.waitForWaiters(1);
  const answer = await broker.post(run(name));
  assert.equal(answer.didWarmStart, true, JSON.stringify(answer));
  const attempt = await until(`an attempt of ${name}`, () => workload.attempts.find((attempt) => attempt.run === name));
  assert.equal(attempt.isWarmStart, true);
  assert.equal(attempt.snapshot, JSON.parse(run(name)).snapshot.friendlyId);
}

test("it waits, starts the run that it gets, and waits again", () =>
  play([], async (stage) => {
    for (const name of ["run_1", "run_2", "run_3"]) await dispatch(stage, name);
    assert.equal(stage.workload.attempts.length, 3);
  }));

test("it polls on through idle timeouts", () =>
  play(["--connection-timeout", "1s"], async (stage) => {
    await sleep(3_500);
    const answer = await until("a hit", async () => {
      const answer = await stage.broker.post(run("run_late"));
      return answer.didWarmStart && answer;
    });
    assert.equal(answer.didWarmStart, true);
    await until("an attempt", () => stage.workload.attempts.find(({ run }) => run === "run_late"));
  }));

test("it comes back after a drain and a restart", () =>
  play(["--drain-window", "500ms"], async (stage) => {
    await dispatch(stage, "run_before");
    await stage.broker.waitForWaiters(1);
    await stage.broker.restart("SIGTERM");
    await stage.broker.waitForWaiters(1, 60_000);
    await dispatch(stage, "run_after");
  }));

test("it exits 0 when it is retired", () =>
  play([], async ({ broker, controller }) => {
    await broker.retire("deployment_1");
    assert.equal(await controller.ended, 0);
  }));

test("a poison run never reaches it", () =>
  play([], async (stage) => {
    const poison = run("run_poison").replace('"isTest": false', '"isTest": null');
    const answer = await stage.broker.post(poison);
    assert.equal(answer.status, 400);
    await dispatch(stage, "run_good");
  }));

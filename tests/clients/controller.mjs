// Owns Trigger.dev's managed run controller as a process: the same program that runs in every container.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

const entryPoint = new URL("./node_modules/trigger.dev/dist/esm/entryPoints/managed-run-controller.js", import.meta.url);

/** The part of the supervisor that a controller connects to. It refuses every attempt, so the controller waits again. */
export class Workload {
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

export class Controller {
  constructor(broker, workload, name = "runner_1") {
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
        TRIGGER_RUNNER_ID: name,
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

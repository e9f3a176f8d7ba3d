// Owns a worker under test: `pilotlight worker --runtime-api` around a function, its log, and what the function has recorded.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { binary, endsWithThis, until } from "../clients/broker.mjs";

/** What a process may use before the kernel ends it. */
const CPU_SECONDS = 300;
let started = 0;

/** The processes that a process has started, and theirs. */
function descendants(pid) {
  const threads = existsSync(`/proc/${pid}/task`) ? readdirSync(`/proc/${pid}/task`) : [];
  const children = threads.flatMap((thread) => read(`/proc/${pid}/task/${thread}/children`).split(" ").filter(Boolean).map(Number));
  return children.flatMap((child) => [child, ...descendants(child)]);
}

function read(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

export const isAlive = (pid) => /^State:\s+[^ZX]/m.test(read(`/proc/${pid}/status`));

export class Worker {
  log = "";

  /** Returns once as many of its places wait at the broker as there are slots, or pollers in each. */
  static async start(t, broker, runtime, { handler = "handler", slots = 1, waits = slots, version = "$LATEST", pool, flags = [], env = {} } = {}) {
    const worker = new this();
    // Each has a name of its own, so that none gets what was meant for another.
    worker.name = pool ? pool.split("/")[0] : `function-${process.pid}-${(started += 1)}`;
    worker.broker = broker;
    worker.folder = mkdtempSync(join(tmpdir(), "pilotlight-lambda-"));
    worker.invocations = join(worker.folder, "invocations");
    const args = ["--broker", broker.url, "--pool", pool ?? `${worker.name}/${version}/0/0`, "--slots", `${slots}`, ...flags, "--runtime-api"];
    const command = [binary, "worker", ...args, "--", ...runtime.command(handler)];
    // Some clients poll an API that has gone as fast as they can.
    worker.process = endsWithThis(spawn("sh", ["-c", `ulimit -t ${CPU_SECONDS}; exec "$@"`, "sh", ...command], {
      cwd: runtime.folder,
      stdio: ["ignore", "pipe", "pipe"],
      env: { PATH: process.env.PATH, HOME: worker.folder, INVOCATIONS: worker.invocations, ...runtime.env(handler), ...env },
    }));
    for (const stream of [worker.process.stdout, worker.process.stderr]) stream.setEncoding("utf8").on("data", (text) => { worker.log += text; });
    worker.ended = new Promise((resolve) => worker.process.once("exit", (code, signal) => resolve(code ?? signal)));
    t.after(() => worker.stop());
    await worker.waits(waits);
    return worker;
  }

  /** Returns when so many of its places wait. */
  async waits(count) {
    const wait = async () => {
      if (this.process.exitCode !== null) throw new Error(`it has ended with ${this.process.exitCode}`);
      return (await this.broker.waitersOf(this.name)) === count;
    };
    await until(`${this.name} waits in ${count} places`, wait).catch((error) => {
      throw new Error(`${error.message}\n${this.log}`);
    });
  }

  /** Every invocation that a handler has begun: its id, the name in its event, and the process. */
  invoked() {
    return read(this.invocations).trim().split("\n").filter(Boolean).map((line) => JSON.parse(line));
  }

  /** A folder for invocations that meet, or that wait for a token to be taken. */
  place(name) {
    const place = join(this.folder, name);
    mkdirSync(place);
    return place;
  }

  /** Kills it; the kernel ends its functions. Processes that these have started end here, and none is left. */
  async stop() {
    const processes = descendants(this.process.pid);
    this.process.kill("SIGKILL");
    await this.ended;
    for (const pid of processes.filter(isAlive)) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // It has ended meanwhile.
      }
    }
    await until("no process of it is left", () => !processes.some(isAlive));
    rmSync(this.folder, { recursive: true, force: true });
  }
}

// Owns controllers that run the clients in the guides, word by word, in processes of their own; and the guides' proxies.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { freePort, until } from "./broker.mjs";
import { nginx, startProxy } from "./proxy.mjs";

const here = (name) => new URL(name, import.meta.url).pathname;
const guide = (page) => readFileSync(here(`../../docs/${page}.md`), "utf8");
const python = here(".venv/bin/python");

/** The only block of code in this language on a page. */
export function snippet(page, language) {
  const found = [...guide(page).matchAll(new RegExp(`^\`\`\`${language}\n([\\s\\S]*?)^\`\`\`$`, "gm"))];
  assert.equal(found.length, 1, `blocks of ${language} in ${page}.md`);
  return found[0][1];
}

// Packages are found from a folder inside this one only.
mkdirSync(here("node_modules"), { recursive: true });
const folder = mkdtempSync(here("node_modules/.guides-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
for (const name of ["work.mjs", "work.py"]) copyFileSync(here(name), join(folder, name));

function program(page, language, ending) {
  const file = join(folder, `${page}.${ending}`);
  writeFileSync(file, snippet(page, language));
  return file;
}

const nodes = process.execPath;
/** Each client: the command that starts it, and why it cannot be started here, or false. */
const CLIENTS = {
  ws: { way: "websocket", command: [nodes, program("websocket", "js", "mjs")] },
  undici: { way: "websocket", command: [nodes, here("undici_client.mjs")] },
  websockets: { way: "websocket", command: [python, program("websocket", "python", "py")] },
  eventsource: { way: "sse", command: [nodes, program("sse", "js", "mjs")] },
  "httpx-sse": { way: "sse", command: [python, program("sse", "python", "py")] },
  curl: { way: "sse", command: ["bash", "-c", snippet("sse", "sh")] },
};

/** The names of the clients of one way to wait, or of all. */
export const clients = (way) => Object.keys(CLIENTS).filter((name) => !way || CLIENTS[name].way === way);

const missing = (command) => (spawnSync(command, ["--version"]).status === 0 ? false : `${command} is not installed`);
/** Why a test with this client is skipped, or false. */
export const needsClient = (name) => ({ skip: missing(name === "curl" ? "curl" : CLIENTS[name].command[0]) });

export const hash = (bytes) => createHash("sha256").update(bytes).digest("hex");

/** A controller, and what its work has said. */
export class GuideController {
  started = [];
  done = [];

  constructor(t, client, url, { slots = 1, name = `${client}_${randomUUID()}`, token } = {}) {
    const { way, command } = CLIENTS[client];
    const poolUrl = way === "websocket" ? url.replace("http", "ws") : url;
    // curl's names its URL in its first line.
    const [file, ...args] = command.map((word) => word.replace("POOL_URL=http://127.0.0.1:7070/v1/pools/my-app/v1/0.5/1", `POOL_URL=${url}`));
    this.name = name;
    this.release = join(mkdtempSync(join(folder, "work-")), "release");
    const env = { PATH: process.env.PATH, POOL_URL: poolUrl, CONTROLLER: name, SLOTS: String(slots), RELEASE: this.release };
    if (token) env.TOKEN = token;
    // A group of its own, so that a signal reaches all processes of a pipe.
    this.process = spawn(file, args, { env, stdio: ["ignore", "pipe", process.env.SHOW ? "inherit" : "ignore"], detached: true });
    this.ended = new Promise((resolve) => this.process.once("exit", (code, signal) => resolve(code ?? signal)));
    createInterface({ input: this.process.stdout }).on("line", (line) => this.hear(line));
    t.after(() => this.kill("SIGKILL"));
  }

  hear(line) {
    if (line.startsWith("data: ")) {
      const { run, contentType, payload, encoding } = JSON.parse(line.slice(6));
      const bytes = Buffer.from(payload, encoding ?? "utf8");
      this.started.push({ started: run, contentType, size: bytes.length, hash: hash(bytes) });
      this.done.push(run);
      return;
    }
    const said = JSON.parse(line);
    if (said.started) this.started.push(said);
    else this.done.push(said.done);
  }

  /** What it said when it got the run. */
  got = (run) => until(`${this.name} gets ${run}`, () => this.started.find(({ started }) => started === run));
  finishes = (run) => until(`${this.name} finishes ${run}`, () => this.done.includes(run));
  letGo = () => writeFileSync(this.release, "");

  kill(signal) {
    try {
      process.kill(-this.process.pid, signal);
    } catch {
      // It has ended.
    }
    return this.ended;
  }
}

/** A pool of a broker, of its own for each test. */
export class Pool {
  static next = 0;

  constructor(broker, url = broker.url) {
    this.broker = broker;
    this.deployment = `app_${Pool.next++}`;
    this.path = `/v1/pools/${this.deployment}/v1/0.5/1`;
    this.url = `${url}${this.path}`;
  }

  async waiters() {
    const answer = await fetch(`http://127.0.0.1:${this.broker.ops}/pools?deployment=${this.deployment}`);
    return (await answer.json()).waiters;
  }

  waitForWaiters = (count, milliseconds) =>
    until(`${count} waiters in ${this.deployment}`, async () => (await this.waiters()) === count, milliseconds);

  /** Posts a run, and returns the broker's answer. */
  async post(run, payload, query = "", type = "text/plain") {
    const headers = { "pilotlight-run": run, "content-type": type };
    const answer = await fetch(`${this.broker.url}${this.path}${query}`, { method: "POST", headers, body: payload });
    return answer.json();
  }
}

const CONFIGURATIONS = {
  nginx: (folder) => nginx(folder, snippet("websocket", "nginx")),
  haproxy: () => snippet("websocket", "haproxy"),
};

/** Starts a proxy with the guide's configuration in front of a broker, and returns its URL. */
export async function guideProxy(t, name, broker) {
  const port = await freePort();
  const own = (text) => text.replace("127.0.0.1:8080", `127.0.0.1:${port}`).replace("127.0.0.1:7070", `127.0.0.1:${broker.port}`);
  await startProxy(t, name, port, (folder) => own(CONFIGURATIONS[name](folder)));
  return `http://127.0.0.1:${port}`;
}

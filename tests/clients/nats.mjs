// Owns real NATS servers for the tests: one of core NATS on a free port, or one with a configuration of the repository.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort, until } from "./broker.mjs";

const installed = new URL("../nats/.venv/bin/nats-server", import.meta.url).pathname;
export const program = process.env.NATS_SERVER ?? installed;

/** Why tests with NATS cannot run here, or false. tests/run installs it. */
export const missing = spawnSync(program, ["--version"]).status !== 0 && `${program} does not run: tests/run installs it`;
if (missing) console.error(`NOT TESTED, the cluster: ${missing}`);

export class Nats {
  /** Starts a server with this text as its configuration, whose client port is `port`. */
  static async start({ port, configuration = "", args = [], env = {} } = {}) {
    const nats = new Nats();
    nats.port = port ?? (await freePort());
    nats.url = `nats://127.0.0.1:${nats.port}`;
    nats.folder = mkdtempSync(join(tmpdir(), "nats-"));
    const file = join(nats.folder, "nats.conf");
    writeFileSync(file, configuration);
    const flags = ["--config", file, "--addr", "127.0.0.1", "--port", `${nats.port}`, ...args];
    nats.process = spawn(program, flags, { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, ...env } });
    nats.log = "";
    nats.process.stderr.on("data", (chunk) => (nats.log += chunk));
    nats.ended = new Promise((resolve) => nats.process.once("exit", resolve));
    try {
      await until("NATS listens", () => listens(nats.port));
    } catch (error) {
      await nats.stop();
      throw new Error(`${error.message}\n${nats.log}`);
    }
    return nats;
  }

  async stop() {
    this.process.kill("SIGKILL");
    await this.ended;
    if (existsSync(this.folder)) rmSync(this.folder, { recursive: true });
  }

  /** Sends lines of NATS' protocol as a user, and returns what the server answers up to the pong. */
  async speak(lines, { user, password }) {
    const socket = connect(this.port, "127.0.0.1");
    let read = "";
    socket.on("data", (bytes) => (read += bytes)).on("error", () => {});
    const closed = new Promise((resolve) => socket.once("close", resolve));
    const options = JSON.stringify({ verbose: false, pedantic: false, headers: true, no_responders: true, user, pass: password });
    socket.write([`CONNECT ${options}`, ...lines, "PING", ""].join("\r\n"));
    const pong = until("a pong", () => read.includes("PONG"), 5_000);
    await Promise.race([pong, closed]);
    pong.catch(() => {});
    socket.destroy();
    return read;
  }
}

function listens(port) {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => resolve(true)).on("error", () => resolve(false));
    socket.on("connect", () => socket.destroy());
  });
}

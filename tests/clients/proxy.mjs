// Owns real proxies in front of brokers: nginx and haproxy with the test's configuration, in processes of their own.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { until } from "./broker.mjs";

/** Why a test with a proxy is skipped, or false if the proxy is installed. */
export const needs = (program) => ({
  skip: ["/usr/sbin", "/usr/bin"].some((folder) => existsSync(join(folder, program))) ? false : `${program} is not installed`,
});

const COMMANDS = {
  nginx: (folder) => ["-c", join(folder, "configuration"), "-p", folder],
  haproxy: (folder) => ["-db", "-f", join(folder, "configuration")],
};

/** Starts it, and returns once it listens on the port. */
export async function startProxy(t, program, port, configure) {
  const folder = mkdtempSync(join(tmpdir(), "pilotlight-proxy-"));
  writeFileSync(join(folder, "configuration"), configure(folder));
  const child = spawn(program, COMMANDS[program](folder), { stdio: "ignore" });
  t.after(() => {
    child.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  });
  await until(`${program} listens`, () => new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => resolve(true)).on("error", () => resolve(false));
    socket.on("connect", () => socket.destroy());
  }));
}

/** The configuration around a server of an nginx that runs in a folder of its own. */
export const nginx = (folder, http) => `daemon off; master_process off; pid ${folder}/pid; error_log ${folder}/error.log;
events {} http {
  access_log off; client_body_temp_path ${folder}/a; proxy_temp_path ${folder}/b; fastcgi_temp_path ${folder}/c;
  uwsgi_temp_path ${folder}/d; scgi_temp_path ${folder}/e;
  ${http} }
`;

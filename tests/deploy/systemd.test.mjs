// Owns the tests of deploy/systemd and deploy/sysctl.d: systemd accepts the units, and the broker works in their sandbox.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmodSync, cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { describe, test } from "node:test";
import { freePort, until } from "../clients/broker.mjs";
import { missing as withoutNats, Nats } from "../clients/nats.mjs";
import { binary, existsSync, files, join, ok, read, root, run, scratch, without } from "./tools.mjs";

const units = files("deploy/systemd", /\.(service|socket)$/);
const service = read("deploy/systemd/pilotlight.service");
const dropIn = read("deploy/systemd/cluster.conf");
/** The values of a key, in a unit that has no line continuations. */
const values = (unit, key) => [...unit.matchAll(new RegExp(`^${key}=(.*)$`, "gm"))].map(([, value]) => value);
const sockets = units.filter((unit) => unit.endsWith(".socket"));
const sysctl = Object.fromEntries(
  [...read("deploy/sysctl.d/90-pilotlight.conf").matchAll(/^(-?[a-z][\w.-]*) = (.*)$/gm)].map(([, key, value]) => [key, value]),
);

describe("systemd", { skip: without("systemd-analyze") }, () => {
  test("takes the units without a word", () => {
    const folder = scratch();
    const copies = units.map((unit) => join(folder, unit.split("/").at(-1)));
    units.forEach((unit, index) => cpSync(join(root, unit), copies[index]));
    // Only the path of the installed binary differs on this machine.
    writeFileSync(copies.find((copy) => copy.endsWith(".service")), service.replace("/usr/local/bin/pilotlight", binary));
    const { status, out } = run("systemd-analyze", ["verify", ...copies]);
    assert.deepEqual([status, out], [0, ""]);
  });

  test("takes the drop-in of a cluster without a word", () => {
    const folder = scratch();
    const unit = join(folder, "pilotlight.service");
    writeFileSync(unit, service.replace("/usr/local/bin/pilotlight", binary).replace(/^(Requires|After)=.*$/gm, ""));
    mkdirSync(`${unit}.d`);
    const verify = (text) => {
      writeFileSync(join(`${unit}.d`, "cluster.conf"), text);
      return run("systemd-analyze", ["verify", unit]);
    };
    const { status, out } = verify(dropIn);
    assert.deepEqual([status, out], [0, ""]);
    // systemd reads it: an error in it is found.
    assert.match(verify(dropIn.replace("LoadCredential=", "LoadCredentials=")).out, /cluster\.conf:\d+: Unknown key/);
  });

  test("finds the exposure that the README states", () => {
    const out = ok("systemd-analyze", ["security", "--offline=true", join(root, "deploy/systemd/pilotlight.service")]);
    const [, exposure] = /Overall exposure level for \S+: ([\d.]+)/.exec(out);
    const [, stated] = /says ([\d.]+) \(of 10/.exec(read("deploy/systemd/README.md"));
    assert.ok(Number(exposure) <= Number(stated), `${exposure}, stated ${stated}\n${out}`);
  });

  test("lets through every system call that the broker makes", { skip: without("strace") }, async (t) => {
    const expand = (name) =>
      ok("systemd-analyze", ["syscall-filter", name])
        .split("\n")
        .slice(1)
        .map((line) => line.trim())
        .filter((line) => line && !line.startsWith("#"))
        .flatMap((entry) => (entry.startsWith("@") ? expand(entry) : [entry]));
    const allowed = new Set();
    for (const line of values(service, "SystemCallFilter")) {
      for (const set of line.replace("~", "").split(" ")) {
        for (const call of expand(set)) line.startsWith("~") ? allowed.delete(call) : allowed.add(call);
      }
    }
    // Harmless when refused with SystemCallErrorNumber=: systemd has set the limit of open files, and priorities are
    // optional.
    assert.deepEqual(values(service, "SystemCallErrorNumber"), ["EPERM"]);
    const harmless = ["prlimit64", "setrlimit", "setpriority", "sched_setaffinity", "sched_setscheduler"];

    const folder = scratch();
    const [port, ops] = [await freePort(), await freePort()];
    const log = join(folder, "calls");
    const flags = ["--listen", `127.0.0.1:${port}`, "--ops-listen", `127.0.0.1:${ops}`, "--history", join(folder, "history.sqlite"), "--drain-window", "100ms"];
    if (!withoutNats) {
      const nats = await Nats.start();
      t.after(() => nats.stop());
      // By name, because resolving one makes system calls, too.
      flags.push("--nats", nats.url.replace("127.0.0.1", "localhost"));
    }
    // Runs as an unprivileged user, like the service: as root, SQLite makes more system calls (fchown). The folder is this
    // test's own.
    const own = join(folder, "pilotlight");
    cpSync(binary, own);
    chmodSync(folder, 0o777);
    const nobody = process.getuid() === 0 ? ["-u", "nobody"] : [];
    const traced = spawn("strace", ["-f", "-qq", "-o", log, ...nobody, own, ...flags], { stdio: "ignore" });
    const ended = new Promise((resolve) => traced.once("exit", resolve));
    const url = `http://127.0.0.1:${port}/v1/pools/app/v1/1/1`;
    await until("the broker is ready", () => fetch(`http://127.0.0.1:${ops}/readyz`).then((answer) => answer.ok, () => false));
    const wait = fetch(`${url}?timeout=5s`).then((answer) => answer.text());
    const connected = () => fetch(`http://127.0.0.1:${ops}/metrics`).then((answer) => answer.text()).then((text) => text.includes("pilotlight_cluster_connected 1"));
    if (!withoutNats) await until("it is connected to NATS", connected);
    const dispatch = await fetch(`${url}?wait=2s`, { method: "POST", body: "run" }).then((answer) => answer.json());
    assert.deepEqual([await wait, dispatch.delivered], ["run", true]);
    await fetch(`http://127.0.0.1:${ops}/metrics`).then((answer) => answer.text());
    // strace does not pass signals on, so the broker, its child, is signalled directly.
    const [broker] = readFileSync(`/proc/${traced.pid}/task/${traced.pid}/children`, "utf8").trim().split(" ");
    process.kill(Number(broker), "SIGTERM");
    assert.equal(await ended, 0);

    const calls = new Set([...readFileSync(log, "utf8").matchAll(/^\d+ +(?:<\.\.\. )?(\w+)[( ]/gm)].map(([, call]) => call));
    calls.delete("execve"); // strace's own call
    assert.ok(calls.size > 20, "strace saw the broker");
    assert.deepEqual([...calls].filter((call) => !allowed.has(call) && !harmless.includes(call)), []);
  });
});

test("the sockets are the listeners, by the flags' names, on the addresses of the TOML file", () => {
  const known = ok(binary, ["config", "env"]);
  const toml = read("deploy/systemd/pilotlight.toml");
  const names = sockets.map((path) => {
    const unit = read(path);
    const [name] = values(unit, "FileDescriptorName");
    assert.ok(known.includes(`PILOTLIGHT_${name.toUpperCase().replaceAll("-", "_")}=`), name);
    assert.deepEqual(values(unit, "ListenStream"), [new RegExp(`^(?:# )?${name} = "(.*)"$`, "m").exec(toml)[1]]);
    assert.deepEqual(values(unit, "Service"), ["pilotlight.service"]);
    const [backlog] = values(unit, "Backlog");
    assert.ok(backlog >= 4096 && backlog <= Number(sysctl["net.core.somaxconn"]), backlog);
    return name;
  });
  assert.deepEqual(names.sort(), ["dispatch-listen", "listen", "ops-listen"]);
});

test("the broker has its drain window before it is killed, and its files from systemd", () => {
  const [, window] = /^drain-window = "(\d+)s"$/m.exec(read("deploy/systemd/pilotlight.toml"));
  assert.ok(Number.parseInt(values(service, "TimeoutStopSec")[0], 10) >= Number(window) + 5);
  assert.ok(Number(values(service, "LimitNOFILE")[0]) <= Number(sysctl["fs.nr_open"]));
  assert.ok(Number(sysctl["fs.nr_open"]) < Number(sysctl["fs.file-max"]));
});

test("the drop-in's files are installed, its secret is the credential that it names, and its window fits", () => {
  const readme = read("deploy/systemd/README.md");
  for (const [from, to] of [["cluster.conf", "/etc/systemd/system/pilotlight.service.d/cluster.conf"], ["cluster.env", values(dropIn, "EnvironmentFile")[0]]]) {
    assert.ok(readme.includes(`install -m 0644 ${from} ${to}`), from);
  }
  const [[credential, file]] = values(dropIn, "LoadCredential").map((value) => value.split(":"));
  assert.ok(readme.includes(`cat > ${file})`), file);
  assert.ok(values(dropIn, "Environment").includes(`PILOTLIGHT_NATS_PASSWORD_FILE=%d/${credential}`));
  const [, window] = /^PILOTLIGHT_DRAIN_WINDOW=(\d+)s$/m.exec(read("deploy/systemd/cluster.env"));
  assert.ok(Number.parseInt(values(service, "TimeoutStopSec")[0], 10) >= Number(window) + 10);
});

test("the README installs every file, and makes the group that the service is in", () => {
  const readme = read("deploy/systemd/README.md");
  for (const group of values(service, "SupplementaryGroups")) assert.ok(readme.includes(`groupadd --system --force ${group}`));
  for (const unit of units) assert.ok(readme.includes(unit.split("/").at(-1)), unit);
});

test("the kernel knows every setting, and the guide explains it", () => {
  const guide = read("deploy/sysctl.md");
  assert.ok(Object.keys(sysctl).length >= 9);
  for (const [key, value] of Object.entries(sysctl)) {
    const name = key.replace(/^-/, "");
    // A namespace may hide a setting, and a module may not be loaded: a hyphen marks settings that may be missing.
    const shown = existsSync(`/proc/sys/${name.replaceAll(".", "/")}`);
    assert.ok(shown || key.startsWith("-"), `${name} is unknown here`);
    assert.match(value, /^\d+( \d+ \d+)?$/);
    assert.ok(guide.includes(name) || guide.includes(`\`${name.replace("net.ipv4.", "")}\``), `${name} is not in the guide`);
    if (!value.includes(" ")) assert.ok(guide.includes(BigInt(value).toLocaleString("en")), `the guide says another value of ${name}`);
  }
});

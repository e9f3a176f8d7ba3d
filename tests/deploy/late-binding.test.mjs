// Owns the tests of deploy/examples/late-binding: real sandboxes that are claimed through the real broker, and the manifests around them.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { parse } from "yaml";
import { Broker, freePort, until } from "../clients/broker.mjs";
import { join, ok, read, render, root, run, scratch, takenByKubernetes, without } from "./tools.mjs";

const folder = join(root, "deploy/examples/late-binding");
const skip = without("python3");

describe("sandboxes", { skip }, () => {
  const files = scratch();
  const running = new Set();
  let broker;
  let pool;

  before(async () => {
    broker = await Broker.start();
    pool = `${broker.url}/v1/pools/sandbox/v1/0.5/1`;
  });
  after(async () => {
    for (const sandbox of running) sandbox.process.kill("SIGKILL");
    await broker.stop();
  });

  /** A sandbox that waits, and what it says. */
  async function sandbox(name, settings = {}) {
    const workspace = join(files, name);
    const before = await broker.waiters();
    const env = { PATH: process.env.PATH, POOL_URL: pool, NAME: name, PORT: `${await freePort()}`, WORKSPACE: workspace, ...settings };
    const started = { name, workspace, log: "", process: spawn("python3", [join(folder, "sandbox.py")], { env, stdio: ["ignore", "ignore", "pipe"] }) };
    started.process.stderr.setEncoding("utf8").on("data", (text) => { started.log += text; });
    started.ended = new Promise((resolve) => started.process.once("exit", (code, signal) => resolve(code ?? signal)));
    running.add(started);
    await until(`${name} waits`, async () => {
      assert.equal(started.process.exitCode, null, started.log);
      return (await broker.waiters()) === before + 1;
    });
    return started;
  }

  /** The end of a claimer, which runs beside this process: it talks to a sandbox whose output this process reads. */
  function claim(...args) {
    const claimer = spawn("python3", [join(folder, "claim.py"), ...args], { env: { PATH: process.env.PATH, POOL_URL: pool } });
    const said = { out: "", err: "" };
    claimer.stdout.setEncoding("utf8").on("data", (text) => { said.out += text; });
    claimer.stderr.setEncoding("utf8").on("data", (text) => { said.err += text; });
    return new Promise((resolve) => claimer.once("close", (code) => resolve({ code, ...said })));
  }

  const go = (url, token, method = "GET", body = undefined) =>
    fetch(url, { method, body, headers: token ? { authorization: `Bearer ${token}` } : {} });

  test("it gets identity, environment and files by the claim, runs for its owner, and ends with them", async () => {
    const one = await sandbox("one", { A_SECRET_OF_THE_POD: "1" });
    writeFileSync(join(files, "greeting.txt"), "hello\n");
    const command = "echo $USER $MOOD; cat greeting.txt; echo [$A_SECRET_OF_THE_POD]; exit 3";
    const claimed = await claim("--identity", "alice", "--env", "MOOD=good=yes", "--file", join(files, "greeting.txt"), command);
    assert.deepEqual(claimed, { code: 3, out: "alice good=yes\nhello\n[]\n", err: "claimed one\n" });
    assert.equal(await one.ended, 0);
    assert.deepEqual(readdirSync(one.workspace), ["greeting.txt"]);
    assert.ok(one.log.includes("bound to alice"), one.log);

    symlinkSync("/", join(one.workspace, "link"));
    mkdirSync(join(one.workspace, "folder"));
    const next = await sandbox("one");
    assert.deepEqual(readdirSync(next.workspace), [], "the next one begins empty");
    next.process.kill("SIGTERM");
    assert.equal(await next.ended, 0);
    await broker.waitForWaiters(0);
  });

  test("only who has claimed it comes in, and the same claim again gets the same sandbox", async () => {
    const two = await sandbox("two");
    const other = await sandbox("other");
    const first = await claim("--identity", "bob", "--name", "claim-1");
    const { url, token } = JSON.parse(first.out);
    assert.deepEqual(await claim("--identity", "bob", "--name", "claim-1"), first);
    assert.equal(await broker.waiters(), 1);

    const claimed = first.err === "claimed two\n" ? two : other;
    const rest = claimed === two ? other : two;
    for (const [method, wrong] of [["GET", undefined], ["POST", "x"], ["DELETE", `${token}x`], ["DELETE", undefined]]) {
      assert.equal((await go(url, wrong, method)).status, 403);
    }
    assert.deepEqual(await (await go(url, token)).json(), { identity: "bob", sandbox: claimed.name });
    const { out } = await claim("--identity", "carol", "env");
    const names = out.split("\n").map((line) => line.split("=")[0]);
    assert.ok(names.includes("USER") && !["POOL_URL", "NAME", "WORKSPACE"].some((name) => names.includes(name)), out);
    assert.equal(await rest.ended, 0);

    const none = await claim("--identity", "dave");
    assert.deepEqual([none.code, none.err], [1, "no sandbox: all_taken\n"]);
    assert.equal((await go(url, token, "DELETE")).status, 200);
    assert.equal(await claimed.ended, 0);
    for (const { log } of [two, other]) assert.ok(!log.includes(token), log);
  });

  test("it ends when its owner does not come", async () => {
    const three = await sandbox("three", { IDLE: "0.5" });
    assert.equal((await claim("--identity", "erin")).code, 0);
    assert.equal(await three.ended, 0);
  });

  test("it waits through a restart of the broker", async () => {
    const four = await sandbox("four");
    await broker.restart("SIGKILL");
    await broker.waitForWaiters(1);
    assert.equal((await claim("--identity", "frank", "true")).code, 0);
    assert.equal(await four.ended, 0);
    assert.ok(!four.log.includes("Traceback"), four.log);
  });

  test("a file outside of the workspace is not written", async () => {
    const five = await sandbox("five");
    const body = JSON.stringify({ identity: "x", files: { "../outside": "x" } });
    const answer = await fetch(pool, { method: "POST", body }).then((answer) => answer.json());
    assert.equal(answer.delivered, true);
    assert.equal(await five.ended, 1);
    assert.ok(!readdirSync(files).includes("outside"));
  });
});

describe("the manifests", () => {
  const copy = join(scratch(), "deploy");
  cpSync(join(root, "deploy"), copy, { recursive: true, filter: (path) => !path.endsWith("/secrets") });
  const here = join(copy, "examples/late-binding");
  mkdirSync(join(here, "secrets"));
  writeFileSync(join(here, "secrets/ops-token"), "secret");
  const objects = render(here);
  const one = (kind, name) => objects.find((object) => object.kind === kind && object.metadata.name.startsWith(name));
  const container = (name) => one("Deployment", name).spec.template.spec.containers[0];
  const env = (name) => Object.fromEntries(container(name).env.map(({ name, value }) => [name, value]));

  test("strict schemas take every object", () => takenByKubernetes(objects));

  test("sandboxes poll where the broker listens, the claimer posts to the same pool, and nobody else may do either", () => {
    const { spec: { ingress } } = one("NetworkPolicy", "pilotlight");
    const allowed = ingress.map(({ from: [{ podSelector }], ports: [{ port }] }) => [podSelector.matchLabels["app.kubernetes.io/name"], port]);
    assert.deepEqual(allowed, [["sandbox", "poll"], ["claimer", "dispatch"]]);
    const urls = ["sandbox", "claimer"].map((name) => new URL(env(name).POOL_URL));
    assert.equal(urls[0].pathname, urls[1].pathname);
    for (const { hostname, port } of urls) assert.equal(objects.find(({ kind, metadata }) => kind === "Service" && metadata.name === hostname).spec.ports[0].port, Number(port));
    const { spec } = one("NetworkPolicy", "sandbox");
    assert.deepEqual(spec.ingress[0].from, [{ podSelector: one("Deployment", "claimer").spec.selector }]);
    assert.deepEqual(spec.egress[0].to, [{ podSelector: one("Deployment", "pilotlight").spec.selector }]);
  });

  test("the broker demands no token of Trigger.dev's, and keeps what else restricts it", () => {
    const settings = Object.keys(env("pilotlight")).filter((name) => /TOKEN|ALLOW/.test(name));
    assert.deepEqual(settings, ["PILOTLIGHT_ALLOW_POLL", "PILOTLIGHT_ALLOW_DISPATCH", "PILOTLIGHT_OPS_TOKEN_FILE"]);
  });

  test("pods meet the restricted standard, and their programs are the ones here", () => {
    for (const [name, file] of [["sandbox", "sandbox.py"], ["claimer", "claim.py"]]) {
      const { spec: pod } = one("Deployment", name).spec.template;
      assert.deepEqual([pod.securityContext.runAsNonRoot, pod.securityContext.seccompProfile.type, pod.automountServiceAccountToken], [true, "RuntimeDefault", false]);
      assert.deepEqual([container(name).securityContext.capabilities, container(name).securityContext.readOnlyRootFilesystem], [{ drop: ["ALL"] }, true]);
      const { name: mounted } = pod.volumes.find(({ configMap }) => configMap).configMap;
      const { data } = objects.find(({ kind, metadata }) => kind === "ConfigMap" && metadata.name === mounted);
      assert.equal(data[file], read(`deploy/examples/late-binding/${file}`));
    }
  });

  const compose = run("docker", ["compose", "version"]).status === 0 ? ["docker", "compose"] : ["docker-compose"];
  test("compose takes its file, and only the claimer reaches POSTs", { skip: without(compose[0]) }, () => {
    const args = [...compose.slice(1), "-f", join(folder, "compose.yml"), "--profile", "claim", "config"];
    const { services, networks } = parse(ok(compose[0], args));
    const joined = Object.entries(services).filter(([, service]) => "claims" in (service.networks ?? {})).map(([name]) => name);
    assert.deepEqual(joined.sort(), ["claim", "pilotlight"]);
    const { environment: settings, networks: { claims } } = services.pilotlight;
    const subnet = (name) => networks[name].ipam.config[0].subnet;
    assert.deepEqual([settings.PILOTLIGHT_ALLOW_POLL, settings.PILOTLIGHT_ALLOW_DISPATCH], [subnet("sandboxes"), subnet("claims")]);
    assert.equal(new URL(services.claim.environment.POOL_URL).host, settings.PILOTLIGHT_DISPATCH_LISTEN);
    assert.ok(settings.PILOTLIGHT_DISPATCH_LISTEN.startsWith(`${claims.ipv4_address}:`));
    assert.equal(new URL(services.sandbox.environment.POOL_URL).pathname, new URL(services.claim.environment.POOL_URL).pathname);
  });
});

// Owns the tests of the package as it is installed: what it contains, its README's example in Node.js and in Bun, and its types.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { Broker } from "./support.mjs";

const root = new URL("..", import.meta.url).pathname;
const inPackage = (name) => join(root, "node_modules", name);
const bun = inPackage(`@oven/bun-${process.platform}-${process.arch}/bin/bun`);
const RUNTIMES = { "Node.js": process.execPath, Bun: bun };

let broker;
let folder;
before(async () => {
  broker = await Broker.start("--proof-timeout", "5s", "--dispatch-budget", "20s");
  folder = mkdtempSync(join(tmpdir(), "pilotlight-package-"));
  const npm = (...args) => execFileSync("npm", args, { cwd: folder, encoding: "utf8" });
  const [{ filename }] = JSON.parse(npm("pack", root, "--json", "--loglevel=error"));
  writeFileSync(join(folder, "package.json"), '{"private":true,"type":"module"}');
  npm("install", "--offline", "--no-audit", "--no-fund", "--loglevel=error", `./${filename}`);
  for (const name of ["worker.mjs", "caller.mjs"]) writeFileSync(join(folder, name), example(name));
});
after(async () => {
  await broker?.stop();
  if (folder) rmSync(folder, { recursive: true });
});

/** The block of code in the README that begins with the file's name. */
function example(name) {
  const found = readFileSync(join(root, "README.md"), "utf8").split(`\`\`\`js\n// ${name}\n`);
  assert.equal(found.length, 2, name);
  return found[1].split("\n```")[0];
}

function start(t, runtime, file) {
  const child = spawn(runtime, [file], { cwd: folder, env: { ...process.env, BROKER: broker.url }, stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(child, "exit");
  t.after(() => child.kill("SIGKILL"));
  let text = "";
  child.stdout.on("data", (piece) => (text += piece));
  return { child, end: () => ended.then(([code]) => ({ code, text })) };
}

for (const [name, runtime] of Object.entries(RUNTIMES)) {
  const skip = existsSync(runtime) ? false : `SKIPPED: ${name} is not installed here, so the README's example was not run with it`;
  if (skip) console.error(skip);
  test(`the README's example runs as it is written, in ${name}`, { skip }, async (t) => {
    const worker = start(t, runtime, "worker.mjs");
    await broker.waitForWaiters(1);
    for (let run = 0; run < 2; run++) {
      const caller = start(t, runtime, "caller.mjs");
      assert.deepEqual(await caller.end(), { code: 0, text: "You asked: What is a warm start? " });
    }
    await broker.waitForWaiters(1);
    worker.child.kill("SIGTERM");
    assert.deepEqual(await worker.end(), { code: 0, text: "" });
    assert.equal(await broker.waiters(), 0);
  });
}

test("the package contains what it needs, and nothing else", () => {
  const files = execFileSync("find", [".", "-type", "f"], { cwd: join(folder, "node_modules/pilotlight"), encoding: "utf8" });
  const names = files.trim().split("\n").map((name) => name.slice(2)).filter((name) => !name.startsWith("src/"));
  assert.deepEqual(names.sort(), ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "index.d.ts", "index.mjs", "package.json"]);
  const { dependencies } = JSON.parse(readFileSync(join(folder, "node_modules/pilotlight/package.json")));
  assert.equal(dependencies, undefined);
  assert.equal(readFileSync(join(root, "LICENSE-MIT"), "utf8"), readFileSync(join(root, "../../LICENSE-MIT"), "utf8"));
  assert.equal(readFileSync(join(root, "LICENSE-APACHE"), "utf8"), readFileSync(join(root, "../../LICENSE-APACHE"), "utf8"));
});

describe("the types", () => {
  const tsc = inPackage("typescript/bin/tsc");
  const compilerOptions = { noEmit: true, strict: true, exactOptionalPropertyTypes: true, target: "es2022", module: "nodenext" };
  const ENVIRONMENTS = {
    "of Node.js": { lib: ["es2022"], types: ["node"], typeRoots: [inPackage("@types")] },
    "of the web": { lib: ["es2022", "dom", "dom.iterable", "dom.asynciterable"], types: [] },
  };
  for (const [name, environment] of Object.entries(ENVIRONMENTS)) {
    test(`compile with those ${name}, and find mistakes`, () => {
      writeFileSync(join(folder, "types.ts"), readFileSync(join(root, "test/types.ts")));
      const tsconfig = { compilerOptions: { ...compilerOptions, ...environment }, files: ["types.ts"] };
      writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(tsconfig));
      try {
        execFileSync(process.execPath, [tsc, "--project", folder], { encoding: "utf8" });
      } catch (error) {
        assert.fail(error.stdout);
      }
    });
  }
});

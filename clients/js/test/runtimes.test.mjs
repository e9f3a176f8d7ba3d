// Owns the test that Node.js and Bun behave alike.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { endsWithThis, startBroker } from "./support.mjs";

const bun = new URL(`../node_modules/@oven/bun-${process.platform}-${process.arch}/bin/bun`, import.meta.url).pathname;
const STORY = [
  ["stream", "replied", 200, "text/plain", ["a", "b", "c"]],
  ["big", 4 << 20],
  ["other", "replied", 404, "application/json", { a: 1 }],
  ["fail", "worker_error", 502, "RangeError: too far"],
  ["done", "reply_broken", "reply_broken"],
  ["leave", "AbortError"],
  ["breakOff", "replied", true],
  ["miss", "no_pool"],
  ["delivered", "delivered", "received"],
  [
    "results",
    ["stream", "replied"],
    ["big", "replied"],
    ["other", "replied"],
    ["fail", "replied"],
    ["done", null],
    ["doneAtOnce", null],
    ["leave", "gone"],
    ["leaveLater", "gone"],
    ["breakOff", "no more"],
    ["doneAtOnce", null],
  ],
];

for (const [name, runtime] of Object.entries({ "Node.js": process.execPath, Bun: bun })) {
  const skip = existsSync(runtime) ? false : `SKIPPED: ${name} is not installed here, so nothing was tested with it`;
  if (skip) console.error(skip);
  test(`${name} tells the story`, { skip }, async (t) => {
    const broker = await startBroker(t);
    const child = endsWithThis(spawn(runtime, [new URL("story.mjs", import.meta.url).pathname, broker.url], { stdio: ["ignore", "pipe", "inherit"], timeout: 60_000 }));
    t.after(() => child.kill("SIGKILL"));
    let text = "";
    child.stdout.on("data", (piece) => (text += piece));
    const [code] = await once(child, "close");
    assert.deepEqual(text.trim().split("\n").map((line) => JSON.parse(line)), STORY);
    assert.equal(code, 0);
  });
}

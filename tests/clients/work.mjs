// Owns the work of the controllers under test: it says on the standard output which run it got, and when it is done.
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** Work on a payload that begins with "slow" ends when the file named by RELEASE exists. */
export async function work({ run, contentType }, payload) {
  const bytes = Buffer.from(payload);
  say({ started: run, contentType, size: bytes.length, hash: createHash("sha256").update(bytes).digest("hex") });
  while (bytes.toString("latin1", 0, 4) === "slow" && !existsSync(process.env.RELEASE)) await sleep(10);
  say({ done: run });
}

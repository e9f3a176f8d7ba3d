// Owns the tests with Trigger.dev's own client over TLS, and with the platform's tokens.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { Broker, run } from "./broker.mjs";
import { certificate } from "./certificate.mjs";
import { deploymentToken } from "./tokens.mjs";

const SECRET = "a secret of the platform";

/** A folder with a certificate for this machine and the platform's secret; a broker that uses both. */
async function withBroker(args, story) {
  const folder = mkdtempSync(join(tmpdir(), "pilotlight-"));
  const { cert, key } = certificate(folder);
  const secret = join(folder, "secret");
  writeFileSync(secret, SECRET);
  const broker = await Broker.start("--tls-cert", cert, "--tls-key", key, "--token-secret-file", secret, "--require-token", ...args);
  try {
    await story(broker, cert);
  } finally {
    await broker.stop();
    rmSync(folder, { recursive: true });
  }
}

/** A real client in a process of its own, and the lines that it prints. */
function client(broker, cert, deploymentId) {
  const script = new URL("secret_client.mjs", import.meta.url).pathname;
  const child = spawn(process.execPath, [script, `https://127.0.0.1:${broker.port}`, deploymentId], {
    env: { ...process.env, NODE_EXTRA_CA_CERTS: cert },
    stdio: ["pipe", "pipe", "inherit"],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    heard: async () => JSON.parse((await lines.next()).value),
    post: (message) => child.stdin.write(`${JSON.stringify({ dequeuedMessage: JSON.parse(message) })}\n`),
    stop: () => child.kill("SIGKILL"),
  };
}

test("a real client waits and is proved through TLS, with the platform's token", () =>
  withBroker(["--proof", "received"], async (broker, cert) => {
    const warm = client(broker, cert, await deploymentToken(SECRET));
    try {
      assert.equal((await warm.heard()).connected.success, true);
      for (let number = 0; number < 5; number++) {
        await broker.waitForWaiters(1);
        warm.post(run(`run_${number}`));
        const heard = [await warm.heard(), await warm.heard()];
        assert.deepEqual(heard.find((line) => line.received), { received: `run_${number}` });
        const { posted } = heard.find((line) => line.posted);
        assert.deepEqual(posted, { didWarmStart: true, proof: "received", offers: 1 });
      }
    } finally {
      warm.stop();
    }
  }));

test("a real client with another's token, or none, ends instead of polling for ever", () =>
  withBroker([], async (broker, cert) => {
    for (const deploymentId of [await deploymentToken("a secret of somebody else"), "deployment_1"]) {
      const warm = client(broker, cert, deploymentId);
      try {
        assert.equal((await warm.heard()).connected.success, true);
        assert.deepEqual(await warm.heard(), { ended: true });
        assert.equal(await broker.waiters(), 0);
      } finally {
        warm.stop();
      }
    }
  }));

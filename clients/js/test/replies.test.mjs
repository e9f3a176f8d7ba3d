// Owns the tests of replies: whole, piece by piece, failed, broken off, too late, unwanted.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import { dispatch, ReplyBrokenError } from "../index.mjs";
import { Broker, freshPool, promised, startBroker, startWorker, until } from "./support.mjs";

let broker;
before(async () => (broker = await Broker.start("--proof-timeout", "5s", "--dispatch-budget", "20s")));
after(() => broker?.stop());

const post = (pool, payload, options = {}) => dispatch(pool, payload, { broker: broker.url, wait: "10s", reply: "20s", ...options });
const hash = (bytes) => createHash("sha256").update(bytes).digest("hex");
const pieces = async (outcome) => {
  const seen = [];
  for await (const piece of outcome) seen.push(Buffer.from(piece).toString());
  return seen;
};

describe("a reply", () => {
  test("reaches its caller, with everything that is known of it", async (t) => {
    const pool = freshPool();
    const result = promised();
    startWorker(t, broker, pool, async (run) => result.resolve([run.wantsReply, await run.reply(`Hello, ${run.text()}!`)]), {
      contentType: "text/plain",
      controller: "worker",
    });
    const outcome = await post(pool, "world", { run: "run 1" });
    const { run, controller, proof, status, contentType, contentEncoding } = outcome;
    assert.deepEqual({ outcome: outcome.outcome, run, controller, proof, status, contentType, contentEncoding }, {
      outcome: "replied",
      run: "run 1",
      controller: "worker",
      proof: "replied",
      status: 200,
      contentType: "text/plain",
      contentEncoding: undefined,
    });
    assert.equal(await outcome.text(), "Hello, world!");
    await assert.rejects(outcome.text(), /has been read/);
    assert.deepEqual(await result.promise, [true, "replied"]);
  });

  const big = randomBytes(8 << 20);
  for (const [what, body, expected] of [
    ["nothing", undefined, ""],
    ["an empty text", "", ""],
    ["text", "héllo 世界", "héllo 世界"],
    ["bytes", new Uint8Array([0, 255, 13, 10]), new Uint8Array([0, 255, 13, 10])],
    ["a part of a buffer", new Uint8Array([1, 2, 3, 4]).subarray(1, 3), new Uint8Array([2, 3])],
    ["an ArrayBuffer", new Uint8Array([7, 8]).buffer, new Uint8Array([7, 8])],
    ["a list", ["a", "", Buffer.from("b")], "ab"],
    ["a stream of the web", new Blob(["one", "two"]).stream(), "onetwo"],
    ["a generator", (async function* () { yield "x"; yield new Uint8Array([121]); })(), "xy"],
    ["8 MiB", big, big],
  ]) {
    test(`can be ${what}`, async (t) => {
      const pool = freshPool();
      startWorker(t, broker, pool, (run) => run.reply(body));
      const outcome = await post(pool, "");
      assert.equal(outcome.outcome, "replied");
      assert.equal(hash(await outcome.bytes()), hash(expected));
    });
  }

  test("passes piece by piece: each comes before the next one is made", async (t) => {
    const pool = freshPool();
    let next = promised();
    startWorker(t, broker, pool, (run) => run.reply((async function* () {
      for (let token = 0; token < 20; token++) {
        yield `token ${token}\n`;
        await next.promise;
      }
    })()));
    const outcome = await post(pool, "");
    const seen = [];
    for await (const piece of outcome) {
      seen.push(Buffer.from(piece).toString());
      const { resolve } = next;
      next = promised();
      resolve();
    }
    assert.deepEqual(seen, Array.from({ length: 20 }, (_, token) => `token ${token}\n`));
  });

  test("is also a stream of the web, and JSON", async (t) => {
    const pool = freshPool();
    startWorker(t, broker, pool, (run) => run.reply(['{"a":', "[1]}"]));
    const outcome = await post(pool, "");
    assert.equal(await new Response(outcome.body).text(), '{"a":[1]}');
    assert.deepEqual(await (await post(pool, "")).json(), { a: [1] });
  });

  const moment = () => new Promise((resolve) => setTimeout(resolve, 50));
  for (const [when, think, early] of [
    ["at once", () => {}],
    ["in the next turn", () => turn()],
    ["after a while", moment],
    ["only at its end", moment, false],
  ]) {
    test(`that is opened ${when} chooses its status, type and encoding`, async (t) => {
      const pool = freshPool();
      const options = { status: 418, contentType: "text/x", contentEncoding: "gzip" };
      const results = new Set();
      startWorker(t, broker, pool, async (run) => {
        await think();
        results.add(await run.reply(gzipSync("tea"), options)).add(run.signal.aborted);
      }, { early });
      for (let run = 0; run < 10; run++) {
        const outcome = await post(pool, "");
        assert.deepEqual([outcome.outcome, outcome.status, outcome.contentType, outcome.contentEncoding], ["replied", 418, "text/x", "gzip"]);
        assert.equal(hash(await outcome.bytes()), hash(gzipSync("tea")));
      }
      await until("all are heard", () => results.size === 2);
      assert.deepEqual([...results], ["replied", false]);
    });
  }

  test("that is misused says so, and can still be given", async (t) => {
    const pool = freshPool();
    const worker = startWorker(t, broker, pool, async (run) => {
      for (const status of [204, 205, 304, 199, 600, "200"]) await assert.rejects(run.reply("x", { status }), RangeError);
      await run.reply("fine");
      await assert.rejects(run.reply("again"), TypeError);
      await assert.rejects(run.fail("again"), TypeError);
      run.done();
    });
    assert.equal(await (await post(pool, "")).text(), "fine");
    worker.stop();
    await worker.ended;
  });

  test("is not made faster than it is read", async (t) => {
    const pool = freshPool();
    let made = 0;
    const piece = Buffer.alloc(64 << 10, "x");
    const most = 1_000;
    startWorker(t, broker, pool, (run) => run.reply((async function* () {
      for (; made < most; made++) yield piece;
    })()));
    const outcome = await post(pool, "");
    let last = -1;
    await until("the worker pauses", async () => {
      await new Promise((resolve) => setTimeout(resolve, 200));
      return last === (last = made);
    });
    assert.ok(made < most / 2, `${made} pieces were made before one was read`);
    assert.equal((await outcome.bytes()).length, most * piece.length);
  });

  test("of each of three slots reaches its own caller", async (t) => {
    const pool = freshPool();
    startWorker(t, broker, pool, (run) => run.reply(run.text()), { slots: 3 });
    const names = Array.from({ length: 30 }, (_, number) => `run ${number}`);
    const outcomes = await Promise.all(names.map((name) => post(pool, name).then((outcome) => outcome.text())));
    assert.deepEqual(outcomes, names);
  });

  test("leaves its connection to the next poll", async (t) => {
    const own = await startBroker(t);
    const pool = freshPool();
    startWorker(t, own, pool, (run) => run.reply("x"));
    const before = await own.metric('pilotlight_connections_accepted_total{listener="public"}');
    for (let run = 0; run < 10; run++) {
      assert.equal(await (await post(pool, "", { broker: own.url })).text(), "x");
      await own.waitForWaiters(1);
    }
    const opened = (await own.metric('pilotlight_connections_accepted_total{listener="public"}')) - before;
    assert.ok(opened <= 14, `${opened} connections for ten runs`);
  });
});

describe("a failure", () => {
  test("is told with the worker's words", async (t) => {
    const pool = freshPool();
    const results = [];
    startWorker(t, broker, pool, async (run) => {
      const [error, options] = { error: [new TypeError("broken")], text: ["no"], json: [Buffer.from("{}"), { contentType: "application/json" }] }[run.text()];
      results.push(await run.fail(error, options));
    });
    for (const [kind, text, type] of [
      ["error", "TypeError: broken", "text/plain; charset=utf-8"],
      ["text", "no", "text/plain; charset=utf-8"],
      ["json", "{}", "application/json"],
    ]) {
      const outcome = await post(pool, kind);
      assert.deepEqual([outcome.outcome, outcome.status, outcome.contentType], ["worker_error", 502, type]);
      assert.equal(await outcome.text(), text);
    }
    await until("all were heard", () => results.length === 3);
    assert.deepEqual(results, ["replied", "replied", "replied"]);
  });

  test("of the reply's own source is told before its first byte", async (t) => {
    const pool = freshPool();
    const thrown = promised();
    const body = (async function* () {
      throw new Error("no idea");
    })();
    startWorker(t, broker, pool, (run) => run.reply(body).catch(thrown.resolve));
    const outcome = await post(pool, "");
    assert.equal(outcome.outcome, "worker_error");
    assert.equal(await outcome.text(), "Error: no idea");
    assert.equal((await thrown.promise).message, "no idea");
  });

  test("after the first byte is a broken stream", async (t) => {
    const pool = freshPool();
    const read = promised();
    startWorker(t, broker, pool, (run) => run.reply((async function* () {
      yield "half";
      await read.promise;
      throw new Error("no more");
    })()).catch(() => {}));
    const outcome = await post(pool, "");
    const seen = [];
    await assert.rejects(async () => {
      for await (const piece of outcome) seen.push(Buffer.from(piece).toString()) && read.resolve();
    }, ReplyBrokenError);
    assert.deepEqual(seen, ["half"]);
  });

  test("replaces a reply that is under way", async (t) => {
    const pool = freshPool();
    const results = promised();
    startWorker(t, broker, pool, async (run) => {
      const reply = run.reply((async function* () {
        await new Promise((resolve) => run.signal.addEventListener("abort", resolve));
        yield "unheard";
      })());
      results.resolve([await run.fail("changed my mind"), await reply]);
    });
    const outcome = await post(pool, "");
    assert.deepEqual([outcome.outcome, await outcome.text()], ["worker_error", "changed my mind"]);
    assert.deepEqual(await results.promise, ["replied", "gone"]);
  });
});

describe("a run that is not answered", () => {
  test("breaks its reply at once when it is given up", async (t) => {
    const pool = freshPool();
    startWorker(t, broker, pool, (run) => run.done());
    assert.equal((await post(pool, "")).outcome, "reply_broken");
    assert.equal((await post(pool, "")).outcome, "reply_broken");
  });

  test("is given up by the loop's next turn", async (t) => {
    const pool = freshPool();
    startWorker(t, broker, pool, () => {});
    assert.equal((await post(pool, "")).outcome, "reply_broken");
  });

  test("in time is too late, of which the worker learns", async (t) => {
    const pool = freshPool();
    const result = promised();
    startWorker(t, broker, pool, async (run) => {
      await new Promise((resolve) => run.signal.addEventListener("abort", resolve));
      result.resolve(await run.reply("late"));
    });
    assert.equal((await post(pool, "", { reply: "8s" })).outcome, "reply_timeout");
    assert.equal(await result.promise, "gone");
  });
});

describe("a caller", () => {
  for (const [what, leave] of [
    ["that leaves while the worker thinks", (controller) => controller.abort(new Error("left"))],
  ]) {
    test(`${what} aborts the run's signal`, async (t) => {
      const pool = freshPool();
      const [begun, result] = [promised(), promised()];
      startWorker(t, broker, pool, async (run) => {
        if (run.text() === "second") return run.reply("well");
        begun.resolve();
        await new Promise((resolve) => run.signal.addEventListener("abort", resolve));
        result.resolve([run.signal.reason.name, await run.reply("unheard")]);
      });
      const controller = new AbortController();
      const posted = post(pool, "first", { signal: controller.signal });
      await begun.promise;
      leave(controller);
      await assert.rejects(posted, { message: "left" });
      assert.deepEqual(await result.promise, ["AbortError", "gone"]);
      assert.equal(await (await post(pool, "second")).text(), "well");
    });
  }

  for (const [what, leave] of [
    ["cancels the outcome", (outcome) => outcome.cancel()],
    ["aborts its signal", (_, controller) => controller.abort()],
    ["leaves its loop", async (outcome) => {
      for await (const piece of outcome) if (piece) break;
    }],
    ["cancels the stream", (outcome) => outcome.body.cancel()],
  ]) {
    test(`that ${what} in the middle of a reply ends it`, async (t) => {
      const pool = freshPool();
      const result = promised();
      startWorker(t, broker, pool, async (run) => {
        const aborted = new Promise((resolve) => run.signal.addEventListener("abort", resolve));
        result.resolve(await run.reply((async function* () {
          yield "half";
          await aborted;
          yield "unheard";
        })()));
      });
      const controller = new AbortController();
      const outcome = await post(pool, "", { signal: controller.signal });
      await leave(outcome, controller);
      assert.equal(await result.promise, "gone");
    });
  }

  test("that comes again with the same name is told of the run's state, and then of its end", async (t) => {
    const pool = freshPool();
    const [begun, finish] = [promised(), promised()];
    startWorker(t, broker, pool, async (run) => {
      begun.resolve();
      await finish.promise;
      await run.reply("once");
    });
    const first = post(pool, "", { run: "same" });
    await begun.promise;
    const second = await post(pool, "", { run: "same" });
    assert.deepEqual([second.outcome, second.state, second.run], ["duplicate", "open", "same"]);
    finish.resolve();
    assert.equal(await (await first).text(), "once");
    const third = await until("the end is known", async () => {
      const outcome = await post(pool, "", { run: "same" });
      return outcome.ended && outcome;
    });
    assert.deepEqual([third.outcome, third.ended, third.state], ["duplicate", "replied", undefined]);
  });

  test("finds nobody, or asks for too much", async (t) => {
    const missed = await post(freshPool(), "", { wait: "0s" });
    assert.deepEqual([missed.outcome, missed.reason], ["miss", "no_pool"]);
    assert.ok(missed.retryAfter >= 1_000);
    const refused = await post(freshPool(), "", { reply: "10h" });
    assert.deepEqual([refused.outcome, refused.status], ["refused", 400]);

    const small = await startBroker(t, "--max-replies", "1");
    const pool = freshPool();
    const [begun, finish] = [promised(), promised()];
    startWorker(t, small, pool, async (run) => {
      begun.resolve();
      await finish.promise;
      await run.reply("x");
    });
    const first = post(pool, "", { broker: small.url });
    await begun.promise;
    const limited = await post(pool, "", { broker: small.url });
    assert.equal(limited.outcome, "limited");
    assert.ok(limited.retryAfter >= 1_000);
    finish.resolve();
    assert.equal((await first).outcome, "replied");
  });
});

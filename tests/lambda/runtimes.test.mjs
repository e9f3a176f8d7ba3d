// Owns the tests of each stock runtime client as a warm worker: what its function answers is what its caller gets.
import assert from "node:assert/strict";
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { Broker, until } from "../clients/broker.mjs";
import { absent, runtimes } from "./runtimes.mjs";
import { JavaScript } from "./sdks.mjs";
import { Worker, isAlive } from "./worker.mjs";

/** The largest event, and the largest response, of AWS. */
const SIX_MIB = 6 * 1024 * 1024;
const LARGEST_RESPONSE = SIX_MIB + 100;

for (const [language, why] of Object.entries(absent)) test(language, { skip: why }, () => {});

for (const runtime of runtimes) {
  const { name: title, skip } = runtime;
  describe(title, { skip }, () => {
    let broker;
    before(async () => { broker = await Broker.start(); });
    after(() => broker.stop());

    /** A worker of this runtime, and what invokes it: the outcome has the payload as a value. */
    async function begin(t, options) {
      const worker = await Worker.start(t, broker, runtime, options);
      const sdk = new JavaScript(t, broker.url);
      const invoke = async (event, input = {}) => {
        const outcome = await sdk.invoke({ FunctionName: worker.name, Payload: JSON.stringify(event), ...input });
        assert.equal(outcome.exception, undefined, `${outcome.exception}: ${outcome.message}\n${worker.log}`);
        assert.equal(outcome.status, 200);
        return input.streaming ? outcome : { ...outcome, payload: JSON.parse(outcome.payload) };
      };
      const times = (name) => worker.invoked().filter((one) => one.name === name).length;
      return { worker, sdk, invoke, times };
    }

    const hello = async ({ invoke }, name = "again") => {
      const { payload, functionError } = await invoke({ do: "hello", name });
      assert.equal(functionError, undefined);
      assert.equal(payload.hello, name);
      return payload.pid;
    };

    /** The outcome of an event that fails, with the error's type. */
    async function fails({ invoke }, event, errorType) {
      const { functionError, payload } = await invoke(event);
      assert.equal(functionError, "Unhandled");
      assert.match(payload.errorType, new RegExp(errorType), JSON.stringify(payload));
      return payload.errorMessage;
    }

    test("it says hello, and is told what AWS tells", async (t) => {
      const one = await begin(t, { flags: ["--timeout", "30s"] });
      const { worker, invoke } = one;
      await hello(one, "grüße, 世界");
      const { payload, requestId, version } = await invoke({ do: "context" }, { ClientContext: '{"custom":{"color":"blue"}}' });
      assert.equal(version, "$LATEST");
      assert.deepEqual([payload.name, payload.version], [worker.name, "$LATEST"]);
      assert.equal(payload.id, requestId);
      assert.match(payload.arn, new RegExp(`^arn:aws:lambda:[^:]+:[0-9]{12}:function:${worker.name}`));
      assert.ok(payload.memory > 0);
      assert.ok(payload.remaining > 1_000 && payload.remaining <= 30_000, `${payload.remaining} ms`);
      assert.deepEqual(payload.client?.custom, { color: "blue" });
    });

    test("it is told the caller's trace", async (t) => {
      const { worker } = await begin(t);
      const trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
      const post = (headers) => fetch(`${broker.url}/2015-03-31/functions/${worker.name}/invocations`, { method: "POST", headers, body: '{"do":"context"}' });
      const told = async (headers) => (await (await post(headers)).json()).trace;
      assert.equal(await told({ "x-amzn-trace-id": trace }), trace);
      const traced = await told({ traceparent: "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01" });
      assert.equal(traced, trace);
    });

    test("an error of its handler is the caller's, and the same process serves on", async (t) => {
      const one = await begin(t);
      const pid = await hello(one);
      assert.equal(await fails(one, { do: "error", name: "fails", message: "so \"it\" is" }, runtime.error), "so \"it\" is");
      assert.equal(await hello(one), pid);
      assert.equal(one.times("fails"), 1);
    });

    test("the end of its process is an answer, and another one serves", async (t) => {
      const one = await begin(t);
      const pid = await hello(one);
      await fails(one, { do: "crash", name: "crashes" }, "Runtime.ExitError");
      await one.worker.waits(1);
      assert.notEqual(await hello(one), pid);
      assert.equal(one.times("crashes"), 1);
    });

    test("what takes too long is an answer, and another process serves", async (t) => {
      const one = await begin(t, { flags: ["--timeout", "1s"] });
      const pid = await hello(one);
      assert.match(await fails(one, { do: "sleep", name: "sleeps", milliseconds: 60_000 }, "Sandbox.Timedout"), /timed out/i);
      await one.worker.waits(1);
      assert.notEqual(await hello(one), pid);
      assert.equal(one.times("sleeps"), 1);
      await until("the first one is killed", () => !isAlive(pid));
    });

    test("6 MiB go in and come out, more is an error, and the same process serves on", async (t) => {
      const one = await begin(t);
      const pid = await hello(one);
      const around = JSON.stringify({ do: "echo", payload: "" }).length;
      const payload = "x".repeat(SIX_MIB - around);
      const echoed = await one.invoke({ do: "echo", payload });
      assert.ok(echoed.payload === payload, "it is the same");
      const large = await one.invoke({ do: "bytes", bytes: LARGEST_RESPONSE });
      assert.equal(large.payload.length, LARGEST_RESPONSE - '""'.length);
      for (const bytes of [LARGEST_RESPONSE + 1, 20 * 1024 * 1024]) {
        await fails(one, { do: "bytes", bytes, name: `${bytes}` }, "Function.ResponseSizeTooLarge");
        assert.equal(one.times(`${bytes}`), 1);
      }
      assert.equal(await hello(one), pid);
    });

    test("a thousand invocations in a row are served once each, in order, by one process", async (t) => {
      const one = await begin(t);
      const names = Array.from({ length: 1_000 }, (_, number) => `run ${number}`);
      const pids = new Set();
      for (const name of names) pids.add(await hello(one, name));
      assert.equal(pids.size, 1);
      assert.deepEqual(one.worker.invoked().map(({ name }) => name), names);
    });

    /** Eight invocations that end only when all eight are there. */
    async function eightAtOnce({ worker, invoke }) {
      const event = { do: "meet", place: worker.place("eight"), people: 8 };
      const outcomes = await Promise.all(Array.from({ length: 8 }, () => invoke(event)));
      for (const { payload, functionError } of outcomes) assert.equal(functionError, undefined, JSON.stringify(payload));
      assert.equal(worker.invoked().length, 8);
      return new Set(outcomes.map(({ payload }) => payload.pid)).size;
    }

    test("eight slots serve eight invocations at once", async (t) => {
      assert.equal(await eightAtOnce(await begin(t, { slots: 8 })), 8);
    });

    test("AWS_LAMBDA_MAX_CONCURRENCY has one slot serve eight at once", { skip: !runtime.concurrency && "the client has no such mode" }, async (t) => {
      const one = await begin(t, { waits: 8, env: { AWS_LAMBDA_MAX_CONCURRENCY: "8" } });
      assert.equal(await eightAtOnce(one), runtime.concurrency === "processes" ? 8 : 1);
    });

    test("AWS_LAMBDA_MAX_CONCURRENCY is kept from a client that would poll before it has answered", { skip: runtime.concurrency && "the client may have it" }, async (t) => {
      const one = await begin(t, { env: { AWS_LAMBDA_MAX_CONCURRENCY: "8" } });
      assert.match(one.worker.log, /AWS_LAMBDA_MAX_CONCURRENCY is taken out/);
      assert.equal(await hello(one), await hello(one));
    });

    test("a function that cannot begin is started again and again, and the log says why", { skip: runtime.prelude && "its handler is not found by name" }, async (t) => {
      const { worker, sdk } = await begin(t, { handler: "missing", waits: 0 });
      const reasons = () => worker.log.match(/HandlerNotFound[^"]*missing|missing[^"]*HandlerNotFound/g) ?? [];
      await until("it says so twice", () => reasons().length >= 2);
      assert.equal((await sdk.invoke({ FunctionName: worker.name })).exception, "TooManyRequestsException");
    });

    test("at SIGTERM the open invocation ends, and so does the worker", async (t) => {
      const shutdown = join(tmpdir(), `pilotlight-shutdown-${process.pid}`);
      t.after(() => rmSync(shutdown, { force: true }));
      const { worker, invoke, times } = await begin(t, { slots: 2, env: runtime.shutdown ? { SHUTDOWN_FILE: shutdown } : {} });
      const place = worker.place("end");
      const outcome = invoke({ do: "meet", place, people: 2, name: "open" });
      await until("it runs", () => times("open"));
      worker.process.kill("SIGTERM");
      // The other slot waits no more, and the open one goes on.
      await worker.waits(0);
      writeFileSync(join(place, "other"), "");
      assert.ok((await outcome).payload.pid);
      assert.equal(await worker.ended, 0, worker.log);
      assert.equal(existsSync(shutdown), Boolean(runtime.shutdown), "the client's own shutdown has run");
    });

    test("what it prints is the log's tail for a caller that asks", async (t) => {
      const { invoke, worker } = await begin(t);
      const tail = async (event) => Buffer.from((await invoke(event, { LogType: "Tail" })).log, "base64").toString();
      assert.match(await tail({ do: "print", lines: 2 }), /line 1\n[^]*line 2\n/);
      const long = await tail({ do: "print", lines: 600 });
      assert.ok(long.includes("line 600\n"), `it ends with ${long.slice(-100)}`);
      assert.ok(long.length <= 4_096, `${long.length} bytes`);
      assert.equal((await invoke({ do: "print", lines: 1 })).log, undefined, "nobody asked");
      await until("the log has it, too", () => worker.log.includes("line 2"));
    });

    const ended = ({ events }) => {
      const last = events.at(-1).InvokeComplete;
      assert.ok(last, JSON.stringify(events));
      return { code: last.ErrorCode, details: last.ErrorDetails };
    };
    const text = ({ events }) => payload(events.map(({ PayloadChunk }) => PayloadChunk?.Payload ?? "").join(""));
    /** Some clients write the head of an HTTP response before the body, as Lambda's function URLs want it. */
    const payload = (text) => (runtime.prelude ? text.replace(/^\{[^]*?\}\0{8}/, "") : text);

    test("a buffered response comes whole to a caller that streams", async (t) => {
      const { invoke } = await begin(t);
      const outcome = await invoke({ do: "echo", payload: "whole" }, { streaming: true });
      assert.equal(text(outcome), '"whole"');
      assert.equal(ended(outcome).code, undefined);
      const failed = await invoke({ do: "error" }, { streaming: true });
      assert.match(ended(failed).code, new RegExp(runtime.error));
      assert.match(ended(failed).details, /it has failed/);
    });

    const streaming = { skip: !runtime.streams && "the client cannot stream" };

    /** Invokes a function that writes the next token, or ends, only when this one was heard: the first one may come with what is before it. */
    async function step({ worker, invoke, sdk }, event, name) {
      const place = worker.place(name);
      let taken = 0;
      sdk.heard = ({ PayloadChunk }) => PayloadChunk?.Payload.includes("token") && writeFileSync(join(place, `${(taken += 1) - 1}`), "");
      return invoke({ ...event, name, place }, { streaming: true });
    }

    test("a streamed response comes piece by piece", streaming, async (t) => {
      const outcome = await step(await begin(t, { handler: "stream" }), { tokens: 5 }, "five");
      assert.equal(text(outcome), Array.from({ length: 5 }, (_, number) => `token ${number}\n`).join(""));
      assert.equal(ended(outcome).code, undefined);
    });

    test("a streamed response is whole for a caller that does not stream", streaming, async (t) => {
      const { worker, sdk } = await begin(t, { handler: "stream" });
      const outcome = await sdk.invoke({ FunctionName: worker.name, Payload: '{"tokens":3}' });
      assert.deepEqual([outcome.functionError, payload(outcome.payload)], [undefined, "token 0\ntoken 1\ntoken 2\n"]);
    });

    test("a stream that fails late says so at its end", streaming, async (t) => {
      const one = await begin(t, { handler: "stream", flags: ["--timeout", "2s"] });
      for (const [end, code] of [["error", runtime.lateError], ["crash", "Runtime.ExitError"], ["sleep", "Sandbox.Timedout"]]) {
        const outcome = await step(one, { tokens: 2, end }, end);
        assert.ok(text(outcome).startsWith("token 0\ntoken 1\n"), end);
        assert.match(`${ended(outcome).code}`, new RegExp(code), `${end}: ${JSON.stringify(outcome)}`);
        assert.equal(one.times(end), 1);
        await one.worker.waits(1);
      }
      assert.equal(text(await step(one, { tokens: 1 }, "last")), "token 0\n");
    });
  });
}

// Owns the tests of stock AWS SDKs as callers: what each makes of every outcome, and how often it posts.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { Broker, until } from "../clients/broker.mjs";
import { runtimes } from "./runtimes.mjs";
import { sdks } from "./sdks.mjs";
import { Witness } from "./witness.mjs";
import { Worker } from "./worker.mjs";

const SIX_MIB = 6 * 1024 * 1024;
/** Both SDKs try three times. */
const TRIES = 3;
const runtime = runtimes.find(({ skip }) => !skip);

/** A broker and a caller, with a witness between them. */
async function connect(t, Sdk, flags, patience) {
  const broker = await Broker.start(...flags);
  t.after(() => broker.stop());
  const witness = await Witness.start(t, broker);
  return { broker, witness, sdk: new Sdk(t, witness.url, patience) };
}

/** Adds a worker, and what invokes: its outcome has the number of POSTs. */
async function addWorker(t, { broker, witness, sdk }, options) {
  const worker = await Worker.start(t, broker, runtime, options);
  // What a test before this one has left.
  witness.posts.clear();
  const send = async (event, input) => {
    const outcome = await sdk.invoke({ FunctionName: worker.name, Payload: JSON.stringify(event), ...input });
    assert.equal(witness.takeServerErrors(), 0, "an answer of 5xx");
    return outcome;
  };
  /** Each outcome of these, which are open at the same time and are posted equally often. */
  const invokeAll = async (event, inputs) => {
    const outcomes = await Promise.all(inputs.map((input) => send(event, input)));
    const posts = witness.take(inputs.length);
    return outcomes.map((outcome) => ({ ...outcome, posts }));
  };
  const invoke = async (event, input = {}) => (await invokeAll(event, [input]))[0];
  const times = (name) => worker.invoked().filter((one) => one.name === name).length;
  return { broker, worker, witness, sdk, invoke, invokeAll, times };
}

for (const Sdk of sdks) {
  describe(Sdk.title, { skip: Sdk.skip || (runtime ? false : "no runtime could be installed") }, () => {
    const shared = { ends: [], after: (end) => shared.ends.push(end) };
    before(async () => Object.assign(shared, await connect(shared, Sdk, [])));
    after(async () => {
      for (const end of shared.ends.reverse()) await end();
    });

    /** With flags or patience, a broker and a caller of the test's own. */
    async function begin(t, { brokerFlags, patience, ...options } = {}) {
      const own = brokerFlags || patience;
      return addWorker(t, own ? await connect(t, Sdk, brokerFlags ?? [], patience) : shared, options);
    }

    test("a hit, and a function's errors of every kind, are one POST each", async (t) => {
      const { worker, invoke, times } = await begin(t, { flags: ["--timeout", "1s"] });
      const hit = await invoke({ name: "hit" });
      assert.deepEqual([hit.status, hit.functionError ?? null, hit.posts, hit.version], [200, null, 1, "$LATEST"]);
      assert.equal(JSON.parse(hit.payload).hello, "hit");
      const errors = [
        ["error", { do: "error" }, runtime.error],
        ["crash", { do: "crash" }, "Runtime.ExitError"],
        ["timeout", { do: "sleep", milliseconds: 60_000 }, "Sandbox.Timedout"],
        ["too large", { do: "bytes", bytes: SIX_MIB + 101 }, "Function.ResponseSizeTooLarge"],
      ];
      for (const [name, event, type] of errors) {
        await worker.waits(1);
        const { status, functionError, payload, posts } = await invoke({ ...event, name });
        assert.deepEqual([status, functionError, posts], [200, "Unhandled", 1], `${name}: ${payload}`);
        assert.match(JSON.parse(payload).errorType, new RegExp(type), name);
        assert.equal(times(name), 1, name);
      }
    });

    test("a miss is throttling, which the SDK tries again", async (t) => {
      const { invokeAll } = await begin(t);
      const inputs = [{}, { streaming: true }, { InvocationType: "Event" }].map((input) => ({ FunctionName: "nobody", ...input }));
      for (const { exception, status, posts, retryAfter, message } of await invokeAll({}, inputs)) {
        assert.deepEqual([exception, status, posts], ["TooManyRequestsException", 429, TRIES], message);
        assert.match(`${retryAfter}`, /^[0-9]+$/);
        assert.match(message, /no_pool/);
      }
    });

    test("a limit of the broker is throttling, too", async (t) => {
      const { worker, broker, invoke, times } = await begin(t, { slots: 2, brokerFlags: ["--max-replies", "1"] });
      const place = worker.place("long");
      const event = JSON.stringify({ do: "meet", place, people: 2, name: "long" });
      const long = fetch(`${broker.url}/2015-03-31/functions/${worker.name}/invocations`, { method: "POST", body: event });
      await until("it serves", () => times("long"));
      const { exception, status, posts, message } = await invoke({ name: "refused" });
      assert.deepEqual([exception, status, posts, times("refused")], ["TooManyRequestsException", 429, TRIES, 0], message);
      writeFileSync(join(place, "other"), "");
      assert.equal((await long).headers.get("x-amz-function-error"), null);
    });

    test("what cannot become a hit is refused once", async (t) => {
      const { worker, invoke } = await begin(t, { brokerFlags: ["--function", "known=known/v1/0/0"] });
      const refused = async (event, input) => {
        const { exception, status, posts, message } = await invoke(event, input);
        assert.ok(message?.length > 0, "it says why");
        return [exception, status, posts];
      };
      const KNOWN = { FunctionName: "known" };
      const UNKNOWN = ["ResourceNotFoundException", 404, 1];
      assert.deepEqual(await refused({}, { FunctionName: worker.name }), UNKNOWN);
      assert.deepEqual(await refused({}, { ...KNOWN, Qualifier: "other" }), UNKNOWN);
      assert.deepEqual(await refused({}, { FunctionName: worker.name, streaming: true }), UNKNOWN);
      assert.deepEqual(await refused({}, { FunctionName: worker.name, InvocationType: "DryRun" }), UNKNOWN);
      assert.deepEqual(await refused("x".repeat(SIX_MIB - 1), KNOWN), ["RequestTooLargeException", 413, 1]);
      for (const Payload of ["{not json", "{} {}", "\u0000"]) {
        assert.deepEqual(await refused(null, { ...KNOWN, Payload }), ["InvalidRequestContentException", 400, 1], Payload);
      }
      assert.deepEqual(await refused({}, { ...KNOWN, ClientContext: "{not json" }), ["InvalidRequestContentException", 400, 1]);
    });

    test("an event without a body is {}", async (t) => {
      const { invoke } = await begin(t);
      const { payload, posts } = await invoke(null, { Payload: "" });
      assert.deepEqual([JSON.parse(payload).hello, posts], [null, 1]);
    });

    test("Event is answered before the function, and DryRun without it", async (t) => {
      const { worker, invoke, times } = await begin(t);
      const dry = await invoke({ name: "dry" }, { InvocationType: "DryRun" });
      assert.deepEqual([dry.status, dry.posts, dry.exception], [204, 1, undefined]);
      const place = worker.place("event");
      const event = await invoke({ do: "meet", place, people: 2, name: "event" }, { InvocationType: "Event" });
      assert.deepEqual([event.status, event.posts, event.exception], [202, 1, undefined]);
      await until("it runs", () => times("event"));
      writeFileSync(join(place, "other"), "");
      await worker.waits(1);
      for (const name of ["error", "crash"]) {
        assert.equal((await invoke({ do: name, name }, { InvocationType: "Event" })).status, 202);
        await until(`${name} runs`, () => times(name));
        await worker.waits(1);
      }
      assert.deepEqual(["dry", "event", "error", "crash"].map(times), [0, 1, 1, 1]);
      await until("the log says how it ended", () => worker.log.includes("it has failed"));
    });

    test("streaming, the log's tail and the client context", async (t) => {
      const { invoke } = await begin(t);
      const streamed = await invoke({ do: "echo", payload: "grüße" }, { streaming: true });
      assert.equal(streamed.events.map(({ PayloadChunk }) => PayloadChunk?.Payload ?? "").join(""), '"grüße"');
      assert.deepEqual([streamed.status, streamed.version, streamed.posts], [200, "$LATEST", 1]);
      assert.ok(streamed.events.at(-1).InvokeComplete);
      const tail = await invoke({ do: "print", lines: 2 }, { LogType: "Tail" });
      assert.match(Buffer.from(tail.log, "base64").toString(), /line 1\n[^]*line 2\n/);
      const { payload } = await invoke({ do: "context" }, { ClientContext: JSON.stringify({ custom: { color: "blau und grün" } }) });
      assert.deepEqual(JSON.parse(payload).client.custom, { color: "blau und grün" });
    });

    test("every form of a function's name reaches it", async (t) => {
      const { worker: { name }, invoke } = await begin(t, { version: "7" });
      const account = "123456789012";
      const forms = [
        { FunctionName: name, Qualifier: "7" },
        { FunctionName: `${name}:7` },
        { FunctionName: `${account}:function:${name}:7` },
        { FunctionName: `arn:aws:lambda:us-east-1:${account}:function:${name}:7` },
        { FunctionName: `arn:aws:lambda:us-east-1:${account}:function:${name}`, Qualifier: "7" },
      ];
      for (const form of forms) {
        const { payload, version, posts, message } = await invoke({ do: "context" }, form);
        assert.deepEqual([version, posts], ["7", 1], `${JSON.stringify(form)}: ${message}`);
        assert.equal(JSON.parse(payload).version, "7");
      }
      assert.equal((await invoke({}, { FunctionName: name })).exception, "TooManyRequestsException", "$LATEST is another pool");
    });

    test("a table of functions says which pool a name is", async (t) => {
      const { worker, invoke } = await begin(t, { brokerFlags: ["--function", "greet=greeter/v1/0.5/1"], pool: "greeter/v1/0.5/1" });
      const { payload, message } = await invoke({ name: "table" }, { FunctionName: "greet" });
      assert.equal(message ?? JSON.parse(payload).hello, "table");
      assert.equal(worker.invoked().length, 1);
    });

    /** An invocation that is open until the test ends it; its outcome. */
    function open({ worker, invoke }) {
      const place = worker.place("open");
      const outcome = invoke({ do: "meet", place, people: 2, name: "open" });
      return { outcome, end: () => writeFileSync(join(place, "other"), "") };
    }

    test("an SDK that waits no longer, and tries again, does not run the function again", async (t) => {
      const one = await begin(t, { slots: 2, patience: 1 });
      const { outcome, end } = open(one);
      const { exception, status, posts, message } = await outcome;
      assert.deepEqual([exception, status, posts], ["ResourceConflictException", 409, 2], message);
      end();
      await one.worker.waits(2);
      assert.equal(one.times("open"), 1);
    });

    test("an SDK whose connection is lost, and that tries again, does not run the function again", async (t) => {
      const one = await begin(t, { slots: 2 });
      one.witness.cuts = 1;
      const release = one.witness.hold();
      const { outcome, end } = open(one);
      await until("it runs", () => one.times("open"));
      release();
      const { exception, status, posts, message } = await outcome;
      assert.deepEqual([exception, status, posts], ["ResourceConflictException", 409, 2], message);
      end();
      await one.worker.waits(2);
      assert.equal(one.times("open"), 1);
    });

    test("an SDK whose answer is lost, and that tries again, is told so, and the function does not run again", async (t) => {
      const { witness, worker, invoke, times } = await begin(t, { slots: 2 });
      witness.cuts = 1;
      const release = witness.hold();
      const outcome = invoke({ name: "lost" });
      await until("it has run", () => times("lost"));
      await worker.waits(2);
      release();
      const { exception, status, posts, message } = await outcome;
      assert.deepEqual([exception, status, posts, times("lost")], ["ResourceConflictException", 409, 2, 1], message);
      assert.match(message, /outcome: replied/);
    });
  });
}

// Owns one story of a worker and its callers, which each runtime must tell alike. Argument: the broker's URL.
import { dispatch, ReplyBrokenError, wait } from "../index.mjs";

const [broker] = process.argv.slice(2);
const pool = "story/v1/0.5/1";
const stop = new AbortController();
const post = (payload, options = {}) => dispatch(pool, payload, { broker, wait: "5s", reply: "10s", ...options });
const tell = (what, ...facts) => console.log(JSON.stringify([what, ...facts]));
const aborted = (run) => new Promise((resolve) => run.signal.addEventListener("abort", resolve));

const results = [];
const WORK = {
  async stream(run) {
    return run.reply((async function* () {
      for (const token of ["a", "b", "c"]) {
        yield token;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    })());
  },
  big: (run) => run.reply(Buffer.alloc(4 << 20, "x")),
  async other(run) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    return run.reply('{"a":1}', { status: 404, contentType: "application/json" });
  },
  fail: (run) => run.fail(new RangeError("too far")),
  async done(run) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    run.done();
  },
  doneAtOnce: (run) => run.done(),
  async leave(run) {
    await aborted(run);
    return run.reply("unheard");
  },
  async leaveLater(run) {
    return run.reply((async function* () {
      yield "half";
      await aborted(run);
    })());
  },
  async breakOff(run) {
    return run.reply((async function* () {
      yield "half";
      await new Promise((resolve) => setTimeout(resolve, 50));
      throw new Error("no more");
    })()).catch((error) => error.message);
  },
};

const worker = (async () => {
  for await (const run of wait({ broker, pool, signal: stop.signal, contentType: "text/plain" })) results.push([run.text(), await WORK[run.text()](run)]);
})();

const streamed = await post("stream");
const pieces = [];
for await (const piece of streamed) pieces.push(new TextDecoder().decode(piece));
tell("stream", streamed.outcome, streamed.status, streamed.contentType, pieces);
tell("big", (await (await post("big")).bytes()).length);
const other = await post("other");
tell("other", other.outcome, other.status, other.contentType, await other.json());
const failed = await post("fail");
tell("fail", failed.outcome, failed.status, await failed.text());
tell("done", (await post("done")).outcome, (await post("doneAtOnce")).outcome);

const leave = new AbortController();
const left = post("leave", { signal: leave.signal });
setTimeout(() => leave.abort(), 300);
tell("leave", await left.catch((error) => error.name));
(await post("leaveLater")).cancel();
const broken = await post("breakOff");
tell("breakOff", broken.outcome, await broken.text().catch((error) => error instanceof ReplyBrokenError));
tell("miss", (await dispatch("nobody/v1/0.5/1", "x", { broker, reply: "1s" })).reason);
const heard = await dispatch(pool, "doneAtOnce", { broker, wait: "5s" });
tell("delivered", heard.outcome, heard.proof);
stop.abort();
await worker;
tell("results", ...results);

// Owns the function for Node: it does what an event asks for, and records every invocation.
import { appendFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

function record(event, context) {
  const line = JSON.stringify({ id: context.awsRequestId, name: event.name ?? null, pid: process.pid });
  appendFileSync(process.env.INVOCATIONS, `${line}\n`);
}

/** Returns when as many invocations are at this place: they are open at the same time. */
async function meet({ place, people }, { awsRequestId }) {
  writeFileSync(join(place, awsRequestId), "");
  for (let tries = 0; tries < 2_000; tries += 1) {
    if (readdirSync(place).length >= people) return;
    await sleep(10);
  }
  throw new Error(`only ${readdirSync(place).length} came`);
}

const actions = {
  hello: ({ name = null }) => ({ hello: name, pid: process.pid }),
  echo: ({ payload }) => payload,
  bytes: ({ bytes }) => "x".repeat(bytes - '""'.length),
  error: ({ message }) => {
    throw new RangeError(message ?? "it has failed");
  },
  crash: () => process.exit(3),
  sleep: async ({ name, milliseconds }) => {
    await sleep(milliseconds);
    return { hello: name, pid: process.pid };
  },
  meet: async (event, context) => {
    await meet(event, context);
    return { pid: process.pid };
  },
  print: ({ lines }) => {
    for (let number = 1; number <= lines; number += 1) console.log(`line ${number}`);
    return lines;
  },
  context: (_, context) => ({
    id: context.awsRequestId,
    arn: context.invokedFunctionArn,
    name: context.functionName,
    version: context.functionVersion,
    memory: Number(context.memoryLimitInMB),
    remaining: context.getRemainingTimeInMillis(),
    client: context.clientContext ?? null,
    trace: process.env._X_AMZN_TRACE_ID ?? null,
  }),
};

export async function handler(event, context) {
  record(event, context);
  return actions[event.do ?? "hello"](event, context);
}

/** Writes its tokens one by one; each waits until the one before was taken, if `place` is given. */
export const stream = awslambda.streamifyResponse(async (event, out, context) => {
  record(event, context);
  out.setContentType("text/plain");
  for (let number = 0; number < event.tokens; number += 1) {
    out.write(`token ${number}\n`);
    if (event.place) while (!readdirSync(event.place).includes(`${number}`)) await sleep(5);
  }
  if (event.end === "error") throw new RangeError("it has failed late");
  if (event.end === "crash") process.exit(3);
  if (event.end === "sleep") await sleep(60_000);
  out.end();
});

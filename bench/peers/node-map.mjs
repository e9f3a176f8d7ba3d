// Owns generation 2: Node, the waiters in a Map by their key, as little parsing as Node allows.
import { createServer } from "node:http";

const FRESH = process.env.FRESH === "1";

/** Key → the held responses, in the order of their arrival. */
const pools = new Map();

/** No header value holds a line break, so no two keys of controllers are written alike. */
function keyOf(deployment, version, cpu, memory) {
  return `${deployment}\n${version}\n${Number(cpu)}\n${Number(memory)}`;
}

function hold(request, response) {
  const { headers } = request;
  const key = keyOf(
    headers["x-trigger-deployment-id"],
    headers["x-trigger-deployment-version"],
    headers["x-trigger-machine-cpu"],
    headers["x-trigger-machine-memory"],
  );
  let pool = pools.get(key);
  if (!pool) pools.set(key, (pool = new Set()));
  pool.add(response);
  response.once("close", () => leave(key, response));
}

/** Leaves its pool; a waiter that was matched has left already. */
function leave(key, response) {
  const pool = pools.get(key);
  if (pool?.delete(response) && pool.size === 0) pools.delete(key);
}

function match(key) {
  for (const response of pools.get(key) ?? []) {
    leave(key, response);
    if (!response.destroyed) return response;
  }
  return undefined;
}

function dispatch(body, response) {
  const run = parse(body)?.dequeuedMessage;
  const machine = run?.run?.machine;
  const waiter = match(
    keyOf(run?.deployment?.friendlyId, run?.backgroundWorker?.version, machine?.cpu, machine?.memory),
  );
  if (waiter) reply(waiter, JSON.stringify(run), FRESH);
  reply(response, waiter ? '{"didWarmStart":true}' : '{"didWarmStart":false}');
}

function parse(body) {
  try {
    return JSON.parse(body);
  } catch {
    return undefined;
  }
}

function reply(response, body, close = false) {
  const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
  if (close) headers.connection = "close";
  response.writeHead(200, headers);
  response.end(body);
}

function read(request, then) {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => then(chunks.length === 1 ? chunks[0].toString() : Buffer.concat(chunks).toString()));
}

const server = createServer((request, response) => {
  switch (request.url) {
    case "/warm-start":
      if (request.method === "GET") return hold(request, response);
      return read(request, (body) => dispatch(body, response));
    case "/connect":
      return reply(response, '{"connectionTimeoutMs":50000,"keepaliveMs":300000}');
    case "/livez":
      return response.writeHead(200, { "content-type": "text/plain", "content-length": 2 }).end("ok");
    default:
      return response.writeHead(404, { "content-length": 0 }).end();
  }
});

// A held poll is not a slow request: Node's timeouts must not end it.
Object.assign(server, { requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 0, timeout: 0 });
server.listen({ host: "127.0.0.1", port: Number(process.env.PORT ?? 7070), backlog: 4096 }, () => {
  process.stdout.write(`listening on http://127.0.0.1:${server.address().port} \n`);
});

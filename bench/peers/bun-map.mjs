// Owns generation 3: Bun.serve, the waiters in a Map by their key; a match resolves the held promise.

const CLOSE = process.env.FRESH === "1" ? { headers: { connection: "close" } } : undefined;

/** Key → the waiters' resolve functions, in the order of their arrival. */
const pools = new Map();

/** No header value holds a line break, so no two keys of controllers are written alike. */
function keyOf(deployment, version, cpu, memory) {
  return `${deployment}\n${version}\n${Number(cpu)}\n${Number(memory)}`;
}

function hold(request) {
  const { headers } = request;
  const key = keyOf(
    headers.get("x-trigger-deployment-id"),
    headers.get("x-trigger-deployment-version"),
    headers.get("x-trigger-machine-cpu"),
    headers.get("x-trigger-machine-memory"),
  );
  return new Promise((resolve) => {
    let pool = pools.get(key);
    if (!pool) pools.set(key, (pool = new Set()));
    pool.add(resolve);
    // A promise that never resolves would keep its request in memory, so a waiter that left is answered, too.
    request.signal.addEventListener("abort", () => {
      if (leave(key, resolve)) resolve(new Response(null, { status: 499 }));
    });
  });
}

/** Leaves its pool; false if it had left already. */
function leave(key, resolve) {
  const pool = pools.get(key);
  if (!pool?.delete(resolve)) return false;
  if (pool.size === 0) pools.delete(key);
  return true;
}

function match(key) {
  for (const resolve of pools.get(key) ?? []) {
    leave(key, resolve);
    return resolve;
  }
  return undefined;
}

async function dispatch(request) {
  const run = (await request.json().catch(() => undefined))?.dequeuedMessage;
  const machine = run?.run?.machine;
  const waiter = match(
    keyOf(run?.deployment?.friendlyId, run?.backgroundWorker?.version, machine?.cpu, machine?.memory),
  );
  waiter?.(Response.json(run, CLOSE));
  return Response.json({ didWarmStart: waiter !== undefined });
}

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.env.PORT ?? 7070),
  // In seconds; 0 means never. A held poll is always idle.
  idleTimeout: 0,
  development: false,
  routes: {
    "/warm-start": { GET: hold, POST: dispatch },
    "/connect": { GET: () => Response.json({ connectionTimeoutMs: 50000, keepaliveMs: 300000 }) },
    "/livez": { GET: () => new Response("ok") },
  },
  fetch: () => new Response(null, { status: 404 }),
});

process.stdout.write(`listening on http://127.0.0.1:${server.port} \n`);

// Owns the stream peer for Bun: Bun.serve relays what the stub answers, as it comes.
const stub = process.argv[2];

async function relay(request) {
  const answer = await fetch(stub, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: await request.bytes(),
    signal: request.signal,
  });
  const headers = { "content-type": answer.headers.get("content-type") };
  return new Response(answer.body, { status: answer.status, headers });
}

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.env.PORT ?? 7070),
  // In seconds; 0 means never.
  idleTimeout: 0,
  development: false,
  routes: { "/generate": { POST: relay } },
  fetch: () => new Response(null, { status: 404 }),
});

process.stdout.write(`listening on http://127.0.0.1:${server.port} \n`);

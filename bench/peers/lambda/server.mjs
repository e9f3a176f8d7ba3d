// Owns the plain server for Node.js: node:http, in as many processes as its argument says, around the same handler.
import cluster from "node:cluster";
import { once } from "node:events";
import { createServer } from "node:http";

import { handler } from "./hello.mjs";

async function answer(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = JSON.stringify(await handler(JSON.parse(Buffer.concat(chunks))));
  response.writeHead(200, { "content-type": "application/json", "content-length": Buffer.byteLength(body) });
  response.end(body);
}

if (cluster.isPrimary) {
  const workers = Array.from({ length: Number(process.argv[2]) }, () => cluster.fork());
  // A worker that listens before the others have started would get all the first connections.
  await Promise.all(workers.map((worker) => once(worker, "online")));
  for (const worker of workers) worker.send("listen");
  await Promise.all(workers.map((worker) => once(worker, "listening")));
  process.stdout.write("listening\n");
} else {
  process.once("message", () => createServer(answer).listen(Number(process.env.PORT), "127.0.0.1"));
}

// Owns the function for Node.js. The stock runtime client and the plain server call the same handler.
import { setTimeout as sleep } from "node:timers/promises";

export async function handler(event) {
  if (event.milliseconds) await sleep(event.milliseconds);
  return { hello: event.name };
}

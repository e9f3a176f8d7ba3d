// Owns the record of the bytes that processes read, by strace: those that the kernel passed to them.
import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";

const LONGEST_READ = 1 << 20;
const CALLS = "trace=connect,read,readv,recvfrom,recvmsg,close";

/** The command under strace, which writes to the file. */
export function witnessed(file, command) {
  return ["strace", "-f", "-qq", "--seccomp-bpf", "-xx", "-s", LONGEST_READ, "-e", "signal=none", "-e", CALLS, "-o", file, ...command];
}

const decode = (hex) => Buffer.from(hex.replaceAll("\\x", ""), "hex");

/** The calls in an output of strace. A call that another thread interrupted is written in two parts, which are joined. */
async function* calls(file) {
  const begun = new Map();
  for await (const line of createInterface({ input: createReadStream(file), crlfDelay: Infinity })) {
    const [, thread, rest] = /^(\d+) +(.*)$/.exec(line);
    const resumed = /^<\.\.\. \w+ resumed>(.*)$/.exec(rest);
    const begins = /^(.*?) *<unfinished \.\.\.>$/.exec(rest);
    if (begins) begun.set(thread, begins[1]);
    // The descriptor may be reused before the call has returned, so a close counts from its start.
    const call = begins ? /^close\(\d+/.exec(rest)?.[0] : resumed ? begun.get(thread) + resumed[1] : rest;
    if (call && !(resumed && call.startsWith("close("))) yield call;
  }
}

/** The bytes that were read from each connection, in order, by the address that it was made to. */
export async function whatWasRead(file) {
  const [byAddress, open] = [new Map(), new Map()];
  for await (const call of calls(file)) {
    const [, name, descriptor] = /^(\w+)\((\d+)/.exec(call) ?? [];
    if (name === "connect") {
      const address = /sin_addr=inet_addr\("([^"]+)"\)/.exec(call)?.[1];
      if (!address) continue;
      const connection = [];
      open.set(descriptor, connection);
      const readable = address.startsWith("\\x") ? decode(address).toString() : address;
      byAddress.set(readable, [...(byAddress.get(readable) ?? []), connection]);
    } else if (name === "close") {
      open.delete(descriptor);
    } else if (open.has(descriptor) && !call.includes("MSG_PEEK")) {
      const count = Number(/ = (-?\d+)(?: .*)?$/.exec(call)?.[1] ?? 0);
      const bytes = Buffer.concat([...call.matchAll(/"((?:\\x..)*)"/g)].map(([, hex]) => decode(hex))).subarray(0, Math.max(count, 0));
      if (bytes.length < count) throw new Error(`strace did not show all of ${call.slice(0, 80)}`);
      open.get(descriptor).push(bytes);
    }
  }
  return new Map([...byAddress].map(([address, connections]) => [address, connections.map((chunks) => Buffer.concat(chunks))]));
}

/** Larger than any TLS record of a handshake, in bytes. */
const RECORD_OF_A_RUN = 2000;
const HEADER = 5;
/** What TLS 1.3 adds to a record, in bytes: the inner content type, and the authentication tag. */
const SEAL = 17;

/** Whether the whole payload is in these bytes. Under TLS they are encrypted, so the lengths of records are added up. */
export function holds(bytes, payload, isTls) {
  if (!isTls) return bytes.includes(payload);
  let sum = 0;
  for (let at = 0; at + HEADER <= bytes.length; ) {
    const length = bytes.readUInt16BE(at + 3);
    at += HEADER + length;
    // Only a complete record can be decrypted.
    if (at > bytes.length) break;
    if (sum > 0 || length > RECORD_OF_A_RUN) sum += length - SEAL;
  }
  return sum >= payload.length;
}

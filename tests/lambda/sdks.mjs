// Owns the callers under test: stock SDKs with their default retries, whose outcomes have one form.
import { InvokeCommand, InvokeWithResponseStreamCommand, LambdaClient } from "@aws-sdk/client-lambda";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";
import { endsWithThis } from "../clients/broker.mjs";

const here = new URL(".", import.meta.url).pathname;
const python = `${here}.venv/bin/python`;

/** The SDK for JavaScript. */
class JavaScript {
  static skip = false;
  static title = "the SDK for JavaScript";

  /** All settings but `patience` are the SDK's own: how long it waits for an answer, in seconds. */
  constructor(t, url, patience) {
    const credentials = { accessKeyId: "key", secretAccessKey: "secret" };
    const waits = patience && { requestHandler: { requestTimeout: patience * 1_000, throwOnRequestTimeout: true } };
    this.client = new LambdaClient({ endpoint: url, region: "us-east-1", credentials, ...waits });
    t.after(() => this.client.destroy());
  }

  async invoke({ streaming = false, ...given }) {
    const context = given.ClientContext && Buffer.from(given.ClientContext).toString("base64");
    const input = { ...given, ...(context && { ClientContext: context }) };
    try {
      return streaming ? await this.stream(input) : await this.buffered(input);
    } catch (error) {
      const { name: exception, message, $metadata, $response } = error;
      return { exception, code: exception, message, status: $metadata?.httpStatusCode, retryAfter: $response?.headers?.["retry-after"] };
    }
  }

  async buffered(input) {
    const answer = await this.client.send(new InvokeCommand(input));
    return {
      status: answer.StatusCode,
      payload: answer.Payload && Buffer.from(answer.Payload).toString(),
      functionError: answer.FunctionError,
      version: answer.ExecutedVersion,
      log: answer.LogResult,
      requestId: answer.$metadata.requestId,
    };
  }

  async stream(input) {
    const answer = await this.client.send(new InvokeWithResponseStreamCommand(input));
    const events = [];
    for await (const { PayloadChunk, InvokeComplete } of answer.EventStream) {
      if (PayloadChunk) events.push({ PayloadChunk: { Payload: Buffer.from(PayloadChunk.Payload).toString() } });
      if (InvokeComplete) events.push({ InvokeComplete: { ...InvokeComplete } });
      this.heard?.(events.at(-1));
    }
    return { status: answer.StatusCode, version: answer.ExecutedVersion, events };
  }
}

/** boto3, in a process of its own. */
class Boto {
  static skip = !existsSync(python) && "python3 could not make a virtual environment";
  static title = "boto3";
  waiting = new Map();
  sent = 0;

  constructor(t, url, patience) {
    const env = { PATH: process.env.PATH, AWS_EC2_METADATA_DISABLED: "true", AWS_CONFIG_FILE: "/dev/null", AWS_SHARED_CREDENTIALS_FILE: "/dev/null" };
    this.process = endsWithThis(spawn(python, [`${here}sdk.py`, url, ...(patience ? [`${patience}`] : [])], { stdio: ["pipe", "pipe", "inherit"], env }));
    createInterface({ input: this.process.stdout }).on("line", (line) => {
      const { id, ...outcome } = JSON.parse(line);
      this.waiting.get(id)(outcome);
      this.waiting.delete(id);
    });
    t.after(() => this.process.kill("SIGKILL"));
  }

  invoke({ streaming = false, ...input }) {
    const id = (this.sent += 1);
    this.process.stdin.write(`${JSON.stringify({ id, streaming, arguments: input })}\n`);
    return new Promise((resolve) => this.waiting.set(id, resolve));
  }
}

export const sdks = [JavaScript, Boto];
export { JavaScript };

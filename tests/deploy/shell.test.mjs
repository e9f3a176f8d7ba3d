// Owns the tests of every shell snippet and script: bash parses it, and shellcheck reports nothing.
import assert from "node:assert/strict";
import { test } from "node:test";
import { guides, read, root, run, snippets, without } from "./tools.mjs";

const scripts = ["tests/run", ".ci/run"].map((path) => ({ where: path, text: read(path) }));
const all = [...scripts, ...guides().flatMap(snippets)];

test("there are snippets", () => assert.ok(all.length > 8));

for (const { where, text } of all) {
  test(`${where} is bash`, () => {
    const { status, out } = run("bash", ["-n"], { input: text });
    assert.equal(status, 0, out);
  });
  test(`${where} passes shellcheck`, { skip: without("shellcheck") }, () => {
    // A guide may show a line of an .env file, which sets a variable that the snippet does not use.
    const args = ["--shell=bash", "--severity=style", "--exclude=SC2034", "-"];
    const { status, out } = run("shellcheck", args, { input: text, cwd: root });
    assert.equal(status, 0, out);
  });
}

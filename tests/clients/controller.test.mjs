// Owns the tests with Trigger.dev's managed run controller: one broker, and three behind a TCP balancer, behave alike.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { Broker, run, until } from "./broker.mjs";
import { BalancedCluster, needsNats } from "./cluster.mjs";
import { Controller, Workload } from "./controller.mjs";

async function play(Kind, args, story) {
  const broker = await Kind.start(...args);
  const workload = new Workload();
  await workload.start();
  const controller = new Controller(broker, workload);
  try {
    await broker.waitForWaiters(1);
    await story({ broker, workload, controller });
  } catch (error) {
    console.error(controller.output.slice(-2000));
    throw error;
  } finally {
    await controller.stop();
    workload.stop();
    await broker.stop();
  }
}

/** Posts a run. A broker of a cluster hears a moment later of a waiter at another one; until then nobody has the run. */
function post(broker, name) {
  return until(`${name} finds its waiter`, async () => {
    const answer = await broker.post(run(name));
    return (!broker.brokers || answer.reason !== "all_taken") && answer;
  });
}

async function dispatch({ broker, workload }, name) {
  await broker.waitForWaiters(1);
  const answer = await post(broker, name);
  assert.equal(answer.didWarmStart, true, JSON.stringify(answer));
  const attempt = await until(`an attempt of ${name}`, () => workload.attempts.find((attempt) => attempt.run === name));
  assert.equal(attempt.isWarmStart, true);
  assert.equal(attempt.snapshot, JSON.parse(run(name)).snapshot.friendlyId);
}

/** The same stories, whichever kind of broker it is. */
function stories(Kind) {
  test("it waits, starts the run that it gets, and waits again", () =>
    play(Kind, [], async (stage) => {
      for (const name of ["run_1", "run_2", "run_3"]) await dispatch(stage, name);
      assert.equal(stage.workload.attempts.length, 3);
    }));

  test("it polls on through idle timeouts", () =>
    play(Kind, ["--connection-timeout", "1s"], async (stage) => {
      await sleep(3_500);
      const answer = await until("a hit", async () => {
        const answer = await stage.broker.post(run("run_late"));
        return answer.didWarmStart && answer;
      });
      assert.equal(answer.didWarmStart, true);
      await until("an attempt", () => stage.workload.attempts.find(({ run }) => run === "run_late"));
    }));

  test("it comes back after a drain and a restart", () =>
    play(Kind, ["--drain-window", "500ms"], async (stage) => {
      await dispatch(stage, "run_before");
      await stage.broker.waitForWaiters(1);
      await stage.broker.restart("SIGTERM");
      await stage.broker.waitForWaiters(1, 60_000);
      await dispatch(stage, "run_after");
    }));

  test("it exits 0 when it is retired", () =>
    play(Kind, [], async ({ broker, controller }) => {
      await broker.retire("deployment_1");
      assert.equal(await controller.ended, 0);
    }));

  test("a poison run never reaches it", () =>
    play(Kind, [], async (stage) => {
      const poison = run("run_poison").replace('"isTest": false', '"isTest": null');
      const answer = await stage.broker.post(poison);
      assert.equal(answer.status, 400);
      await dispatch(stage, "run_good");
    }));
}

describe("one broker", () => stories(Broker));
describe("three brokers behind a balancer", { skip: needsNats }, () => {
  stories(BalancedCluster);

  test("most runs come to a broker at which no controller waits, and are started all the same", () =>
    play(BalancedCluster, [], async (stage) => {
      const names = Array.from({ length: 12 }, (_, number) => `run_${number}`);
      for (const name of names) await dispatch(stage, name);
      assert.deepEqual(stage.workload.attempts.map(({ run }) => run), names);
      const forwarded = await Promise.all(stage.broker.brokers.map((broker) => broker.metric('pilotlight_cluster_forwards_total{outcome="delivered"}')));
      assert.ok(forwarded.reduce((sum, each) => sum + each) >= 4, `forwarded: ${forwarded}`);
    }));
});

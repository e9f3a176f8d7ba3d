// Owns the tests of what makes a cluster in deploy/: real NATS servers take the configurations, brokers with the variables of
// each way form a cluster there, and a cluster's user can do nothing else.
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { after, describe, test } from "node:test";
import { parse } from "yaml";
import { Broker, freePort, until } from "../clients/broker.mjs";
import { missing, Nats } from "../clients/nats.mjs";
import { binary, join, kustomization, ok, read, render, scratch, without } from "./tools.mjs";

const PASSWORD = "3e5f00d00d00d00d00d00d00d00d00d0";
const user = { user: "pilotlight", password: PASSWORD };
const objects = render(join(kustomization(), "overlays/cluster"));
const find = (kind, name) => objects.find((object) => object.kind === kind && object.metadata.name.startsWith(name));
const set = find("StatefulSet", "nats");
const { spec: pod } = set.spec.template;
const [server] = pod.containers;
const deployment = find("Deployment", "pilotlight");
const environment = Object.fromEntries(server.env.map(({ name, value }) => [name, value]));
/** As Kubernetes expands $(NAME). */
const expand = (text, names) => text.replace(/\$\((\w+)\)/g, (_, name) => names[name]);
const configuration = find("ConfigMap", "nats").data["nats.conf"];
const authorization = (text) => /^authorization \{\n[\s\S]*?^\}\n/m.exec(text)[0];
const servers = [];
after(() => Promise.all(servers.map((one) => one.stop())));

async function start(options) {
  const nats = await Nats.start({ env: { NATS_PASSWORD: expand(environment.NATS_PASSWORD, { PASSWORD }) }, ...options });
  servers.push(nats);
  return nats;
}

test("the permissions are the same everywhere, and are explained", () => {
  const own = authorization(read("deploy/nats/nats.conf"));
  for (const text of [configuration, read("docs/cluster.md")]) assert.equal(authorization(text), own);
});

test("haproxy takes the balancer's configuration, which checks readiness over HTTP", { skip: without("haproxy") }, () => {
  const [, text] = /^```haproxy\n([\s\S]*?)^```$/m.exec(read("docs/cluster.md"));
  assert.match(text, /^ *option httpchk GET \/readyz$/m);
  assert.doesNotMatch(text, /on-marked-down/);
  const file = join(scratch(), "haproxy.cfg");
  writeFileSync(file, text);
  const out = ok("haproxy", ["-c", "-f", file]);
  assert.match(out, /valid/);
});

describe("NATS on Kubernetes", () => {
  test("selectors, ports and names fit", () => {
    const labels = set.spec.template.metadata.labels;
    assert.deepEqual(set.spec.selector.matchLabels, labels);
    const ports = Object.fromEntries(server.ports.map(({ name, containerPort }) => [name, containerPort]));
    for (const { spec } of objects.filter(({ kind, metadata }) => kind === "Service" && metadata.name.startsWith("nats"))) {
      assert.deepEqual(spec.selector, labels);
      for (const { port, targetPort } of spec.ports) assert.equal(ports[targetPort], port);
    }
    assert.equal(find("Service", "nats-routes").spec.clusterIP, "None");
    assert.equal(set.spec.serviceName, "nats-routes");
    const routes = Array.from({ length: set.spec.replicas }, (_, number) => `nats://route:$(PASSWORD)@nats-${number}.nats-routes:${ports.routes}`);
    assert.deepEqual(server.args.at(-1).split(","), routes);
    assert.deepEqual([...configuration.matchAll(/^ *(?:port|http): (\d+)$/gm)].map(([, port]) => Number(port)), [ports.client, ports.monitor, ports.routes]);
    assert.equal(find("PodDisruptionBudget", "nats").spec.maxUnavailable, 1);
  });

  test("pods meet the restricted standard", () => {
    assert.deepEqual([pod.securityContext.runAsNonRoot, pod.securityContext.seccompProfile.type], [true, "RuntimeDefault"]);
    const { allowPrivilegeEscalation, readOnlyRootFilesystem, capabilities } = server.securityContext;
    assert.deepEqual([allowPrivilegeEscalation, readOnlyRootFilesystem, capabilities], [false, true, { drop: ["ALL"] }]);
    assert.equal(pod.automountServiceAccountToken, false);
  });

  test("a server has its lame-duck time before it is killed, and writes where it may", () => {
    const [, duck] = /^lame_duck_duration: "(\d+)s"$/m.exec(configuration);
    assert.ok(pod.terminationGracePeriodSeconds >= Number(duck) + 10);
    const [, pid] = /^pid_file: "(.*)"$/m.exec(configuration);
    assert.ok(server.lifecycle.preStop.exec.command.join(" ").endsWith(`=${pid}`));
    const mount = server.volumeMounts.find(({ mountPath }) => pid.startsWith(`${mountPath}/`));
    assert.deepEqual(pod.volumes.find(({ name }) => name === mount.name).emptyDir, {});
  });

  test("only brokers reach it, and brokers reach only it", () => {
    const { ingress } = find("NetworkPolicy", "nats").spec;
    const admitted = ingress.map(({ from: [{ podSelector }], ports: [{ port }] }) => [port, podSelector.matchLabels["app.kubernetes.io/name"]]);
    assert.deepEqual(admitted, [["client", "pilotlight"], ["routes", "nats"]]);
    const { egress } = find("NetworkPolicy", "pilotlight").spec;
    assert.deepEqual(egress.map(({ to: [{ podSelector }], ports }) => [Object.values(podSelector.matchLabels)[0], ports.map(({ port }) => port)]), [
      ["nats", [4222]],
      ["kube-dns", [53, 53]],
    ]);
    const env = Object.fromEntries(deployment.spec.template.spec.containers[0].env.map(({ name, value }) => [name, value]));
    const { hostname, port } = new URL(env.PILOTLIGHT_NATS);
    assert.ok(find("Service", "nats").metadata.name === hostname && port === "4222");
  });

  test("brokers reach each other where each says, and nowhere else", () => {
    const { ingress, egress, podSelector, policyTypes } = find("NetworkPolicy", "pilotlight-brokers").spec;
    const brokers = { podSelector: { matchLabels: { "app.kubernetes.io/name": "pilotlight" } } };
    const ports = [{ port: "poll" }];
    assert.deepEqual([ingress, egress], [[{ from: [brokers], ports }], [{ to: [brokers], ports }]]);
    assert.deepEqual([podSelector, policyTypes], [brokers.podSelector, ["Ingress", "Egress"]]);
    const [{ env, ports: own }] = deployment.spec.template.spec.containers;
    const names = env.map(({ name }) => name);
    const address = env[names.indexOf("POD_IP")];
    assert.equal(address.valueFrom.fieldRef.fieldPath, "status.podIP");
    assert.ok(names.indexOf("POD_IP") < names.indexOf("PILOTLIGHT_ADVERTISE"), "Kubernetes expands what stands above");
    const { containerPort } = own.find(({ name }) => name === "poll");
    assert.equal(env[names.indexOf("PILOTLIGHT_ADVERTISE")].value, `http://$(POD_IP):${containerPort}`);
  });

  test("brokers and servers are spread over nodes, and a rollout is one broker at a time", () => {
    for (const { spec } of [deployment.spec.template, set.spec.template]) {
      const [nodes] = spec.topologySpreadConstraints;
      assert.deepEqual([nodes.topologyKey, nodes.whenUnsatisfiable, nodes.maxSkew], ["kubernetes.io/hostname", "DoNotSchedule", 1]);
    }
    for (const { labelSelector } of deployment.spec.template.spec.topologySpreadConstraints) {
      assert.deepEqual(labelSelector.matchLabels, deployment.spec.selector.matchLabels);
    }
    const { maxSurge, maxUnavailable } = deployment.spec.strategy.rollingUpdate;
    assert.deepEqual([maxSurge, maxUnavailable, find("PodDisruptionBudget", "pilotlight").spec.maxUnavailable], [1, 0, 1]);
    assert.ok(deployment.spec.minReadySeconds >= 5);
  });

  test("three servers find each other with the password, and one without it stays out", { skip: missing }, async () => {
    const ports = await Promise.all(Array.from({ length: 4 }, freePort));
    const monitors = await Promise.all(Array.from({ length: 4 }, freePort));
    const begin = (number, password) => {
      const text = configuration
        .replace("http: 8222", `http: "127.0.0.1:${monitors[number]}"`)
        .replace("port: 6222", `listen: "127.0.0.1:${ports[number]}"`)
        .replace(/^pid_file.*$/m, "");
      const args = server.args.slice(2).map((arg) => expand(arg, { PASSWORD: password, POD_NAME: `nats-${number}` }));
      for (const other of [0, 1, 2]) args[3] = args[3].replace(`nats-${other}.nats-routes:6222`, `127.0.0.1:${ports[other]}`);
      return start({ configuration: text, args, env: { NATS_PASSWORD: expand(environment.NATS_PASSWORD, { PASSWORD: password }) } });
    };
    await Promise.all([begin(0, PASSWORD), begin(1, PASSWORD), begin(2, PASSWORD), begin(3, "wrong")]);
    const peers = async (number) => {
      const answer = await fetch(`http://127.0.0.1:${monitors[number]}/routez`).then((response) => response.json());
      return [...new Set(answer.routes?.map(({ remote_name }) => remote_name))].sort().join();
    };
    for (const [number, others] of [[0, "nats-1,nats-2"], [1, "nats-0,nats-2"], [2, "nats-0,nats-1"]]) {
      await until(`nats-${number} has its routes`, async () => (await peers(number)) === others);
    }
    assert.equal(await peers(3), "");
    assert.equal((await fetch(`http://127.0.0.1:${monitors[0]}${server.readinessProbe.httpGet.path}`)).status, 200);
  });
});

describe("the user of a cluster", { skip: missing }, () => {
  const single = read("deploy/nats/nats.conf");

  test("may use the cluster's subjects, and no others", async () => {
    const nats = await start({ configuration: single });
    const own = await nats.speak(["SUB pilotlight.v1.to.ab q 1", "SUB pilotlight.v1.re.ab.* 2", "PUB pilotlight.v1.directory 2", "hi"], user);
    assert.match(own, /PONG/);
    assert.doesNotMatch(own, /-ERR/);
    const denied = {
      "SUB _INBOX.> 1": /Permissions Violation for Subscription to "_INBOX.>"/,
      "SUB > 1": /Permissions Violation for Subscription to ">"/,
      "SUB other.v1.to.ab 1": /Permissions Violation for Subscription/,
      "PUB other.v1.directory 2\r\nhi": /Permissions Violation for Publish to "other.v1.directory"/,
    };
    for (const [line, answer] of Object.entries(denied)) assert.match(await nats.speak([line], user), answer, line);
    assert.match(await nats.speak([], { user: "pilotlight", password: "wrong" }), /Authorization Violation/);
    assert.match(await nats.speak([], {}), /Authorization Violation/);
  });

  /** Two brokers with these variables; a run that is posted to the first is received from the second. */
  async function forwards(nats, variables) {
    const folder = scratch();
    const env = Object.entries(variables)
      .filter(([name]) => /^PILOTLIGHT_(NATS|CLUSTER|REDIRECT|ADVERTISE)/.test(name))
      .map(([name, value]) => {
        if (name === "PILOTLIGHT_NATS") return [name, value.split(",").map(() => nats.url).join()];
        if (!value.includes("nats-password")) return [name, value.replace(/\$\(\w+\)|\$\{[^}]*\}/, "127.0.0.1")];
        mkdirSync(folder, { recursive: true });
        writeFileSync(join(folder, "nats-password"), PASSWORD);
        return [name, join(folder, "nats-password")];
      });
    assert.ok(env.length >= 3, JSON.stringify(env));
    const flags = env.map(([name, value]) => `--${name.replace("PILOTLIGHT_", "").toLowerCase().replaceAll("_", "-")}=${value}`);
    const checked = ok(binary, ["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", ...flags, "check"]);
    assert.match(checked, /^NATS subjects pilotlight\.v1\.>: OK$/m);
    assert.doesNotMatch(checked, /credentials for NATS|max_payload/);
    const brokers = [await Broker.start(...flags), await Broker.start(...flags)];
    try {
      const path = "/v1/pools/app/v1/1/1";
      const wait = fetch(`${brokers[1].url}${path}?timeout=20s`).then((answer) => answer.text());
      const answer = await until("a forward is delivered", async () => {
        const answer = await fetch(`${brokers[0].url}${path}`, { method: "POST", body: "run" }).then((response) => response.json());
        return answer.delivered && answer;
      });
      assert.deepEqual([await wait, answer.proof], ["run", "received"]);
    } finally {
      await Promise.all(brokers.map((broker) => broker.stop()));
    }
  }

  test("Kubernetes: brokers with the Deployment's variables form a cluster", async () => {
    const nats = await start({ configuration: configuration.replace(/^(pid_file|http).*$/gm, "").replace(/^cluster \{[\s\S]*?^\}\n/m, "") });
    await forwards(nats, Object.fromEntries(deployment.spec.template.spec.containers[0].env.map(({ name, value }) => [name, value])));
  });

  test("Compose: brokers with the overlay's variables form a cluster", async () => {
    const { services } = parse(read("deploy/compose/cluster.yml"));
    const nats = await start({ configuration: single, env: { NATS_PASSWORD: services.nats.environment.NATS_PASSWORD.replace(/\$\{[^}]*\}/, PASSWORD) } });
    for (const name of ["pilotlight", "pilotlight-b"]) await forwards(nats, services[name].environment);
  });

  test("systemd: brokers with the drop-in's variables form a cluster", async () => {
    const unit = read("deploy/systemd/cluster.conf");
    const pairs = [...unit.matchAll(/^Environment=(\w+)=(.*)$/gm), ...read("deploy/systemd/cluster.env").matchAll(/^(?:# )?(PILOTLIGHT_\w+)=(.*)$/gm)];
    await forwards(await start({ configuration: single }), Object.fromEntries(pairs.map(([, name, value]) => [name, value])));
  });
});

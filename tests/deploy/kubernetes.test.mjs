// Owns the tests of deploy/kustomize and deploy/helm: every manifest passes strict schemas, and the manifests are
// consistent. Those of a cluster alone are in cluster.test.mjs.
import assert from "node:assert/strict";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { describe, test } from "node:test";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";
import { parse } from "yaml";
import { everyComponent, join, kustomization, ok, OVERLAYS, read, render, root, snippets, takenByKubernetes } from "./tools.mjs";

const CUSTOM = {
  PrometheusRule: { model: PrometheusRule, from: "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule" },
  ServiceMonitor: { model: ServiceMonitor, from: "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor" },
  ScaledObject: { model: ScaledObject, from: "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject" },
};

const copy = kustomization();
const rendered = {
  base: render(join(copy, "base")),
  example: render(join(copy, "overlays/example")),
  "whole example": render(everyComponent(copy, "example")),
  cluster: render(join(copy, "overlays/cluster")),
  "whole cluster": render(everyComponent(copy, "cluster")),
};
const seconds = (text) => Number(/^(\d+)s$/.exec(text)[1]);
const includes = (labels, wanted) => Object.entries(wanted).every(([key, value]) => labels?.[key] === value);

/** Refuses what Kubernetes would refuse, and fields that it would drop. */
function strictly(objects) {
  takenByKubernetes(objects.filter(({ kind }) => !CUSTOM[kind]));
  // The generated validators check values but accept unknown fields, which the types of the same schemas refuse.
  for (const object of objects.filter(({ kind }) => CUSTOM[kind])) {
    const { model, from } = CUSTOM[object.kind];
    assert.equal(object.apiVersion, model.apiVersion);
    new model(object).validate();
    const typed = join(root, "tests/deploy/node_modules/.typed");
    const text = `import type { I${object.kind} } from "${from}";\nexport const object: I${object.kind} = ${JSON.stringify(object)};\n`;
    writeFileSync(`${typed}.ts`, text);
    ok("tsc", ["--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler", "--target", "esnext", `${typed}.ts`]);
  }
}

for (const [name, objects] of Object.entries(rendered)) {
  const isCluster = name.endsWith("cluster");
  /** The broker's objects of a kind. */
  const all = (kind) => objects.filter((object) => object.kind === kind && object.metadata.labels?.["app.kubernetes.io/name"] !== "nats");
  const [deployment] = all("Deployment");
  const { spec: pod, metadata } = deployment.spec.template;
  const [container] = pod.containers;
  const env = Object.fromEntries(container.env.map(({ name, value }) => [name, value]));
  const ports = Object.fromEntries(container.ports.map(({ name, containerPort }) => [name, containerPort]));

  describe(`kustomize ${name}`, () => {
    test("strict schemas take every object", () => strictly(objects));

    test("selectors find the pods", () => {
      assert.ok(includes(metadata.labels, deployment.spec.selector.matchLabels));
      for (const object of [...all("Service").map(({ spec }) => spec.selector), ...all("PodDisruptionBudget").map(({ spec }) => spec.selector.matchLabels), ...all("NetworkPolicy").map(({ spec }) => spec.podSelector.matchLabels)]) {
        assert.ok(Object.keys(object).length && includes(metadata.labels, object), JSON.stringify(object));
      }
    });

    test("only Trigger.dev's labels let somebody in, and dispatch from its namespace only", () => {
      const [policy] = all("NetworkPolicy");
      const allowed = policy.spec.ingress.map(({ from: [{ namespaceSelector, podSelector }], ports: [{ port }] }) => [port, { ...podSelector?.matchLabels, ...namespaceSelector.matchLabels }]);
      assert.deepEqual(allowed, [
        ["poll", { "app.kubernetes.io/part-of": "trigger-worker" }],
        ["dispatch", { "app.kubernetes.io/component": "supervisor", "kubernetes.io/metadata.name": "trigger" }],
        ["ops", { "kubernetes.io/metadata.name": "monitoring" }],
      ]);
    });

    test("ports are the listeners', by the same names everywhere", () => {
      const listens = { poll: "LISTEN", dispatch: "DISPATCH_LISTEN", ops: "OPS_LISTEN" };
      for (const [port, variable] of Object.entries(listens)) assert.equal(env[`PILOTLIGHT_${variable}`], `0.0.0.0:${ports[port]}`);
      for (const { spec } of all("Service")) for (const { port, targetPort } of spec.ports) assert.equal(ports[targetPort], port);
      for (const { spec } of all("NetworkPolicy")) for (const { ports: open } of spec.ingress) for (const { port } of open) assert.ok(ports[port], port);
      assert.deepEqual(
        [container.readinessProbe, container.livenessProbe].map(({ httpGet }) => `${httpGet.port}${httpGet.path}`),
        ["ops/readyz", "ops/livez"],
      );
    });

    test("the grace period holds preStop, the drain window and a margin", () => {
      const least = container.lifecycle.preStop.sleep.seconds + seconds(env.PILOTLIGHT_DRAIN_WINDOW) + 10;
      assert.ok(pod.terminationGracePeriodSeconds >= least, `${pod.terminationGracePeriodSeconds} < ${least}`);
    });

    test("pods meet the restricted standard, and get no token", () => {
      const { securityContext } = container;
      assert.equal(pod.securityContext.runAsNonRoot, true);
      assert.ok(pod.securityContext.runAsUser > 0);
      assert.equal(pod.securityContext.seccompProfile.type, "RuntimeDefault");
      assert.deepEqual(securityContext.capabilities, { drop: ["ALL"] });
      assert.equal(securityContext.allowPrivilegeEscalation, false);
      assert.equal(securityContext.readOnlyRootFilesystem, true);
      for (const key of ["hostNetwork", "hostPID", "hostIPC"]) assert.equal(pod[key], undefined);
      for (const volume of pod.volumes) assert.ok(volume.secret, "the standard allows secrets; nothing else is needed");
      for (const object of [pod, ...all("ServiceAccount")]) assert.equal(object.automountServiceAccountToken, false);
    });

    test("every file that a setting names is mounted from a secret's key", () => {
      const keys = { tls: ["tls.crt", "tls.key"], secrets: ["token-secret", "ops-token"], nats: ["nats-password"] };
      for (const [variable, path] of Object.entries(env).filter(([, value]) => value?.startsWith("/"))) {
        const mount = container.volumeMounts.find(({ mountPath }) => path.startsWith(`${mountPath}/`));
        assert.ok(keys[mount?.name]?.includes(path.slice(mount.mountPath.length + 1)), `${variable}=${path}`);
      }
      if (name === "base") return;
      const volumes = isCluster ? ["secrets", "nats"] : ["secrets"];
      assert.equal(all("Secret").length, volumes.length);
      for (const [index, volume] of volumes.entries()) {
        const { data, metadata } = all("Secret")[index];
        assert.deepEqual(Object.keys(data).sort(), [...keys[volume]].sort());
        assert.equal(pod.volumes.find(({ name }) => name === volume).secret.secretName, metadata.name);
      }
      const [secret] = all("Secret");
      const [{ spec }] = all("ServiceMonitor");
      const { credentials } = spec.endpoints[0].authorization;
      assert.ok(secret.data[credentials.key] && credentials.name === secret.metadata.name, JSON.stringify(credentials));
    });

    test("the operator's alerts are those of the dashboards", () => {
      for (const { spec } of all("PrometheusRule")) assert.deepEqual(spec.groups, parse(read("dashboards/alerts.yml")).groups);
    });

    test("as many waiters are let in as the container's memory holds", () => {
      const mebibytes = Number(/^(\d+)Mi$/.exec(container.resources.limits.memory)[1]);
      assert.ok(Number(env.PILOTLIGHT_MAX_WAITERS) * 6000 < mebibytes * 2 ** 20 * 0.7);
    });

    test("the monitor finds the ops service, the scaler the deployment", () => {
      for (const { spec } of all("ServiceMonitor")) {
        const found = all("Service").filter(({ metadata }) => includes(metadata.labels, spec.selector.matchLabels));
        assert.deepEqual(found.map(({ metadata, spec: { ports } }) => [metadata.name, ports[0].name]), [["pilotlight-ops", spec.endpoints[0].port]]);
      }
      for (const { spec } of all("ScaledObject")) assert.equal(spec.scaleTargetRef.name, deployment.metadata.name);
    });
  });
}

test("the whole overlays have every component; only a cluster can have a scaler, and several replicas", () => {
  const scalers = (objects) => objects.filter(({ kind }) => kind === "ScaledObject").length;
  const named = OVERLAYS.flatMap((overlay) => [...readFileSync(join(copy, `overlays/whole-${overlay}/kustomization.yaml`), "utf8").matchAll(/^ {2}- \.\.\/\.\.\/components\/(\S+)/gm)].map(([, component]) => component));
  assert.deepEqual([...new Set(named)].sort(), readdirSync(join(root, "deploy/kustomize/components")).sort());
  assert.deepEqual(Object.values(rendered).map(scalers), [0, 0, 0, 0, 1]);
  const replicas = Object.values(rendered).map((objects) => objects.find(({ kind }) => kind === "Deployment").spec.replicas);
  assert.deepEqual(replicas, [1, 1, 1, 3, 3]);
});

test("the README makes the secrets that the overlays name", () => {
  const made = snippets("deploy/kustomize/README.md").map(({ text }) => text).join("");
  for (const overlay of OVERLAYS) {
    for (const [, path] of read(`deploy/kustomize/overlays/${overlay}/kustomization.yaml`).matchAll(/- (secrets\/\S+)/g)) assert.ok(made.includes(`> ${path}`), path);
  }
});

describe("Helm values", () => {
  const values = parse(read("deploy/helm/trigger-values.yaml"));
  const list = values.supervisor.extraEnvVars;

  test("are what the chart's supervisor takes, as Kubernetes' own variables", () => {
    assert.deepEqual([Object.keys(values), Object.keys(values.supervisor)], [["supervisor"], ["extraEnvVars"]]);
    strictly([{ apiVersion: "v1", kind: "Pod", metadata: { name: "supervisor" }, spec: { containers: [{ name: "supervisor", image: "x", env: list }] } }]);
    // The names of the supervisor's settings (apps/supervisor/src/env.ts in Trigger.dev's repository).
    const known = ["TRIGGER_WARM_START_URL", "TRIGGER_WARM_START_DISPATCH_URL", "TRIGGER_WARM_START_VERIFY_ENABLED", "WORKLOAD_TOKEN_ENFORCEMENT", "WORKLOAD_TOKEN_SECRET"];
    assert.deepEqual(list.map(({ name }) => name).sort(), known.sort());
  });

  test("name services, namespace and ports of the example", () => {
    for (const { name, value } of list.filter(({ name }) => name.endsWith("_URL"))) {
      const { hostname, port } = new URL(value);
      const found = rendered.example.find(({ kind, metadata }) => kind === "Service" && hostname === `${metadata.name}.${metadata.namespace}.svc.cluster.local`);
      assert.equal(found?.spec.ports[0].port, Number(port), `${name}=${value}`);
    }
  });

  test("get the secret that the README makes", () => {
    const { name, key } = list.find(({ valueFrom }) => valueFrom).valueFrom.secretKeyRef;
    const [{ text }] = snippets("deploy/helm/README.md");
    assert.ok(text.includes(`create secret generic ${name}`) && text.includes(`--from-file=${key}=`));
  });
});

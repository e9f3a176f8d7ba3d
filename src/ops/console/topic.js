// Owns the topic of the page: everything, or the pools of one deployment and version, or one run. The address has it behind its
// `#`, so a topic can be linked to, survives a reload, and the browser's buttons go back and forth.

const PARTS = ["deployment", "version", "run"];
const KINDS = "dispatch,verdict,drain,retire,reply";
/** What the broker accepts as a name. */
const NAME = /^[ -~]{1,256}$/;

export const topic = {};

/** Takes the topic from the address. A part that cannot be a name is no part of it. */
export function readTopic() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const part of PARTS) {
    const name = given.get(part);
    if (name !== null && NAME.test(name)) topic[part] = name;
    else delete topic[part];
  }
}

export const linkTo = (parts) => `#${new URLSearchParams(parts)}`;

/** The stream of the topic's events alone. */
export const eventsPath = () => `events?${new URLSearchParams({ kind: KINDS, ...topic })}`;

/** Whether a record is of the topic. A name that it does not have is any. */
export const isOfTopic = (record) => Object.entries(topic).every(([part, name]) => (record[part] ?? name) === name);

/** The topic in words; empty if it is everything. */
export function topicName() {
  const { deployment, version, run } = topic;
  return [run && `run ${run}`, deployment, version && `version ${version}`].filter(Boolean).join(" · ");
}

// Owns the figures of replies: how many are open, and how those of the last minute ended.

import { SECOND, page, say, whole } from "./figures.js";

const MINUTE = 60 * SECOND;
const SERIES = /^pilotlight_replies_(?:open|total\{outcome="(\w+)"\}) (\S+)$/gm;
const minute = [];
let before = null;

/** Shows the figures in the text of /metrics, once a run has asked for a reply. */
export function takeReplies(text) {
  const found = { at: performance.now(), open: 0, ended: new Map() };
  for (const [, outcome, figure] of text.matchAll(SERIES)) {
    if (outcome) found.ended.set(outcome, Number(figure));
    else found.open = Number(figure);
  }
  const rise = ([outcome, value]) => {
    const old = before.ended.get(outcome) ?? 0;
    // A counter that fell has started again at zero.
    return [outcome, value < old ? value : value - old];
  };
  if (before) minute.push({ at: found.at, rises: [...found.ended].map(rise) });
  while (minute[0]?.at <= found.at - MINUTE) minute.shift();
  before = found;
  page.replies.hidden = !found.open && ![...found.ended.values()].some((value) => value > 0);
  const sums = new Map();
  for (const [outcome, times] of minute.flatMap(({ rises }) => rises)) sums.set(outcome, (sums.get(outcome) ?? 0) + times);
  const ends = [...sums].filter(([, times]) => times).map(([outcome, times]) => `${whole(times)} ${outcome}`);
  say(page["replies-note"], `${whole(found.open)} open; in the last minute ${ends.join(", ") || "none has ended"}`);
}

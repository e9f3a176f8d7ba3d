// Owns the marks of a run: how each of its offers ended, and its reply.

import { count, element, page, took } from "./figures.js";

const PROOFS = ["received", "acked", "hop", "written"];

/** What each word means. */
export const words = new Map([...page.words.querySelectorAll("dt")].map((dt) => [dt.textContent, dt.nextElementSibling.textContent]));

/** The controller, and the other broker of the cluster at which it waited. */
export function waiterOf({ controller, broker }) {
  return [controller, broker && `at ${broker}`].filter(Boolean).join(" ");
}

export function verdictMark(offer) {
  const { verdict, seconds } = offer;
  const kind = PROOFS.includes(verdict) ? "proof" : "failed";
  const title = [words.get(verdict), waiterOf(offer)].filter(Boolean).join("; ");
  return element("span", { class: `verdict ${kind}`, title }, `${verdict} ${took(seconds)}`);
}

export function replyMark({ outcome, status, first_byte_seconds: first, seconds, bytes }) {
  const kind = outcome === "replied" ? "proof" : outcome === "cancelled" ? "" : "failed";
  const facts = [words.get(outcome), first !== null && `first byte after ${took(first)}`, count(bytes, "byte")];
  const text = [outcome, status, took(seconds)].filter((part) => part !== null).join(" ");
  return element("span", { class: `verdict ${kind}`, title: facts.filter(Boolean).join("; "), "data-testid": "reply" }, text);
}

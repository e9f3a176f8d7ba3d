// Owns the format of numbers in the preview: the units of the dashboards, formatted as by Grafana.
"use strict";

/** Three significant digits without trailing zeros, or a fixed number of `decimals`. */
function digits(value, decimals) {
  if (decimals !== undefined) return value.toFixed(decimals);
  if (value === 0) return "0";
  const places = Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(Math.abs(value)))));
  return String(Number(value.toFixed(places)));
}

function scaled(value, decimals, base, names) {
  let at = 0;
  let rest = value;
  while (Math.abs(rest) >= base && at < names.length - 1) {
    rest /= base;
    at += 1;
  }
  return `${digits(rest, decimals)}${names[at]}`;
}

const units = {
  none: digits,
  short: (value, decimals) => scaled(value, decimals, 1000, ["", " K", " Mil", " Bil"]),
  locale: (value) => Math.round(value).toLocaleString("en-US"),
  percentunit: (value, decimals) => `${digits(value * 100, decimals)}%`,
  bytes: (value, decimals) => scaled(value, decimals, 1024, [" B", " KiB", " MiB", " GiB", " TiB"]),
  s: (value, decimals) => {
    const size = Math.abs(value);
    if (size === 0) return "0 s";
    if (size < 1e-6) return `${digits(value * 1e9, decimals)} ns`;
    if (size < 1e-3) return `${digits(value * 1e6, decimals)} µs`;
    if (size < 1) return `${digits(value * 1e3, decimals)} ms`;
    return `${digits(value, decimals)} s`;
  },
};

/** The text of a value in a panel's unit; a mapping takes precedence. */
function written(value, { unit, decimals, mappings = [], noValue = "–" }) {
  for (const { type, options } of mappings) {
    if (type === "value" && value !== null && options[String(value)]) return options[String(value)].text;
    if (type === "special" && value === null) return options.result.text;
  }
  if (value === null) return noValue;
  if (unit.startsWith("suffix:")) return `${digits(value, decimals)}${unit.slice("suffix:".length)}`;
  if (!units[unit]) throw new Error(`the preview does not know the unit ${unit}`);
  return units[unit](value, decimals);
}

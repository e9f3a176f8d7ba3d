// Owns the page of a preview: each panel at its gridPos, from the JSON that Grafana reads. Runs in the browser.
"use strict";

const CELL = 30;
const GAP = 8;
const COLUMNS = 24;
const EDGE = 16;
const GRID = { stroke: "#24272d", width: 1 };
const FONT = '11px "DejaVu Sans", sans-serif';
const NAMED = { green: "#73bf69", orange: "#ff9830", red: "#f2495c", blue: "#5794f2", purple: "#b877d9", yellow: "#fade2a", transparent: "transparent" };
const PALETTE = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0", "#37872d", "#fade2a", "#c0d8ff"];
const CALCS = {
  lastNotNull: ["", (values) => values.findLast((value) => value !== null)],
  max: ["max ", (values) => Math.max(...values.filter((value) => value !== null))],
  min: ["min ", (values) => Math.min(...values.filter((value) => value !== null))],
};

const paint = (color) => NAMED[color] ?? color;
const hasData = ({ values }) => values.some((value) => value !== null);

function add(parent, tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

/** The properties that overrides give a field, by name of the property. */
function overridden({ overrides = [] }, name) {
  const own = {};
  for (const { matcher, properties } of overrides) {
    const text = matcher.options;
    const fits = matcher.id === "byName" ? text === name : new RegExp(text.slice(1, text.lastIndexOf("/"))).test(name);
    if (fits) for (const { id, value } of properties) own[id] = value;
  }
  return own;
}

function stepColor({ steps }, value) {
  return paint(steps.findLast((step) => step.value === null || value >= step.value).color);
}

function stat(box, { panel, series }) {
  const { defaults } = panel.fieldConfig;
  const [line] = series.filter(hasData);
  const value = line ? CALCS.lastNotNull[1](line.values) : null;
  const color = value === null ? "#8e8ea0" : stepColor(defaults.thresholds, value);
  add(box, "div", "big", written(value, defaults)).style.color = color;
  if (!line || panel.options.graphMode === "none") return;
  const spark = add(box, "div", "spark");
  const times = line.values.map((_, at) => at);
  const range = (_, least, most) => [Math.min(0, least), most * 1.1 || 1];
  new uPlot(
    {
      width: box.clientWidth, height: 42, cursor: { show: false }, legend: { show: false }, padding: [2, 0, 0, 0],
      axes: [{ show: false }, { show: false }], scales: { x: { time: false }, y: { range } },
      series: [{}, { stroke: color, fill: `${color}30`, width: 1, points: { show: false } }],
    },
    [times, line.values],
    spark,
  );
}

/** A panel's series with colours and dashes, without those that never had a value. */
function styled({ panel, series }) {
  return series.filter(hasData).map(({ name, values }, at) => {
    const own = overridden(panel.fieldConfig, name);
    const color = paint(own.color?.fixedColor ?? PALETTE[at % PALETTE.length]);
    return { name, values, color, dash: own["custom.lineStyle"]?.dash };
  });
}

function legend(parent, lines, { legend: { calcs } }, defaults) {
  const list = add(parent, "div", "legend");
  for (const { name, values, color, dash } of lines) {
    const entry = add(list, "div", "entry");
    const mark = add(entry, "i", dash ? "dash" : "");
    mark.style.borderColor = color;
    add(entry, "span", "name", name);
    for (const calc of calcs) {
      const [label, reduce] = CALCS[calc];
      const item = add(entry, "span", "calc", label);
      add(item, "b", "", written(reduce(values), defaults));
    }
  }
}

/** The dashed line of each threshold but the base. */
function thresholds({ thresholds: { steps }, custom }) {
  return (plot) => {
    if (custom.thresholdsStyle.mode === "off") return;
    const { ctx } = plot;
    for (const { value, color } of steps.filter((step) => step.value !== null)) {
      if (value < plot.scales.y.min || value > plot.scales.y.max) continue;
      const y = plot.valToPos(value, "y", true);
      ctx.save();
      ctx.strokeStyle = paint(color);
      ctx.setLineDash([10, 8]);
      ctx.beginPath();
      ctx.moveTo(plot.bbox.left, y);
      ctx.lineTo(plot.bbox.left + plot.bbox.width, y);
      ctx.stroke();
      ctx.restore();
    }
  };
}

/** Round steps on an axis of bytes are powers of two. */
const STEPS = { bytes: Array.from({ length: 50 }, (_, power) => 2 ** power) };

function axes(labels, unit) {
  const common = { stroke: "#8e8ea0", font: FONT, grid: GRID, ticks: { ...GRID, size: 4 } };
  const clock = (_, times) => times.map((time) => new Date(time * 1000).toISOString().slice(11, 19));
  const x = labels.x ? { ...common, values: (_, values) => values.map(labels.x), size: 28, space: 60 } : { ...common, values: clock, size: 28, space: 90 };
  return [x, { ...common, values: (_, values) => values.map((value) => (value === null ? "" : labels.y(value))), size: 64, space: 32, incrs: STEPS[unit] }];
}

function timeseries(box, { panel, series }, window) {
  const { defaults } = panel.fieldConfig;
  const { custom } = defaults;
  const lines = styled({ panel, series });
  const side = panel.options.legend.placement === "right";
  const body = add(box, "div", side ? "body beside" : "body below");
  const place = add(body, "div", "plot");
  legend(body, lines, panel.options, defaults);
  const log = custom.scaleDistribution.type === "log";
  const times = Array.from({ length: window.end - window.start + 1 }, (_, second) => window.start + second);
  const range = (_, least, most) => [defaults.min ?? (least < 0 ? least * 1.1 : 0), defaults.max ?? Math.max(custom.axisSoftMax ?? 0, most * 1.1 || 1)];
  const tick = { ...defaults, decimals: undefined };
  const label = defaults.mappings.some(({ type }) => type === "value") ? (value) => (value % 1 ? "" : written(value, defaults)) : (value) => written(value, tick);
  new uPlot(
    {
      width: place.clientWidth, height: place.clientHeight, cursor: { show: false }, legend: { show: false }, padding: [8, 26, 0, 0],
      axes: axes({ y: label }, log ? undefined : defaults.unit), scales: { x: {}, y: log ? { distr: 3, log: custom.scaleDistribution.log } : { range } }, hooks: { draw: [thresholds(defaults)] },
      series: [
        {},
        ...lines.map(({ color, dash }) => ({
          stroke: color, width: custom.lineWidth, dash, spanGaps: false, points: { show: false },
          fill: custom.fillOpacity && color.startsWith("#") ? color + Math.round(custom.fillOpacity * 2.55).toString(16).padStart(2, "0") : undefined,
          paths: custom.lineInterpolation === "stepAfter" ? uPlot.paths.stepped({ align: 1 }) : undefined,
        })),
      ],
    },
    [times, ...lines.map(({ values }) => (log ? values.map((value) => (value > 0 ? value : null)) : values))],
    place,
  );
}

function xychart(box, { panel, series }) {
  const { defaults } = panel.fieldConfig;
  const [{ x, y }] = panel.options.series;
  const field = ({ matcher }) => series.find(({ name }) => name === matcher.options);
  const points = field(x).values.map((value, at) => [value, field(y).values[at]]).filter(([left, right]) => left !== null && right !== null);
  points.sort(([left], [right]) => left - right);
  const place = add(add(box, "div", "body below"), "div", "plot");
  const own = overridden(panel.fieldConfig, field(x).name);
  const color = paint(defaults.color.fixedColor);
  const fromZero = (_, __, most) => [0, most * 1.05 || 1];
  const around = (_, least, most) => [defaults.min ?? least - (most - least) / 4, most + (most - least) / 4];
  new uPlot(
    {
      width: place.clientWidth, height: place.clientHeight - 14, cursor: { show: false }, legend: { show: false }, padding: [8, 14, 0, 0],
      axes: axes({ x: (value) => written(value, { unit: own.unit }), y: (value) => written(value, defaults) }, defaults.unit),
      scales: { x: { time: false, range: fromZero }, y: { range: around } },
      series: [{}, { paths: () => null, points: { show: true, size: 6, fill: `${color}99`, stroke: color, width: 1 } }],
    },
    [points.map(([left]) => left), points.map(([, right]) => right)],
    place,
  );
  add(place, "div", "xlabel", own["custom.axisLabel"]);
}

function text(box, { panel }) {
  const inline = (line) =>
    line.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/\*\*(.+?)\*\*/g, "<b>$1</b>").replace(/\*(.+?)\*/g, "<i>$1</i>").replace(/`(.+?)`/g, "<code>$1</code>");
  const items = panel.options.content.split("\n").map((line) => `<li>${inline(line.replace(/^- /, ""))}</li>`);
  add(box, "div", "markdown").innerHTML = `<ul>${items.join("")}</ul>`;
}

/** Whether the panel shows data: a line or points inside the axes, a number, or text. */
function hasInk(box, { type, options }) {
  if (type === "text") return box.innerText.length > 50;
  if (type === "stat") return /\d|none/.test(box.querySelector(".big").textContent) && (options.graphMode === "none" || box.querySelector("canvas"));
  const canvas = box.querySelector("canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  // Grid and labels are grey; series are coloured.
  let coloured = 0;
  for (let at = 0; at < data.length; at += 4) {
    const [red, green, blue, alpha] = data.subarray(at, at + 4);
    coloured += alpha > 100 && Math.max(red, green, blue) - Math.min(red, green, blue) > 40 ? 1 : 0;
  }
  return coloured > 20;
}

const KINDS = { stat, timeseries, xychart, text };

globalThis.preview = async ({ board, panels, window, width }) => {
  const column = (width - 2 * EDGE + GAP) / COLUMNS;
  const header = add(document.body, "header");
  add(header, "h1", "", board.title);
  const seconds = window.end - window.start;
  add(header, "p", "", `${board.description} — a preview, drawn by uPlot from the same JSON: a real broker under the tests' load, scraped by a real Prometheus for ${seconds} s.`);
  const main = add(document.body, "main");
  const boxes = [];
  let bottom = 0;
  for (const { panel, series } of panels) {
    const { x, y, w, h } = panel.gridPos;
    const box = add(main, "section", panel.type === "row" ? "row" : "panel");
    const place = { left: EDGE + x * column, top: y * (CELL + GAP), width: w * column - GAP, height: h * (CELL + GAP) - GAP };
    for (const [side, pixels] of Object.entries(place)) box.style[side] = `${pixels}px`;
    bottom = Math.max(bottom, place.top + place.height);
    if (panel.type === "row") {
      box.textContent = panel.title;
      continue;
    }
    add(box, "h2", "", panel.title);
    add(box, "div", "why", /^[^?]+\?/.exec(panel.description)[0]);
    KINDS[panel.type](box, { panel, series }, window);
    boxes.push([box, panel]);
  }
  main.style.height = `${bottom + EDGE}px`;
  // uPlot draws after the current turn of the event loop.
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 0)));
  return boxes.filter(([box, panel]) => !hasInk(box, panel)).map(([, { title }]) => title);
};

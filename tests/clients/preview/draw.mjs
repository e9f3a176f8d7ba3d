// Owns drawing a dashboard with its data: a page in headless Chromium, with charts by uPlot.
import { mkdirSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import { chromium as browsers } from "playwright-core";

const WIDTH = 1600;
const here = (name) => readFileSync(new URL(name, import.meta.url), "utf8");
const uplot = (name) => here(`../node_modules/uplot/dist/${name}`);

/** Draws `panels` (each a panel of the dashboard with its series), and returns the titles of those that stayed empty. */
export async function draw({ board, panels, window, chromium, file }) {
  mkdirSync(dirname(file), { recursive: true });
  const browser = await browsers.launch({ executablePath: chromium, args: ["--no-sandbox", "--disable-gpu"], env: { ...process.env, TZ: "UTC" } });
  try {
    const page = await browser.newPage({ viewport: { width: WIDTH, height: 900 }, colorScheme: "dark" });
    const broken = [];
    page.on("pageerror", (error) => broken.push(error.message));
    await page.setContent(`<!doctype html><meta charset="utf-8"><style>${uplot("uPlot.min.css")}${here("page.css")}</style><body></body>`);
    for (const content of [uplot("uPlot.iife.min.js"), here("units.js"), here("page.js")]) await page.addScriptTag({ content });
    const empty = await page.evaluate((model) => globalThis.preview(model), { board, panels, window, width: WIDTH });
    if (broken.length) throw new Error(broken.join("\n"));
    await page.screenshot({ path: file, fullPage: true });
    return { empty, width: await page.evaluate(() => document.documentElement.scrollWidth) };
  } finally {
    await browser.close();
  }
}

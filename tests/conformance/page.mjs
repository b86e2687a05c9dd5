// node page.mjs TOOLKIT MODEL.onnx SCREENSHOT.png IMAGE...: loads images into the page of examples/web, and
// fails unless its verdicts match the toolkit's.
import { execFileSync, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { launch } from "./browser.mjs";

const [toolkit, model, screenshot, ...images] = process.argv.slice(2).map((path) => resolve(path));
const example = join(dirname(fileURLToPath(import.meta.url)), "../../examples/web");
const lines = execFileSync(toolkit, ["score", "--json", model, ...images], { encoding: "utf8" }).trim().split("\n");
const expected = lines.map((line) => JSON.parse(line).verdict);

const server = spawn("node", ["serve.mjs", model], { cwd: example, env: { ...process.env, PORT: "0" } });
const address = String(await new Promise((ready) => server.stdout.once("data", ready))).trim();
const profile = await mkdtemp(join(tmpdir(), "page-"));
const context = await launch(chromium, profile);
try {
  const tab = await context.newPage();
  tab.on("console", (message) => console.error(message.text()));
  tab.on("pageerror", (error) => console.error(error.message));
  await tab.goto(address);
  await tab.waitForSelector("body[data-ready]");
  await tab.setInputFiles("#choose", images);
  const isDone = (count) => document.querySelectorAll("#verdicts .known, #verdicts .unknown").length === count;
  await tab.waitForFunction(isDone, images.length);
  await tab.screenshot({ path: screenshot });
  const texts = (rows) => rows.map((row) => [...row.cells].slice(1).map((cell) => cell.textContent));
  const rows = await tab.$$eval("#verdicts tr", texts);
  rows.forEach(([label, score, pValue, verdict], index) => {
    const { class: name, score: value, unknown, p_value } = expected[index];
    // JPEG decoders differ by 1 of 255 in some pixels.
    if (label !== name || Math.abs(Number(score) - value) > 0.05 || (verdict === "unknown") !== unknown) {
      throw new Error(`${images[index]}: ${label} ${score} ${verdict}, expected ${name} ${value} ${unknown}`);
    }
    if (p_value === undefined ? pValue !== "–" : !(Math.abs(Number(pValue) - p_value) <= 0.05)) {
      throw new Error(`${images[index]}: p-value ${pValue}, expected ${p_value}`);
    }
  });
  console.log(`${rows.length} images on the page, the same verdicts`);
} finally {
  await context.close();
  server.kill();
  await rm(profile, { recursive: true, force: true });
}

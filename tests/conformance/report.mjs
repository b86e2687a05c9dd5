// node report.mjs TOOLKIT FOLDER: writes report-light.png and report-dark.png, the top of a report about the demo's
// images.
import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import { launch } from "./browser.mjs";

const [toolkit, folder] = process.argv.slice(2).map((path) => resolve(path));
const temporary = await mkdtemp(join(tmpdir(), "report-"));
const report = join(temporary, "report.html");
const demo = ["--known", "examples/demo", "--unknown", "textures=examples/demo/textures"];
execFileSync(toolkit, ["report", "exported/cifar10-cifar-net.onnx", ...demo, "--output", report], { stdio: "inherit" });
await mkdir(folder, { recursive: true });
const context = await launch(chromium, join(temporary, "profile"));
try {
  const tab = await context.newPage();
  await tab.setViewportSize({ width: 900, height: 900 });
  await tab.goto(pathToFileURL(report).href);
  // The whole table, in a small file.
  await tab.addStyleTag({ content: "html { zoom: 0.85 }" });
  const plots = await tab.locator("#accepted-1").boundingBox();
  const clip = { x: 0, y: 0, width: 900, height: Math.round(plots.y + plots.height) };
  for (const colorScheme of ["light", "dark"]) {
    await tab.emulateMedia({ colorScheme });
    await tab.screenshot({ path: join(folder, `report-${colorScheme}.png`), clip, fullPage: true });
  }
} finally {
  await context.close();
  await rm(temporary, { recursive: true });
}

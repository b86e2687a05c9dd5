// node web.mjs MODEL.onnx IMAGES.f32 SIZE BATCH: prints the outputs of onnxruntime-web (wasm) in headless
// Chromium as JSON.
import { createServer } from "node:http";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { launch } from "./browser.mjs";

const [model, images, size, batch] = process.argv.slice(2);
const here = dirname(fileURLToPath(import.meta.url));
const types = { ".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm" };
const page = `<!doctype html><script type="module">
  import * as ort from "/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
  import { score } from "/score.mjs";
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = "/node_modules/onnxruntime-web/dist/";
  const fetched = async (path) => (await fetch(path)).arrayBuffer();
  window.said = (async () => {
    const session = await ort.InferenceSession.create(await fetched("/model"), { executionProviders: ["wasm"] });
    return score(ort, session, new Float32Array(await fetched("/images")), ${Number(size)}, ${Number(batch)});
  })();
</script>`;

const server = createServer(async (request, response) => {
  const path = new URL(request.url, "http://localhost").pathname;
  try {
    const named = { "/model": model, "/images": images }[path];
    const file = named ?? resolve(join(here, path));
    if (path === "/") return response.setHeader("content-type", "text/html").end(page);
    if (!named && !file.startsWith(here + sep)) throw new Error("outside");
    const type = types[path.slice(path.lastIndexOf("."))] ?? "application/octet-stream";
    response.setHeader("content-type", type).end(await readFile(file));
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const profile = await mkdtemp(join(tmpdir(), "conformance-"));
const context = await launch(chromium, profile);
try {
  const tab = await context.newPage();
  tab.on("console", (message) => console.error(message.text()));
  await tab.goto(`http://127.0.0.1:${server.address().port}/`);
  await tab.waitForFunction(() => window.said);
  console.log(JSON.stringify(await tab.evaluate(() => window.said)));
} finally {
  await context.close();
  server.close();
  await rm(profile, { recursive: true, force: true });
}

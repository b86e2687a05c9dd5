// npm ci --ignore-scripts && npm start: serves the page on localhost; npm start -- /path/to/MODEL.onnx with another model.
import { createServer } from "node:http";
import { access, readFile } from "node:fs/promises";
import { dirname, extname, join, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const model = process.argv[2] ?? join(here, "../../exported/cifar10-cifar-net.onnx");
const types = {
  ".css": "text/css",
  ".html": "text/html; charset=utf-8",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};

await access(model).catch((error) => {
  console.error(`error: cannot read the model: ${error.message}`);
  process.exit(1);
});

const server = createServer(async (request, response) => {
  try {
    const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
    const file = path === "/model.onnx" ? model : resolve(join(here, path === "/" ? "index.html" : path));
    if (file !== model && !file.startsWith(here + sep)) throw new Error("outside");
    const body = await readFile(file);
    response.setHeader("content-type", types[extname(file)] ?? "application/octet-stream").end(body);
  } catch {
    response.writeHead(404).end("not found");
  }
});
server.on("error", (error) => {
  console.error(`error: ${error.message}`);
  process.exit(1);
});
server.listen(Number(process.env.PORT ?? 8080), "127.0.0.1", () =>
  console.log(`http://127.0.0.1:${server.address().port}/`),
);

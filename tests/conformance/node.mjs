// node node.mjs MODEL.onnx IMAGES.f32 SIZE BATCH: prints the outputs of onnxruntime-node as JSON.
import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-node";
import { score } from "./score.mjs";

const [model, images, size, batch] = process.argv.slice(2);
const bytes = readFileSync(images);
const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
const session = await ort.InferenceSession.create(model);
console.log(JSON.stringify(await score(ort, session, values, Number(size), Number(batch))));

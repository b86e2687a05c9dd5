// node resize.mjs SHAPES.json: resizes computed images with the code of the page, and fails unless the bytes
// match Pillow's. tests/golden/images.py made the file.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { tensor } from "../../examples/web/resize.mjs";

const targets = [[1, 1], [32, 32], [7, 40], [40, 7], [24, 33], [224, 1]];

function computed(height, width) {
  const data = new Uint8ClampedArray(4 * height * width);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = 7 * x * x + 13 * y * y + 5 * x * y;
      data.set([0, 1, 2].map((channel) => (value + 101 * channel) % 256), 4 * (y * width + x));
    }
  }
  return { data, width, height };
}

let count = 0;
for (const [shape, ways] of Object.entries(JSON.parse(readFileSync(process.argv[2])))) {
  const image = computed(...shape.split("x").map(Number));
  for (const [way, expected] of Object.entries(ways)) {
    const [, fit, share, filter] = way.match(/^(\w+) ?(\S*) (\w+)$/);
    const hash = createHash("sha256");
    for (const [height, width] of targets) {
      const input = { height, width, mean: [0.485, 0.1, 0.5], resize: { fit, share: Number(share), filter } };
      hash.update(Uint8Array.from(tensor(image, input), (value) => Math.round(255 * value)));
    }
    if (hash.digest("hex").slice(0, 32) !== expected) throw new Error(`${shape}, ${way}`);
    count++;
  }
}
console.log(`${count} resizes on the page, the same bytes as Pillow's`);

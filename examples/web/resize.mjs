// Resizes like the toolkit and torchvision: bilinear, antialiased, in two passes, rounded after each.

// For each pixel of a line, the first source pixel and the weights from there on.
function weights(from, to) {
  const scale = from / to;
  const reach = Math.max(scale, 1);
  return Array.from({ length: to }, (_, place) => {
    const middle = (place + 0.5) * scale;
    const first = Math.max(0, Math.floor(middle - reach + 0.5));
    const last = Math.min(from, Math.floor(middle + reach + 0.5));
    const parts = [];
    for (let x = first; x < last; x++) parts.push(Math.max(0, 1 - Math.abs((x + 0.5 - middle) / reach)));
    const sum = parts.reduce((a, b) => a + b, 0);
    return { first, parts: parts.map((part) => part / sum) };
  });
}

const byte = (value) => Math.max(0, Math.min(255, Math.round(value)));

// The red, green and blue values of a canvas's ImageData as floats [1, 3, height, width] in 0..=1.
// Transparency is dropped, as in the toolkit.
export function tensor({ data, width: oldWidth, height: oldHeight }, width, height) {
  const across = new Float32Array(oldHeight * width * 3);
  weights(oldWidth, width).forEach(({ first, parts }, x) => {
    for (let y = 0; y < oldHeight; y++) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0;
        parts.forEach((part, i) => (sum += part * data[(y * oldWidth + first + i) * 4 + channel]));
        across[(y * width + x) * 3 + channel] = byte(sum);
      }
    }
  });
  const values = new Float32Array(3 * height * width);
  weights(oldHeight, height).forEach(({ first, parts }, y) => {
    for (let x = 0; x < width; x++) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0;
        parts.forEach((part, i) => (sum += part * across[((first + i) * width + x) * 3 + channel]));
        values[(channel * height + y) * width + x] = byte(sum) / 255;
      }
    }
  });
  return values;
}

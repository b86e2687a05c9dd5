// Resizes to the byte like the toolkit, Pillow 13 and torchvision: bilinear, antialiased, in two passes of whole
// numbers, rounded after each.

// A weight of 1.
const ONE = 2 ** 22;

// For each pixel of a line, the first source pixel and the weights from there on.
function windows(from, to) {
  const scale = from / to;
  const reach = Math.max(scale, 1);
  return Array.from({ length: to }, (_, place) => {
    const middle = (place + 0.5) * scale;
    const first = Math.max(0, Math.floor(middle - reach + 0.5));
    const last = Math.min(from, Math.floor(middle + reach + 0.5));
    const parts = [];
    for (let x = first; x < last; x++) parts.push(Math.max(0, 1 - Math.abs((x - middle + 0.5) * (1 / reach))));
    const sum = parts.reduce((a, b) => a + b, 0);
    return { first, weights: parts.map((part) => Math.floor((part / sum) * ONE + 0.5)) };
  });
}

// Resizes the lines of an image, which may have more channels than red, green and blue. Lines begin lineStep
// values after each other, their pixels pixelStep values; at(line, place) numbers the resized pixels.
function pass(values, lines, [lineStep, pixelStep], from, to, at) {
  const resized = new Uint8ClampedArray(lines * to * 3);
  const all = windows(from, to);
  for (let line = 0; line < lines; line++) {
    for (let place = 0; place < to; place++) {
      const { first, weights } = all[place];
      let source = line * lineStep + first * pixelStep;
      let [red, green, blue] = [ONE / 2, ONE / 2, ONE / 2];
      for (let i = 0; i < weights.length; i++, source += pixelStep) {
        red += weights[i] * values[source];
        green += weights[i] * values[source + 1];
        blue += weights[i] * values[source + 2];
      }
      const pixel = at(line, place) * 3;
      resized[pixel] = Math.floor(red / ONE);
      resized[pixel + 1] = Math.floor(green / ONE);
      resized[pixel + 2] = Math.floor(blue / ONE);
    }
  }
  return resized;
}

const across = (values, channels, height, from, to) =>
  pass(values, height, [from * channels, channels], from, to, (y, x) => y * to + x);
const down = (values, channels, width, from, to) =>
  pass(values, width, [channels, width * channels], from, to, (x, y) => y * width + x);

// The red, green and blue values of a canvas's ImageData as floats [1, 3, height, width] in 0..=1. Transparency
// is dropped, as in the toolkit, but a canvas does not keep the colours of transparent pixels exactly.
export function tensor({ data, width: oldWidth, height: oldHeight }, width, height) {
  // Pillow 13 changes the height first where it shrinks by more than twice as many pixels as the width.
  const verticalFirst = oldHeight - height > Math.max(0, 2 * (oldWidth - width));
  const pixels = verticalFirst
    ? across(down(data, 4, oldWidth, oldHeight, height), 3, height, oldWidth, width)
    : down(across(data, 4, oldHeight, oldWidth, width), 3, width, oldHeight, height);
  const values = new Float32Array(3 * height * width);
  pixels.forEach((value, at) => (values[(at % 3) * height * width + Math.floor(at / 3)] = value / 255));
  return values;
}

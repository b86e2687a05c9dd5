// Resizes byte for byte like the toolkit, Pillow 13 and torchvision: antialiased, in two integer passes,
// rounded after each.

// A weight of 1.
const ONE = 2 ** 22;

const FILTERS = {
  bilinear: { radius: 1, kernel: (x) => Math.max(0, 1 - x) },
  bicubic: {
    radius: 2,
    kernel: (x) => {
      if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
    },
  },
};

// Rounds a positive number, with halves to even, as Python does.
const rounded = (x) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

// The resize along one axis: `from` pixels become `to`. As many as fit are kept, from `skipped` on, and put
// at `place`.
const centred = (from, to, room) => {
  const skipped = rounded(Math.max(0, to - room) / 2);
  return { from, to, skipped, count: Math.min(to, room), place: rounded(Math.max(0, room - to) / 2) };
};

// The axes of a resize, vertical and horizontal, by the model's cac.input.
function axes(height, width, input) {
  const both = (toHeight, toWidth) => [
    centred(height, toHeight, input.height),
    centred(width, toWidth, input.width),
  ];
  const { fit = "stretch", share } = input.resize ?? {};
  if (fit === "stretch") return both(input.height, input.width);
  if (fit === "crop") {
    const [coveredHeight, coveredWidth] = [input.height, input.width].map((side) => Math.floor(side / share));
    return height * coveredWidth <= width * coveredHeight
      ? both(coveredHeight, Math.floor((coveredHeight * width) / height))
      : both(Math.floor((coveredWidth * height) / width), coveredWidth);
  }
  if (fit === "pad") {
    return width / height > input.width / input.height
      ? both(rounded((height / width) * input.width), input.width)
      : both(input.height, rounded((width / height) * input.height));
  }
  throw new Error(`the rule ${fit} is not known`);
}

// For each kept pixel of a line, the first source pixel and the weights from there on.
function windows({ from, to, skipped, count }, { radius, kernel }) {
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const reach = radius * stretch;
  return Array.from({ length: count }, (_, index) => {
    const middle = (skipped + index + 0.5) * scale;
    const first = Math.max(0, Math.floor(middle - reach + 0.5));
    const last = Math.min(from, Math.floor(middle + reach + 0.5));
    const parts = [];
    for (let x = first; x < last; x++) parts.push(kernel(Math.abs((x - middle + 0.5) * (1 / stretch))));
    const sum = parts.reduce((a, b) => a + b, 0);
    const whole = (weight) => Math.trunc(weight * ONE + (weight < 0 ? -0.5 : 0.5));
    return { first, weights: parts.map((part) => whole(part / sum)) };
  });
}

// Resizes the lines of an image, which may have more channels than red, green and blue. Lines are lineStep
// values apart, their pixels pixelStep values; at(line, place) numbers the resized pixels.
function pass(values, lines, [lineStep, pixelStep], all, at) {
  const resized = new Uint8ClampedArray(lines * all.length * 3);
  for (let line = 0; line < lines; line++) {
    all.forEach(({ first, weights }, place) => {
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
    });
  }
  return resized;
}

const across = (values, channels, height, width, all) =>
  pass(values, height, [width * channels, channels], all, (y, x) => y * all.length + x);
const down = (values, channels, width, all) =>
  pass(values, width, [channels, width * channels], all, (x, y) => y * width + x);

// The red, green and blue values of a canvas's ImageData as floats [1, 3, height, width] in 0..=1, for the model's
// cac.input. Transparency is dropped, as in the toolkit, but a canvas does not keep the colours of transparent pixels
// exactly.
export function tensor({ data, width, height }, input) {
  const [vertical, horizontal] = axes(height, width, input);
  const filter = FILTERS[input.resize?.filter ?? "bilinear"];
  const [rows, columns] = [windows(vertical, filter), windows(horizontal, filter)];
  // Pillow 13 changes the height first if it shrinks by more than twice as many pixels as the width.
  const verticalFirst = height - vertical.to > Math.max(0, 2 * (width - horizontal.to));
  const pixels = verticalFirst
    ? across(down(data, 4, width, rows), 3, rows.length, width, columns)
    : down(across(data, 4, height, width, columns), 3, columns.length, rows);
  const size = input.height * input.width;
  const values = new Float32Array(3 * size);
  input.mean.forEach((mean, channel) => {
    // In float32, as in the toolkit.
    const fill = rounded(Math.fround(255 * Math.fround(mean)));
    values.fill(fill / 255, channel * size, (channel + 1) * size);
  });
  pixels.forEach((value, at) => {
    const pixel = Math.floor(at / 3);
    const y = vertical.place + Math.floor(pixel / columns.length);
    const x = horizontal.place + (pixel % columns.length);
    values[(at % 3) * size + y * input.width + x] = value / 255;
  });
  return values;
}

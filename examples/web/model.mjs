// Reads the metadata and the threshold of a model file, which runtimes in browsers do not expose. An ONNX
// file is a protocol buffer of numbered fields, of which a few are read here.

// Yields the fields [number, value] of a message. A value is a number, or the bytes of text, a message or
// floats.
function* fields(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      if (byte === undefined) throw new Error("the model file is truncated");
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const [number, kind] = [Math.floor(key / 8), key % 8];
    if (kind === 0) yield [number, varint()];
    else if (kind === 1) at += 8;
    else if (kind === 5) (yield [number, view.getFloat32(at, true)], (at += 4));
    else {
      const length = varint();
      yield [number, bytes.subarray(at, (at += length))];
    }
  }
}

const text = (bytes) => new TextDecoder().decode(bytes);
const all = (bytes, wanted) => [...fields(bytes)].filter(([number]) => number === wanted).map(([, value]) => value);

// ModelProto.metadata_props = 14, StringStringEntryProto.key = 1 and value = 2.
export function metadata(model, name) {
  const property = all(model, 14).find((entry) => text(all(entry, 1)[0]) === name);
  if (!property) throw new Error("not a model file of this toolkit");
  return JSON.parse(text(all(property, 2)[0]));
}

// ModelProto.graph = 7, GraphProto.initializer = 5, TensorProto.name = 8, raw_data = 9 and float_data = 4, into which
// other tools write: packed, or as a number.
export function threshold(model) {
  const tensors = all(all(model, 7)[0], 5);
  const tensor = tensors.find((tensor) => text(all(tensor, 8)[0]) === "threshold");
  const value = all(tensor, 9)[0] ?? all(tensor, 4)[0];
  return typeof value === "number" ? value : new DataView(value.buffer, value.byteOffset).getFloat32(0, true);
}

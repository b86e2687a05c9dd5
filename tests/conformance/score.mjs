// Scores images [N, 3, size, size] in batches, with a session of either JavaScript runtime.
export async function score(ort, session, values, size, batch) {
  const results = Object.fromEntries(session.outputNames.map((name) => [name, []]));
  const length = 3 * size * size;
  for (let at = 0; at < values.length; at += batch * length) {
    const part = values.slice(at, at + batch * length);
    const images = new ort.Tensor("float32", part, [part.length / length, 3, size, size]);
    const outputs = await session.run({ images });
    for (const name of Object.keys(results)) {
      const read = name.startsWith("unknown") ? Boolean : Number;
      for (const value of outputs[name].data) results[name].push(read(value));
    }
  }
  return results;
}

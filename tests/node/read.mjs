// Reads arrays with zarrita, one per line of JSON on stdin: {"path": <folder of the array>, "out": <file>}. The pixels
// go to the file, little-endian and in C order; the answer, a line on stdout, describes them or says what went wrong.
// Ends when stdin does.

import { writeFile } from "node:fs/promises";
import { createInterface } from "node:readline";

import FileSystemStore from "@zarrita/storage/fs";
import * as zarr from "zarrita";

// One chunk after the other: zarrita opens the file anew for each, and all of them at once may be too many.
function oneByOne() {
  let last = Promise.resolve();
  return {
    add: (read) => {
      last = last.then(read);
    },
    onIdle: () => last,
  };
}

async function read({ path, out }) {
  const array = await zarr.open.v3(new FileSystemStore(path), { kind: "array" });
  const answer = { dtype: array.dtype, dimension_names: array.dimensionNames ?? null };
  if (array.shape.includes(0)) {
    await writeFile(out, ""); // zarrita 0.7.5 opens an array without pixels, but fails to read it
    return { shape: array.shape, ...answer };
  }
  const { data, shape, stride } = await zarr.get(array, null, { createQueue: oneByOne });
  let step = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (stride[axis] !== step) throw new Error(`not in C order: shape ${shape}, strides ${stride}`);
    step *= shape[axis];
  }
  await writeFile(out, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  return { shape, ...answer };
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = await read(JSON.parse(line));
  } catch (error) {
    answer = { error: `${error.name}: ${error.message}` };
    if (error.cause) answer.error += ` (${error.cause})`;
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

// Runs a model in onnxruntime-node or onnxruntime-web. repairkit calls it; nothing is installed.
//
// job.json   {package, folder, model, runs: [{NAME: {type, dims, file}}]}
// answer.json {version, location, runs: [[{type, dims, file}]]}, or {error: {stage, message}}
"use strict";
const fs = require("fs");
const path = require("path");

const place = process.argv[2];
const job = JSON.parse(fs.readFileSync(path.join(place, "job.json"), "utf8"));
// Half-precision numbers travel as they are stored.
const Half = globalThis.Float16Array ?? Uint16Array;
const ARRAYS = {
  float32: Float32Array, float64: Float64Array, float16: Half, bool: Uint8Array,
  int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array,
  int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, uint64: BigUint64Array,
};

function answer(document) {
  fs.writeFileSync(path.join(place, "answer.json"), JSON.stringify(document));
}

function readTensor(ort, told) {
  const bytes = fs.readFileSync(path.join(place, told.file));
  const own = new Uint8Array(bytes).buffer; // a copy of its own: an array must start at its size
  return new ort.Tensor(told.type, new ARRAYS[told.type](own), told.dims);
}

function writeTensor(tensor, file) {
  if (!tensor || !ARRAYS[tensor.type]) {
    throw new Error(`an output is no tensor of numbers (${tensor && tensor.type})`);
  }
  const data = tensor.data;
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  fs.writeFileSync(path.join(place, file), bytes);
  return { type: tensor.type, dims: Array.from(tensor.dims, Number), file };
}

async function main() {
  let stage = "find";
  try {
    const location = require.resolve(job.package, { paths: [job.folder] });
    const ort = require(location);
    stage = "load";
    const web = job.package === "onnxruntime-web";
    ort.env.logLevel = "error";
    if (web) ort.env.wasm.numThreads = 1; // threads need workers, which change nothing here
    const options = { executionProviders: [web ? "wasm" : "cpu"], logSeverityLevel: 3 };
    const content = new Uint8Array(fs.readFileSync(path.join(place, job.model)));
    const session = await ort.InferenceSession.create(content, options);
    stage = "run";
    const runs = [];
    for (const [number, told] of job.runs.entries()) {
      const feeds = {};
      for (const [name, tensor] of Object.entries(told)) feeds[name] = readTensor(ort, tensor);
      const given = await session.run(feeds);
      runs.push(session.outputNames.map((name, k) => writeTensor(given[name], `o${number}_${k}`)));
    }
    const versions = ort.env.versions ?? {};
    const version = versions[web ? "web" : "node"] ?? versions.common ?? "of unknown version";
    answer({ version, location, runs });
  } catch (error) {
    answer({ error: { stage, message: String((error && error.message) || error) } });
  }
}

main();

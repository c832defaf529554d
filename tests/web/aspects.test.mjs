import assert from "node:assert/strict";
import { test } from "node:test";
import { ASPECTS, edgeOf, sizeOf } from "../../web/js/layout/aspects.mjs";

test("at 1024 the sizes are SDXL's buckets", () => {
  const sizes = Object.fromEntries(ASPECTS.map((aspect) => [aspect, sizeOf(aspect, 1024)]));
  assert.deepEqual(sizes, {
    "1:1": [1024, 1024],
    "4:3": [1152, 896],
    "3:2": [1216, 832],
    "16:9": [1344, 768],
    "21:9": [1536, 640],
    "3:4": [896, 1152],
    "2:3": [832, 1216],
    "9:16": [768, 1344],
  });
});

test("one aspect after another leaves the model's pixel count as it was", () => {
  for (const edge of [256, 512, 768, 1024, 1280, 1536, 2048])
    for (const aspect of ASPECTS) {
      const [width, height] = sizeOf(aspect, edge);
      assert.equal(edgeOf([width, height]), edge, `${aspect} at ${edge}`);
      assert.ok(width % 64 === 0 && height % 64 === 0 && width * height <= edge * edge);
    }
  assert.equal(edgeOf([16, 16]), 256);
});

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

test("no aspect is far from its name", () => {
  for (const edge of [256, 512, 768, 1024, 1536])
    for (const aspect of ASPECTS) {
      const [across, down] = aspect.split(":").map(Number);
      const [width, height] = sizeOf(aspect, edge);
      const off = Math.abs(Math.log((width * down) / (height * across)));
      assert.ok(off < 0.06, `${aspect} at ${edge}: ${width} x ${height}`);
    }
  assert.deepEqual(sizeOf("3:2", 512), [624, 416]);
});

test("one aspect after another leaves the model's pixel count as it was", () => {
  for (const edge of [256, 512, 768, 1024, 1280, 1536, 2048])
    for (const aspect of ASPECTS) {
      const [width, height] = sizeOf(aspect, edge);
      assert.equal(edgeOf([width, height]), edge, `${aspect} at ${edge}`);
      const step = edge < 1024 ? 16 : 64;
      assert.ok(width % step === 0 && height % step === 0 && width * height <= edge * edge);
    }
  assert.equal(edgeOf([16, 16]), 256);
});

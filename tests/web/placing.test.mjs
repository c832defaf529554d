import assert from "node:assert/strict";
import { test } from "node:test";
import { droppedBox, freeBox } from "../../web/js/layout/placing.mjs";

const near = (a, b) => assert.ok(Math.abs(a - b) < 1e-9, `${a} is not ${b}`);
const SIZES = [
  [1024, 1024],
  [1536, 640],
  [640, 1536],
];

function assertFits([x0, y0, x1, y1], reference, size) {
  near(((x1 - x0) * size[0]) / ((y1 - y0) * size[1]), reference[0] / reference[1]);
  assert.ok(x0 >= 0 && y0 >= 0 && x1 <= 1 && y1 <= 1);
}

test("a dropped box has its reference's aspect and lies in the picture, around the point", () => {
  for (const size of SIZES)
    for (const reference of [
      [100, 100],
      [300, 200],
      [200, 300],
    ])
      for (const [x, y] of [
        [0.5, 0.5],
        [0, 0],
        [1, 0.3],
      ]) {
        const box = droppedBox(reference, size, 2, { x, y });
        assertFits(box, reference, size);
        if (x === 0.5) near((box[0] + box[2]) / 2, 0.5);
      }
});

test("a very long reference's box is still a box", () => {
  const [x0, y0, x1, y1] = droppedBox([10_000, 1], [1024, 1024], 2, { x: 0.5, y: 1 });
  assert.ok(x1 > x0 && y1 >= y0 + 0.0099 && y1 <= 1);
});

test("up to sixteen boxes stand in reading order and don't overlap", () => {
  for (const size of SIZES)
    for (let count = 1; count <= 16; count++) {
      const boxes = [];
      for (let i = 0; i < count; i++) boxes.push(freeBox([150, 100], size, count, boxes));
      for (const [i, a] of boxes.entries()) {
        assertFits(a, [150, 100], size);
        for (const b of boxes.slice(0, i)) {
          assert.ok(a[0] > b[0] || a[1] > b[1]);
          const [w, h] = [0, 1].map((k) => Math.min(a[k + 2], b[k + 2]) - Math.max(a[k], b[k]));
          assert.ok(Math.min(w, h) < 1e-9, `${count}: ${a} and ${b}`);
        }
      }
    }
});

test("a box goes where the others aren't", () => {
  const [x0] = freeBox([100, 100], [1024, 1024], 2, [[0, 0, 0.5, 1]]);
  assert.ok(x0 > 0.5);
});

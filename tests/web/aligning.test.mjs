import assert from "node:assert/strict";
import { test } from "node:test";
import { alignBox, distributeBoxes } from "../../web/js/layout/aligning.mjs";
import { boxOfPixels, setPixel } from "../../web/js/layout/pixel_fields.mjs";
import { boxFrom, numbersFrom } from "./random.mjs";

const near = (a, b) => Math.abs(a - b) < 1e-9;
const inside = ([x0, y0, x1, y1]) => x0 >= 0 && y0 >= 0 && x1 <= 1 + 1e-12 && y1 <= 1 + 1e-12;
const sizeOf = ([x0, y0, x1, y1]) => [x1 - x0, y1 - y0];
const sameSize = (a, b) => near(sizeOf(a)[0], sizeOf(b)[0]) && near(sizeOf(a)[1], sizeOf(b)[1]);

test("aligning moves a box to an edge or the middle, and one way only", () => {
  const next = numbersFrom(9);
  for (let i = 0; i < 100; i++) {
    const box = boxFrom(next);
    for (const [edge, at] of Object.entries({ left: 0, right: 2, top: 1, bottom: 3 })) {
      const aligned = alignBox(box, edge);
      assert.ok(near(aligned[at], at < 2 ? 0 : 1) && sameSize(aligned, box) && inside(aligned));
      assert.ok(near(aligned[(at + 1) % 2], box[(at + 1) % 2]));
    }
    const [x0, , x1] = alignBox(box, "centre");
    const [, y0, , y1] = alignBox(box, "middle");
    assert.ok(near(x0 + x1, 1) && near(y0 + y1, 1));
  }
});

test("boxes are distributed with equal spaces, the outer ones stay", () => {
  const next = numbersFrom(8);
  for (let i = 0; i < 200; i++)
    for (const axis of [0, 1]) {
      const boxes = Array.from({ length: 3 + Math.floor(4 * next()) }, () => boxFrom(next));
      const given = [boxes[0], null, ...boxes.slice(1)];
      const moved = distributeBoxes(given, axis);
      assert.equal(moved[1], null);
      const before = given.filter(Boolean).sort((a, b) => a[axis] - b[axis]);
      for (const [n, box] of given.entries())
        assert.ok(!box || (sameSize(box, moved[n]) && near(box[1 - axis], moved[n][1 - axis])));
      const byOld = before.map((box) => moved[given.indexOf(box)]);
      assert.deepEqual([byOld[0], byOld.at(-1)], [before[0], before.at(-1)]);
      const spaces = byOld.slice(1).map((box, n) => box[axis] - byOld[n][axis + 2]);
      assert.ok(
        spaces.every((space) => near(space, spaces[0])),
        JSON.stringify(spaces),
      );
    }
  assert.deepEqual(distributeBoxes([boxFrom(next), null], 0).length, 2);
});

test("a box's numbers are set in pixels, inside the picture", () => {
  const rect = { x: 10, y: 20, w: 30, h: 60 };
  const size = [128, 192];
  const cases = [
    ["x", 12.4, false, { ...rect, x: 12 }],
    ["x", 900, false, { ...rect, x: 98 }],
    ["y", -5, false, { ...rect, y: 0 }],
    ["w", 40, false, { ...rect, w: 40 }],
    ["w", 0, false, { ...rect, w: 1 }],
    ["w", 125, false, { ...rect, w: 125, x: 3 }],
    ["w", 40, true, { ...rect, w: 40, h: 80 }],
    ["h", 30, true, { ...rect, w: 15, h: 30 }],
    ["w", 500, true, { x: 10, y: 0, w: 96, h: 192 }],
  ];
  for (const [name, value, keepsAspect, expected] of cases)
    assert.deepEqual(setPixel(rect, name, value, size, keepsAspect), expected);
  assert.deepEqual(boxOfPixels({ x: 32, y: 48, w: 64, h: 96 }, size), [0.25, 0.25, 0.75, 0.75]);
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { drawBox } from "../../web/js/layout/geometry.mjs";
import { coveredCells, gridOf } from "../../web/js/layout/grid.mjs";
import { boxFrom, numbersFrom } from "./random.mjs";

test("a cell is 32 pixels wide, a part of one counts", () => {
  const sizes = [
    [
      [1024, 1024],
      [32, 32],
    ],
    [
      [832, 1216],
      [26, 38],
    ],
    [
      [1000, 1032],
      [32, 33],
    ],
    [
      [16, 8],
      [1, 1],
    ],
  ];
  for (const [size, grid] of sizes) assert.deepEqual(gridOf(size), grid);
});

test("the cells that a box covers hold it, and no row or column lies outside it", () => {
  const next = numbersFrom(1);
  for (let i = 0; i < 500; i++) {
    const [columns, rows] = [1 + Math.floor(40 * next()), 1 + Math.floor(40 * next())];
    const box = boxFrom(next);
    const [c0, r0, c1, r1] = coveredCells(box, [columns, rows]);
    const [x0, y0, x1, y1] = [box[0] * columns, box[1] * rows, box[2] * columns, box[3] * rows];
    const slack = 1e-5 * 40 + 1e-4; // edges are written with five decimals
    assert.ok(c0 <= x0 + slack && c1 >= x1 - slack && r0 <= y0 + slack && r1 >= y1 - slack);
    assert.ok(
      c0 > x0 - 1 - slack && c1 < x1 + 1 + slack && r0 > y0 - 1 - slack && r1 < y1 + 1 + slack,
    );
    assert.ok(c0 >= 0 && r0 >= 0 && c1 <= columns && r1 <= rows && c0 < c1 && r0 < r1);
  }
});

test("a snapped box covers just its own cells", () => {
  const grids = [
    [26, 38],
    [32, 32],
    [3, 7],
    [33, 41],
  ];
  for (const [columns, rows] of grids)
    for (let i = 0; i < columns; i++)
      for (const j of [0, Math.floor(rows / 3), rows - 1]) {
        const corner = { x: i / columns, y: j / rows };
        const opposite = { x: (i + 1) / columns, y: (j + 1) / rows };
        const box = drawBox(corner, opposite, [columns, rows]);
        assert.deepEqual(coveredCells(box, [columns, rows]), [i, j, i + 1, j + 1]);
      }
});

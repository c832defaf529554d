import assert from "node:assert/strict";
import { test } from "node:test";
import {
  drawBox,
  fit,
  growBox,
  hit,
  keepAspect,
  moveBox,
  offsetBox,
  pixelsOf,
  resizeBox,
  snap,
} from "../../web/js/layout/geometry.mjs";
import { MIN_EDGE } from "../../web/js/layout/value.mjs";
import { boxFrom, numbersFrom } from "./random.mjs";

const GRIPS = ["l", "r", "t", "b", "tl", "tr", "bl", "br"];
const EDGE = { l: 0, t: 1, r: 2, b: 3 };
const GRIDS = [null, [4, 4], [26, 38], [1, 1]];

const near = (a, b) => Math.abs(a - b) < 1e-9;
const inside = ([x0, y0, x1, y1]) => x0 >= 0 && y0 >= 0 && x1 <= 1 + 1e-12 && y1 <= 1 + 1e-12;
const sizeOf = ([x0, y0, x1, y1]) => [x1 - x0, y1 - y0];
const sameSize = (a, b) => near(sizeOf(a)[0], sizeOf(b)[0]) && near(sizeOf(a)[1], sizeOf(b)[1]);

/** Many boxes and ways to move them. */
function* moves(seed) {
  const next = numbersFrom(seed);
  for (let i = 0; i < 500; i++)
    yield {
      box: boxFrom(next),
      by: { x: 3 * next() - 1.5, y: 3 * next() - 1.5 },
      grid: GRIDS[i % GRIDS.length],
    };
}

test("a moved box keeps its size and stays in the picture", () => {
  for (const { box, by, grid } of moves(1)) {
    const moved = moveBox(box, by, grid);
    assert.ok(inside(moved), `${box} -> ${moved}`);
    assert.ok(sameSize(moved, box), `${box} -> ${moved}`);
  }
  assert.deepEqual(
    moveBox([0.25, 0.25, 0.5, 0.5], { x: 0.125, y: -0.125 }, null),
    [0.375, 0.125, 0.625, 0.375],
  );
});

test("a moved box starts on the grid, unless the picture's edge stops it", () => {
  for (const { box, by } of moves(2)) {
    const [x0, , x1] = moveBox(box, by, [26, 38]);
    assert.ok(near(x0 * 26, Math.round(x0 * 26)) || near(x1, 1), `${box}`);
  }
});

test("resizing moves the held edges only, and keeps the box open and in the picture", () => {
  for (const { box, by, grid } of moves(3))
    for (const grip of GRIPS) {
      const resized = resizeBox(box, grip, by, grid);
      const held = [...grip].map((name) => EDGE[name]);
      for (const side of [0, 1, 2, 3])
        if (!held.includes(side)) assert.equal(resized[side], box[side]);
      assert.ok(
        sizeOf(resized).every((edge) => edge > MIN_EDGE - 1e-9),
        `${grip} ${resized}`,
      );
      assert.ok(inside(resized), `${grip} ${box} -> ${resized}`);
    }
  assert.deepEqual(
    resizeBox([0.25, 0.25, 0.5, 0.5], "br", { x: 0.25, y: 0.125 }, null),
    [0.25, 0.25, 0.75, 0.625],
  );
});

test("a corner that keeps the aspect holds the opposite one, inside the picture", () => {
  for (const { box, by, grid } of moves(7))
    for (const grip of ["tl", "tr", "bl", "br"]) {
      const kept = keepAspect(box, resizeBox(box, grip, by, grid), grip);
      const [[w, h], [kw, kh]] = [sizeOf(box), sizeOf(kept)];
      assert.ok(near(kw * h, kh * w), `${grip} ${box} -> ${kept}`);
      assert.ok(inside(kept) && kw > 0 && kh > 0, `${grip} ${box} -> ${kept}`);
      const held = grip.includes("l") ? 2 : 0;
      assert.ok(near(kept[held], box[held]));
      assert.ok(near(kept[grip.includes("t") ? 3 : 1], box[grip.includes("t") ? 3 : 1]));
    }
  assert.deepEqual(
    keepAspect([0.25, 0.25, 0.5, 0.5], [0.25, 0.25, 0.75, 0.5], "br"),
    [0.25, 0.25, 0.75, 0.75],
  );
});

test("growing moves the right and lower edges only, no further than the picture", () => {
  for (const { box, by } of moves(4)) {
    const grown = growBox(box, by);
    assert.deepEqual(grown.slice(0, 2), box.slice(0, 2));
    assert.ok(sizeOf(grown).every((edge) => edge > MIN_EDGE - 1e-9) && inside(grown));
  }
  assert.deepEqual(growBox([0, 0, 0.5, 0.5], { x: 0.25, y: -0.25 }), [0, 0, 0.75, 0.25]);
});

test("a pasted box is a little off, has the same size and is in the picture", () => {
  for (const { box } of moves(5)) {
    const pasted = offsetBox(box);
    assert.ok(inside(pasted));
    assert.ok(sameSize(pasted, box), `${box} -> ${pasted}`);
  }
  assert.deepEqual(offsetBox([0, 0, 0.5, 1]), [1 / 32, 0, 0.5 + 1 / 32, 1]);
});

test("a box is drawn between any two corners, on the grid", () => {
  assert.deepEqual(drawBox({ x: 0.8, y: 0.1 }, { x: 0.2, y: 0.4 }, null), [0.2, 0.1, 0.8, 0.4]);
  assert.deepEqual(drawBox({ x: 0.2, y: 0.3 }, { x: 2, y: 0.8 }, [4, 4]), [0.25, 0.25, 1, 0.75]);
  const [x0, , x1] = drawBox({ x: 0.3, y: 0.3 }, { x: 0.3, y: 0.8 }, null);
  assert.ok(near(x1 - x0, MIN_EDGE));
});

test("snapping goes to the nearest line, and a second time changes nothing", () => {
  assert.equal(snap(0.3, 0, [4, 8]), 0.25);
  assert.equal(snap(0.3, 1, [4, 10]), 0.3);
  assert.equal(snap(0.37, 1, null), 0.37);
  assert.equal(snap(-3, 0, null), 0);
  assert.equal(snap(3, 0, [4, 4]), 1);
  const next = numbersFrom(6);
  for (let i = 0; i < 200; i++) {
    const value = snap(next(), 0, [26, 38]);
    assert.equal(snap(value, 0, [26, 38]), value);
  }
});

const at = (x, y) => ({ x, y, reachX: 0.02, reachY: 0.02 });
const SCENE = [0, 0, 1, 1];
const CAT = [0.3, 0.3, 0.7, 0.7];

test("a point hits the smallest box, the selected one's edge before it", () => {
  assert.equal(hit([], at(0.5, 0.5), -1), null);
  assert.equal(hit([null, CAT], at(0.1, 0.1), -1), null);
  assert.deepEqual(hit([SCENE, CAT], at(0.5, 0.5), -1), { index: 1, grip: "move" });
  assert.deepEqual(hit([SCENE, CAT], at(0.5, 0.5), 0), { index: 1, grip: "move" });
  assert.deepEqual(hit([CAT, [0.6, 0.4, 0.8, 0.6]], at(0.7, 0.5), 0), { index: 0, grip: "r" });
  assert.deepEqual(hit([CAT, CAT], at(0.5, 0.5), 1), { index: 1, grip: "move" });
});

test("a box that was brought to the front is hit before smaller ones", () => {
  const middle = at(0.5, 0.5);
  assert.equal(hit([SCENE, CAT], middle, -1, [1, 0]).index, 0);
  assert.equal(hit([SCENE, CAT], middle, 1, [1, 0]).index, 0);
  assert.equal(hit([SCENE, CAT], at(0.31, 0.5), 1, [1, 0]).index, 1, "the selected one's edge");
  assert.equal(hit([SCENE, CAT], middle, -1, [1, 2]).index, 1);
  assert.equal(hit([SCENE, CAT], middle, -1, [3, 3]).index, 1);
});

test("Alt takes the box below, and begins again after the last", () => {
  const boxes = [SCENE, CAT, CAT];
  const below = (selected) => hit(boxes, at(0.5, 0.5), selected, [], true);
  assert.deepEqual(
    [-1, 0, 1, 2].map((selected) => below(selected).index),
    [0, 1, 2, 0],
  );
  assert.equal(hit(boxes, at(0.31, 0.5), 0, [], true).grip, "move");
});

test("each edge and corner is held by its name, a little outside too", () => {
  const points = {
    tl: [0.29, 0.29],
    t: [0.5, 0.29],
    tr: [0.71, 0.29],
    l: [0.29, 0.5],
    r: [0.71, 0.5],
    bl: [0.29, 0.71],
    b: [0.5, 0.71],
    br: [0.71, 0.71],
  };
  for (const [grip, point] of Object.entries(points))
    assert.deepEqual(hit([CAT], at(...point), -1), { index: 0, grip });
});

test("the middle of a small box still moves it", () => {
  assert.equal(hit([[0.5, 0.5, 0.51, 0.51]], at(0.505, 0.505), -1).grip, "move");
});

test("the picture fits into the canvas, centred and with its aspect", () => {
  const next = numbersFrom(7);
  for (let i = 0; i < 200; i++) {
    const [width, height] = [16 + 4000 * next(), 16 + 4000 * next()];
    const [canvasWidth, canvasHeight] = [200 + 600 * next(), 200 + 600 * next()];
    const { x, y, w, h } = fit([width, height], [canvasWidth, canvasHeight]);
    if (w > 1 && h > 1) assert.ok(Math.abs(w / h / (width / height) - 1) < 1e-9);
    assert.ok(near(x, canvasWidth - x - w) && near(y, canvasHeight - y - h));
    assert.ok(near(Math.min(x, y), 1));
  }
});

test("pixels are rounded", () => {
  assert.deepEqual(pixelsOf([0.1, 0.25, 0.5, 1], [128, 96]), { x: 13, y: 24, w: 51, h: 72 });
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { fitShape, setShape, shapeOfLine, swapShapes } from "../../web/js/layout/polygon.mjs";
import { applyPreset } from "../../web/js/layout/presets.mjs";
import { MAX_POINTS, readValue, wasCorrected, writeValue } from "../../web/js/layout/value.mjs";
import { numbersFrom } from "./random.mjs";

const TRIANGLE = [
  [0.1, 0.2],
  [0.5, 0.2],
  [0.3, 0.6],
];
const BOX = [0.1, 0.2, 0.5, 0.6];
const subject = (fields = {}) => ({ phrase: "cat", box: BOX, weight: 1, ...fields });
const value = (...subjects) => ({ version: 2, subjects }); // one of them is off

test("a polygon is read and written, at the end, with the box around it", () => {
  const given = value(subject({ off: true, polygon: TRIANGLE }), subject());
  const { subjects } = readValue(given);
  assert.deepEqual(writeValue(subjects), given);
  assert.deepEqual(Object.keys(writeValue(subjects).subjects[0]).at(-1), "polygon");
  assert.equal("polygon" in writeValue(subjects).subjects[1], false);
  assert.equal(wasCorrected(subjects, given), false);
  const without = readValue(value(subject({ box: null, polygon: TRIANGLE })));
  assert.deepEqual(without.subjects[0].box, BOX);
});

test("what is no polygon is left out, and said to be corrected", () => {
  const wrong = [
    [[0, 0], [1, 1]],
    [[0, 0], [1, 1], [2, 0]],
    [[0, 0], [1, 1], ["0", 0]],
    [[0, 0], [1, 1], [0, 0, 0]],
    [[0, 0], [1, 1], null],
    Array(MAX_POINTS + 1).fill([0.5, 0.5]),
    "left half",
    { length: 5 },
  ]; // biome-ignore format: a case a line
  for (const polygon of wrong) {
    const given = value(subject({ polygon }));
    const { subjects } = readValue(given);
    assert.deepEqual(subjects, [subject()]);
    assert.equal(wasCorrected(subjects, given), true);
  }
});

test("a shape goes with its box, and back", () => {
  const moved = fitShape({ box: BOX, polygon: TRIANGLE }, [0.5, 0.5, 0.7, 0.9]);
  const near = (points, expected) => {
    for (const [i, at] of points.flat().entries())
      assert.ok(Math.abs(at - expected.flat()[i]) < 1e-9);
  };
  near(moved.polygon, [
    [0.5, 0.5],
    [0.7, 0.5],
    [0.6, 0.9],
  ]);
  near(fitShape(moved, BOX).polygon, TRIANGLE);
  assert.deepEqual(fitShape({ box: BOX }, [0, 0, 1, 1]), { box: [0, 0, 1, 1] });
});

test("another shape takes the place of a polygon", () => {
  const [one, two] = [subject({ polygon: TRIANGLE }), subject({ box: [0, 0, 1, 1] })];
  swapShapes(one, two);
  assert.deepEqual([one, two], [subject({ box: [0, 0, 1, 1] }), subject({ polygon: TRIANGLE })]);
  setShape(two, { box: null });
  assert.deepEqual(two, subject({ box: null }));
  const [preset] = applyPreset([subject({ polygon: TRIANGLE })], "oneInTheMiddle");
  assert.deepEqual(preset, subject({ box: [0.25, 0.25, 0.75, 0.75] }));
});

test("a line becomes a shape with few points, none of the line's far from it", () => {
  const next = numbersFrom(7);
  const circle = Array.from({ length: 2000 }, (_, i) => {
    const angle = (i / 2000) * 2 * Math.PI;
    const radius = 0.3 + 0.001 * next();
    return [0.5 + radius * Math.cos(angle), 0.5 + radius * Math.sin(angle)];
  });
  const { box, polygon } = shapeOfLine(circle, 0.002, MAX_POINTS);
  assert.ok(polygon.length < 100, `${polygon.length} points`);
  for (const [x, y] of polygon) assert.ok(Math.abs(Math.hypot(x - 0.5, y - 0.5) - 0.3) < 0.002);
  for (const [i, edge] of box.entries()) assert.ok(Math.abs(edge - (i < 2 ? 0.2 : 0.8)) < 0.004);
  assert.ok(shapeOfLine(circle, 1e-6, 50).polygon.length <= 50);
});

test("a line without an inside is no shape", () => {
  const level = [0.1, 0.4, 0.9].map((x) => [x, 0.5]);
  const slope = [0.1, 0.4, 0.9].map((x) => [x, x]);
  for (const line of [level, slope, level.slice(1), [[0.5, 0.5]]])
    assert.equal(shapeOfLine(line, 0.002, MAX_POINTS), null);
});

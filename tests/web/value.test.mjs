import assert from "node:assert/strict";
import { test } from "node:test";
import {
  MAX_LETTERS,
  MAX_SUBJECTS,
  MAX_WEIGHT,
  MIN_EDGE,
  readBox,
  readValue,
  VERSION,
  wasCorrected,
  writeValue,
} from "../../web/js/layout/value.mjs";
import { boxFrom, numbersFrom } from "./random.mjs";

const subject = (fields = {}) => ({
  phrase: "cat",
  box: [0.1, 0.2, 0.5, 0.6],
  weight: 1,
  ...fields,
});
const value = (...subjects) => ({ version: VERSION, subjects });

test("reading what was written is the same", () => {
  const next = numbersFrom(1);
  for (let i = 0; i < 500; i++) {
    const written = writeValue([
      subject({ box: boxFrom(next), weight: 10 * next() }),
      subject({ box: null, phrase: "" }),
    ]);
    const { subjects, fault } = readValue(JSON.parse(JSON.stringify(written)));
    assert.equal(fault, null);
    assert.deepEqual(writeValue(subjects), written);
    assert.equal(wasCorrected(subjects, written), false);
  }
});

test("off is kept where it is true, at the end, and nothing else is", () => {
  const off = subject({ off: true });
  const { subjects } = readValue(
    value(off, subject(), subject({ off: "yes" }), subject({ off: 0 })),
  );
  const written = writeValue(subjects);
  assert.deepEqual(written, value(off, subject(), subject(), subject()));
  assert.deepEqual(Object.keys(written.subjects[0]), ["phrase", "box", "weight", "off"]);
  assert.equal(wasCorrected(readValue(value(off)).subjects, value(off)), false);
  const plain = value(subject({ off: false }));
  assert.equal(wasCorrected(readValue(plain).subjects, plain), false);
  const wrong = value(subject({ off: "yes" }));
  assert.equal(wasCorrected(readValue(wrong).subjects, wrong), true);
});

test("writing moves no edge out of the box, nor by more than the fifth decimal", () => {
  const next = numbersFrom(2);
  for (let i = 0; i < 500; i++) {
    const box = boxFrom(next);
    const [written] = writeValue([subject({ box })]).subjects;
    written.box.forEach((edge, side) => {
      const inwards = side < 2 ? edge - box[side] : box[side] - edge;
      assert.ok(inwards > -1e-10 && inwards < 1e-5 + 1e-10, `${box} -> ${written.box}`);
      assert.equal(edge, Number(edge.toFixed(5)));
    });
  }
});

test("nothing is an empty layout", () => {
  for (const raw of [undefined, null, { subjects: [] }, value()])
    assert.deepEqual(readValue(raw), { subjects: [], fault: null });
});

test("a value that can't be edited gives its reason and no subjects", () => {
  const faults = [
    ["text", "unreadable"],
    [7, "unreadable"],
    [{}, "unreadable"],
    [{ version: VERSION }, "unreadable"],
    [{ subjects: { length: 1e9 } }, "unreadable"],
    [value(null, 3), "unreadable"],
    [{ version: VERSION + 1, subjects: [] }, "newer"],
    [{ version: "<script>", subjects: [] }, "newer"],
    [value(...Array(MAX_SUBJECTS + 1).fill(subject())), "tooMany"],
  ];
  for (const [raw, fault] of faults) assert.deepEqual(readValue(raw), { subjects: [], fault });
  assert.equal(readValue(value(...Array(MAX_SUBJECTS).fill(subject()))).fault, null);
});

test("a subject's hostile fields become valid ones, and no other field is read", () => {
  const read = (fields) => readValue(value(subject(fields))).subjects[0];
  assert.deepEqual(read({ colour: "red;}", constructor: { x: 1 } }), subject());
  assert.equal(read({ phrase: { toString: "x" } }).phrase, "");
  assert.equal(read({ phrase: "x".repeat(MAX_LETTERS + 1) }).phrase.length, MAX_LETTERS);
  for (const weight of [undefined, null, "3", Number.NaN, Number.POSITIVE_INFINITY])
    assert.equal(read({ weight }).weight, 1);
  assert.equal(read({ weight: 1e308 }).weight, MAX_WEIGHT);
  assert.equal(read({ weight: -1 }).weight, 0);
  const raw = subject();
  assert.notEqual(readValue(value(raw)).subjects[0], raw);
});

test("an older pack gets its version only where it makes the same picture of it", () => {
  const version = (...subjects) => writeValue(subjects).version;
  const polygon = [
    [0, 0],
    [1, 0],
    [0, 1],
  ];
  assert.equal(version(), 1);
  assert.equal(version(subject(), subject({ polygon })), 1);
  assert.equal(version(subject(), subject({ off: true })), 2);
  assert.equal(version(subject({ front: 1 }), subject()), 2);
  for (const known of [1, 2, undefined])
    assert.equal(readValue({ version: known, subjects: [subject({ off: true })] }).fault, null);
});

test("what is in front is read and written, at the end", () => {
  const given = value(subject({ off: true, front: 2 }), subject());
  const { subjects } = readValue(given);
  assert.deepEqual(writeValue(subjects), given);
  assert.equal(wasCorrected(subjects, given), false);
  assert.equal(Object.keys(writeValue(subjects).subjects[0]).at(-1), "front");
  for (const front of [-1, 1.5, MAX_SUBJECTS + 1, "1", true, [1], Number.NaN]) {
    const wrong = value(subject({ front }));
    const read = readValue(wrong).subjects;
    assert.equal("front" in read[0], false, String(front));
    assert.equal(wasCorrected(read, wrong), true, String(front));
  }
  const zero = value(subject({ front: 0 }));
  assert.equal(wasCorrected(readValue(zero).subjects, zero), false);
});

test("what is no box reads as none", () => {
  const raws = [null, "x", {}, [], [0, 0, 1], [0, 0, 1, "1"], [0, 0, Number.NaN, 1], [0, 0, 0, 0]];
  for (const raw of [...raws, [0, 0, 1, 1, 1], [[[[]]]]]) assert.equal(readBox(raw), null);
});

test("four numbers in any order read as a box with an area in 0..1", () => {
  const next = numbersFrom(3);
  const any = () =>
    next() < 0.3 ? [0, 1, 1e308, -1e308, 0.5][Math.floor(5 * next())] : 3 * next() - 1;
  for (let i = 0; i < 2000; i++) {
    const raw = [any(), any(), any(), any()];
    if (raw.every((edge) => edge === 0)) continue;
    const [x0, y0, x1, y1] = readBox(raw);
    assert.ok(x0 >= 0 && y0 >= 0 && x1 <= 1 && y1 <= 1, `${raw}`);
    assert.ok(x1 - x0 > MIN_EDGE - 1e-9 && y1 - y0 > MIN_EDGE - 1e-9, `${raw}`);
  }
  assert.deepEqual(readBox([0.9, 0.1, 0.5, 0.5]), [0.5, 0.1, 0.9, 0.5]);
});

test("a correction is noticed, another form of the same value is not", () => {
  const corrected = (...subjects) =>
    wasCorrected(readValue(value(...subjects)).subjects, value(...subjects));
  assert.equal(corrected({ phrase: "cat" }), false);
  assert.equal(corrected(subject({ box: [0, 0, 0, 0] })), false);
  assert.equal(corrected(subject({ colour: "red" })), false);
  assert.equal(corrected(subject({ weight: 11 })), true);
  assert.equal(corrected(subject({ box: [0.5, 0, 0.1, 1] })), true);
  assert.equal(corrected(subject({ phrase: 3 })), true);
});

import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { followReferences } from "../../web/js/layout/arranging.mjs";
import { Subjects } from "../../web/js/layout/subjects.mjs";
import { MAX_SUBJECTS, MAX_WEIGHT, VERSION, writeValue } from "../../web/js/layout/value.mjs";

const BOX = [0.25, 0.25, 0.5, 0.5];
const NEWER = { version: VERSION + 1, scenes: [], subjects: [] };
const subject = (phrase, box = BOX) => ({ phrase, box, weight: 1 });
const value = (...phrases) => writeValue(phrases.map((phrase) => subject(phrase)));

let linked;
let calls;
let subjects;

beforeEach(() => {
  linked = null;
  calls = [];
  const host = {
    linkedBoxes: () => linked,
    onChange: () => calls.push("change"),
    onRemove: (index) => calls.push(`remove ${index}`),
  };
  subjects = new Subjects(host, () => calls.push("refresh"));
  subjects.read(value("a", "b", "c"));
  calls = [];
});

const phrases = () => subjects.list.map(({ phrase }) => phrase);
const written = () => subjects.value.subjects.map(({ phrase }) => phrase);

test("a value that is read stays as it is until an edit", () => {
  const raw = { subjects: [{ phrase: "a", box: [0.9, 0.1, 0.5, 0.5], weight: 99 }] };
  subjects.read(raw);
  assert.equal(subjects.value, raw);
  assert.equal(subjects.corrected, true);
  subjects.setPhrase(0, "b");
  assert.equal(subjects.corrected, false);
  assert.deepEqual(subjects.value, {
    version: 1,
    subjects: [{ phrase: "b", box: [0.5, 0.1, 0.9, 0.5], weight: MAX_WEIGHT }],
  });
});

test("a newer value is left alone until the user starts over", () => {
  subjects.read(NEWER);
  assert.equal(subjects.editable, false);
  assert.equal(subjects.boxesEditable, false);
  subjects.addUpTo(3);
  assert.equal(followReferences(subjects, [], 0), null);
  assert.equal(subjects.value, NEWER);
  calls = [];
  subjects.startOver();
  assert.deepEqual(subjects.value, { version: 1, subjects: [] });
  assert.deepEqual(calls, ["refresh", "change"]);
});

test("each edit is written, shown and one undo step", () => {
  const edits = [
    () => subjects.setWeight(1, 0.5),
    () => subjects.usePreset("threeInARow"),
    () => subjects.toggle(1),
    () => subjects.toggle(1),
    () => subjects.setBox(1, [0, 0, 1, 1]),
    () => subjects.swapBoxes(0, 1),
    () => subjects.useLayout([subject("d")]),
    () => subjects.clearBox(1),
    () => subjects.clearBoxes(),
    () => subjects.addUpTo(6),
    () => followReferences(subjects, [1, 0], 2),
  ];
  for (const edit of edits) {
    calls = [];
    edit();
    assert.deepEqual(calls, ["refresh", "change"]);
    assert.deepEqual(subjects.value, writeValue(subjects.list));
  }
});

test("typing a phrase is no undo step before its end", () => {
  subjects.setPhrase(0, "d");
  assert.deepEqual(calls, ["refresh"]);
  assert.deepEqual(written(), ["d", "b", "c"]);
});

test("a removed subject's links go after it", () => {
  subjects.select(2);
  calls = [];
  subjects.remove(0);
  assert.deepEqual(written(), ["b", "c"]);
  assert.deepEqual(calls, ["refresh", "remove 0"]);
  assert.equal(subjects.selected, 1);
  subjects.remove(1);
  subjects.remove(0);
  assert.equal(subjects.selected, -1);
});

test("selecting shows, edits nothing, and is done once", () => {
  subjects.select(1);
  subjects.select(1);
  assert.deepEqual(calls, ["refresh"]);
  subjects.read(value("a"));
  assert.equal(subjects.selected, 0);
});

test("subjects go with their references, those without one to the end", () => {
  subjects.select(0);
  assert.deepEqual(followReferences(subjects, [1, 2], 3), [1, 2, 0]);
  assert.deepEqual(phrases(), ["b", "c", "a"]);
  assert.equal(subjects.selected, -1);
  assert.deepEqual(followReferences(subjects, [1, 0], 2), [1, 0, 2]);
  assert.deepEqual(written(), ["c", "b", "a"]);
});

test("references get subjects, no more than fit", () => {
  subjects.addUpTo(2);
  assert.deepEqual(calls, []);
  subjects.addUpTo(MAX_SUBJECTS + 5);
  assert.equal(subjects.list.length, MAX_SUBJECTS);
  assert.deepEqual(subjects.list.at(-1), { phrase: "", box: null, weight: 1 });
  assert.equal(subjects.full, true);
});

test("a new reference's subject is the one that waits, or a new one, at its place", () => {
  subjects.receive(2, null);
  assert.deepEqual(phrases(), ["a", "b", "", "c"]);
  assert.equal(subjects.selected, 2);
  subjects.read(value("a", "b", "c"));
  subjects.clearBox(2);
  subjects.receive(1, [0, 0, 1, 1]);
  assert.deepEqual(written(), ["a", "c", "b"]);
  assert.deepEqual(subjects.list[1].box, [0, 0, 1, 1]);
  subjects.move(2, 0);
  assert.deepEqual(written(), ["b", "a", "c"]);
});

test("a layout's subjects take the place of the first ones", () => {
  subjects.useLayout([subject("d", [0, 0, 1, 1])]);
  assert.deepEqual(written(), ["d", "b", "c"]);
  subjects.swapBoxes(0, 2);
  assert.deepEqual(subjects.boxes, [BOX, BOX, [0, 0, 1, 1]]);
});

test("a box is cleared once, and not where it is linked", () => {
  assert.equal(subjects.clearBox(1), true);
  assert.deepEqual(subjects.boxes, [BOX, null, BOX]);
  assert.equal(subjects.clearBox(1), false);
  linked = [BOX, BOX, BOX];
  assert.equal(subjects.clearBox(0), false);
  linked = null;
  subjects.clearBoxes();
  assert.deepEqual(subjects.boxes, [null, null, null]);
  assert.deepEqual(phrases(), ["a", "b", "c"]);
});

test("selecting again by other means is remembered", () => {
  subjects.select(1, "canvas");
  subjects.select(1);
  assert.equal(subjects.selectedBy, "row");
});

test("weights stay in range", () => {
  for (const [given, weight] of [
    [0.5, 0.5],
    [-1, 0],
    [99, MAX_WEIGHT],
    [Number.NaN, 1],
  ]) {
    subjects.setWeight(0, given);
    assert.equal(subjects.list[0].weight, weight);
  }
});

test("linked boxes are shown as they fit, and not edited", () => {
  linked = [[0.6, 0, 0.1, 1], "x", BOX];
  assert.equal(subjects.boxesEditable, false);
  assert.deepEqual(subjects.boxes, [[0.1, 0, 0.6, 1], null, BOX]);
  linked = Array(MAX_SUBJECTS + 1).fill(BOX);
  assert.equal(subjects.boxes.length, MAX_SUBJECTS);
});

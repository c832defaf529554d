import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import {
  bringToFront,
  duplicate,
  isInFront,
  moveRow,
  paste,
  sendBack,
} from "../../web/js/layout/arranging.mjs";
import { Subjects } from "../../web/js/layout/subjects.mjs";
import { MAX_SUBJECTS, writeValue } from "../../web/js/layout/value.mjs";

const BOX = [0.25, 0.25, 0.5, 0.5];
const subject = (phrase, box = BOX) => ({ phrase, box, weight: 1 });
const wires = (from) => ({ graph: "", links: [from] });

let calls = [];
let subjects;

beforeEach(() => {
  const host = {
    linkedBoxes: () => null,
    onChange: () => calls.push("change"),
    onReorder: (order) => calls.push(`reorder ${order}`),
    referenceCount: () => 2,
    wires,
    canConnect: ({ links: [from] }) => from < 2,
    connect: (index, { links: [from] }) => calls.push(`connect ${index} as ${from}`),
  };
  subjects = new Subjects(host, () => calls.push("refresh"));
  subjects.read(writeValue([subject("a"), subject("b"), subject("c")]));
  calls = [];
});

const phrases = () => subjects.list.map(({ phrase }) => phrase);

test("a row moves among those with a reference, or among those without", () => {
  moveRow(subjects, 0, 2);
  assert.deepEqual(phrases(), ["b", "a", "c"]);
  assert.equal(subjects.selected, 1);
  assert.deepEqual(calls, ["reorder 1,0,2", "refresh", "change"]);
  assert.deepEqual(subjects.value, writeValue(subjects.list));
  calls = [];
  moveRow(subjects, 2, 0);
  moveRow(subjects, 2, 3);
  assert.deepEqual(phrases(), ["b", "a", "c"]);
  assert.deepEqual(calls, []);
});

test("the one that was brought to the front last is in front of all", () => {
  for (const index of [0, 2, 1, 0]) {
    assert.equal(isInFront(subjects, index), false);
    calls = [];
    bringToFront(subjects, index);
    assert.equal(isInFront(subjects, index), true);
    assert.deepEqual(calls, ["refresh", "change"]);
  }
  assert.deepEqual(subjects.fronts, [3, 2, 1]);
  sendBack(subjects, 2);
  assert.deepEqual(subjects.fronts, [3, 2, 0]);
  bringToFront(subjects, 1);
  assert.deepEqual(subjects.fronts, [1, 2, 0]);
  for (let i = 0; i < 50; i++) bringToFront(subjects, i % 3);
  assert.equal(Math.max(...subjects.fronts), 3, "it doesn't grow");
});

test("a copy is connected as its original, and comes before those that wait", () => {
  duplicate(subjects, 0);
  assert.deepEqual(phrases(), ["a", "b", "a", "c"]);
  assert.equal(subjects.selected, 2);
  assert.notDeepEqual(subjects.list[2].box, BOX);
  assert.deepEqual(calls, ["reorder 0,1,3,2", "connect 2 as 0", "refresh", "change"]);
  calls = [];
  duplicate(subjects, 3);
  assert.deepEqual(phrases(), ["a", "b", "a", "c", "c"]);
  assert.deepEqual(calls, ["refresh", "change"]);
});

test("a pasted subject is a selected copy at the end, if there is space", () => {
  paste(subjects, subjects.list[0]);
  assert.equal(subjects.selected, 3);
  subjects.setPhrase(3, "d");
  assert.deepEqual(phrases(), ["a", "b", "c", "d"]);
  paste(subjects, subject("e", null));
  assert.equal(subjects.list[4].box, null);
  subjects.addUpTo(MAX_SUBJECTS);
  paste(subjects, subject("f"), wires(0));
  assert.equal(subjects.list.length, MAX_SUBJECTS);
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { orderByReferences } from "../../web/js/layout/order.mjs";

test("subjects go with their references; those that lost theirs go to the end", () => {
  assert.deepEqual(orderByReferences(3, [1, 2], 3), [1, 2, 0]);
  assert.deepEqual(orderByReferences(4, [1, 0], 3), [1, 0, 3, 2]);
});

test("subjects stay where no reference has moved, or the references don't fit", () => {
  assert.equal(orderByReferences(3, [0, 1, 2], 3), null);
  assert.equal(orderByReferences(3, [0, 1], 2), null); // the third never had one
  assert.equal(orderByReferences(3, [0, 0, 1], 3), null); // one reference twice
  assert.equal(orderByReferences(3, [4, 0], 5), null);
});

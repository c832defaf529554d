import assert from "node:assert/strict";
import { test } from "node:test";
import { applyPreset, PRESET_NAMES, PRESETS } from "../../web/js/layout/presets.mjs";

const BOX = [0.25, 0.25, 0.5, 0.5];

test("a preset keeps phrases, weights and further subjects", () => {
  for (const name of PRESET_NAMES) {
    const before = ["a", "b", "c"].map((phrase) => ({ phrase, box: BOX, weight: 0.5 }));
    const subjects = applyPreset(before, name);
    const count = PRESETS[name].length;
    assert.equal(subjects.length, Math.max(3, count));
    for (const [i, { phrase, box, weight }] of subjects.entries()) {
      assert.deepEqual([phrase, weight], i < 3 ? [before[i].phrase, 0.5] : ["", 1]);
      assert.deepEqual(box, PRESETS[name][i] ?? BOX);
      if (i < count) box[0] = 0.125; // the next preset has its own
    }
    assert.notEqual(PRESETS[name][0][0], 0.125);
  }
});

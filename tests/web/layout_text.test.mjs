import assert from "node:assert/strict";
import { test } from "node:test";
import { layoutText, readText, subjectText } from "../../web/js/layout/layout_text.mjs";
import { MAX_SUBJECTS, VERSION } from "../../web/js/layout/value.mjs";
import { boxFrom, numbersFrom } from "./random.mjs";

const CAT = { phrase: "cat", box: [0, 0.25, 0.4, 0.75], weight: 1 };
const CUP = { phrase: 'a "cup": blue', box: null, weight: 0.5, off: true };

test("what is copied is read again as it was", () => {
  assert.deepEqual(readText(layoutText([CAT, CUP])), { subjects: [CAT, CUP], single: false });
  assert.deepEqual(readText(subjectText(CUP)), { subjects: [CUP], single: true });
  const next = numbersFrom(3);
  for (let i = 0; i < 100; i++) {
    const text = layoutText([{ ...CAT, box: boxFrom(next) }]);
    const read = readText(text);
    assert.equal(layoutText(read.subjects), text);
  }
});

test("lines of phrases and boxes are read", () => {
  const text = `cat: 0,0.25,0.4,0.75\n\n  red: cup : 0.6, .25, 1.0, 0.75 ;\n猫：0，0，1，1`;
  assert.deepEqual(
    readText(text).subjects.map(({ phrase, box }) => [phrase, ...box]),
    [
      ["cat", 0, 0.25, 0.4, 0.75],
      ["red: cup", 0.6, 0.25, 1, 0.75],
      ["猫", 0, 0, 1, 1],
    ],
  );
});

test("text as language models write it is read", () => {
  const expected = [["cat", 0, 0.25, 0.4, 0.75]];
  for (const text of [
    "cat: [0, 0.25, 0.4, 0.75]",
    "cat: (0, 0.25, 0.4, 0.75)",
    "```\ncat: 0, 0.25, 0.4, 0.75\n```",
    `\`\`\`json\n${JSON.stringify([CAT])}\n\`\`\``,
  ]) {
    const read = readText(text).subjects.map(({ phrase, box }) => [phrase, ...box]);
    assert.deepEqual(read, text.includes("json") ? [["cat", ...CAT.box]] : expected, text);
  }
});

// It took the square of their number: for these an hour.
test("a text of two million letters is read", { timeout: 60_000 }, () => {
  const digits = "1".repeat(2e6);
  for (const text of [`a:${digits}`, digits, `a:${"1,".repeat(1e6)}`, ":".repeat(2e6)])
    assert.equal(readText(text), null);
});

test("a list of subjects is read too", () => {
  assert.deepEqual(readText(JSON.stringify([CAT])), { subjects: [CAT], single: false });
});

test("elements of boxes and of Ideogram's prompts are read", () => {
  const elements = [
    { type: "obj", bbox: [250, 0, 750, 400], desc: "cat", color_palette: ["#FF0000"] },
    { type: "obj", bbox: [0, 500, 1000, 1000] },
  ];
  const subjects = [
    { phrase: "cat", box: [0, 0.25, 0.4, 0.75], weight: 1 },
    { phrase: "", box: [0.5, 0, 1, 1], weight: 1 },
  ];
  const prompt = { compositional_deconstruction: { background: "a table", elements } };
  const unplaced = [{ type: "text", desc: "a title" }, ...elements];
  const wordless = [elements[0], { ...elements[1], desc: null }];
  for (const raw of [elements, { elements }, prompt, unplaced, wordless])
    assert.deepEqual(readText(JSON.stringify(raw)), { subjects, single: false });
  for (const bbox of [null, [250, 0, 750], [250, 0, 750, 1400], [750, 0, 250, 400], "a", {}]) {
    const read = readText(JSON.stringify([elements[0], { bbox, desc: "cup" }]));
    assert.deepEqual(read, { key: "textSubject", values: { n: 2 } }, JSON.stringify(bbox));
  }
  const many = Array(MAX_SUBJECTS + 1).fill(elements[0]);
  assert.ok("key" in readText(JSON.stringify(many)));
});

test("what isn't a layout is left to others", () => {
  for (const text of [
    "",
    "hello",
    "{",
    "[]",
    "{}",
    '{"nodes": []}',
    '{"subjects": []}',
    "[1]",
    "12",
  ])
    assert.equal(readText(text), null, text);
});

test("a layout that doesn't fit is refused, and says where", () => {
  const many = Array(MAX_SUBJECTS + 1).fill("cat: 0,0,1,1");
  const cases = [
    ["cat: 0,0,1,1\ndog: 0,0,2,1", { key: "textLine", values: { n: 2 } }],
    ["cat: 0,0,1,1\ndog", { key: "textLine", values: { n: 2 } }],
    ["cat: 0.5,0,0.5,1", { key: "textLine", values: { n: 1 } }],
    [many.join("\n"), { key: "tooMany" }],
    [
      JSON.stringify([CAT, { ...CAT, box: [0, 0, 512, 512] }]),
      { key: "textSubject", values: { n: 2 } },
    ],
    [JSON.stringify({ version: VERSION + 1, subjects: [CAT] }), { key: "newer" }],
  ];
  for (const [text, problem] of cases) assert.deepEqual(readText(text), problem, text);
});

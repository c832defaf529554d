import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { ENGLISH, loadTexts, text } from "../../web/js/layout/texts.mjs";

const zh = JSON.parse(readFileSync(new URL("../../locales/zh/main.json", import.meta.url), "utf8"));

/** A server with these languages; counts how often it is asked. */
function serverOf(languages) {
  const server = { asked: 0 };
  server.fetchApi = async (route) => {
    assert.equal(route, "/i18n");
    server.asked++;
    return { json: async () => languages };
  };
  return server;
}

test("names are replaced, once and by what was given", () => {
  assert.equal(text("missing", { n: 2, what: "box" }), "Subject 2 has no box yet.");
  assert.equal(text("missing", { n: 2, what: "{n}" }), "Subject 2 has no {n} yet.");
  assert.equal(text("selectSubject"), "Select subject {n}");
});

test("English asks no server", async () => {
  const server = serverOf({});
  for (const language of ["en", "en-GB", undefined, null]) await loadTexts(server, () => language);
  assert.equal(server.asked, 0);
});

test("another language has its own messages, English where there are none", async () => {
  await loadTexts(serverOf({ zh }), () => "zh-TW"); // falls back to its family
  for (const key of Object.keys(ENGLISH)) assert.equal(text(key), zh.msDiffusion[key]);
  await loadTexts(serverOf({ fr: { msDiffusion: { box: "cadre" } } }), () => "fr");
  assert.equal(text("box"), "cadre");
  assert.equal(text("mask"), ENGLISH.mask);
  await loadTexts(serverOf({}), () => "ja");
  assert.equal(text("box"), ENGLISH.box);
});

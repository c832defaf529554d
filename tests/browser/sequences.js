// Edits in the page of the front end, one after another. After each, what is on the screen, the
// value and the prompt must be the same, and each edit must be one undo step.

window.runSequence = async (actions) => {
  const MAX = 6; // subjects, so that rows stay in sight
  const frame = () => new Promise(requestAnimationFrame);
  const node = () => app.canvas.graph.nodes.find((one) => one.type === "MSDLayout");
  const tracker = () => app.extensionManager.workflow.activeWorkflow.changeTracker;
  const subjects = () => node().widgets.at(-1).value.subjects;
  const shown = (selector) =>
    [...document.querySelectorAll(`.msd-layout ${selector}`)].filter((one) => one.offsetParent);
  const click = (selector, index) => shown(selector)[index].click();
  const key = (name, more = {}) =>
    shown("canvas")[0].dispatchEvent(
      new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true, ...more }),
    );
  const pointer = (target, name, [clientX, clientY], more = {}) =>
    target.dispatchEvent(
      new PointerEvent(name, { pointerId: 7, bubbles: true, clientX, clientY, ...more }),
    );
  const point = (x, y) => {
    const { left, top, width, height } = shown("canvas")[0].getBoundingClientRect();
    const edge = Math.min(width, height); // the picture is square
    return [left + (width - edge) / 2 + x * edge, top + (height - edge) / 2 + y * edge];
  };
  const prompt = async () => {
    const { output } = await app.graphToPrompt();
    const { inputs } = Object.values(output).find((one) => one.class_type === "MSDLayout");
    const fileOf = (socket) => output[inputs[socket]?.[0]]?.inputs.image ?? null;
    const files = [];
    for (let i = 1; inputs[`references.reference_${i}`]; i++)
      files.push(fileOf(`references.reference_${i}`));
    const masks = files.map((_, i) => fileOf(`reference_masks.reference_mask_${i + 1}`));
    return { subjects: inputs.layout.subjects, files, masks };
  };
  // The selected box in pixels, as it is said to those who don't see the canvas.
  const spoken = () => {
    const [words] = shown(".msd-spoken").map((one) => one.textContent);
    return /: (\d+) by (\d+) pixels at (\d+), (\d+)$/.exec(words ?? "")?.slice(1).map(Number);
  };
  const inPixels = ([x0, y0, x1, y1]) => {
    const [width, height] = ["width", "height"].map(
      (name) => node().widgets.find((one) => one.name === name).value,
    );
    return [(x1 - x0) * width, (y1 - y0) * height, x0 * width, y0 * height];
  };
  const screen = () =>
    shown(".msd-row").map((row) => ({
      phrase: row.querySelector(".msd-phrase").value,
      weight: Number(row.querySelector(".msd-weight").value),
      off: row.querySelector(".msd-on").getAttribute("aria-checked") === "false",
      file: new URL(row.querySelector(".msd-thumb").src).searchParams?.get("filename"),
    }));
  const drag = (target, from, to, more) => {
    pointer(target, "pointerdown", from, more);
    pointer(target, "pointermove", [(from[0] + to[0]) / 2, (from[1] + to[1]) / 2], more);
    pointer(target, "pointermove", to, more);
    pointer(target, "pointerup", to, more);
  };
  const draw = ([x, y, w, h]) => {
    const [left, top] = [x * 0.6, y * 0.6];
    const [from, to] = [point(left, top), point(left + 0.1 + w * 0.3, top + 0.1 + h * 0.3)];
    drag(shown("canvas")[0], from, to, { shiftKey: true });
  };
  // Until the host has moved links, grown the node, and ended the undo step: newer front ends add
  // to a step what changes within 50 ms of its end.
  const settle = async () => {
    await frame();
    if (node().flags.collapsed) node().collapse(); // undo may have brought that back
    let [last, same] = ["", 0];
    for (let i = 0; i < 300 && same < 5; i++) {
      await frame();
      const { changeCount, undoQueue } = tracker();
      const links = node().inputs.map((_, slot) => node().getInputLink(slot)?.origin_id);
      const now = JSON.stringify([subjects(), links, undoQueue.length, shown(".msd-row").length]);
      same = changeCount === 0 && now === last && shown("canvas").length === 1 ? same + 1 : 0;
      last = now;
    }
  };
  const picture = await (await fetch("/view?filename=reference_3.png&type=input")).blob();
  const acts = {
    drop: async ([x, y]) => {
      if (subjects().length >= MAX) return acts.delete([x, y]);
      const before = JSON.stringify((await prompt()).files);
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File([picture], "dropped.png", { type: "image/png" }));
      const [clientX, clientY] = point(x, y);
      shown("canvas")[0].dispatchEvent(
        new DragEvent("drop", { dataTransfer, clientX, clientY, bubbles: true, cancelable: true }),
      );
      const [editor] = shown("canvas");
      for (let i = 0; i < 300 && editor.isConnected; i++) {
        await frame();
        if (JSON.stringify((await prompt()).files) !== before) break;
        if (i > 20 && before.includes("dropped.png")) break; // it was that picture already
      }
    },
    draw: (at) => (subjects().length < MAX ? draw(at) : acts.redraw(at)),
    redraw: (at) => {
      if (!subjects().length) return;
      click(".msd-chip", Math.floor(at[0] * subjects().length));
      draw(at);
    },
    delete: ([x]) => {
      if (!subjects().length) return;
      click(".msd-chip", Math.floor(x * subjects().length));
      key("Delete");
    },
    duplicate: ([x, y]) => {
      if (!subjects().length) return;
      if (subjects().length >= MAX) return acts.delete([x, y]);
      click(".msd-chip", Math.floor(x * subjects().length));
      key("d", { ctrlKey: true });
    },
    reorder: ([x, y]) => {
      const chips = shown(".msd-chip");
      if (chips.length < 2) return;
      const [from, to] = [x, y].map((share) => Math.floor(share * chips.length));
      const rects = chips.map((chip) => chip.getBoundingClientRect());
      const at = ({ left, top, height }) => [left + 5, top + height / 2];
      const beyond = [0, to > from ? 8 : -8];
      drag(chips[from], at(rects[from]), at(rects[to]).map((edge, i) => edge + beyond[i]));
    },
    off: ([x]) => subjects().length && click(".msd-on", Math.floor(x * subjects().length)),
    type: ([x, y]) => {
      const field = shown(".msd-phrase")[Math.floor(x * subjects().length)];
      if (!field) return;
      field.value = `thing ${Math.floor(y * 1000)}`;
      field.dispatchEvent(new Event("input", { bubbles: true }));
      field.dispatchEvent(new Event("change", { bubbles: true }));
    },
    collapse: async () => {
      node().collapse();
      await frame();
      node().collapse();
    },
    rendering: async () => {
      const { setting } = app.extensionManager;
      const name = "Comfy.VueNodes.Enabled";
      await setting.set(name, !setting.get(name));
    },
    load: async () => {
      await app.loadGraphData(JSON.parse(JSON.stringify(app.rootGraph.serialize())));
      for (let i = 0; i < 5; i++) await frame();
      app.canvas.ds.scale = 0.7;
      app.canvas.ds.offset = [420 / 0.7 - node().pos[0], 80 / 0.7 - node().pos[1]];
      app.canvas.setDirty(true, true);
      (tracker().captureCanvasState ?? tracker().checkState).call(tracker());
    },
    undo: () => tracker().undo(),
    redo: () => tracker().redo(),
  };
  const history = ["undo", "redo", "load"];
  const { setPointerCapture } = Element.prototype;
  Element.prototype.setPointerCapture = () => {}; // there is no such pointer
  const problems = [];
  const begin = performance.now();
  const read = async () => {
    const sent = await prompt();
    const rows = screen();
    const expected = sent.subjects.map(({ phrase, weight, off = false }, i) => ({
      phrase,
      weight,
      off,
      file: sent.files[i] ?? null,
    }));
    if (JSON.stringify(rows) !== JSON.stringify(expected)) problems.push({ rows, expected });
    if (JSON.stringify(subjects()) !== JSON.stringify(sent.subjects))
      problems.push({ value: subjects(), sent: sent.subjects });
    const selected = shown(".msd-row").findIndex((row) => row.ariaCurrent === "true");
    const { box } = sent.subjects[selected] ?? {};
    const [said, held] = [spoken(), box && inPixels(box)];
    if (Boolean(said) !== Boolean(held) || said?.some((one, i) => Math.abs(one - held[i]) > 1))
      problems.push({ said, held });
    if (sent.masks.some((mask, i) => mask && mask !== sent.files[i]))
      problems.push({ why: "another one's mask", masks: sent.masks, files: sent.files });
    return JSON.stringify(sent);
  };
  // The host makes another step of what differs from its history, and then nothing is left to redo.
  const unlikeHistory = () => {
    const [kept, now] = layouts().map((nodes) =>
      JSON.stringify(nodes.map(({ flags, ...node }) => node)), // `settle` expands it
    );
    if (now !== kept) problems.push({ why: "unlike the history", now, kept });
  };
  try {
    await acts.load();
    await settle();
    let [states, at] = [[await read()], 0];
    const done = [];
    for (const [name, given] of actions) {
      const before = states[at];
      const steps = tracker().undoQueue.length;
      done.push(name);
      await acts[name](given);
      await settle();
      if (name === "undo" || name === "redo") unlikeHistory();
      const now = await read();
      const added = tracker().undoQueue.length - steps;
      const isEdit = ![...history, "collapse", "rendering"].includes(name);
      const expect = (state, why) => {
        if (now !== state) problems.push({ why, now, state });
      };
      if (name === "undo") expect(states[(at = Math.max(0, at - 1))], "undo");
      else if (name === "redo") expect(states[(at = Math.min(states.length - 1, at + 1))], "redo");
      else if (name === "load") {
        expect(before, "load");
        [states, at] = [[now], 0];
      } else if (!isEdit) expect(before, name);
      // Load Image takes a file that it has already as a change.
      else if (added !== Number(now !== before) && name !== "drop")
        problems.push({ why: `${added} undo steps`, now, before });
      // A node that was expanded is another one to the host than one that never was collapsed.
      if (!history.includes(name) && added) {
        states = [...states.slice(0, at + 1), now];
        at++;
      }
      if (isEdit && now !== before) {
        const [was, is] = [before, now].map((state) => JSON.parse(state).subjects);
        const [had, has] = [before, now].map((state) => JSON.parse(state).files);
        if (is.length < was.length) {
          const removed = Math.floor(given[0] * was.length);
          const expected = had.filter((_, i) => i !== removed);
          if (JSON.stringify(has) !== JSON.stringify(expected))
            problems.push({ why: "others' pictures", has, expected });
        }
        const [masked, masks] = [before, now].map((state) => JSON.parse(state).masks.sort());
        const keep = ["draw", "redraw", "reorder", "off", "type"].includes(name);
        if (keep && is.length === was.length && `${masked}` !== `${masks}`)
          problems.push({ why: "lost a mask", masked, masks });
        const lost = was.filter(({ phrase }) => phrase && !is.some((one) => one.phrase === phrase));
        const mayLose = { delete: 1, drop: 1, duplicate: 1, type: 1 }[name] ?? 0;
        if (lost.length > mayLose || is.length < was.length - mayLose)
          problems.push({ why: "lost", lost });
      }
      if (problems.length) return { problems, done, seconds: 0 };
    }
    for (const state of states.slice(0, at).reverse()) {
      await tracker().undo();
      await settle();
      const now = await read();
      if (now !== state) problems.push({ why: "back", now, state });
      if (problems.length) return { problems, done: [...done, "back"], seconds: 0 };
    }
    return { problems, seconds: (performance.now() - begin) / 1000 };
  } finally {
    Element.prototype.setPointerCapture = setPointerCapture;
  }
};

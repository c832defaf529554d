// The steps of the host's undo history.

import { app } from "../../../../scripts/app.js";
import { afterFrames } from "./frames.mjs";

function changeTracker() {
  return app.extensionManager.workflow.activeWorkflow?.changeTracker;
}

/** End an undo step: an edit is complete. */
export function endUndoStep() {
  const tracker = changeTracker();
  if (tracker?.captureCanvasState) tracker.captureCanvasState();
  else tracker?.checkState(); // its name in older front ends
}

/** @type {Set<() => void>} ends of the undo steps that are held */
const held = new Set();

/** Make one undo step of what happens within the next frames: the host moves links and grows nodes. */
export function holdUndoStep() {
  const tracker = changeTracker();
  if (!tracker || app.configuringGraph) return;
  tracker.beforeChange();
  const end = () => {
    if (!held.delete(end)) return;
    if (changeTracker() === tracker) tracker.afterChange();
    else tracker.changeCount--; // another workflow is open by now
  };
  held.add(end);
  afterFrames(4, end);
}

// The host undoes in the frame after the key: what is held must be in its history by then.
window.addEventListener(
  "keydown",
  (event) => {
    if (!(event.ctrlKey || event.metaKey) || !/^[zy]$/i.test(event.key)) return;
    for (const end of held) end();
  },
  true,
);

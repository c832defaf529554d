// What the layout editor needs of the node that it belongs to. Types only.

/** @typedef {import("./value.mjs").Box} Box */
/** @typedef {import("./geometry.mjs").Size} Size */

/**
 * A mask of the whole picture: a canvas as opaque as the mask is white, and the box around it.
 * @typedef {{canvas: OffscreenCanvas, box: Box | null}} Mask
 */

/**
 * How the picture behind the boxes is shown.
 * @typedef {{on: boolean, opacity: number}} Backdrop
 */

/**
 * @typedef {object} Reference
 * @property {boolean} linked whether there is one
 * @property {HTMLImageElement | null} image null while it is unknown
 * @property {boolean} region whether a mask says where the subject goes
 * @property {boolean} inverted whether its mask looked so in the last run
 * @property {Mask | null} mask that of the region, as far as the page knows
 */

/** @typedef {{snapping: boolean, showCells: boolean}} View whether boxes snap to the grid, and whether the cells that they cover are shown */
/** @typedef {{graph: string, links: any[]}} Wires what a subject's links come from, the host's own objects */

/**
 * @typedef {object} Host
 * @property {() => Size} size of the picture in pixels
 * @property {() => boolean} sizeEditable false while it is linked
 * @property {(size: Size) => void} resize set the size of the picture
 * @property {(index: number) => Reference} reference of a subject
 * @property {() => number} referenceCount how many references are linked without a gap
 * @property {() => string | null} prompt the positive prompt, null where it isn't known
 * @property {() => View} view as it is kept with the workflow
 * @property {(view: View) => void} setView
 * @property {(file: File) => Promise<string>} upload its name on the server
 * @property {(index: number, name: string) => Promise<boolean>} giveReference a file of the server; whether a
 *   mask of the earlier one was disconnected
 * @property {(index: number) => string | null} encoded address of the reference as the encoder saw it
 * @property {(index: number) => void} invertMask of the reference
 * @property {(index: number) => boolean} canPaintMask whether the region can be painted
 * @property {(index: number) => Promise<void>} paintMask open the host's mask editor for the region
 * @property {() => unknown[] | null} linkedBoxes if boxes are linked, as far as known; else null
 * @property {() => boolean} linkedBoxesLive whether they are those that a run would have now
 * @property {() => Backdrop & {image: HTMLImageElement | null}} backdrop the picture behind the boxes
 * @property {(settings: Backdrop) => void} setBackdrop
 * @property {() => boolean} isEnlarged whether the editor fills the window
 * @property {(on: boolean) => void} enlarge
 * @property {() => void} onChange an edit is complete: time for an undo step
 * @property {(index: number) => void} onRemove a subject was removed: its links go too, and the undo
 *   step follows
 * @property {(index: number) => Wires} wires of a subject
 * @property {(wires: Wires) => boolean} canConnect whether their reference is in this graph
 * @property {(index: number, wires: Wires) => void} connect a subject with what another is
 *   connected with
 * @property {(order: number[]) => void} onReorder the subjects were sorted, from these earlier
 *   indices: their links go with them
 * @property {() => void} onRows the number of rows has changed
 * @property {(event: PointerEvent) => void} onOtherButton a button that isn't ours was pressed
 * @property {typeof import("./texts.mjs").text} text a message in the user's language
 */

export {};

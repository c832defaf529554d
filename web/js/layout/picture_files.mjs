// Which of the files that a user gives are pictures, and how large they are.

/** @typedef {import("./geometry.mjs").Size} Size */
/** @typedef {{file: File, size: Size}} Picture its size in pixels */

/**
 * Width and height of a picture file in pixels, null if it is none: SVG neither, which Load Image
 * can't read.
 * @param {File} file
 * @returns {Promise<Size | null>}
 */
async function sizeOfPicture(file) {
  if (file.type && !file.type.startsWith("image/")) return null; // without reading a large one
  try {
    const bitmap = await createImageBitmap(file);
    const { width, height } = bitmap;
    bitmap.close();
    return [width, height];
  } catch {
    return null;
  }
}

/**
 * Which files are pictures.
 * @param {File[]} files
 * @returns {Promise<{pictures: Picture[], others: File[]}>}
 */
export async function sortFiles(files) {
  /** @type {{pictures: Picture[], others: File[]}} */
  const sorted = { pictures: [], others: [] };
  for (const file of files) {
    const size = await sizeOfPicture(file);
    if (size) sorted.pictures.push({ file, size });
    else sorted.others.push(file);
  }
  return sorted;
}

/**
 * What to say of files that are no pictures.
 * @param {import("./host.mjs").Host["text"]} text
 * @param {File[]} others that are no pictures
 */
export function describeOthers(text, others) {
  if (!others.length) return [];
  const [{ name }] = others;
  return [text(others.length > 1 ? "noPictures" : "noPicture", { name, n: others.length - 1 })];
}

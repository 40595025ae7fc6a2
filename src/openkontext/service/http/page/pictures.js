// Pictures that the user hands in: dropped, pasted or chosen; checked before they are sent.
import { Problem } from "./api.js";
import { size } from "./dom.js";

const SHRUNK_QUALITY = 0.95;

/**
 * Look at a file. Returns {blob, name, url, width, height}; width is 0 where the browser cannot show it.
 * Throws a Problem; one of kind "large" has `shrink()`, which makes a smaller copy.
 */
export async function look(file, { max_upload_bytes: maxBytes, max_pixels: maxPixels }) {
  const name = file.name || "pasted picture";
  const head = String.fromCharCode(...new Uint8Array(await file.slice(0, 12).arrayBuffer()));
  const known = /^(\x89PNG|\xff\xd8\xff|GIF8|BM|RIFF....WEBP|II\*\0|MM\0\*|....ftyp(avi|hei|hev|mif1|msf1))/s.test(head);
  if (!known) throw new Problem("input", `${name} is not a picture that can be read. Use JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF.`);
  const bitmap = await createImageBitmap(file).catch(() => null);
  const [width, height] = bitmap ? [bitmap.width, bitmap.height] : [0, 0];
  const pixels = width * height;
  if (file.size > maxBytes || pixels > maxPixels) {
    const why = pixels > maxPixels
      ? `${name} has ${(pixels / 1e6).toFixed(0)} megapixels; at most ${(maxPixels / 1e6).toFixed(0)} can be read.`
      : `${name} has ${size(file.size)}; at most ${size(maxBytes)} can be read.`;
    const problem = new Problem("large", why);
    if (bitmap) problem.shrink = () => shrink(bitmap, name, maxBytes, maxPixels);
    throw problem;
  }
  bitmap?.close();
  return { blob: file, name, url: URL.createObjectURL(file), width, height };
}

async function shrink(bitmap, name, maxBytes, maxPixels) {
  let scale = Math.min(1, Math.sqrt(maxPixels / (bitmap.width * bitmap.height)));
  for (;;) {
    const canvas = new OffscreenCanvas(Math.floor(bitmap.width * scale), Math.floor(bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: SHRUNK_QUALITY });
    if (blob.size <= maxBytes) {
      return { blob, name: `${name}, smaller`, url: URL.createObjectURL(blob), width: canvas.width, height: canvas.height };
    }
    scale *= 0.8;
  }
}

/** A Blob as base64, as the API takes it. */
export function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Problem("input", "The file cannot be read any more. Choose it again."));
    reader.readAsDataURL(blob);
  });
}

/** Call take(file) for pictures that are dropped anywhere or pasted. */
export function takeDropped(take) {
  let depth = 0;
  const dragging = (change) => {
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("dragging", depth > 0);
  };
  document.addEventListener("dragenter", () => dragging(1));
  document.addEventListener("dragleave", () => dragging(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    dragging(-depth);
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files][0];
    if (file) {
      event.preventDefault();
      take(file);
    }
  });
}

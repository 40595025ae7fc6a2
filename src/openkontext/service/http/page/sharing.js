// Taking a result elsewhere: to the clipboard, or as a command that makes it again.
import { Problem } from "./api.js";
import { asCurl, asPython } from "./commands.js";
import { $, make } from "./dom.js";
import { session } from "./shell.js";

const NO_CLIPBOARD = "This browser lets a page copy only over https or on your own machine. Download it instead.";

/** Put a picture into the clipboard. Browsers take PNG alone, and write it anew: without its record. */
export async function copyPicture(blob) {
  if (!navigator.clipboard?.write) throw new Problem("input", NO_CLIPBOARD);
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": blob.type === "image/png" ? blob : asPng(blob) })]);
  } catch {
    throw new Problem("input", "The browser did not let the page copy the picture. Download it instead.");
  }
}

async function asPng(blob) {
  const bitmap = await createImageBitmap(blob);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** The same edit for a terminal and as a program, each with a button that copies it. */
export function commands(node) {
  return [["curl", asCurl], ["Python", asPython]].flatMap(([name, write]) => {
    const text = write(node, session.me?.open ?? false);
    const copy = make("button", { type: "button", onclick: () => copyText(text, copy, name) }, `Copy as ${name}`);
    return [
      make("div", { class: "command-head" }, make("h2", { class: "small" }, name), copy),
      make("pre", { class: "command", tabIndex: 0, "aria-label": `This edit for ${name}`, role: "region" }, text),
    ];
  });
}

async function copyText(text, button, name) {
  const done = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  button.textContent = done ? "Copied" : "Select it and copy";
  $("status").textContent = done ? `Copied as ${name}.` : "The browser did not let the page copy it.";
  setTimeout(() => (button.textContent = `Copy as ${name}`), 2500);
}

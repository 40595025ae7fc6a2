// Reference pictures: further pictures that the instruction speaks of.
import { picture } from "./api.js";
import { $, make, tell } from "./dom.js";
import { look } from "./pictures.js";
import { report, session } from "./shell.js";

const MAX_REFERENCES = 3;
let chosen = [];

/** Those that the next edit goes with, as {blob, name, url}. */
export const references = () => chosen;

/** Have others in their place. */
export function setReferences(others) {
  chosen = others;
  show();
}

/** The reference pictures of an edit. */
export async function referencesOf({ id, edit }) {
  const names = Array.from({ length: edit.references }, (_, index) => `reference-${index + 1}`);
  const found = await Promise.all(names.map((name) => picture(id, name)));
  return found.map((one, index) => one && { ...one, name: names[index] }).filter(Boolean);
}

export async function addReferences(files) {
  for (const file of files) {
    if (chosen.length >= MAX_REFERENCES) {
      tell(`At most ${MAX_REFERENCES} reference pictures can be given.`, "wait");
      break;
    }
    try {
      chosen.push(await look(file, session.about));
    } catch (problem) {
      report(problem);
    }
  }
  show();
}

function show() {
  $("references").hidden = chosen.length === 0;
  $("references").replaceChildren(...chosen.map((one, index) => make(
    "li", {},
    make("img", { src: one.url, alt: `Reference ${index + 1}: ${one.name}` }),
    make("button", {
      type: "button", "aria-label": `Remove reference ${index + 1}`,
      onclick: () => (chosen.splice(index, 1), show(), $("reference").focus()),
    }, "×"),
  )));
}

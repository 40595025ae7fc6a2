// Rows of tables, as the views of reviewers and admins show them.
import { make } from "./dom.js";

/** A row: each cell is a text or an element, or [text or element, class]. */
export function row(...cells) {
  return make("tr", {}, ...cells.map((cell) => {
    const [content, className] = Array.isArray(cell) ? cell : [cell, ""];
    return make("td", { class: className }, content ?? "");
  }));
}

/** The details of a row of an audit log as text. */
export function details(detail) {
  return Object.entries(detail)
    .filter(([, value]) => value !== null && value !== "")
    .map(([name, value]) => `${name}: ${Array.isArray(value) ? value.join(", ") : value}`)
    .join("; ");
}

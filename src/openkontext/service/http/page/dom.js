// Small helpers around the document.

/** The element with an id. */
export const $ = (id) => document.getElementById(id);

/** Make an element: properties by name, `class`, `data` and ARIA among them; then its children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.startsWith("aria")) element[name] = value;
    else element.setAttribute(name, value === true ? "true" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A list of names and values. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return make("dl", { class: "facts" }, ...shown.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

/** Open a dialog and wait until it is closed; returns the value of the button that closed it. */
export function ask(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}

/** Tell something at the head of the page until it is closed; the same once only. */
export function tell(text, kind = "bad", ...buttons) {
  const place = $("notices");
  [...place.children].find((notice) => notice.firstChild.textContent === text)?.remove();
  const notice = make("div", { class: `notice ${kind}` }, make("span", {}, text), ...buttons);
  notice.append(make("button", { type: "button", onclick: () => notice.remove() }, "Close"));
  for (const button of buttons) button.addEventListener("click", () => notice.remove());
  place.append(notice);
  return notice;
}

/** A time as people say it. */
export function when(seconds) {
  if (!seconds) return "";
  const date = new Date(seconds * 1000);
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString(undefined, today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

/** A number of bytes as people say it. */
export function size(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1024))} KiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}

// The form: what it asks for, filling it from an edit or a file, and what is wrong, said where it is.
import { $, make } from "./dom.js";

/** What the API takes where nothing is said. */
export const PLAIN = { fit: "stretch", output_format: "png", safety_tolerance: 2, keep_unchanged: true, true_cfg_scale: 1 };
/** Options that have no field here: what people call them. They go along once they are taken from an edit. */
const WITHOUT_FIELD = {
  negative_prompt: "Not to show", true_cfg_scale: "True guidance", keep_unchanged: "Keep what is unchanged",
  safety_tolerance: "Safety tolerance", output_compression: "Quality",
};
const KEPT = "prompt"; // in this tab's storage, over a reload
const ORIGINAL = "original"; // of the sizes that the API takes: the picture's own
let carried = {};

/** What an edit asked for, as the API takes it, with a seed or none. */
export function settingsOf({ prompt, options }, seed = undefined) {
  const { aspect_ratio: ratio, seed: _, ...rest } = options;
  return { prompt, ...rest, seed, aspect_ratio: Array.isArray(ratio) ? ratio.join(":") : ratio };
}

/** What a file says of how it was made, as the API takes it. */
export function settingsIn(metadata) {
  const number = (name) => (metadata[name] === undefined ? undefined : Number(metadata[name]));
  return {
    prompt: metadata.prompt, seed: metadata.seed, steps: number("num_inference_steps"), guidance: number("guidance_scale"),
    negative_prompt: metadata.negative_prompt, true_cfg_scale: number("true_cfg_scale"),
  };
}

/** What the form asks for, as the API takes it. */
export function asked() {
  const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  const shape = $("ratio").value;
  const [width, height] = shape.includes("x") ? shape.split("x").map(Number) : [];
  const { output_compression: quality, ...others } = carried;
  return {
    prompt: $("prompt").value.trim(),
    seed: $("seed").value || undefined,
    size: shape === ORIGINAL ? shape : undefined,
    aspect_ratio: width || shape === ORIGINAL ? undefined : shape || undefined,
    width, height,
    fit: shape && shape !== ORIGINAL ? $("fit").value : undefined,
    steps: number("steps"),
    guidance: number("guidance"),
    output_format: $("format").value,
    ...others,
    output_compression: $("format").value === "png" ? undefined : quality,
    preview: true,
  };
}

/** Fill the form with what an edit or a file asked for; what it does not name goes back to the usual. */
export function fill(settings) {
  setPrompt(settings.prompt ?? "");
  const { width, height, aspect_ratio: ratio, size } = settings;
  const shape = width && height ? `${width}x${height}` : ratio ?? (size === ORIGINAL ? size : "");
  if (![...$("ratio").options].some((option) => (option.getAttribute("value") ?? option.text) === shape)) {
    $("ratio").append(make("option", { value: shape }, shape.replace("x", " × ")));
  }
  const values = {
    seed: settings.seed ?? "", ratio: shape, fit: settings.fit ?? PLAIN.fit, steps: settings.steps ?? "",
    guidance: settings.guidance ?? "", format: settings.output_format ?? PLAIN.output_format,
  };
  for (const [id, value] of Object.entries(values)) $(id).value = value;
  carried = Object.fromEntries(Object.keys(WITHOUT_FIELD)
    .filter((name) => settings[name] !== undefined && settings[name] !== PLAIN[name])
    .map((name) => [name, settings[name]]));
  showCarried();
  $("more").open ||= ["seed", "ratio", "steps", "guidance"].some((id) => $(id).value !== "") || Object.keys(carried).length > 0;
  for (const id of ["prompt", "seed"]) complain(id, "");
}

/** What the form holds, to bring it back later. */
export function remember() {
  const values = { ...asked(), prompt: $("prompt").value };
  return () => fill(values);
}

function showCarried() {
  $("carried").hidden = Object.keys(carried).length === 0;
  $("carried").replaceChildren(...Object.entries(carried).map(([name, value]) => make(
    "li", {}, make("span", {}, `${WITHOUT_FIELD[name]}: ${value === false ? "no" : value}`),
    make("button", {
      type: "button", "aria-label": `Leave out: ${WITHOUT_FIELD[name]}`,
      onclick: () => (delete carried[name], showCarried(), $("prompt").focus()),
    }, "×"),
  )));
}

/** Put an instruction into its field, also for after a reload. */
export function setPrompt(text) {
  $("prompt").value = text;
  keepPrompt();
}

function keepPrompt() {
  sessionStorage.setItem(KEPT, $("prompt").value);
}

/** Say beside a field what is wrong with it; an empty text takes that back. */
export function complain(id, text, ...buttons) {
  $(id).setAttribute("aria-invalid", String(text !== ""));
  $(`${id}-problem`).replaceChildren(text, ...(text ? buttons : []));
}

/** Whether what was typed can be sent; says beside the field what cannot. */
export function isSound() {
  const wrong = {
    prompt: $("prompt").value.trim() === "" ? "Say what to change, such as “make it night”." : "",
    seed: isSeed($("seed").value) ? "" : "A seed is a whole number below 2⁶⁴, or empty for a random one.",
  };
  for (const [id, text] of Object.entries(wrong)) complain(id, text);
  const [first] = Object.keys(wrong).filter((id) => wrong[id]);
  if (!first) return true;
  if (first === "seed") $("more").open = true;
  $(first).focus();
  return false;
}

const isSeed = (text) => /^\d{0,20}$/.test(text) && BigInt(text || 0) < 2n ** 64n;

/** As many seeds as there are to be variants: one after the other, or each drawn by the service. */
export function seeds(first, count) {
  return Array.from({ length: count }, (_, index) => (first === undefined ? undefined : String((BigInt(first) + BigInt(index)) % 2n ** 64n)));
}

/** Say above the button why the form was not taken; nothing takes that back. */
export function tellAtForm(text = "", kind = "bad", ...buttons) {
  const place = $("form-message");
  place.className = `notice ${kind}`;
  place.hidden = text === "";
  place.replaceChildren(make("span", {}, text), ...buttons);
  for (const button of buttons) button.addEventListener("click", () => tellAtForm());
}

/** Keep what is typed, and take back what was said of it before. */
export function setUpForm() {
  $("prompt").value = sessionStorage.getItem(KEPT) ?? "";
  $("prompt").addEventListener("input", () => (keepPrompt(), complain("prompt", "")));
  $("seed").addEventListener("input", () => complain("seed", ""));
  $("compose").noValidate = true;
}

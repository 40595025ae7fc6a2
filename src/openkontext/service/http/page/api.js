// The service's own API: one way to call it, and errors in words.

/** Something that the user should read. `kind` is one of: gone, busy, credit, large, input, denied, missing, fault. */
export class Problem extends Error {
  constructor(kind, message, wait = 0) {
    super(message);
    this.kind = kind;
    this.wait = wait;
  }
}

const KINDS = { 401: "denied", 402: "credit", 403: "denied", 404: "missing", 413: "large", 422: "input", 429: "busy" };
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
let csrf = null;

const TEXT_OR_NUMBER = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/g;
const TOO_LONG = /^-?\d{16,}$/; // a JavaScript number may lose some of so many digits

/** Read JSON; whole numbers of 16 digits and more, such as seeds of 64 bits, stay whole as texts. */
export function readJson(text) {
  return JSON.parse(text.replace(TEXT_OR_NUMBER, (found) => (TOO_LONG.test(found) ? `"${found}"` : found)));
}

/** Send a request and read its answer: JSON, or a Blob for a picture. Throws a Problem. */
export async function call(method, path, { json, headers = {} } = {}) {
  const sent = { ...headers };
  if (csrf) sent["X-CSRF-Token"] = csrf;
  if (json !== undefined) sent["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers: sent, body: json === undefined ? undefined : JSON.stringify(json) });
  } catch {
    throw new Problem("gone", "The service does not answer. Is it still running, and are you still connected?");
  }
  if (answer.ok) {
    if (answer.status === 204) return null;
    const type = answer.headers.get("Content-Type") ?? "";
    return type.startsWith("application/json") ? answer.text().then(readJson) : answer.blob();
  }
  const said = await answer.json().catch(() => ({}));
  const kind = KINDS[answer.status] ?? "fault";
  const wait = Number(answer.headers.get("Retry-After") ?? 0);
  const fault = "The service made a mistake. Try again; if it comes back, write to whoever runs it.";
  throw new Problem(kind, kind === "fault" ? fault : sentence(said.message ?? answer.statusText), wait);
}

/** Who is signed in; null where nobody is. */
export async function whoAmI() {
  try {
    const me = await call("GET", "/v1/me");
    csrf = me.csrf;
    return me;
  } catch (problem) {
    if (problem.kind !== "denied") throw problem;
    csrf = null;
    return null;
  }
}

const pictures = new Map();

/** A picture of an edit as {blob, url}, loaded once; null where it is not given out. */
export function picture(id, name) {
  const path = name === "thumbnail" ? `/v1/jobs/${id}/thumbnail` : `/v1/jobs/${id}/pictures/${name}`;
  if (!pictures.has(path)) {
    const loading = call("GET", path).then(
      (blob) => ({ blob, url: URL.createObjectURL(blob) }),
      (problem) => {
        if (problem.kind !== "missing") pictures.delete(path);
        return null;
      },
    );
    pictures.set(path, loading);
  }
  return pictures.get(path);
}

/**
 * Follow an edit by server-sent events until its end, through interruptions.
 * Calls onProgress(state), onDone(state), onLost() and onBack(); returns what stops following.
 */
export function follow(id, { onProgress, onDone, onLost, onBack }) {
  let source, timer, lost = false;
  const open = () => {
    source = new EventSource(`/v1/jobs/${id}/events`);
    source.addEventListener("open", () => {
      if (lost) onBack();
      lost = false;
    });
    source.addEventListener("progress", (event) => onProgress(readJson(event.data)));
    source.addEventListener("done", (event) => {
      source.close();
      onDone(readJson(event.data));
    });
    source.addEventListener("error", () => {
      source.close();
      if (!lost) onLost();
      lost = true;
      timer = setTimeout(open, 1500);
    });
  };
  open();
  return () => {
    clearTimeout(timer);
    source.close();
  };
}

// What all views share: who is signed in, the terms, feedback, help and the theme.
import { call, Problem, whoAmI } from "./api.js";
import { $, ask, make, tell } from "./dom.js";

/** What is known of the visitor and of the service. */
export const session = { me: null, about: null };
const RANK = { user: 0, reviewer: 1, admin: 2 };
const NEEDED = { edit: 0, review: 1, admin: 2 };
const view = document.body.dataset.view;

/** Whether the visitor has a role, or one above it. */
export const hasRole = (role) => session.me !== null && RANK[session.me.role] >= RANK[role];

/** Show a problem at the head of the page; what is no Problem is a defect and goes on. */
export function report(problem, ...buttons) {
  if (!(problem instanceof Problem)) throw problem;
  // What was denied may be a matter of the key, the terms or the account: then what helps is asked for.
  if (problem.kind === "denied") return refresh().then(allowed).then((may) => may && tell(problem.message));
  return tell(problem.message, problem.kind === "busy" ? "wait" : "bad", ...buttons);
}

/** Whether the visitor has use for a view. One who is alone has no accounts to keep, and reviews only by a profile. */
function isOffered(name) {
  const { me, about } = session;
  if (!me || RANK[me.role] < NEEDED[name]) return false;
  return !me.open || name === "edit" || name === view || (name === "review" && about.reviews);
}

/** Load who is signed in. Calls itself again where the service is gone, until it is back. */
export async function start() {
  setUpTheme();
  setUpDialogs();
  for (;;) {
    try {
      session.about ??= await call("GET", "/v1/about");
      await refresh();
      break;
    } catch (problem) {
      report(problem);
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
  $("notices").replaceChildren();
  const { feedback_address: address, retention_hours: hours, model } = session.about;
  $("kept").textContent = `${model ? `Model: ${model}. ` : ""}Pictures and instructions are deleted ${hours} hours after an edit.`;
  if (address) {
    $("feedback-address").hidden = false;
    $("feedback-address").append("Or write to ", make("a", { href: `mailto:${address}` }, address), ".");
  }
  if (!(await allowed()) && view !== "edit") $("main").hidden = true;
}

/** Ask again who is signed in, and show it. */
export async function refresh() {
  const me = (session.me = await whoAmI());
  $("who").textContent = me && !me.open ? `${me.account}${me.credit === null ? "" : ` · ${me.credit} credits`}` : "";
  $("sign-in-open").hidden = me !== null;
  $("sign-out").hidden = !me?.csrf;
  for (const link of $("views").children) {
    link.hidden = !isOffered(link.dataset.for);
    if (link.dataset.for === view) link.setAttribute("aria-current", "page");
  }
  $("views").hidden = [...$("views").children].filter((link) => !link.hidden).length < 2;
}

/**
 * Whether the visitor may go on, after asking for what is missing: a key, the terms, an appeal.
 */
export function allowed() {
  asking ??= check().finally(() => (asking = null));
  return asking;
}

let asking = null;

async function check() {
  if (!session.me) await signIn();
  if (!session.me) return false;
  if (barred()) await refresh(); // it may be restored meanwhile
  if (barred()) {
    const reason = `It is ${session.me.standing}: ${session.me.standing_reason}.`;
    if (session.me.open) tell(`This account cannot edit. ${reason} To ${session.me.remedy}`); // nobody else would read an appeal
    else await appeal(reason);
    return false;
  }
  if (!session.me.accepted_terms && !(await acceptTerms())) return false;
  if (RANK[session.me.role] < NEEDED[view]) {
    tell(`This view needs the role ${view === "review" ? "reviewer" : "admin"}; you are signed in as ${session.me.role}.`);
    return false;
  }
  return true;
}

const barred = () => ["suspended", "banned"].includes(session.me.standing);

async function signIn() {
  const dialog = $("sign-in");
  $("key-wrong").textContent = "";
  $("key").value = "";
  const form = dialog.querySelector("form");
  const send = async (event) => {
    event.preventDefault();
    try {
      await call("POST", "/v1/session", { json: { key: $("key").value.trim() } });
      await refresh();
      dialog.close();
    } catch (problem) {
      $("key-wrong").textContent = problem.kind === "denied" ? "This is no valid key. Check that it is whole." : problem.message;
      $("key").focus();
    }
  };
  form.addEventListener("submit", send);
  await ask(dialog);
  form.removeEventListener("submit", send);
}

async function acceptTerms() {
  const terms = await call("GET", "/v1/terms");
  $("terms-text").textContent = terms.text;
  if ((await ask($("terms"))) !== "accept") return false;
  await call("POST", "/v1/consent", { json: { version: terms.version, digest: terms.digest } });
  await refresh();
  return true;
}

async function appeal(reason) {
  $("appeal-reason").textContent = reason;
  if ((await ask($("appeal"))) !== "send") return;
  try {
    await call("POST", "/v1/appeals", { json: { text: $("appeal-text").value } });
    tell("Your appeal was sent; a person will look at it.", "good");
  } catch (problem) {
    tell(problem.message);
  }
}

/** Open the feedback form, perhaps about an edit. */
export async function feedback(kind = "other", job = null) {
  if (!session.me && !(await allowed())) return;
  $("feedback-kind").value = kind;
  $("feedback-about").hidden = job === null;
  if ((await ask($("feedback"))) !== "send") return;
  const json = { kind: $("feedback-kind").value, text: $("feedback-text").value, job_id: job };
  if ($("feedback-contact").value.trim()) json.contact = $("feedback-contact").value.trim();
  try {
    await call("POST", "/v1/feedback", { json });
    $("feedback-text").value = "";
    tell("Thank you. Your message was kept for whoever runs this service.", "good");
  } catch (problem) {
    report(problem);
  }
}

function setUpDialogs() {
  $("feedback-open").addEventListener("click", () => feedback());
  $("help-open").addEventListener("click", () => ask($("help")));
  $("sign-in-open").addEventListener("click", async () => (await allowed()) && location.reload());
  $("sign-out").addEventListener("click", async () => {
    await call("DELETE", "/v1/session").catch(report);
    location.assign("/");
  });
  document.addEventListener("keydown", (event) => {
    const writes = event.target.closest("input, textarea, select, dialog");
    if (event.key === "?" && !writes) ask($("help"));
  });
}

function setUpTheme() {
  const themes = ["auto", "light", "dark"];
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    $("theme").textContent = `Theme: ${theme}`;
  };
  const kept = localStorage.getItem("theme");
  apply(themes.includes(kept) ? kept : "auto");
  $("theme").addEventListener("click", () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % 3];
    localStorage.setItem("theme", next);
    apply(next);
  });
}

// Closer, farther, full screen: the picture grows inside its frame, which scrolls.
import { $ } from "./dom.js";

const STEPS = [1, 1.5, 2, 3, 4, 6, 8];
let zoom = 1;

/** Show the picture so many times as large as it fits, around what is in the middle now. */
function zoomTo(wanted) {
  const frame = $("frame");
  const next = Math.min(STEPS.at(-1), Math.max(1, wanted));
  if (zoom === 1 && next > 1) frame.style.setProperty("--height", `${frame.offsetHeight}px`); // it stays as large as it is
  const middle = [
    (frame.scrollLeft + frame.clientWidth / 2) / frame.scrollWidth, (frame.scrollTop + frame.clientHeight / 2) / frame.scrollHeight,
  ];
  zoom = next;
  frame.classList.toggle("zoomed", zoom > 1);
  $("picture").style.setProperty("--zoom", zoom);
  frame.scrollLeft = middle[0] * frame.scrollWidth - frame.clientWidth / 2;
  frame.scrollTop = middle[1] * frame.scrollHeight - frame.clientHeight / 2;
  // What scrolls must be reached by keys.
  if (zoom > 1) Object.assign(frame, { tabIndex: 0, role: "region", ariaLabel: "Picture, zoomed" });
  else for (const name of ["tabindex", "role", "aria-label"]) frame.removeAttribute(name);
  $("zoom-out").disabled = zoom === 1;
  $("zoom-in").disabled = zoom === STEPS.at(-1);
  $("zoom-reset").textContent = zoom === 1 ? "Fit" : `${Math.round(100 * zoom)}%`;
}

const closer = () => zoomTo(STEPS.find((step) => step > zoom + 0.01) ?? STEPS.at(-1));
const farther = () => zoomTo(STEPS.findLast((step) => step < zoom - 0.01) ?? 1);

/** As large as it fits again. */
export function fit() {
  if (zoom !== 1) zoomTo(1);
}

function toggleFull() {
  if (document.fullscreenElement) document.exitFullscreen();
  else $("viewer").requestFullscreen();
}

export function setUpViewer() {
  $("zoom-in").addEventListener("click", closer);
  $("zoom-out").addEventListener("click", farther);
  $("zoom-reset").addEventListener("click", fit);
  $("full").hidden = !document.fullscreenEnabled; // phones of one maker show no page so
  $("full").addEventListener("click", toggleFull);
  document.addEventListener("fullscreenchange", () => {
    fit();
    const full = document.fullscreenElement !== null;
    $("full").setAttribute("aria-pressed", String(full));
    $("full").textContent = full ? "Leave full screen" : "Full screen";
  });
  // A wheel with Ctrl is also what a pinch on a touchpad sends.
  $("frame").addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoomTo(zoom * Math.exp(-event.deltaY / 300));
  }, { passive: false });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not(.slide), textarea, select, dialog")) return;
    const act = { "+": closer, "-": farther, 0: fit, f: toggleFull }[event.key];
    if (!act || $("viewer").hidden || $("shown").hidden || (event.key === "f" && $("full").hidden)) return;
    act();
    event.preventDefault();
  });
}

// A picture, or two with a line between them that the mouse, a finger or the arrow keys move.
import { make } from "./dom.js";

/** Show one picture. `words` says what it is; a picture that cannot be shown is told of in words. */
export function showOne(place, url, words, className = "") {
  place.replaceChildren(url ? image(place, url, words, className) : make("p", { class: "unseen" }, `${words}: this browser cannot show it.`));
}

/** Show two pictures, before and after, and the line between them. */
export function showBoth(place, before, after) {
  if (!before || !after) return showOne(place, after ?? before, after ? "After" : "Before");
  const slide = make("input", {
    type: "range", class: "slide", min: 0, max: 100, step: 1, value: 50,
    "aria-label": "Line between before and after",
  });
  const move = () => {
    place.style.setProperty("--at", `${slide.value}%`);
    slide.setAttribute("aria-valuetext", `${slide.value}% before, ${100 - slide.value}% after`);
  };
  slide.addEventListener("input", move);
  place.replaceChildren(
    image(place, before, "Before", "before"), image(place, after, "After", "after"),
    slide, make("div", { class: "line" }),
    make("span", { class: "tag left", "aria-hidden": "true" }, "before"),
    make("span", { class: "tag right", "aria-hidden": "true" }, "after"),
  );
  move();
}

function image(place, url, words, className) {
  const picture = make("img", { src: url, alt: words, class: className, draggable: false });
  picture.addEventListener("error", () => {
    // Not every browser shows HEIC and TIFF, which the service reads.
    const other = [...place.querySelectorAll("img")].find((one) => one !== picture);
    if (other && className === "before") showOne(place, other.src, "After");
    else showOne(place, null, words);
  });
  picture.addEventListener("load", () => {
    // The last picture decides the frame: it is what the edit gave.
    if (!place.lastElementChild || className !== "before") {
      place.style.setProperty("--ratio", picture.naturalWidth / picture.naturalHeight);
    }
  });
  return picture;
}

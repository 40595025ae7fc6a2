// The mask brush: what is painted may change, all else stays. Works with mouse, finger, pen and keys.
import { $, make } from "./dom.js";

const SIDE = 1024; // pixels of the mask's longer side; the service scales it to the picture

function tinted(stencil, color) {
  const made = new OffscreenCanvas(stencil.width, stencil.height);
  const context = made.getContext("2d");
  context.drawImage(stencil, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = color;
  context.fillRect(0, 0, made.width, made.height);
  return made;
}

export class Mask {
  /** Over a picture of a width and height, in an element that shows it. */
  constructor(place, width, height) {
    const scale = SIDE / Math.max(width, height);
    this.canvas = make("canvas", {
      class: "mask resting", tabIndex: 0, role: "application",
      width: Math.round(width * scale), height: Math.round(height * scale),
      "aria-label": "Mask brush: arrow keys move it, Space lowers and lifts it, square brackets change its size",
    });
    this.place = place;
    this.ring = make("div", { class: "brush", hidden: true });
    this.marks = []; // strokes {erase, size, points}, rectangles {rectangle}, earlier masks {stencil}
    this.at = [0.5, 0.5];
    this.down = false;
    this.listen();
  }

  /** Paint a mask that was handed in before: a picture, white where it may change. */
  async add(blob) {
    const bitmap = await createImageBitmap(blob);
    const stencil = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = stencil.getContext("2d");
    context.drawImage(bitmap, 0, 0);
    const pixels = context.getImageData(0, 0, bitmap.width, bitmap.height);
    for (let at = 0; at < pixels.data.length; at += 4) pixels.data[at + 3] = pixels.data[at];
    context.putImageData(pixels, 0, 0);
    this.marks.push({ stencil });
  }

  get empty() {
    return this.marks.length === 0;
  }

  /** Show it over the picture, to paint on or only to see. */
  show(painting) {
    this.canvas.classList.toggle("resting", !painting);
    this.canvas.tabIndex = painting ? 0 : -1;
    this.place.append(this.canvas, this.ring);
    this.ring.hidden = true;
    this.draw();
    if (painting) this.canvas.focus({ preventScroll: true });
  }

  hide() {
    this.canvas.remove();
    this.ring.remove();
  }

  fill(rectangle) {
    this.marks.push({ rectangle, erase: $("erase").checked });
    this.draw();
  }

  undo() {
    this.marks.pop();
    this.draw();
  }

  clear() {
    this.marks = [];
    this.draw();
  }

  /** White where the picture may change, black elsewhere: a PNG. */
  async blob() {
    const { width, height } = this.canvas;
    const made = new OffscreenCanvas(width, height);
    const context = made.getContext("2d");
    this.paint(context, "#fff");
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    return made.convertToBlob({ type: "image/png" });
  }

  draw() {
    this.paint(this.canvas.getContext("2d"), "#5b6cff");
    this.canvas.dispatchEvent(new Event("painted"));
  }

  paint(context, color) {
    const { width, height } = this.canvas;
    context.clearRect(0, 0, width, height);
    context.lineCap = context.lineJoin = "round";
    context.fillStyle = context.strokeStyle = color;
    for (const { rectangle, stencil, points, size, erase } of this.marks) {
      context.globalCompositeOperation = erase ? "destination-out" : "source-over";
      if (stencil) {
        context.drawImage(tinted(stencil, color), 0, 0, width, height);
        continue;
      }
      if (rectangle) {
        const [x, y, w, h] = rectangle;
        context.fillRect(x * width, y * height, w * width, h * height);
        continue;
      }
      context.lineWidth = size * Math.max(width, height);
      context.beginPath();
      for (const [x, y] of [points[0], ...points]) context.lineTo(x * width, y * height);
      context.stroke();
    }
    context.globalCompositeOperation = "source-over";
  }

  /** Diameter of the brush as a share of the picture's longer side. */
  get size() {
    return $("brush").value / 100;
  }

  press() {
    this.down = true;
    this.marks.push({ points: [this.at], size: this.size, erase: $("erase").checked });
    this.follow();
  }

  move(at) {
    this.at = at.map((share) => Math.min(1, Math.max(0, share)));
    if (this.down) this.marks.at(-1).points.push(this.at);
    this.follow();
  }

  lift() {
    this.down = false;
    this.follow();
  }

  follow() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const side = this.size * Math.max(width, height);
    Object.assign(this.ring.style, {
      left: `${this.at[0] * 100}%`, top: `${this.at[1] * 100}%`, width: `${side}px`, height: `${side}px`,
    });
    this.ring.classList.toggle("down", this.down);
    this.ring.hidden = false;
    this.draw();
  }

  listen() {
    const at = ({ clientX, clientY }) => {
      const box = this.canvas.getBoundingClientRect();
      return [(clientX - box.left) / box.width, (clientY - box.top) / box.height];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.at = at(event);
      this.press();
    });
    this.canvas.addEventListener("pointermove", (event) => {
      for (const step of event.getCoalescedEvents?.() ?? []) if (this.down) this.move(at(step));
      this.move(at(event));
    });
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => this.lift());
    this.canvas.addEventListener("pointerleave", () => (this.ring.hidden = !this.down));
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    this.canvas.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 0.1 : 0.02;
      if (ways[event.key]) this.move(this.at.map((share, axis) => share + step * ways[event.key][axis]));
      else if (event.key === " ") this.down ? this.lift() : this.press();
      else if (event.key === "[" || event.key === "]") {
        $("brush").value = Number($("brush").value) + (event.key === "]" ? 2 : -2);
        this.follow();
      } else return;
      event.preventDefault();
    });
    this.canvas.addEventListener("blur", () => this.lift());
  }
}

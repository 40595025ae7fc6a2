// How a picture was made, read from its own file as the service writes it: PNG text, or EXIF in JPEG, WebP, TIFF.

const NAME = "openkontext"; // of the text in PNG, and of the object in EXIF's comment
const EXIF_POINTER = 0x8769, USER_COMMENT = 0x9286;
const UTF16 = "UNICODE\0";

/** What the file says of how it was made, as {name: text}; empty where it says nothing that is ours. */
export async function readMetadata(file) {
  const view = new DataView(await file.arrayBuffer());
  try {
    const read = { 0x89504e47: png, 0x52494646: webp, 0x49492a00: tiff, 0x4d4d002a: tiff }[view.getUint32(0)];
    if (read) return read(view) ?? {};
    return (view.getUint16(0) === 0xffd8 && jpeg(view)) || {};
  } catch {
    return {}; // it is damaged, or another program's
  }
}

const part = (view, at, length) => new DataView(view.buffer, view.byteOffset + at, length);
const latin = (view, at, length) => String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at, length));

function png(view) {
  for (let at = 8; at + 12 <= view.byteLength; at += 12 + view.getUint32(at)) {
    if (latin(view, at + 4, 4) !== "iTXt" || latin(view, at + 8, NAME.length + 1) !== `${NAME}\0`) continue;
    // After the name: whether it is compressed (ours is not), how, language, the name translated.
    const bytes = new Uint8Array(view.buffer, view.byteOffset + at + 8 + NAME.length + 3, view.getUint32(at) - NAME.length - 3);
    const start = bytes.indexOf(0, bytes.indexOf(0) + 1) + 1;
    return JSON.parse(new TextDecoder().decode(bytes.subarray(start)));
  }
  return null;
}

function jpeg(view) {
  for (let at = 2; at + 4 <= view.byteLength && view.getUint8(at) === 0xff && view.getUint8(at + 1) !== 0xda; at += 2 + view.getUint16(at + 2)) {
    if (view.getUint8(at + 1) === 0xe1 && latin(view, at + 4, 6) === "Exif\0\0") {
      return tiff(part(view, at + 10, view.getUint16(at + 2) - 8));
    }
  }
  return null;
}

function webp(view) {
  for (let at = 12; at + 8 <= view.byteLength; ) {
    const length = view.getUint32(at + 4, true);
    if (latin(view, at, 4) === "EXIF") {
      const skipped = latin(view, at + 8, 6) === "Exif\0\0" ? 6 : 0;
      return tiff(part(view, at + 8 + skipped, length - skipped));
    }
    at += 8 + length + (length % 2);
  }
  return null;
}

function tiff(view) {
  const little = view.getUint16(0) === 0x4949;
  const exif = entry(view, view.getUint32(4, little), EXIF_POINTER, little);
  const comment = exif && entry(view, view.getUint32(exif + 8, little), USER_COMMENT, little);
  if (!comment) return null;
  const length = view.getUint32(comment + 4, little);
  const at = view.getUint32(comment + 8, little);
  if (latin(view, at, UTF16.length) !== UTF16) return null;
  const text = new Uint8Array(view.buffer, view.byteOffset + at + UTF16.length, length - UTF16.length);
  return JSON.parse(new TextDecoder("utf-16le").decode(text))[NAME];
}

/** Where the entry of a tag lies in a directory; 0 where there is none. */
function entry(view, directory, tag, little) {
  for (let index = 0; index < view.getUint16(directory, little); index++) {
    const at = directory + 2 + 12 * index;
    if (view.getUint16(at, little) === tag) return at;
  }
  return 0;
}

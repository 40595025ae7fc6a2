// An edit as a command for a terminal, and as a program: both ask the service for the same once more.
import { PLAIN, settingsOf } from "./form.js";

/** What is asked, as [name, JSON text] pairs, and the pictures with it, as [name, path, file name]. */
function parts({ edit }) {
  const { references, has_mask: hasMask, id, result } = edit;
  const { preview: _, ...asked } = settingsOf(edit, result?.seed ?? edit.options.seed);
  const own = (name) => `/v1/jobs/${id}/pictures/${name}`;
  const pictures = [];
  if (edit.source || edit.parent_id) pictures.push(["input_image", own("input"), "input"]);
  for (let index = 1; index <= references; index++) pictures.push([`input_image_${index + 1}`, own(`reference-${index}`), `reference-${index}`]);
  if (hasMask) pictures.push(["mask", own("mask"), "mask"]);
  const fields = Object.entries(asked)
    .filter(([name, value]) => value !== undefined && value !== PLAIN[name])
    .map(([name, value]) => [name, name === "seed" ? String(value) : JSON.stringify(value)]); // a seed may be too large for a number
  return { fields, pictures, kind: asked.output_format ?? "png" };
}

const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

/** For sh, with curl and base64, on Linux and macOS. */
export function asCurl(node, isOpen) {
  const { fields, pictures, kind } = parts(node);
  const call = `curl -sSf${isOpen ? "" : ' -H "x-key: $KEY"'}`;
  const json = fields.map(([name, value]) => `"${name}": ${value}`).join(", ");
  const sent = pictures.flatMap(([name, , file]) => [
    `printf '%s' ', "${name}": "'`, `base64 < ${file} | tr -d '\\n'`, `printf '%s' '"'`,
  ]);
  return [
    ...(isOpen ? [] : [': "${KEY:?set it to your key}"']),
    `URL=${location.origin}`,
    ...pictures.map(([, path, file]) => `${call} "$URL${path}" -o ${file}  # or a picture of your own`),
    `ID=$({ ${[`printf '%s' ${quoted(`{${json}`)}`, ...sent, "printf '}'"].join("; ")}; } |`,
    `  ${call} "$URL/v1/flux-kontext-dev" -H 'content-type: application/json' --data-binary @- |`,
    `  sed 's/^{"id": *"\\([^"]*\\)".*/\\1/')`,
    `while ${call} "$URL/v1/get_result?id=$ID" | grep -q '"status": *"Pending"'; do sleep 1; done`,
    `${call} "$URL/v1/jobs/$ID/pictures/output" -o edited.${kind}`,
    "",
  ].join("\n");
}

/** For Python, without any package. */
export function asPython(node, isOpen) {
  const { fields, pictures, kind } = parts(node);
  const literal = (json) => ({ true: "True", false: "False", null: "None" })[json] ?? json;
  return [
    `import base64, json, ${isOpen ? "" : "os, "}time, urllib.request`,
    "",
    `URL = "${location.origin}"`,
    `HEADERS = {"content-type": "application/json"${isOpen ? "" : ', "x-key": os.environ["KEY"]'}}`,
    "",
    "",
    "def call(path, body=None):",
    "    sent = None if body is None else json.dumps(body).encode()",
    "    with urllib.request.urlopen(urllib.request.Request(URL + path, sent, HEADERS)) as answer:",
    "        return answer.read()",
    "",
    "",
    "asked = {",
    ...fields.map(([name, value]) => `    "${name}": ${literal(value)},`),
    "}",
    ...pictures.map(([name, path]) => `asked["${name}"] = base64.b64encode(call("${path}")).decode()  # or open("photo.jpg", "rb").read()`),
    'task = json.loads(call("/v1/flux-kontext-dev", asked))["id"]',
    'while (answer := json.loads(call(f"/v1/get_result?id={task}")))["status"] == "Pending":',
    "    time.sleep(0.5)",
    'if answer["status"] != "Ready":',
    '    raise SystemExit(f"{answer[\'status\']}: {answer[\'details\']}")',
    `with open("edited.${kind}", "wb") as file:`,
    '    file.write(call(f"/v1/jobs/{task}/pictures/output"))',
    "",
  ].join("\n");
}

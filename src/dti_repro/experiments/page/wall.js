"use strict";
// The wall: a table of subjects and prompts against methods, with the pictures of all seeds in its cells.
const ALL = "";
const pictureAt = new Map();
for (const [row, subject, prompt, seed, scores, content] of data.pictures)
  pictureAt.set([row, subject, prompt, seed].join(), { row, subject, prompt, seed, scores, content });
const pictureOf = (row, subject, prompt, seed) => pictureAt.get([row, subject, prompt, seed].join());
/** Return a method's picture with these seeds, else its first with the same image seed: class words have no training. */
const pictureNear = (row, subject, prompt, seed) => pictureOf(row, subject, prompt, seed) ??
  range(data.seeds.length).filter((other) => data.image_seeds[other] === data.image_seeds[seed])
    .map((other) => pictureOf(row, subject, prompt, other)).find(Boolean);
const source = (content) => `data:image/webp;base64,${content}`;
const subjectName = (subject) => data.subjects[subject].names.join(" and ");
const seen = [...new Set(data.pictures.map((picture) => picture[0]))].sort((a, b) => a - b);
let lines = []; // of buttons, as the arrow keys move between them

/** Return a prompt with the words that a subject has in it. */
function worded(prompt, subject) {
  const names = data.subjects[subject].names;
  return data.prompts[prompt].replace(/\{([\w-]*)\}/g, (_, name) => `<${name || names.join("+")}>`);
}

const describe = (picture) =>
  `${data.rows[picture.row].label}: ${worded(picture.prompt, picture.subject)}, ${data.seeds[picture.seed]}`;

function startWall() {
  if (!data.pictures.length) return;
  fill(byId("wall-subject"), data.subjects.map((_, i) => subjectName(i)), `all ${data.subjects.length}`);
  fill(byId("wall-prompt"), data.prompts.map((text) => text.replace(/\{\}/g, "…").replace(/[{}]/g, "")), `all ${data.prompts.length}`);
  fill(byId("wall-seed"), data.seeds, data.seeds.length > 1 ? `all ${data.seeds.length}` : "one");
  byId("wall-subject").value = "0";
  if (isSmall) byId("wall-prompt").value = "0"; // a phone would scroll through all prompts to the rest of the page
  const chosen = chips(byId("wall-rows"), seen, () => drawWall(chosen), { marked: false });
  for (const id of ["wall-subject", "wall-prompt", "wall-seed"])
    byId(id).addEventListener("change", () => drawWall(chosen));
  byId("wall").addEventListener("keydown", walk);
  byId("wall-compare").addEventListener("click", () => {
    const buttons = lines.flat();
    const rows = [...chosen].sort((a, b) => data.rows[a].bound - data.rows[b].bound || a - b); // methods before bounds
    const first = buttons.find((button) => button.picture.row === rows[0]) ?? buttons[0];
    if (first) openZoom(first.picture, rows.find((row) => row !== first.picture.row));
  });
  document.body.classList.toggle("small", data.small);
  drawWall(chosen);
}

function drawWall(chosen) {
  const of = (id, count) => (byId(id).value === ALL ? range(count) : [Number(byId(id).value)]);
  const [subjects, prompts] = [of("wall-subject", data.subjects.length), of("wall-prompt", data.prompts.length)];
  const seeds = of("wall-seed", data.seeds.length);
  const rows = seen.filter((row) => chosen.has(row));
  const body = make("tbody");
  lines = [];
  for (const subject of subjects) {
    const photos = make("div", { className: "photos" }, ...data.subjects[subject].photos.map((content, i) =>
      make("img", { src: source(content), alt: `photo ${i + 1} of ${subjectName(subject)}`, loading: "lazy" })));
    const block = [make("tr", { className: "subject" },
      make("th", { scope: "row", textContent: `${subjectName(subject)}: the photos` }),
      make("td", { colSpan: Math.max(1, rows.length), className: "photo-cell" }, photos))];
    for (const prompt of prompts) {
      const cells = rows.map((row) => pictureCell(row, subject, prompt, seeds));
      const buttons = cells.flatMap((cell) => [...cell.querySelectorAll("button")]);
      if (!buttons.length) continue;
      lines.push(buttons);
      block.push(make("tr", {}, make("th", { scope: "row", textContent: worded(prompt, subject) }), ...cells));
    }
    if (block.length > 1) body.append(...block);
  }
  const heads = ["prompt", ...rows.map((row) => data.rows[row].label)];
  const head = make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col", textContent: text }))));
  const table = make("table", {}, head, body);
  table.style.setProperty("--across", seeds.length < 4 ? 1 : Math.ceil(Math.sqrt(seeds.length)));
  byId("wall").replaceChildren(table);
  const count = lines.flat().length;
  byId("wall-count").textContent = count
    ? `${count} of ${data.pictures.length} pictures. Arrow keys move between them, Enter opens one.`
    : "No picture fits this choice: choose another subject, prompt or method.";
  if (count) lines[0][0].tabIndex = 0;
}

/** Return the cell of one method and prompt, with a button for each seed. */
function pictureCell(row, subject, prompt, seeds) {
  const cell = make("td", { attributes: { "data-label": data.rows[row].label } });
  const pick = seeds.length > 1 ? pictureOf : pictureNear;
  const found = seeds.map((seed) => pick(row, subject, prompt, seed)).filter(Boolean);
  if (found.length)
    cell.append(make("div", { className: "seeds" }, ...found.map((picture) => {
      const image = make("img", { src: source(picture.content), alt: describe(picture), loading: "lazy", decoding: "async" });
      const button = make("button", { type: "button", tabIndex: -1, picture }, image);
      button.addEventListener("click", () => openZoom(picture));
      return button;
    })));
  return cell;
}

/** Return the picture so many places and lines from another, as the wall shows them; the same at the border. */
function neighbour(picture, across, down) {
  const line = lines.findIndex((buttons) => buttons.some((button) => button.picture === picture));
  if (line < 0) return picture;
  const place = lines[line].findIndex((button) => button.picture === picture);
  const next = lines[Math.min(lines.length - 1, Math.max(0, line + down))];
  return next[Math.min(next.length - 1, Math.max(0, place + across))].picture;
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function walk(event) {
  const button = event.target.closest("button");
  if (!button || !(event.key in ARROWS)) return;
  event.preventDefault();
  focusPicture(neighbour(button.picture, ...ARROWS[event.key]));
}

/** Make a picture the one that the Tab key reaches, and move to it. */
function focusPicture(picture) {
  for (const button of lines.flat()) button.tabIndex = button.picture === picture ? 0 : -1;
  lines.flat().find((button) => button.picture === picture)?.focus();
}

startWall();

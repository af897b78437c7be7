"use strict";
// One picture large: its scores, the photos beside it, a second method under a slider, and how the word was learned.
const filmAt = new Map();
for (const [row, subject, prompt, seed, step, content] of data.films) {
  const key = [row, subject, prompt, seed].join();
  filmAt.set(key, [...(filmAt.get(key) ?? []), { step, content }]);
}
let shown = null; // the picture
let playing = null; // the timer of a film

const keyOf = (picture) => [picture.row, picture.subject, picture.prompt, picture.seed].join();
const sameIn = (picture, row) => pictureNear(row, picture.subject, picture.prompt, picture.seed);

/** Show a picture; `other` is the row that it is compared with, and stays for the next picture. */
function openZoom(picture, other = byId("zoom-with").value === "" ? undefined : Number(byId("zoom-with").value)) {
  shown = picture;
  stopFilm();
  const rows = seen.filter((row) => row !== picture.row && sameIn(picture, row));
  const options = rows.map((row) => make("option", { value: row, textContent: data.rows[row].label }));
  byId("zoom-with").replaceChildren(make("option", { value: "", textContent: "no other method" }), ...options);
  byId("zoom-with").value = rows.includes(other) ? other : "";
  byId("zoom-title").textContent = `${data.rows[picture.row].label}, ${subjectName(picture.subject)}`;
  byId("zoom-prompt").textContent = `“${worded(picture.prompt, picture.subject)}”, ${data.seeds[picture.seed]}`;
  byId("zoom-photos").replaceChildren(...data.subjects[picture.subject].photos.map((content, i) =>
    make("img", { src: source(content), alt: `photo ${i + 1} of ${subjectName(picture.subject)}` })));
  byId("zoom-base").src = source(picture.content);
  byId("zoom-base").alt = describe(picture);
  compareZoom();
  prepareFilm();
  if (!byId("zoom").open) byId("zoom").showModal();
}

/** Lay the other method's picture over this one, and list both scores. */
function compareZoom() {
  const value = byId("zoom-with").value;
  const other = value === "" ? null : sameIn(shown, Number(value));
  for (const id of ["zoom-over", "zoom-left", "zoom-right", "zoom-cut-label"]) byId(id).hidden = !other;
  byId("zoom-stage").classList.toggle("comparing", Boolean(other));
  const columns = [shown, ...(other ? [other] : [])];
  if (other) {
    byId("zoom-over").src = source(other.content);
    byId("zoom-over").alt = describe(other);
    byId("zoom-left").textContent = data.rows[shown.row].label;
    byId("zoom-right").textContent = data.rows[other.row].label;
  }
  const number = (score) => (score == null ? "" : score.toFixed(3));
  const head = make("tr", {}, ...["metric", ...columns.map((p) => data.rows[p.row].label)].map((text) =>
    make("th", { scope: "col", textContent: text })));
  byId("zoom-scores").tHead.replaceChildren(head);
  byId("zoom-scores").tBodies[0].replaceChildren(...data.metrics.map((title, i) =>
    make("tr", {}, make("th", { scope: "row", textContent: title }),
      ...columns.map((p) => make("td", { textContent: number(p.scores[i]) })))));
}

function prepareFilm() {
  const frames = filmAt.get(keyOf(shown)) ?? [];
  byId("zoom-film").hidden = !frames.length;
  byId("zoom-time").max = frames.length;
  byId("zoom-time").value = frames.length;
  showFrame();
}

function showFrame() {
  const frames = filmAt.get(keyOf(shown)) ?? [];
  const frame = frames[Number(byId("zoom-time").value)];
  byId("zoom-base").src = source((frame ?? shown).content);
  byId("zoom-step").textContent = frame ? `after step ${frame.step}` : "learned";
}

function stopFilm() {
  clearInterval(playing);
  playing = null;
  byId("zoom-play").textContent = "Play";
}

function playFilm() {
  if (playing) return stopFilm();
  const time = byId("zoom-time");
  byId("zoom-play").textContent = "Stop";
  time.value = 0;
  showFrame();
  playing = setInterval(() => {
    time.value = Number(time.value) + 1;
    showFrame();
    if (time.value === time.max) stopFilm();
  }, 700);
}

function moveZoom(across, down) {
  openZoom(neighbour(shown, across, down));
}

function startZoom() {
  const zoom = byId("zoom");
  byId("zoom-close").addEventListener("click", () => zoom.close());
  zoom.addEventListener("click", (event) => event.target === zoom && zoom.close()); // beside the dialog
  zoom.addEventListener("close", () => {
    stopFilm();
    focusPicture(shown);
  });
  byId("zoom-with").addEventListener("change", compareZoom);
  byId("zoom-cut").addEventListener("input", () => byId("zoom-stage").style.setProperty("--cut", `${byId("zoom-cut").value}%`));
  byId("zoom-time").addEventListener("input", () => {
    stopFilm();
    showFrame();
  });
  byId("zoom-play").addEventListener("click", playFilm);
  for (const button of zoom.querySelectorAll("[data-move]"))
    button.addEventListener("click", () => moveZoom(...button.dataset.move.split(",").map(Number)));
  zoom.addEventListener("keydown", (event) => {
    if (!(event.key in ARROWS) || event.target.matches("input, select")) return;
    event.preventDefault();
    moveZoom(...ARROWS[event.key]);
  });
}

startZoom();

"use strict";
const element = (id) => document.getElementById(id);
const controls = element("controls");
const shown = { slerp: 0, lerp: 0 }; // the version of the settings that each picture shows
let version = 0;
let drawing = false;

function changed() {
  element("shown").textContent = Number(element("share").value).toFixed(2);
  if (!controls.checkValidity()) return;
  version += 1;
  if (!drawing) drawAll();
}

// One request at a time, the picture that is further behind first, always with the newest settings.
async function drawAll() {
  drawing = true;
  while (shown.slerp < version || shown.lerp < version) {
    const mode = shown.slerp <= shown.lerp ? "slerp" : "lerp";
    shown[mode] = version;
    await draw(mode);
  }
  drawing = false;
}

async function draw(mode) {
  const [image, status] = element(mode).querySelectorAll("img, p");
  const asked = {
    mode,
    share: Number(element("share").value),
    prompt: element("prompt").value,
    seed: Number(element("seed").value),
    steps: Number(element("steps").value),
  };
  const began = performance.now();
  try {
    const answer = await fetch("draw", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(asked),
    });
    if (!answer.ok) throw new Error(await answer.text());
    await show(image, await answer.blob());
    image.alt = `${mode} at ${asked.share.toFixed(2)}: ${asked.prompt}, seed ${asked.seed}`;
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    say(status, `norm ${answer.headers.get("X-Norm")}, drawn in ${seconds} s`);
  } catch (error) {
    say(status, error instanceof TypeError ? "No answer: is dti blend still running?" : error.message, true);
  }
}

async function show(image, blob) {
  const before = image.src;
  image.src = URL.createObjectURL(blob);
  await image.decode();
  image.classList.toggle("small", image.naturalWidth < 256);
  image.hidden = false;
  if (before) URL.revokeObjectURL(before);
}

function say(status, words, bad = false) {
  status.textContent = words;
  status.classList.toggle("bad", bad);
}

controls.addEventListener("input", (event) => { if (event.target.id === "share") changed(); });
controls.addEventListener("change", (event) => { if (event.target.id !== "share") changed(); });
controls.addEventListener("submit", (event) => { event.preventDefault(); changed(); });
changed();

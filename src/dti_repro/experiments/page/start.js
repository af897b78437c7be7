"use strict";
// What all parts of the page use. The data come from a JSON element; they become text and attributes, never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const SYMBOLS = ["circle", "square", "triangle", "diamond"];

/** Return a new element with properties, attributes and children (nodes or text). */
function make(tag, { attributes = {}, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Fill a select with texts, whose values are their positions; `first` is put before them with the value "". */
function fill(select, texts, first) {
  const options = texts.map((text, i) => make("option", { value: i, textContent: text }));
  if (first !== undefined) options.unshift(make("option", { value: "", textContent: first }));
  select.replaceChildren(...options);
}

const colour = (row) => (data.rows[row].bound ? "var(--soft)" : `var(--c${rank(row) % 8})`);
const symbol = (row) => SYMBOLS[data.rows[row].bound ? row % 4 : Math.floor(rank(row) / 8) % 4];
const rank = (row) => data.rows.slice(0, row).filter((other) => !other.bound).length;

const isSmall = matchMedia("(max-width: 700px)").matches;

/** Put a checkbox for each row into a container, which may be folded; return the set of chosen rows, which changes with
 * them. */
function chips(container, rows, change, { folded = isSmall, marked = true } = {}) {
  const chosen = new Set(rows);
  container.closest("details").open = !folded;
  for (const row of rows) {
    const box = make("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(row);
      else chosen.delete(row);
      change();
    });
    const label = make("label", {}, box);
    if (marked) label.append(mark(row));
    label.append(data.rows[row].label);
    container.append(label);
  }
  return chosen;
}

/** Return the sign that a row has in the plane. */
function mark(row) {
  const svg = d3.create("svg").attr("viewBox", "-7 -7 14 14").attr("aria-hidden", "true");
  const shape = { circle: d3.symbolCircle, square: d3.symbolSquare, triangle: d3.symbolTriangle, diamond: d3.symbolDiamond };
  svg.append("path").attr("d", d3.symbol(shape[symbol(row)], 80)()).attr("stroke-width", 2).attr("stroke", colour(row))
    .attr("fill", data.rows[row].bound ? "none" : colour(row));
  return svg.node();
}

const range = (n) => Array.from({ length: n }, (_, i) => i);

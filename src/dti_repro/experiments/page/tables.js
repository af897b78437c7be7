"use strict";
// Tables that are sorted by their heads and filtered by a word.
for (const table of document.querySelectorAll("table.sortable")) new Tablesort(table, { descending: true });

for (const field of document.querySelectorAll("input[data-filters]")) {
  const lines = [...byId(field.dataset.filters).tBodies[0].rows];
  const count = document.querySelector(`[data-counts="${field.dataset.filters}"]`);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const line of lines) line.hidden = !words.every((word) => line.textContent.toLowerCase().includes(word));
    count.textContent = words.length ? `${lines.filter((line) => !line.hidden).length} of ${lines.length} lines` : "";
  });
}

"use strict";
// Values of the page. Whatever comes from the data reaches the page as text only, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

/** An element with text and children. */
function element(name, { text, ...attributes } = {}, children = []) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
}

/** Bytes of what is stored as gzip. */
async function inflated(base64) {
  const stream = new Blob([bytes(base64)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const canInflate = typeof DecompressionStream !== "undefined";
const number = (value) => (Math.abs(value) >= 1e5 ? value.toExponential(2) : String(+value.toPrecision(3)));
const counted = (value) => value.toLocaleString("en");

// Every colour by its title, which is unique: "CD4 (rna)" and "CD4 (prot)" are two, and a column may be called so too.
const colours = new Map();
function offer(title, colour) {
  let unique = title;
  for (let i = 2; colours.has(unique); i++) unique = `${title} [${i}]`;
  colours.set(unique, { ...colour, title: unique });
  return unique;
}
const columnTitles = data.columns.map((column) => offer(column.name, { ...column, isColumn: true }));
const featureTitles = data.features.map((feature) => offer(`${feature.name} (${feature.modality})`, feature));
const featureTitle = new Map(data.features.map((f, i) => [`${f.modality}\n${f.name}`, featureTitles[i]]));

/** Steps of a colour, 0 to 252 or the code of a category, one for each cell; 255 for a missing one. */
async function stepsOf(colour) {
  colour.steps ??= colour.categories ? bytes(colour.codes) : colour.isColumn ? bytes(colour.values) : await inflated(colour.values);
  return colour.steps;
}
const valueAt = (colour, step) => colour.low + ((colour.high - colour.low) * step) / 252;

// Light and dark: as the system has it, until the reader says otherwise.
const isDark = () => getComputedStyle(document.documentElement).colorScheme === "dark";
function nameTheme() {
  byId("theme").textContent = isDark() ? "Light" : "Dark";
}
byId("theme").hidden = false;
byId("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
  document.dispatchEvent(new Event("themed"));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  nameTheme();
  document.dispatchEvent(new Event("themed"));
});
nameTheme();

// Maps: one canvas a space, all with one colour and one selection.
const HUES = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#f0e442"];
// What is low fades into the ground of the map, in light and in dark; lightness alone tells the order.
const RAMPS = {
  light: ["#d3d9e0", "#b3cbe0", "#7fb4d6", "#4292c6", "#2166ac", "#0b3c7d", "#06224f"],
  dark: ["#3b4356", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"],
};
const N_STEPS = 32;
const NO_LABEL = new Set(["unassigned", "unknown", "nan", "none", ""]);

const state = { colour: null, steps: null, selected: new Uint8Array(data.n), nSelected: 0, mode: "lasso", request: 0 };
const order = shuffled(data.n);
const maps = [];

function shuffled(n) {
  // The same order each time, so that a page looks the same each time.
  const found = Uint32Array.from({ length: n }, (_, i) => i);
  let seed = 1;
  for (let i = n - 1; i > 0; i--) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const j = Math.floor((seed / 4294967296) * (i + 1));
    [found[i], found[j]] = [found[j], found[i]];
  }
  return found;
}

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

function mixed(a, b, share) {
  const [from, to] = [rgb(a), rgb(b)];
  return `rgb(${from.map((part, i) => Math.round(part + (to[i] - part) * share)).join(",")})`;
}

function ramp(share) {
  const stops = RAMPS[isDark() ? "dark" : "light"];
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  return mixed(stops[low], stops[low + 1], at - low);
}

/** Colour of each category: seven hues that all eyes tell apart, then the same lighter and darker. */
function categoryColours(categories) {
  const faint = getComputedStyle(document.documentElement).getPropertyValue("--noise").trim();
  let next = 0;
  return categories.map((name) => {
    if (NO_LABEL.has(name.toLowerCase())) return faint;
    const [hue, round] = [HUES[next % HUES.length], Math.floor(next / HUES.length)];
    next += 1;
    // What is far from the ground first: darker on white, lighter on black.
    const shades = isDark() ? ["#ffffff", "#000000"] : ["#000000", "#ffffff"];
    return round % 3 === 0 ? hue : mixed(hue, shades[(round % 3) - 1], 0.45);
  });
}

/** The colours in use, and for each cell which of them it has; the last one is for what is missing. */
function painted() {
  const faint = getComputedStyle(document.documentElement).getPropertyValue("--faint").trim();
  const { colour, steps } = state;
  const bucket = new Uint8Array(data.n);
  if (!colour) return { bucket, palette: [faint], layers: [order] };
  if (colour.categories) {
    const palette = [...categoryColours(colour.categories), faint];
    for (let i = 0; i < data.n; i++) bucket[i] = steps[i] === 255 ? palette.length - 1 : steps[i];
    // In slices of random cells, so that no category hides another.
    const nSlices = Math.min(20, Math.ceil(data.n / 50));
    const slice = Math.ceil(data.n / nSlices);
    return { bucket, palette, layers: Array.from({ length: nSlices }, (_, i) => order.subarray(i * slice, (i + 1) * slice)) };
  }
  const palette = [faint, ...Array.from({ length: N_STEPS }, (_, i) => ramp(i / (N_STEPS - 1)))];
  const [low, high] = colour.clip;
  for (let i = 0; i < data.n; i++) {
    const share = high > low ? (steps[i] - low) / (high - low) : 0;
    bucket[i] = steps[i] === 255 ? 0 : 1 + Math.round(Math.min(Math.max(share, 0), 1) * (N_STEPS - 1));
  }
  return { bucket, palette, layers: [order] };
}

let paint = null;

class ScatterMap {
  constructor(space) {
    this.space = space;
    this.xy = new Uint16Array(bytes(space.xy).buffer);
    this.canvas = element("canvas", { tabindex: "0", role: "img", "aria-label": `Map: ${space.title}. Arrows move, plus and minus zoom, 0 resets.` });
    this.over = element("canvas", { "aria-hidden": "true" });
    this.told = element("output");
    this.figure = element("figure", {}, [
      element("figcaption", {}, [element("b", { text: space.title }), space.note]),
      element("div", { class: "map" }, [this.canvas, this.over, this.told]),
    ]);
    this.figure.hidden = !space.shown;
    this.reset();
    this.listen();
  }

  reset() {
    [this.zoom, this.x, this.y] = [1, 0, 0];
  }

  /** Place of a cell in pixels of the page. */
  place(cell) {
    const side = this.side;
    return [(this.xy[2 * cell] / 65535 - this.x) * this.zoom * side, (this.xy[2 * cell + 1] / 65535 - this.y) * this.zoom * side];
  }

  draw() {
    this.side = this.canvas.clientWidth;
    if (this.figure.hidden || !this.side || !paint) return;
    const ratio = window.devicePixelRatio || 1;
    for (const canvas of [this.canvas, this.over]) {
      const pixels = Math.round(this.side * ratio);
      if (canvas.width !== pixels) [canvas.width, canvas.height] = [pixels, pixels];
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.side, this.side);
    const radius = Math.min(Math.max((0.33 * this.side) / Math.sqrt(data.n), 0.8), 3.5) * Math.min(this.zoom, 4) ** 0.5;
    const faint = getComputedStyle(document.documentElement).getPropertyValue("--faint").trim();
    if (state.nSelected) this.dots(context, order, radius, (cell) => (state.selected[cell] ? -1 : 0), [faint]);
    for (const layer of paint.layers) {
      this.dots(context, layer, radius, (cell) => (state.nSelected && !state.selected[cell] ? -1 : paint.bucket[cell]), paint.palette);
    }
  }

  /** Dots of cells, one path for each colour, in the order of the colours. */
  dots(context, cells, radius, bucketOf, palette) {
    const buckets = palette.map(() => []);
    for (const cell of cells) {
      const bucket = bucketOf(cell);
      if (bucket >= 0) buckets[bucket].push(cell);
    }
    buckets.forEach((found, i) => {
      context.fillStyle = palette[i];
      context.beginPath();
      for (const cell of found) {
        const [x, y] = this.place(cell);
        if (x < -radius || y < -radius || x > this.side + radius || y > this.side + radius) continue;
        if (radius < 1.2) context.rect(x - radius, y - radius, 2 * radius, 2 * radius);
        else {
          context.moveTo(x + radius, y);
          context.arc(x, y, radius, 0, 2 * Math.PI);
        }
      }
      context.fill();
    });
  }

  /** Zoom by a factor around a point, in pixels. */
  zoomBy(factor, px, py) {
    const zoom = Math.min(Math.max(this.zoom * factor, 1), 40);
    this.x += px / this.side / this.zoom - px / this.side / zoom;
    this.y += py / this.side / this.zoom - py / this.side / zoom;
    this.zoom = zoom;
    this.keep();
  }

  keep() {
    const most = 1 - 1 / this.zoom;
    [this.x, this.y] = [Math.min(Math.max(this.x, 0), most), Math.min(Math.max(this.y, 0), most)];
    this.told.textContent = "";
    this.draw();
  }

  listen() {
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    let path = null;
    let last = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || state.mode === "look") return;
      this.canvas.setPointerCapture(event.pointerId);
      [path, last] = [state.mode === "lasso" ? [at(event)] : null, at(event)];
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const [x, y] = at(event);
      if (path) {
        path.push([x, y]);
        this.drawPath(path);
      } else if (last) {
        this.x -= (x - last[0]) / this.side / this.zoom;
        this.y -= (y - last[1]) / this.side / this.zoom;
        last = [x, y];
        this.keep();
      } else this.tell(x, y);
    });
    const end = (event) => {
      if (path && event.type === "pointerup" && path.length > 2) this.choose(path, event.shiftKey);
      this.drawPath([]);
      [path, last] = [null, null];
    };
    this.canvas.addEventListener("pointerup", end);
    this.canvas.addEventListener("pointercancel", end);
    this.canvas.addEventListener("pointerleave", () => (this.told.textContent = ""));
    this.canvas.addEventListener("wheel", (event) => {
      if (state.mode !== "move") return;
      event.preventDefault();
      this.zoomBy(Math.exp(-event.deltaY / 300), ...at(event));
    }, { passive: false });
    this.canvas.addEventListener("keydown", (event) => {
      const step = 0.15 / this.zoom;
      const half = this.side / 2;
      const moves = {
        ArrowLeft: () => (this.x -= step), ArrowRight: () => (this.x += step),
        ArrowUp: () => (this.y -= step), ArrowDown: () => (this.y += step),
        "+": () => this.zoomBy(1.4, half, half), "=": () => this.zoomBy(1.4, half, half),
        "-": () => this.zoomBy(1 / 1.4, half, half), 0: () => this.reset(),
      };
      if (event.key === "Escape") select(() => false);
      if (!(event.key in moves) || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      moves[event.key]();
      this.keep();
    });
  }

  drawPath(path) {
    const ratio = window.devicePixelRatio || 1;
    const context = this.over.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.side, this.side);
    if (path.length < 2) return;
    context.beginPath();
    path.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
    context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
    context.lineWidth = 1.5;
    context.setLineDash([5, 4]);
    context.stroke();
  }

  /** Select the cells within a path. */
  choose(path, adds) {
    select((cell) => {
      const [x, y] = this.place(cell);
      let inside = false;
      for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
        const [[ax, ay], [bx, by]] = [path[i], path[j]];
        if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
      }
      return inside;
    }, adds);
  }

  /** Say which cell is under the pointer, and what it has. */
  tell(px, py) {
    let [nearest, least] = [-1, 64];
    for (let cell = 0; cell < data.n; cell++) {
      const [x, y] = this.place(cell);
      const distance = (x - px) ** 2 + (y - py) ** 2;
      if (distance < least) [nearest, least] = [cell, distance];
    }
    this.told.textContent = nearest < 0 || !state.colour ? "" : `${state.colour.title}: ${wordOf(nearest)}`;
  }
}

function wordOf(cell) {
  const step = state.steps[cell];
  if (step === 255) return "none";
  return state.colour.categories ? state.colour.categories[step] : number(valueAt(state.colour, step));
}

function drawAll() {
  paint = painted();
  maps.forEach((map) => map.draw());
}

/** Select the cells of which a test holds; with `adds` beside those that are. */
function select(holds, adds = false) {
  state.nSelected = 0;
  for (let cell = 0; cell < data.n; cell++) {
    state.selected[cell] = (adds && state.selected[cell]) || holds(cell) ? 1 : 0;
    state.nSelected += state.selected[cell];
  }
  byId("selection").hidden = !state.nSelected;
  byId("count").textContent = state.nSelected ? `${counted(state.nSelected)} of ${counted(data.n)} cells are selected in all maps.` : "";
  maps.forEach((map) => map.draw());
  showDifferences();
}

async function colourBy(title) {
  const colour = colours.get(title);
  const request = ++state.request;
  if (!colour) return;
  if (!colour.isColumn && !canInflate) {
    byId("told").textContent = "This browser cannot unpack the values of features; one of 2023 or newer can. Columns work.";
    byId("told").hidden = false;
    return;
  }
  const steps = await stepsOf(colour);
  // Of two that were asked for, the later one.
  if (request !== state.request) return;
  Object.assign(state, { colour, steps });
  const chosen = byId("colour");
  if (![...chosen.options].some((option) => option.value === title)) chosen.append(element("option", { text: title, value: title }));
  chosen.value = title;
  drawAll();
  showLegend();
}

function showLegend() {
  const { colour, steps } = state;
  const legend = byId("legend");
  legend.replaceChildren();
  if (!colour) return;
  if (!colour.categories) {
    const bar = element("canvas", { width: "180", height: "1", "aria-hidden": "true" });
    const context = bar.getContext("2d");
    for (let x = 0; x < 180; x++) {
      context.fillStyle = ramp(x / 179);
      context.fillRect(x, 0, 1, 1);
    }
    const [low, high] = colour.clip.map((step) => number(valueAt(colour, step)));
    legend.append(element("span", { text: `${colour.title}${colour.scale ? `, ${colour.scale}` : ""}:` }), element("span", { text: low }), bar, element("span", { text: high }));
    const top = element("button", { type: "button", text: "Select the highest tenth" });
    top.addEventListener("click", () => {
      const sorted = steps.filter((step) => step < 255).sort();
      const edge = sorted[Math.floor(0.9 * sorted.length)];
      select((cell) => steps[cell] < 255 && steps[cell] >= Math.max(edge, 1));
    });
    legend.append(top);
    return;
  }
  const hues = categoryColours(colour.categories);
  const n = colour.categories.map(() => 0);
  for (const step of steps) if (step < 255) n[step] += 1;
  colour.categories.forEach((name, i) => {
    const dot = element("i");
    dot.style.background = hues[i];
    const button = element("button", { type: "button", title: "Select these cells" }, [dot, `${name} ${counted(n[i])}`]);
    button.addEventListener("click", (event) => select((cell) => steps[cell] === i, event.shiftKey));
    legend.append(button);
  });
}

/** Features whose mean differs most between the selected cells and the others, in standard deviations. */
async function showDifferences() {
  const place = byId("differs");
  place.replaceChildren();
  if (!state.nSelected || state.nSelected === data.n || !canInflate) return;
  const selected = state.selected.slice();
  const found = [];
  // Panels are small; of genes, of which there are thousands, those that the table has.
  const listed = new Set((data.table?.rows ?? []).slice(0, 400).map((row) => keyOf(row)));
  const perModality = new Map();
  for (const f of data.features) perModality.set(f.modality, (perModality.get(f.modality) ?? 0) + 1);
  for (const [i, feature] of data.features.entries()) {
    if (perModality.get(feature.modality) > 400 && !listed.has(`${feature.modality}\n${feature.name}`)) continue;
    const colour = colours.get(featureTitles[i]);
    const steps = await stepsOf(colour);
    const [sum, n, square] = [[0, 0], [0, 0], [0, 0]];
    for (let cell = 0; cell < data.n; cell++) {
      if (steps[cell] === 255) continue;
      sum[selected[cell]] += steps[cell];
      square[selected[cell]] += steps[cell] ** 2;
      n[selected[cell]] += 1;
    }
    if (!n[0] || !n[1]) continue;
    const total = n[0] + n[1];
    const sd = Math.sqrt(Math.max((square[0] + square[1]) / total - ((sum[0] + sum[1]) / total) ** 2, 0));
    if (sd > 0) found.push({ title: featureTitles[i], colour, inside: sum[1] / n[1], outside: sum[0] / n[0], d: (sum[1] / n[1] - sum[0] / n[0]) / sd });
  }
  if (found.length === 0 || selected.some((each, cell) => each !== state.selected[cell])) return;
  found.sort((a, b) => Math.abs(b.d) - Math.abs(a.d));
  const rows = found.slice(0, 8).map(({ title, colour, inside, outside, d }) => {
    const name = element("button", { type: "button", text: title });
    name.addEventListener("click", () => colourBy(title));
    const figures = [number(valueAt(colour, inside)), number(valueAt(colour, outside)), `${d > 0 ? "+" : ""}${d.toFixed(2)}`];
    return element("tr", {}, [element("td", {}, [name]), ...figures.map((text) => element("td", { class: "number", text }))]);
  });
  const head = ["Differs most", "mean of these", "mean of the others", "difference, in standard deviations"];
  place.replaceChildren(element("table", {}, [
    element("thead", {}, [element("tr", {}, head.map((text, i) => element("th", { scope: "col", text, class: i ? "number" : "" })))]),
    element("tbody", {}, rows),
  ]));
}

function setMode(mode) {
  state.mode = mode;
  for (const button of document.querySelectorAll("[data-mode]")) button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
  for (const map of maps) {
    // A finger scrolls the page unless it is to draw or to drag.
    map.canvas.style.touchAction = mode === "look" ? "auto" : "none";
    map.canvas.style.cursor = { look: "default", lasso: "crosshair", move: "grab" }[mode];
  }
}

function startMaps() {
  for (const space of data.spaces) {
    const map = new ScatterMap(space);
    maps.push(map);
    byId("grid").append(map.figure);
    const button = element("button", { type: "button", text: space.title, "aria-pressed": String(space.shown) });
    button.addEventListener("click", () => {
      map.figure.hidden = !map.figure.hidden;
      button.setAttribute("aria-pressed", String(!map.figure.hidden));
      drawAll();
    });
    byId("which").append(button, " ");
  }
  const columns = columnTitles.map((title) => element("option", { text: title, value: title }));
  const shown = data.features.length <= 60 ? featureTitles : (data.table?.rows ?? []).map((row) => featureTitle.get(keyOf(row))).filter(Boolean).slice(0, 60);
  if (columns.length) byId("colour").append(element("optgroup", { label: "Columns" }, columns));
  if (shown.length) byId("colour").append(element("optgroup", { label: "Features" }, shown.map((title) => element("option", { text: title, value: title }))));
  byId("colour").addEventListener("change", () => colourBy(byId("colour").value));

  const input = byId("search-colour");
  const matching = (text) => featureTitles.filter((title) => title.toLowerCase().includes(text.toLowerCase()));
  input.addEventListener("input", () => {
    const found = input.value ? matching(input.value).slice(0, 50) : [];
    byId("colour-names").replaceChildren(...found.map((title) => element("option", { value: title })));
    if (colours.has(input.value)) colourBy(input.value);
  });
  input.addEventListener("change", () => {
    const text = input.value.toLowerCase();
    const found = matching(input.value);
    // Somebody who types CD4 does not mean the first name that has it somewhere.
    const best = found.find((title) => title.toLowerCase() === text) ?? found.find((title) => title.toLowerCase().startsWith(`${text} (`)) ?? found.find((title) => title.toLowerCase().startsWith(text)) ?? found[0];
    if (best && input.value) colourBy(best);
    byId("told").hidden = Boolean(best) || !input.value;
    if (!best) byId("told").textContent = `No feature of this page has "${input.value}" in its name.`;
  });
  document.querySelectorAll("[data-mode]").forEach((button) => button.addEventListener("click", () => setMode(button.dataset.mode)));
  byId("reset").addEventListener("click", () => maps.forEach((map) => (map.reset(), map.draw())));
  byId("clear").addEventListener("click", () => select(() => false));
  byId("save").addEventListener("click", async () => {
    const names = new TextDecoder().decode(await inflated(data.names)).split("\n").filter((_, cell) => state.selected[cell]);
    const link = element("a", { download: "cells.txt", href: URL.createObjectURL(new Blob([names.join("\n") + "\n"], { type: "text/plain" })) });
    link.click();
    URL.revokeObjectURL(link.href);
  });
  document.addEventListener("themed", () => (drawAll(), showLegend()));
  new ResizeObserver(() => maps.forEach((map) => map.draw())).observe(byId("grid"));
  byId("tools").hidden = false;
  setMode(matchMedia("(pointer: coarse)").matches ? "look" : "lasso");
  drawAll();
  colourBy(colours.has(data.first) ? data.first : (columnTitles[0] ?? featureTitles[0]));
}

// The table of features: search, sort, and a click that colours the maps.
const ROWS_AT_ONCE = 25;
const view = { sort: null, down: true, shown: ROWS_AT_ONCE };
const columnIndex = (name) => (data.table ? data.table.columns.findIndex((column) => column.name === name) : -1);

/** By which a row of the table finds its feature. */
function keyOf(row) {
  const [modality, feature] = [columnIndex("modality"), columnIndex("feature")];
  return `${modality < 0 ? (data.features[0]?.modality ?? "") : row[modality]}\n${row[feature]}`;
}

function shareBar(row) {
  const names = { shared: "both", specific: "alone", noise: "noise" };
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "shares");
  svg.setAttribute("viewBox", "0 0 100 8");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  let x = 0;
  for (const [name, kind] of Object.entries(names)) {
    const value = row[columnIndex(name)];
    const width = 100 * Math.min(Math.max(value ?? 0, 0), 1 - x / 100);
    const part = document.createElementNS(svg.namespaceURI, "rect");
    for (const [key, each] of Object.entries({ class: kind, x, y: 0, width, height: 8 })) part.setAttribute(key, each);
    svg.append(part);
    x += width;
  }
  return svg;
}

/** A name that may be broken where its parts meet. */
function breakable(name) {
  return name.split(/(?<=[_.:-])/).flatMap((part) => [part, element("wbr")]);
}

function cellOf(column, value, row) {
  if (column.name === "feature") {
    const title = featureTitle.get(keyOf(row));
    if (!title || !maps.length) return element("td", {}, breakable(value));
    const button = element("button", { type: "button", title: "Colour the maps by it" }, breakable(value));
    button.addEventListener("click", () => {
      colourBy(title);
      byId("maps").scrollIntoView();
    });
    return element("td", {}, [button]);
  }
  if (column.kind === "flag") return element("td", { text: value ? "yes" : "" });
  if (column.kind === "text") return element("td", { text: value ?? "" });
  const text = value === null ? "" : column.kind === "share" ? `${(100 * value).toFixed(0)} %` : number(value);
  return element("td", { class: "number", text });
}

function showRows() {
  const { columns, rows } = data.table;
  const [text, chosen] = [byId("search").value.trim().toLowerCase(), byId("modality").value];
  const [feature, modality] = [columnIndex("feature"), columnIndex("modality")];
  let found = rows.filter((row) => String(row[feature]).toLowerCase().includes(text) && (!chosen || row[modality] === chosen));
  if (view.sort !== null) {
    // What is missing stays at the end, up or down.
    const sign = view.down ? -1 : 1;
    const value = (row) => row[view.sort];
    found = found.slice().sort((a, b) => {
      if (value(a) === null || value(b) === null) return (value(a) === null) - (value(b) === null);
      return sign * (typeof value(a) === "string" ? value(a).localeCompare(value(b), "en", { numeric: true }) : value(a) - value(b));
    });
  }
  const hasBar = columnIndex("shared") >= 0 && columnIndex("specific") >= 0;
  byId("table").tBodies[0].replaceChildren(...found.slice(0, view.shown).map((row) => {
    const cells = columns.flatMap((column, i) => (column.shown ? [cellOf(column, row[i], row)] : []));
    if (hasBar) cells.splice(1, 0, element("td", {}, [shareBar(row)]));
    return element("tr", {}, cells);
  }));
  byId("shown").textContent = `${counted(Math.min(view.shown, found.length))} of ${counted(found.length)}${found.length < rows.length ? " that fit" : ""}`;
  byId("more").hidden = found.length <= view.shown;
}

function startTable() {
  const { columns, rows } = data.table;
  const specific = columnIndex("specific");
  const sure = columnIndex("specific_low");
  if (specific >= 0) view.sort = sure >= 0 ? sure : specific;
  const shown = columns.map((column, i) => i).filter((i) => columns[i].shown);
  const heads = shown.map((i) => {
    const column = columns[i];
    const button = element("button", { type: "button", text: column.title });
    const head = element("th", { scope: "col", class: ["share", "number"].includes(column.kind) ? "number" : "" }, [button]);
    button.addEventListener("click", () => {
      Object.assign(view, view.sort === i ? { down: !view.down } : { sort: i, down: column.kind !== "text" });
      markSorted();
      showRows();
    });
    return head;
  });
  const markSorted = () => heads.forEach((head, place) => {
    const i = shown[place];
    if (view.sort === i) head.setAttribute("aria-sort", view.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
    head.firstChild.textContent = columns[i].title + (view.sort === i ? (view.down ? " \u25bc" : " \u25b2") : "");
  });
  const withBar = columnIndex("shared") >= 0 && specific >= 0 ? [heads[0], element("th", { scope: "col", text: "Its variance" }), ...heads.slice(1)] : heads;
  byId("table").tHead.replaceChildren(element("tr", {}, withBar));
  const modalities = columnIndex("modality") < 0 ? [] : [...new Set(rows.map((row) => row[columnIndex("modality")]))];
  if (modalities.length > 1) {
    byId("modality").append(element("option", { text: "all", value: "" }), ...modalities.map((name) => element("option", { text: name, value: name })));
    byId("modality-label").hidden = false;
  }
  byId("search").addEventListener("input", () => (view.shown = ROWS_AT_ONCE, showRows()));
  byId("modality").addEventListener("change", () => (view.shown = ROWS_AT_ONCE, showRows()));
  byId("more").addEventListener("click", () => (view.shown += ROWS_AT_ONCE, showRows()));
  byId("table-tools").hidden = false;
  markSorted();
  showRows();
}

if (data.table) startTable();
if (data.spaces.length) startMaps();
if (data.table) showRows();

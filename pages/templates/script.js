"use strict";
(() => {
  const byId = (id) => document.getElementById(id);

  // -- theme: as the system, light, dark ---------------------------------------------------------
  const themes = ["", "light", "dark"];
  const called = ["as the system", "light", "dark"];
  const button = byId("theme");
  const kept = {
    // A page that was opened from a file may have no storage.
    get() { try { return localStorage.getItem("meristem-theme") || ""; } catch { return ""; } },
    set(value) { try { localStorage.setItem("meristem-theme", value); } catch { return; } },
  };
  let theme = Math.max(themes.indexOf(kept.get()), 0);
  const showTheme = () => {
    document.documentElement.dataset.theme = themes[theme];
    button.querySelector("span").textContent = called[theme];
  };
  button.addEventListener("click", () => {
    theme = (theme + 1) % themes.length;
    kept.set(themes[theme]);
    showTheme();
  });
  button.hidden = false;
  showTheme();

  // -- the table of dimensions -------------------------------------------------------------------
  const { texts, weights, rows } = JSON.parse(byId("data").textContent);
  const CHUNK = 100;
  const [NAME, BEFORE, AFTER, STATE, WHY, WEIGHTS, PROOF, COUNT] = Array(8).keys();
  const STATES = { grown: "▲ grown", new: "+ new", free: "can grow", pinned: "pinned" };
  const body = byId("table").tBodies[0];
  const search = byId("search"), state = byId("state"), count = byId("count"), more = byId("more");
  const hay = rows.map((r) => `${r[NAME]} ${r[STATE]} ${texts[r[WHY]]}`.toLowerCase());
  const names = rows.map((r) => r[NAME].toLowerCase());
  let order = rows.map((_, i) => i), found = order, shown = 0;

  const element = (name, text, style) => {
    const e = document.createElement(name);
    if (text !== undefined) e.textContent = text;
    if (style) e.className = style;
    return e;
  };

  // A word with a star is a selector: it has to match a whole name, or all before its "@".
  const matcher = (word) => {
    if (!word.includes("*")) return (i) => hay[i].includes(word);
    const body = word.split("*").map((s) => s.replace(/[.+?^${}()|[\]\\]/g, "\\$&")).join(".*");
    const whole = new RegExp(`^${body}$`);
    return (i) => whole.test(names[i]) || whole.test(names[i].split("@")[0]);
  };

  const list = (title, items) => {
    const ul = element("ul");
    for (const item of items) ul.append(element("li", item));
    const box = element("div", undefined, "details");
    box.append(element("strong", title), ul);
    return box;
  };

  const details = (row) => {
    const box = element("details");
    const many = row[COUNT] === 1 ? "1 weight" : `${row[COUNT]} weights`;
    box.append(element("summary", row[PROOF].length ? `${many} and the proof` : many));
    box.addEventListener("toggle", () => {
      if (!box.open || box.children.length > 1) return;
      if (row[PROOF].length) box.append(list("Obligations", row[PROOF].map((n) => texts[n])));
      const items = [];
      for (let i = 0; i < row[WEIGHTS].length; i += 2) {
        const [name, became] = weights[row[WEIGHTS][i]];
        items.push(`${name}, axis ${row[WEIGHTS][i + 1]}${became ? `: ${became}` : ""}`);
      }
      const left = row[COUNT] - items.length;
      if (left > 0) items.push(`and ${left} more`);
      box.append(list("Weights", items));
    });
    return box;
  };

  const line = (row) => {
    const tr = element("tr");
    const name = element("th", row[NAME], "path");
    name.scope = "row";
    const grew = row[STATE] === "grown";
    const size = element("td", undefined, "num");
    size.append(element(grew ? "strong" : "span", row[AFTER].toLocaleString("en")));
    const why = element("td", undefined, "words");
    if (texts[row[WHY]]) why.append(element("div", texts[row[WHY]]));
    if (row[COUNT]) why.append(details(row));
    const was = row[BEFORE] === null ? "–" : row[BEFORE].toLocaleString("en");
    tr.append(name, element("td", was, "num"), size, element("td", STATES[row[STATE]], `state ${row[STATE]}`), why);
    return tr;
  };

  const say = () => {
    const total = rows.length.toLocaleString("en"), hits = found.length.toLocaleString("en");
    count.textContent = `${hits} of ${total} dimensions match, ${shown.toLocaleString("en")} are shown`;
    more.hidden = shown >= found.length;
    more.textContent = `Show ${Math.min(CHUNK, found.length - shown)} more`;
  };
  const extend = () => {
    const part = document.createDocumentFragment();
    for (const i of found.slice(shown, shown + CHUNK)) part.append(line(rows[i]));
    shown = Math.min(shown + CHUNK, found.length);
    body.append(part);
    say();
  };
  const apply = () => {
    const tests = search.value.toLowerCase().split(/\s+/).filter(Boolean).map(matcher);
    const wanted = state.value;
    const kind = (r) => (r[STATE] === "new" ? "grown" : r[STATE]);
    found = order.filter((i) => (!wanted || kind(rows[i]) === wanted) && tests.every((t) => t(i)));
    shown = 0;
    body.replaceChildren();
    extend();
  };

  search.addEventListener("input", apply);
  state.addEventListener("change", apply);
  search.form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const first = shown;
    extend();
    // The keyboard goes on where new rows begin.
    const row = body.rows[first];
    row.tabIndex = -1;
    row.focus();
  });
  for (const sorter of document.querySelectorAll("#table thead button")) {
    sorter.addEventListener("click", () => {
      const th = sorter.closest("th"), column = Number(sorter.dataset.column);
      const up = th.getAttribute("aria-sort") !== "ascending";
      for (const other of th.parentNode.children) if (other.ariaSort) other.ariaSort = "none";
      th.ariaSort = up ? "ascending" : "descending";
      const key = (i) => rows[i][column];
      const by = (a, b) =>
        typeof key(a) === "string"
          ? key(a).localeCompare(key(b), "en", { numeric: true })
          : (key(a) ?? -1) - (key(b) ?? -1);
      order = rows.map((_, i) => i).sort((a, b) => (up ? by(a, b) : by(b, a)));
      apply();
    });
  }
  apply();
})();

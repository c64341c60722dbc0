"use strict";

// The list of samples: every input is a row. Only visible rows are elements.
RM.pages.samples = (() => {
  const { el, fmt, link, rows, sample, data } = RM;
  const FACETS = ["outcome", "filter", "reason", "modality", "source", "language", "licence", "shard"];
  const TITLES = { filter: "stopped by" };
  const SPARE = 8;
  const HIGHEST = 15_000_000;
  let view = null;

  /** The rows that match the query, as a Uint32Array in its order. */
  async function select(query) {
    const wanted = [];
    for (const facet of FACETS) {
      const value = query.get(facet);
      if (value) wanted.push([rows.columns[facet], data.meta.words[facet].indexOf(value === "(none)" ? "" : value)]);
    }
    const words = (query.get("q") || "").trim().toLowerCase();
    const count = rows.ready;
    const found = new Uint32Array(count);
    let n = 0;
    outer: for (let row = 0; row < count; row++) {
      for (const [column, code] of wanted) if (column[row] !== code) continue outer;
      if (words && !rows.matches(row, words)) continue;
      found[n++] = row;
    }
    const chosen = found.subarray(0, n);
    const sort = query.get("sort");
    if (!sort) return chosen;
    const values = sort === "value" ? rows.columns.value : data.meta.columns.includes(sort) ? await rows.column(sort) : null;
    if (!values) return chosen;
    const sign = query.get("dir") === "down" ? -1 : 1;
    const known = chosen.filter((row) => !Number.isNaN(values[row]));
    known.sort((a, b) => sign * (values[a] - values[b]) || a - b);
    const blank = chosen.filter((row) => Number.isNaN(values[row]));
    const all = new Uint32Array(n);
    all.set(known);
    all.set(blank, known.length);
    return all;
  }

  function go(changes) {
    const query = Object.fromEntries(RM.place().query);
    location.hash = link("samples", { ...query, ...changes });
  }

  /** Change the address without a new history entry, while the user types or moves through rows. */
  function drift(changes) {
    const query = Object.fromEntries(RM.place().query);
    history.replaceState(null, "", link("samples", { ...query, ...changes }));
    view.update();
  }

  function tools() {
    const search = el("input", { type: "search", placeholder: "Search text, file or key", "aria-label": "Search", spellcheck: "false",
      oninput: () => drift({ q: search.value, key: "" }) });
    const selects = FACETS.filter((facet) => data.meta.words[facet].length > 2).map((facet) => {
      const title = TITLES[facet] || facet;
      const select = el("select", { "aria-label": title, name: facet, onchange: () => go({ [facet]: select.value, key: "" }) },
        el("option", { value: "" }, title),
        data.meta.words[facet].map((word) => el("option", { value: word || "(none)" }, fmt.word(word) || "none")));
      return select;
    });
    const sort = el("select", { "aria-label": "Sort by", name: "sort", onchange: () => go({ sort: sort.value }) },
      el("option", { value: "" }, "order of the run"),
      el("option", { value: "value" }, "deciding value"),
      data.meta.columns.map((name) => el("option", { value: name }, name)));
    const turn = el("button", { type: "button", class: "turn", title: "Reverse the order", "aria-label": "Reverse the order",
      onclick: () => go({ dir: RM.place().query.get("dir") === "down" ? "" : "down" }) }, "↑");
    const clear = el("a", { href: link("samples"), class: "clear" }, "clear");
    const count = el("output", { class: "count", "aria-live": "polite" });
    return { search, selects, sort, turn, clear, count };
  }

  function show(where) {
    const tool = tools();
    const height = parseInt(getComputedStyle(document.documentElement).getPropertyValue("--row"), 10) || 64;
    const sizer = el("div", { class: "sizer" });
    const list = el("div", { class: "list", role: "listbox", tabindex: "0", "aria-label": "Samples", onscroll: paint, onkeydown: walk }, sizer);
    const panel = el("aside", { class: "panel", "aria-label": "Sample", tabindex: "-1" });
    const alive = new Map();
    let found = new Uint32Array(0);
    let cursor = -1;
    let asked = 0;
    let values = null;

    function entry(index) {
      const row = found[index];
      const key = rows.key(row);
      const text = rows.text(row);
      const extra = values && !Number.isNaN(values[row]) ? fmt.number(values[row]) : "";
      const node = el("a", { class: "row", role: "option", id: `row-${index}`, tabindex: "-1", href: "#", "data-key": key,
        "aria-selected": "false", "aria-setsize": found.length, "aria-posinset": index + 1,
        onclick: (event) => { event.preventDefault(); pick(index); } },
        el("span", { class: "thumb" }, sample.picture(row), rows.moves(row) ? el("i", { class: "moves", "aria-hidden": "true" }) : null),
        el("span", { class: "words" }, el("span", { class: "caption" }, text === null ? "…" : text || "no text"),
          el("span", { class: "under" }, `${rows.word("source", row)} · ${fmt.word(rows.word("modality", row))} · ${rows.where(row) || ""}`)),
        el("span", { class: "verdict" }, sample.pill(row), el("span", { class: "why" }, sample.verdict(row))),
        values ? el("span", { class: "score" }, extra) : null);
      if (text === null) node.dataset.waits = "1";
      return node;
    }

    // Browsers cap how high an element can be; a longer list is scrolled in proportion.
    const whole = () => found.length * height;
    const high = () => Math.min(whole(), HIGHEST);
    const stretch = () => (whole() - list.clientHeight) / Math.max(1, high() - list.clientHeight);
    const scrolled = () => (whole() > HIGHEST ? list.scrollTop * stretch() : list.scrollTop);

    function paint() {
      const top = scrolled();
      const first = Math.max(0, Math.floor(top / height) - SPARE);
      const last = Math.min(found.length, Math.ceil((top + list.clientHeight) / height) + SPARE);
      for (const [index, node] of alive) {
        if (index < first || index >= last) {
          node.remove();
          alive.delete(index);
        }
      }
      for (let index = first; index < last; index++) {
        if (!alive.has(index)) {
          const node = entry(index);
          alive.set(index, node);
          sizer.append(node);
        }
      }
      for (const [index, node] of alive) {
        node.style.top = `${index * height - top + list.scrollTop}px`;
        node.setAttribute("aria-selected", String(index === cursor));
      }
      if (cursor >= 0 && alive.has(cursor)) list.setAttribute("aria-activedescendant", `row-${cursor}`);
      else list.removeAttribute("aria-activedescendant");
    }

    function reveal(index) {
      const at = index * height;
      const top = scrolled();
      const wanted = at < top ? at : at + height > top + list.clientHeight ? at + height - list.clientHeight : top;
      if (wanted !== top) list.scrollTop = whole() > HIGHEST ? wanted / stretch() : wanted;
    }

    function pick(index) {
      if (!found.length) return;
      cursor = Math.max(0, Math.min(found.length - 1, index));
      reveal(cursor);
      drift({ key: rows.key(found[cursor]) });
    }

    function walk(event) {
      const page = Math.max(1, Math.floor(list.clientHeight / height) - 1);
      const step = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
      if (step !== undefined && !event.ctrlKey && !event.metaKey && !event.altKey) {
        event.preventDefault();
        pick(cursor < 0 && step === 1 ? 0 : cursor + step);
      } else if (event.key === "Enter" && cursor >= 0) {
        event.preventDefault();
        panel.focus();
      }
    }

    function keys(event) {
      if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
        event.preventDefault();
        tool.search.focus();
      } else if (event.key === "Escape") {
        if (document.activeElement === tool.search && tool.search.value) return;
        drift({ key: "" });
        list.focus({ preventScroll: true });
      }
    }

    async function open(key) {
      const row = key ? rows.find(key) : -1;
      panel.parentElement.classList.toggle("open", row >= 0);
      if (row < 0) {
        panel.replaceChildren(el("p", { class: "hint" }, key ? "No sample has this key." : "Choose a sample. Arrow keys move, / searches, Esc closes."));
        panel.dataset.key = "";
        return;
      }
      if (panel.dataset.key === key) return;
      panel.dataset.key = key;
      try {
        const detail = await rows.detail(row);
        if (panel.dataset.key !== key) return;
        panel.replaceChildren(
          el("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => { drift({ key: "" }); list.focus({ preventScroll: true }); } }, "×"),
          ...RM.add(document.createDocumentFragment(), sample.nodes(row, detail)).childNodes);
        panel.scrollTop = 0;
      } catch (error) {
        panel.replaceChildren(el("p", { class: "alarm" }, `${error.message}.`));
      }
    }

    async function update() {
      const { query } = RM.place();
      const ticket = ++asked;
      if (tool.search.value !== (query.get("q") || "")) tool.search.value = query.get("q") || "";
      for (const select of tool.selects) {
        select.value = query.get(select.name) || "";
        select.classList.toggle("set", select.value !== "");
      }
      tool.sort.value = query.get("sort") || "";
      tool.turn.textContent = query.get("dir") === "down" ? "↓" : "↑";
      tool.turn.disabled = !tool.sort.value;
      const chosen = await select(query);
      const sort = query.get("sort");
      const scores = sort && sort !== "value" && data.meta.columns.includes(sort) ? await rows.column(sort) : null;
      if (ticket !== asked) return;
      const same = chosen.length === found.length && scores === values && chosen.every((row, i) => row === found[i]);
      if (!same) {
        found = chosen;
        values = scores;
        alive.forEach((node) => node.remove());
        alive.clear();
        list.classList.toggle("scored", values !== null);
        sizer.style.height = `${high()}px`;
      }
      const key = query.get("key") || "";
      const row = key ? rows.find(key) : -1;
      if (cursor < 0 || found[cursor] !== row) cursor = row < 0 ? -1 : found.indexOf(row);
      const some = found.length === rows.count ? "" : ` of ${fmt.count(rows.count)}`;
      const more = rows.ready < rows.count ? ", opening …" : query.get("q") && rows.missing ? ", searching …" : "";
      tool.count.textContent = `${fmt.count(found.length)}${some} samples${more}`;
      tool.count.dataset.found = found.length;
      tool.clear.hidden = ![...query.keys()].some((name) => name !== "key");
      paint();
      await open(key);
    }

    // A file of texts has come: it matters to a search, and to rows in view that wait for it.
    function arrived() {
      if (!found.length || RM.place().query.get("q")) return update();
      for (const [index, node] of alive) {
        if (node.dataset.waits) {
          node.remove();
          alive.delete(index);
        }
      }
      return paint();
    }
    const stop = rows.listen(arrived);
    document.addEventListener("keydown", keys);
    addEventListener("resize", paint);
    view = { update };
    const nodes = [
      el("div", { class: "tools" }, tool.search, el("div", { class: "facets" }, tool.selects),
        el("div", { class: "ordering" }, el("span", {}, "sort by"), tool.sort, tool.turn), tool.clear, tool.count),
      el("div", { class: "split" }, list, panel),
    ];
    const clean = () => {
      stop();
      document.removeEventListener("keydown", keys);
      removeEventListener("resize", paint);
      view = null;
    };
    return { nodes, clean, after: () => { update(); list.focus({ preventScroll: true }); } };
  }

  return { show, update: () => view.update() };
})();

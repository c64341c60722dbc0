"use strict";

// The number of samples that each threshold would keep at any other value, one threshold at a time.
RM.pages.thresholds = (() => {
  const { el, fmt, link, load, codes, numbers, charts, data } = RM;
  const SIGNS = { min: "at least", max: "at most", below: "below" };

  /** Cumulative sums, so that a slider only looks one up. */
  function prepare(parts) {
    return parts.map((part) => ({
      modality: part.modality,
      now: part.now,
      fixed: part.fixed,
      values: numbers(part.value),
      sums: [codes(part.passes), codes(part.open), codes(part.kept)].map((column) => {
        const sums = new Float64Array(column.length + 1);
        for (let i = 0; i < column.length; i++) sums[i + 1] = sums[i] + column[i];
        return sums;
      }),
    }));
  }

  /** Number of ascending `values` below `at`, or with `equal` at most `at`. */
  function below(values, at, equal) {
    let low = 0;
    let high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] < at || (equal && values[middle] === at)) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** {modality, passes, open, kept} with the threshold at `at`; null: as the run had it. */
  function count(parts, side, at) {
    return parts.map((part) => {
      const n = part.values.length;
      const cut = at === null ? 0 : below(part.values, at, side === "max");
      const [passes, open, kept] = at === null
        ? part.now
        : part.sums.map((sums, i) => part.fixed[i] + (side === "min" ? sums[n] - sums[cut] : sums[cut]));
      return { modality: part.modality, passes, open, kept };
    });
  }

  const range = (low, high) => (low === high ? fmt.count(low) : `${fmt.count(low)} to ${fmt.count(high)}`);

  function sum(counts) {
    return counts.reduce((all, c) => ({ modality: "all", passes: all.passes + c.passes, open: all.open + c.open, kept: all.kept + c.kept }),
      { modality: "all", passes: 0, open: 0, kept: 0 });
  }

  function answer(entry, parts, at) {
    const now = count(parts, entry.side, null);
    const then = count(parts, entry.side, at);
    // Modalities that this threshold does not affect appear in the sum only.
    const lines = [...then.map((c, i) => [c, now[i]]).filter((_, i) => parts[i].values.length), [sum(then), sum(now)]];
    return el("table", { class: "numbers yield" },
      el("thead", {}, el("tr", {}, ["pass all filters", "in the run", "at this value", "change", "kept samples that still pass"].map((name) => el("th", {}, name)))),
      el("tbody", {}, lines.map(([c, n]) => {
        const low = c.passes - n.passes;
        const high = c.passes + c.open - n.passes;
        const signed = (x) => (x > 0 ? `+${fmt.count(x)}` : x < 0 ? `−${fmt.count(-x)}` : "0");
        return el("tr", { class: c.modality === "all" ? "all" : "", "data-modality": c.modality, "data-passes": c.passes, "data-open": c.open, "data-kept": c.kept },
          el("th", {}, fmt.word(c.modality)), el("td", {}, fmt.count(n.passes)), el("td", { class: "then" }, range(c.passes, c.passes + c.open)),
          el("td", { class: low > 0 || high > 0 ? "more" : low < 0 ? "less" : "" }, low === high ? signed(low) : `${signed(low)} to ${signed(high)}`),
          el("td", {}, `${fmt.count(c.kept)} of ${fmt.count(n.kept)}`));
      })));
  }

  /** Enough digits to distinguish the slider's steps. */
  const tidy = (x) => Number(x.toPrecision(4));

  function card(entry) {
    const box = el("div");
    const result = el("div", { class: "answer" });
    const command = el("code");
    const found = entry.histogram;
    let at = entry.now;
    let parts = null;
    const off = entry.now === null;
    const steps = 1000;
    const bars = found ? found.edges.length - 1 : 1;
    const slider = el("input", { type: "range", min: 0, max: steps, step: 1, "aria-label": entry.name });
    const exact = el("input", { type: "number", step: "any", "aria-label": `${entry.name}, exactly` });
    const reset = el("button", { type: "button", class: "plain" }, off ? "off" : "reset");
    let chart = null;

    function put(value, from) {
      at = value;
      if (from !== slider) slider.value = at === null ? (entry.side === "min" ? 0 : steps) : Math.round((steps * charts.position(found.edges, at)) / bars);
      if (from !== exact) exact.value = at === null ? "" : at;
      reset.disabled = at === entry.now;
      if (chart) chart.redraw();
      if (parts) result.replaceChildren(answer(entry, parts, at));
      const share = entry.share ? `--set filters.${entry.filter}.keep_top=null ` : "";
      command.textContent = `reelmill what-if RUN ${share}--set filters.${entry.name}=${at === null ? "null" : at}`;
    }

    slider.addEventListener("input", () => put(tidy(charts.valueAt(found.edges, (bars * slider.value) / steps)), slider));
    exact.addEventListener("input", () => {
      const value = exact.value === "" ? entry.now : Number(exact.value);
      if (value === null || Number.isFinite(value)) put(value, exact);
    });
    reset.addEventListener("click", () => put(entry.now, reset));
    if (found) chart = charts.histogram(box, found, { marks: () => [at], height: 120, label: entry.name });
    const node = el("article", { class: "threshold", id: `threshold-${entry.name}`, "data-name": entry.name },
      el("h3", {}, entry.name.slice(entry.filter.length + 1)),
      el("p", { class: "note" }, off ? "This rule is off." : `Passes: ${SIGNS[entry.side]} ${fmt.number(entry.now, true)}${entry.share ? ", computed from the share to keep" : ""}.`,
        off ? ` Would decide ${fmt.plural(entry.decides, "input", "inputs")}.` : ` Decides ${fmt.plural(entry.decides, "input", "inputs")} and stops ${fmt.count(entry.stops)}.`),
      box, slider,
      el("div", { class: "set" }, el("label", {}, off ? "set to" : SIGNS[entry.side], exact), reset),
      result,
      el("p", { class: "command" }, command));
    RM.whenSeen(node, async () => {
      try {
        parts = prepare(await load(`what-if-${entry.name}`));
        node.dataset.ready = "1";
        put(at, null);
      } catch (error) {
        result.replaceChildren(el("p", { class: "alarm" }, `${error.message}.`));
      }
    });
    put(at, null);
    return node;
  }

  function section(filter, entries) {
    const set = entries.filter((entry) => entry.now !== null && entry.histogram);
    const off = entries.filter((entry) => entry.now === null && entry.histogram);
    const most = 4;
    const byWeight = [...set].sort((a, b) => b.stops - a.stops || b.decides - a.decides);
    const first = set.length <= most + 1 ? set : set.filter((entry) => byWeight.indexOf(entry) < most);
    const rest = [...set.filter((entry) => !first.includes(entry)), ...off];
    const dropped = (data.meta.ledger.all.dropped || {})[filter.name] || 0;
    const more = rest.length ? el("details", { class: "more" }, el("summary", {}, `${fmt.plural(rest.length, "more threshold", "more thresholds")}${off.length ? `, ${fmt.count(off.length)} off` : ""}`)) : null;
    if (more) {
      more.addEventListener("toggle", () => {
        if (more.open && more.children.length === 1) more.append(el("div", { class: "thresholds" }, rest.map(card)));
      });
    }
    return el("section", { id: `filter-${filter.name}`, class: first.length === 1 ? "" : "broad" },
      el("h2", {}, filter.name, el("a", { class: "aside", href: link("samples", { outcome: "dropped", filter: filter.name, sort: "value" }) }, `dropped ${fmt.count(dropped)}`)),
      el("p", { class: "note" }, `applies to ${filter.asks.map(fmt.word).join(", ")}`),
      entries.length ? [el("div", { class: "thresholds" }, first.map(card)), more] : el("p", {}, "No threshold of this filter could change an outcome."));
  }

  function show(where) {
    const meta = data.meta;
    const wanted = where.page[1];
    const nodes = [
      el("section", { class: "head" }, el("h1", {}, "Thresholds"),
        el("p", { class: "lead" }, "Move a threshold to see how many samples would pass, one threshold at a time. Counts are exact for measured samples; a range means that some samples were stopped before later filters measured them. Duplicates and resampling are not recomputed here: the command below each slider does that, and accepts several changes at once.")),
      el("div", { class: "filters" }, meta.filters.map((filter) => section(filter, meta.what_if.filter((entry) => entry.filter === filter.name)))),
    ];
    const after = () => {
      if (!wanted) return;
      for (const more of document.querySelectorAll("details.more")) {
        if (!document.getElementById(`threshold-${wanted}`)) more.open = true;
      }
      requestAnimationFrame(() => setTimeout(() => {
        const node = document.getElementById(`threshold-${wanted}`);
        if (node) node.scrollIntoView({ block: "center" });
      }));
    };
    return { nodes, after };
  }

  return { show };
})();

"use strict";

// Groups of duplicates, side by side.
RM.pages.duplicates = (() => {
  const { el, fmt, link, load, rows, sample, data } = RM;
  const AT_ONCE = 40;
  const WIDE = 11;

  function member(row, note, kind) {
    return el("a", { class: `member ${kind}`, href: link("samples", { key: rows.key(row) }) },
      el("span", { class: "thumb" }, sample.picture(row)),
      el("span", { class: "caption" }, rows.text(row) || "no text"),
      el("span", { class: "under" }, sample.pill(row), note));
  }

  function span(start, end) {
    return start === null || end === null ? "" : `${fmt.number(start)}–${fmt.number(end)} s`;
  }

  function group(found) {
    const row = found.survivor;
    const copies = found.copies.slice(0, WIDE);
    return el("article", { class: "group" },
      el("h3", {}, `${fmt.count(found.copies.length + 1)} duplicates`, el("span", {}, `${fmt.word(rows.word("modality", row))}, ${rows.word("source", row)}`)),
      el("div", { class: "members" }, member(row, "survivor", "survivor"),
        copies.map(([copy, likeness, other, start, end, from, to]) => {
          const spans = start === null ? "" : `; its ${span(start, end)} match ${span(from, to)}`;
          return member(copy, `similarity ${fmt.number(likeness)}${other === row || other < 0 ? "" : " to another copy"}${spans}`, "copy");
        })),
      found.copies.length > WIDE ? el("p", { class: "note" }, `and ${fmt.count(found.copies.length - WIDE)} more copies`) : null);
  }

  function show(where) {
    const box = el("div", { class: "groups" }, el("p", { class: "waiting" }, "Opening …"));
    const choose = el("div", { class: "chooser", role: "group", "aria-label": "Modality" });
    let stop = () => {};
    let dead = false;
    (async () => {
      const all = await load("duplicates");
      await new Promise((done) => {
        if (rows.ready && !rows.missing) done();
        else stop = rows.listen(() => !rows.missing && done());
      });
      stop();
      if (dead) return;
      const kinds = [...new Set(all.map((found) => rows.word("modality", found.survivor)))].sort();
      function draw(kind) {
        const chosen = kind === "all" ? all : all.filter((found) => rows.word("modality", found.survivor) === kind);
        const copies = chosen.reduce((n, found) => n + found.copies.length, 0);
        let shown = 0;
        const list = el("div");
        const more = el("button", { type: "button", class: "plain" });
        function next() {
          RM.add(list, chosen.slice(shown, shown + AT_ONCE).map(group));
          shown = Math.min(chosen.length, shown + AT_ONCE);
          more.hidden = shown === chosen.length;
          more.textContent = `show more: ${fmt.count(chosen.length - shown)} groups left`;
        }
        more.addEventListener("click", next);
        next();
        box.replaceChildren(el("p", { class: "note" }, chosen.length ? `${fmt.count(chosen.length)} groups, ${fmt.count(copies)} copies besides the survivors` : "There are no duplicates."), list, more);
        for (const button of choose.children) button.setAttribute("aria-pressed", String(button.value === kind));
      }
      for (const kind of ["all", ...kinds]) choose.append(el("button", { type: "button", value: kind, onclick: () => draw(kind) }, fmt.word(kind)));
      draw("all");
    })().catch((error) => box.replaceChildren(el("p", { class: "alarm" }, `${error.message}.`)));
    const limits = Object.entries(data.meta.duplicates)
      .map(([kind, { threshold, min_share: share }]) => `${fmt.word(kind)} ${share === undefined ? threshold : `${share}, of frames whose cosine is at least ${threshold}`}`).join("; ");
    const nodes = [
      el("section", { class: "head" }, el("h1", {}, "Duplicates"),
        el("p", { class: "lead" }, `Groups among the samples that passed all filters. Similarity is the cosine of fingerprints for images, the share of matched frames for videos and the estimated Jaccard index for texts. ${limits ? `Duplicates have at least: ${limits}.` : ""}`)),
      el("section", {}, choose, box),
    ];
    return { nodes, clean: () => { dead = true; stop(); } };
  }

  return { show };
})();

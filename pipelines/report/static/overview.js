"use strict";

RM.pages[""] = (() => {
  const { el, fmt, link, charts, data } = RM;
  const ORDER = ["video", "image", "multi_image", "text"];

  /** Steps of the cascade for one entry of the ledger: [name, number stopped, query of the stopped samples]. */
  function steps(ledger, meta, modality) {
    const of = modality === "all" ? {} : { modality };
    const failed = Object.entries(ledger.failed).map(([stage, n]) =>
      [`failed at ${stage}`, n, { ...of, outcome: "failed", filter: stage }]);
    const named = [...meta.filters.map((f) => f.name), "resample"];
    const rest = Object.keys(ledger.dropped).filter((name) => !named.includes(name));
    const dropped = (name) => [name, ledger.dropped[name] || 0, { ...of, outcome: "dropped", filter: name }];
    const filters = meta.filters.filter((f) => modality === "all" || f.asks.includes(modality)).map((f) => dropped(f.name));
    const copies = ["duplicates", ledger.duplicates, { ...of, outcome: "duplicate" }];
    const thinned = meta.resample && (modality === "all" || meta.resample.modalities.includes(modality)) ? [dropped("resample")] : [];
    return [...failed, ...filters, ...rest.map(dropped), copies, ...thinned];
  }

  function cascade(meta) {
    const box = el("div", { class: "cascade" });
    const choose = el("div", { class: "chooser", role: "group", "aria-label": "Modality" });
    const names = ["all", ...ORDER.filter((name) => meta.ledger[name])];
    function draw(name) {
      const ledger = meta.ledger[name];
      const all = ledger.inputs;
      let left = all;
      const of = name === "all" ? {} : { modality: name };
      const lines = [line("inputs", null, all, all, 0, of, "whole")];
      for (const [title, stopped, query] of steps(ledger, meta, name)) {
        left -= stopped;
        lines.push(line(title, stopped, left, all, stopped, query, ""));
      }
      lines.push(line("kept", null, ledger.kept, all, 0, { ...of, outcome: "kept" }, "whole good"));
      box.replaceChildren(...lines);
      for (const button of choose.children) button.setAttribute("aria-pressed", String(button.value === name));
    }
    for (const name of names) {
      choose.append(el("button", { type: "button", value: name, onclick: () => draw(name) }, name === "all" ? "all" : fmt.word(name)));
    }
    draw("all");
    return [choose, box];
  }

  function line(title, stopped, left, all, gone, query, kind) {
    const words = stopped === null ? `${title}: ${fmt.count(left)}` : `${title} stops ${fmt.count(stopped)}, ${fmt.count(left)} remain`;
    return el("a", { class: `step ${kind}`, href: link("samples", query), title: words },
      el("span", { class: "name" }, title),
      el("span", { class: "stopped" }, stopped === null ? "" : stopped ? `− ${fmt.count(stopped)}` : "0"),
      charts.bar([[all ? left / all : 0, "stay"], [all ? gone / all : 0, "gone"]], words),
      el("span", { class: "left" }, fmt.count(left)),
      el("span", { class: "share" }, fmt.share(left, all)));
  }

  function figures(meta) {
    const all = meta.ledger.all;
    const sum = (name) => meta.shards.reduce((total, shard) => total + shard[name], 0);
    const entries = [
      [fmt.count(all.inputs), "inputs"],
      ...(all.ignored ? [[fmt.count(all.ignored), "read, and no input"]] : []),
      ...(all.unused_captions ? [[fmt.count(all.unused_captions), "captions not used"]] : []),
      [fmt.count(all.kept), `kept, ${fmt.share(all.kept, all.inputs)}`],
      [fmt.count(sum("tokens")), "tokens"],
      [fmt.seconds(sum("seconds")), "of video"],
      [fmt.bytes(sum("bytes")), `in ${fmt.count(meta.shards.length)} shards`],
    ];
    return el("dl", { class: "figures" }, entries.map(([value, name]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  }

  function shares(meta) {
    const units = [["samples", fmt.count], ["tokens", fmt.count], ["seconds", fmt.seconds], ["bytes", fmt.bytes]];
    const legend = el("p", { class: "legend" }, meta.shares.map((part, i) =>
      el("span", {}, el("i", { class: `tint-${ORDER.indexOf(part.modality)}` }), fmt.word(part.modality))));
    const lines = units.map(([unit, show]) => {
      const all = meta.shares.reduce((total, part) => total + part[unit], 0);
      const parts = meta.shares.map((part) => [all ? part[unit] / all : 0, `tint-${ORDER.indexOf(part.modality)}`,
        `${fmt.word(part.modality)}: ${show(part[unit])}, ${fmt.share(part[unit], all)}`]);
      return el("div", { class: "mix" },
        el("span", { class: "name" }, unit),
        charts.bar(parts, parts.map((part) => part[2]).join("; ")),
        el("span", { class: "total" }, show(all)));
    });
    const table = el("table", { class: "numbers" },
      el("thead", {}, el("tr", {}, el("th", {}, "share"), meta.shares.map((part) => el("th", {}, fmt.word(part.modality))))),
      el("tbody", {}, units.map(([unit]) => {
        const all = meta.shares.reduce((total, part) => total + part[unit], 0);
        return el("tr", {}, el("th", {}, unit), meta.shares.map((part) => el("td", {}, fmt.share(part[unit], all))));
      })));
    return [legend, ...lines, table];
  }

  function facts(meta) {
    return meta.facts.map((fact) => {
      const box = el("div");
      charts.histogram(box, fact.histogram, { label: fact.title });
      return el("figure", {},
        el("figcaption", {}, el("b", {}, fact.title), el("span", {}, `${fact.unit}, median ${fmt.number(fact.histogram.median)}`)),
        box);
    });
  }

  /** For each filter the thresholds that are set and can stop a sample. */
  function scores(meta) {
    const chosen = meta.what_if.filter((entry) => entry.now !== null && entry.histogram && entry.decides > 0);
    const best = new Map();
    for (const entry of chosen) {
      const list = best.get(entry.filter) || [];
      list.push(entry);
      // The two that stop most; one that stops nothing only where no other of its filter does.
      list.sort((a, b) => b.stops - a.stops || b.decides - a.decides);
      best.set(entry.filter, list.filter((other, i) => i < 2 && (i === 0 || other.stops > 0)));
    }
    return [...best.values()].flat().map((entry) => {
      const box = el("div");
      charts.histogram(box, entry.histogram, { marks: () => [entry.now], label: entry.name });
      const sign = { min: "≥", max: "≤", below: "<" }[entry.side];
      return el("figure", {},
        el("figcaption", {},
          el("a", { href: link(`thresholds/${entry.name}`) }, entry.name),
          el("span", {}, `passes ${sign} ${fmt.number(entry.now)}`)),
        box);
    });
  }

  function table(name, rows) {
    const most = 12;
    const shown = rows.slice(0, most);
    const body = shown.map(([value, n, kept]) => el("tr", {},
      el("th", {}, name === "container" ? value || "none" : el("a", { href: link("samples", { [name]: value || "(none)" }) }, value || "none")),
      el("td", {}, fmt.count(n)), el("td", {}, fmt.count(kept)),
      el("td", { class: "wide" }, charts.bar([[n ? kept / n : 0, "stay"]], `${fmt.share(kept, n)} kept`)),
      el("td", {}, fmt.share(kept, n))));
    return el("div", {},
      el("table", { class: "numbers lines" },
        el("thead", {}, el("tr", {}, el("th", {}, name === "container" ? "format" : name), el("th", {}, "inputs"), el("th", {}, "kept"), el("th", { colspan: 2 }, "share kept"))),
        el("tbody", {}, body)),
      rows.length > most ? el("p", { class: "note" }, `and ${fmt.count(rows.length - most)} more`) : null);
  }

  function leftOut(meta) {
    const m = meta.media;
    const parts = [
      `All ${fmt.count(meta.rows.count)} inputs are rows of this report.`,
      m.asked
        ? `${fmt.count(m.shown)} of ${fmt.count(m.asked)} samples with media have a picture, ${fmt.count(m.clips)} of ${fmt.count(m.videos)} videos a silent clip: ` +
          `at most ${fmt.count(m.most)} pictures and ${fmt.count(m.most_clips)} clips for each filter and outcome, chosen by a deterministic draw per key.`
        : "No sample has media.",
      `Lists and search cover the first ${meta.rows.preview} characters of a text, a sample's page the first ${fmt.count(meta.details.longest)}.`,
    ];
    const missing = m.missing.map(([why, n]) => `${why} ${fmt.count(n)}`).join(", ");
    if (missing) parts.push(`No picture could be drawn for: ${missing}.`);
    return parts.map((text) => el("p", {}, text));
  }

  function show() {
    const meta = data.meta;
    const nodes = [
      el("section", { class: "head" }, el("h1", {}, meta.name), el("p", { class: "lead" }, meta.description), figures(meta)),
      el("section", {}, el("h2", {}, "Every input and its outcome"), cascade(meta)),
      meta.shares.length ? el("section", {}, el("h2", {}, "Kept samples by modality"), shares(meta)) : null,
      el("section", {}, el("h2", {}, "What the filters measured"),
        el("p", { class: "legend" }, el("span", {}, el("i", { class: "kept" }), "kept"), el("span", {}, el("i", { class: "others" }), "not kept"),
          el("span", {}, el("i", { class: "line" }), "threshold")),
        el("div", { class: "multiples" }, scores(meta))),
      el("section", {}, el("h2", {}, "Sizes"), el("div", { class: "multiples" }, facts(meta))),
      el("section", {}, el("h2", {}, "Provenance"),
        el("div", { class: "tables" }, meta.tables.filter(([, rows]) => rows.some(([value]) => value)).map(([name, rows]) => table(name, rows)))),
      el("section", { class: "fine" }, el("h2", {}, "Limits of this report"), leftOut(meta)),
      el("section", { class: "fine" }, el("h2", {}, "Fingerprints"),
        el("table", { class: "numbers prints" }, el("tbody", {},
          el("tr", {}, el("th", {}, "config"), el("td", {}, ""), el("td", { class: "mono" }, meta.config_fingerprint)),
          meta.stages.map(([stage, rows, print]) => el("tr", {}, el("th", {}, stage), el("td", {}, `${fmt.count(rows)} rows`), el("td", { class: "mono" }, print)))))),
    ];
    return { nodes };
  }

  return { show };
})();

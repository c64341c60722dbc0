"use strict";

// A mixture: what it was to be, and what it came to.
RM.pages.mixture = (() => {
  const { el, fmt, charts, data } = RM;
  const ORDER = ["video", "image", "multi_image", "text"];
  const SHOW = { samples: fmt.count, tokens: fmt.count, seconds: fmt.seconds, bytes: fmt.bytes };

  function shares(meta) {
    const parts = meta.modalities.map((name) => [name, `tint-${ORDER.indexOf(name)}`]);
    const sum = (unit, name) => meta.groups.filter((g) => !name || g.modality === name).reduce((n, g) => n + g[unit], 0);
    return [
      el("p", { class: "legend" }, parts.map(([name, tint]) => el("span", {}, el("i", { class: tint }), fmt.word(name)))),
      Object.keys(SHOW).map((unit) => {
        const all = sum(unit);
        const titles = parts.map(([name]) => `${fmt.word(name)} ${fmt.share(sum(unit, name), all)}`);
        return el("div", { class: unit === meta.unit ? "mix binding" : "mix" }, el("span", { class: "name" }, unit),
          charts.bar(parts.map(([name, tint], i) => [all ? sum(unit, name) / all : 0, tint, titles[i]]), `${unit}: ${titles.join(", ")}`),
          el("span", { class: "total" }, SHOW[unit](all)));
      }),
    ];
  }

  /** The recipe's range, and the mixture's share within it. */
  function band(low, high, at) {
    const box = el("div", { class: "band", role: "img", "aria-label": `requested ${fmt.percent(low)} to ${fmt.percent(high)}, achieved ${fmt.percent(at)}` });
    const asked = el("span", { class: "asked" });
    asked.style.left = `${100 * low}%`;
    asked.style.width = `${Math.max(0.4, 100 * (high - low))}%`;
    const mark = el("span", { class: "at" });
    mark.style.left = `${100 * at}%`;
    box.append(asked, mark);
    return box;
  }

  function constraints(meta) {
    // Samples are whole: the planner may miss a share by a sample of each group.
    const slack = meta.groups.length / Math.max(1, meta.totals.samples);
    const inRange = (at, low, high) => at >= low - slack && at <= high + slack;
    if (!meta.constraints.length && !meta.ratios.length) return el("p", { class: "note" }, "The recipe sets no shares.");
    return el("table", { class: "numbers lines bands" },
      el("thead", {}, el("tr", {}, el("th", {}, "requested"), el("th", { class: "wide" }, ""), Object.keys(SHOW).map((unit) => el("th", {}, unit === meta.unit ? `${unit}, the recipe's unit` : unit)))),
      el("tbody", {}, meta.constraints.map((rule) => {
        const at = rule.achieved[meta.unit];
        const holds = inRange(at, rule.low ?? 0, rule.high ?? 1);
        return el("tr", {}, el("th", {}, rule.label), el("td", { class: "wide" }, band(rule.low ?? 0, rule.high ?? 1, at)),
          Object.keys(SHOW).map((unit) => el("td", { class: unit === meta.unit ? (holds ? "more" : "alarm-text") : "" }, fmt.percent(rule.achieved[unit]))));
      }), meta.ratios.map((rule) => {
        const at = rule.achieved[meta.unit];
        const holds = at === null || inRange(at, rule.low, rule.high);
        return el("tr", {}, el("th", {}, `${rule.label} ${fmt.number(rule.low)} to ${fmt.number(rule.high)}`), el("td", { class: "wide" }),
          Object.keys(SHOW).map((unit) => el("td", { class: unit === meta.unit ? (holds ? "more" : "alarm-text") : "" }, fmt.number(rule.achieved[unit]))));
      })));
  }

  function groups(meta) {
    return el("table", { class: "numbers lines" },
      el("thead", {}, el("tr", {}, ["group", "available", "taken", "tokens", "seconds", "bytes"].map((name) => el("th", {}, name)))),
      el("tbody", {}, meta.groups.map((g) => el("tr", {}, el("th", {}, g.name), el("td", {}, fmt.count(g.available)), el("td", {}, fmt.count(g.samples)),
        el("td", {}, fmt.count(g.tokens)), el("td", {}, fmt.seconds(g.seconds)), el("td", {}, fmt.bytes(g.bytes))))));
  }

  function vshards(meta) {
    const lists = meta.vshards[meta.unit];
    const count = lists.length ? lists[0].length : 0;
    const most = 60;
    const lines = Array.from({ length: Math.min(count, most) }, (_, v) => {
      const all = lists.reduce((n, list) => n + list[v], 0);
      const parts = meta.modalities.map((name, i) => [all ? lists[i][v] / all : 0, `tint-${ORDER.indexOf(name)}`, `${fmt.word(name)} ${fmt.share(lists[i][v], all)}`]);
      return el("div", { class: "mix thin" }, el("span", { class: "name" }, `${v}`), charts.bar(parts, parts.map((p) => p[2]).join(", ")), el("span", { class: "total" }, SHOW[meta.unit](all)));
    });
    const shares = meta.modalities.map((name, i) => {
      const each = lists[i].map((n, v) => { const all = lists.reduce((sum, list) => sum + list[v], 0); return all ? n / all : 0; });
      return `${fmt.word(name)} ${fmt.percent(Math.min(...each))} to ${fmt.percent(Math.max(...each))}`;
    });
    return [el("p", { class: "note" }, `${fmt.plural(count, "virtual shard", "virtual shards")}; shares of ${meta.unit}: ${shares.join(", ")}.`), lines,
      count > most ? el("p", { class: "note" }, `The first ${most} are shown; the ranges above cover all.`) : null];
  }

  function table(name, rows, all) {
    const most = 12;
    return el("div", {}, el("table", { class: "numbers lines" },
      el("thead", {}, el("tr", {}, el("th", {}, name), el("th", {}, "samples"), el("th", {}, "distinct"), el("th", { colspan: 2 }, "share"))),
      el("tbody", {}, rows.slice(0, most).map(([value, n, different]) => el("tr", {}, el("th", {}, value || "none"), el("td", {}, fmt.count(n)), el("td", {}, fmt.count(different)),
        el("td", { class: "wide" }, charts.bar([[n / all, "stay"]], fmt.share(n, all))), el("td", {}, fmt.share(n, all)))))),
      rows.length > most ? el("p", { class: "note" }, `and ${fmt.count(rows.length - most)} more`) : null);
  }

  function show() {
    const meta = data.meta;
    const figures = [...Object.keys(SHOW).map((unit) => [SHOW[unit](meta.totals[unit]), unit === "seconds" ? "of video" : unit]), [fmt.count(meta.repeated), "repeats"]];
    const nodes = [
      el("section", { class: "head" }, el("h1", {}, meta.name),
        el("p", { class: "lead" }, `A mixture of ${fmt.plural(meta.parents.length, "run", "runs")}, measured in ${meta.unit}, seed ${meta.seed}; ${meta.materialized ? "materialized as tars" : "a manifest over the runs' shards, no media copied"}.`),
        el("dl", { class: "figures" }, figures.map(([value, name]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))))),
      meta.warnings.length ? el("section", {}, el("h2", {}, "Warnings"), meta.warnings.map((text) => el("p", { class: "warning" }, text))) : null,
      el("section", {}, el("h2", {}, "Shares"), shares(meta)),
      el("section", {}, el("h2", {}, "Shares against the recipe"), constraints(meta)),
      el("section", {}, el("h2", {}, "Amounts by group"), groups(meta)),
      meta.tables.length ? el("section", {}, el("h2", {}, "Provenance"), el("div", { class: "tables" }, meta.tables.map(([name, rows]) => table(name, rows, meta.totals.samples))))
        : el("section", {}, el("p", { class: "note" }, "The runs of this mixture were not found, so sources and licences are not counted.")),
      el("section", {}, el("h2", {}, "Virtual shards"), vshards(meta)),
      el("section", { class: "fine" }, el("h2", {}, "Fingerprints"),
        el("table", { class: "numbers prints" }, el("tbody", {},
          el("tr", {}, el("th", {}, "members"), el("td", {}, `${fmt.count(meta.members.rows)} rows`), el("td", { class: "mono" }, meta.members.sha256)),
          meta.parents.map((parent) => el("tr", {}, el("th", {}, parent.name), el("td", {}, parent.run), el("td", { class: "mono" }, parent.members))))),
        el("details", {}, el("summary", {}, "recipe"), el("pre", {}, JSON.stringify(meta.recipe, null, 2)))),
    ];
    return { nodes };
  }

  return { show };
})();

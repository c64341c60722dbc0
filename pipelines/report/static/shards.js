"use strict";

// The shards, and each one's card.
RM.pages.shards = (() => {
  const { el, fmt, link, load, charts, data } = RM;

  function all() {
    const most = Math.max(...data.meta.shards.map((shard) => shard.bytes), 1);
    return [
      el("section", { class: "head" }, el("h1", {}, "Shards"), el("p", { class: "lead" }, `${fmt.count(data.meta.shards.length)} tar files, each with a card that describes its contents.`)),
      el("section", {}, el("table", { class: "numbers lines" },
        el("thead", {}, el("tr", {}, ["shard", "samples", "tokens", "video", "media", ""].map((name) => el("th", {}, name)))),
        el("tbody", {}, data.meta.shards.map((shard) => el("tr", {},
          el("th", {}, el("a", { href: link(`shards/${shard.name}`) }, shard.name)), el("td", {}, fmt.count(shard.samples)), el("td", {}, fmt.count(shard.tokens)),
          el("td", {}, shard.seconds ? fmt.seconds(shard.seconds) : ""), el("td", {}, fmt.bytes(shard.bytes)),
          el("td", { class: "wide" }, charts.bar([[shard.bytes / most, "stay"]], fmt.bytes(shard.bytes)))))))),
    ];
  }

  function counts(title, found) {
    const list = Object.entries(found || {}).sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    if (!list.length) return null;
    return el("div", {}, el("table", { class: "numbers lines" },
      el("thead", {}, el("tr", {}, el("th", {}, title), el("th", {}, ""))),
      el("tbody", {}, list.map(([name, n]) => el("tr", {}, el("th", {}, name || "none"), el("td", {}, fmt.count(n)))))));
  }

  function one(name, card) {
    const ledger = card.ledger;
    const figures = [[fmt.count(card.samples), "samples"], [fmt.count(card.tokens), "tokens"], [fmt.bytes(card.tar.bytes), "tar"], ...(card.seconds ? [[fmt.seconds(card.seconds), "of video"]] : [])];
    const stopped = { ...Object.fromEntries(Object.entries(ledger.failed || {}).map(([k, v]) => [`failed at ${k}`, v])), ...ledger.dropped, ...(ledger.duplicates ? { duplicates: ledger.duplicates } : {}) };
    const charted = Object.entries(card.scores).map(([signal, found]) => {
      const box = el("div");
      charts.histogram(box, { edges: found.edges, kept: found.counts, others: found.counts.map(() => 0), count: found.count, median: found.p50, min: found.min, max: found.max }, { label: signal });
      return el("figure", {}, el("figcaption", {}, el("b", {}, signal), el("span", {}, `median ${fmt.number(found.p50)}`)), box);
    });
    const written = card.dialogues ? counts("dialogues", card.dialogues.kinds) : null;
    return [
      el("section", { class: "head" }, el("p", { class: "crumbs" }, el("a", { href: link("shards") }, "Shards")), el("h1", {}, name),
        el("p", { class: "lead" }, `${fmt.word(card.modality)}: ${card.suffixes.join(", ")}. `, el("a", { href: link("samples", { shard: name }) }, "Its samples")),
        el("dl", { class: "figures" }, figures.map(([value, title]) => el("div", {}, el("dt", {}, title), el("dd", {}, value))))),
      el("section", {}, el("h2", {}, "Contents"), el("div", { class: "tables" }, counts("source", card.sources), counts("licence", card.licences), counts("kind", card.kinds), counts("language", card.languages), written)),
      el("section", {}, el("h2", {}, "Inputs that were not kept"),
        el("p", { class: "note" }, `${fmt.count(ledger.inputs)} inputs are counted by this shard; ${fmt.count(ledger.kept)} were kept.`),
        el("div", { class: "tables" }, counts("stopped by", stopped), counts("reason", card.reasons))),
      charted.length ? el("section", {}, el("h2", {}, "Scores of kept samples"), el("div", { class: "multiples" }, charted)) : null,
      el("section", { class: "fine" }, el("h2", {}, "Fingerprints"),
        el("dl", { class: "facts" }, el("dt", {}, "sha256"), el("dd", { class: "mono" }, card.tar.sha256),
          el("dt", {}, "made by"), el("dd", {}, `reelmill ${card.made_by.reelmill}, seed ${card.made_by.seed}`),
          Object.entries(card.made_by.manifests).map(([stage, print]) => [el("dt", {}, stage), el("dd", { class: "mono" }, print)])),
        el("details", {}, el("summary", {}, "card as JSON"), el("pre", {}, JSON.stringify(card, null, 2)))),
    ];
  }

  function show(where) {
    const name = where.page[1];
    if (!name || !data.meta.shards.some((shard) => shard.name === name)) return { nodes: all() };
    const box = el("div", {}, el("p", { class: "waiting" }, "Opening …"));
    load(`shard-${name}`).then((card) => { box.replaceChildren(); RM.add(box, one(name, card)); })
      .catch((error) => box.replaceChildren(el("p", { class: "alarm" }, `${error.message}.`)));
    return { nodes: [box] };
  }

  return { show };
})();

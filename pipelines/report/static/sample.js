"use strict";

// One sample: media, text, verdict, dialogue, measurements and provenance.
RM.sample = (() => {
  const { el, fmt, link, rows, data } = RM;

  const OUTCOMES = { kept: "kept", dropped: "dropped", duplicate: "duplicate", failed: "failed" };

  function pill(row) {
    const outcome = rows.word("outcome", row);
    return el("span", { class: `pill ${OUTCOMES[outcome] || ""}` }, outcome);
  }

  /** A picture, or a label if there is none. */
  function picture(row, index = 0) {
    if (rows.pictures(row) > index) return el("img", { src: rows.picture(row, index), alt: "", loading: "lazy", decoding: "async" });
    const modality = rows.word("modality", row);
    return el("span", { class: `blank ${modality}`, "aria-hidden": "true" }, modality === "text" ? "Aa" : "no picture");
  }

  /** Why it was stopped, on one line. */
  function verdict(row) {
    const by = rows.word("filter", row);
    const reason = rows.word("reason", row);
    const value = rows.columns.value[row];
    const held = rows.columns.threshold[row];
    const sign = value < held ? "<" : value > held ? ">" : "=";
    const numbers = Number.isNaN(value) ? "" : ` ${fmt.number(value)} ${sign} ${fmt.number(held)}`;
    return by ? `${by}: ${fmt.word(reason)}${numbers}` : "";
  }

  function media(row, detail) {
    if (rows.word("modality", row) === "text") return null;
    if (rows.moves(row)) {
      return el("div", { class: "media" },
        el("video", { src: rows.clip(row), poster: rows.picture(row), controls: true, loop: true, muted: true, playsinline: true, preload: "metadata" }));
    }
    const count = rows.pictures(row);
    if (!count) {
      const why = detail.picture || "Only some samples of each filter and outcome have a picture.";
      return el("div", { class: "media none" }, el("p", {}, "No picture."), el("p", {}, why));
    }
    return el("div", { class: `media of-${count}` }, Array.from({ length: count }, (_, i) => picture(row, i)));
  }

  function decision(row, detail) {
    const outcome = rows.word("outcome", row);
    const by = rows.word("filter", row);
    const lines = [];
    if (outcome === "dropped" || outcome === "failed") {
      lines.push(["stopped by", by], ["reason", detail.reason]);
    }
    if (outcome === "duplicate") {
      const other = rows.find(detail.duplicate_of);
      lines.push(["copy of", other < 0 ? detail.duplicate_of : el("a", { href: link("samples", { key: detail.duplicate_of }), class: "mono" }, detail.duplicate_of)]);
    }
    const value = rows.columns.value[row];
    if (!Number.isNaN(value)) lines.push(["value", fmt.number(value, true)], ["threshold", fmt.number(rows.columns.threshold[row], true)]);
    if (detail.keep_probability !== null) lines.push(["keep probability", fmt.number(detail.keep_probability, true)]);
    for (const [filter, reason, v, t] of detail.others) {
      lines.push([`also ${filter}`, `${fmt.word(reason)}, ${fmt.number(v, true)} against ${fmt.number(t, true)}`]);
    }
    return lines.length ? facts("Verdict", lines) : null;
  }

  function facts(title, lines) {
    const known = lines.filter(([, value]) => value !== "" && value !== null && value !== undefined);
    return el("section", {}, el("h3", {}, title),
      el("dl", { class: "facts" }, known.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
  }

  function span(start, end) {
    return start === null || start === undefined || end === null || end === undefined ? "" : `${fmt.number(start)}–${fmt.number(end)} s`;
  }

  function dialogue(held) {
    const cited = new Set(held.turns.flatMap((turn) => turn.evidence));
    const turns = held.turns.map((turn) => el("li", { class: turn.outcome === "accepted" ? "" : "rejected" },
      el("p", { class: "question" }, turn.question),
      el("p", { class: "answer" }, turn.answer),
      el("p", { class: "cites" }, span(turn.start_s, turn.end_s), " ", turn.evidence.map((id) => el("span", { class: "cite" }, id)),
        turn.outcome === "accepted" ? "" : ` ${turn.outcome}: ${turn.reason}`,
        turn.blind_rate === null ? "" : ` answered correctly without the video: ${fmt.percent(turn.blind_rate)}`)));
    const items = held.evidence.map(([id, kind, start, end, text]) => el("tr", { class: cited.has(id) ? "cited" : "" },
      el("th", { class: "mono" }, id), el("td", {}, kind), el("td", {}, span(start, end)), el("td", { class: "text" }, text)));
    const by = held.generator === "rules" ? "written by rules" : held.model;
    return el("section", {}, el("h3", {}, "Dialogue"),
      el("p", { class: "note" }, `${fmt.word(held.kind)}, ${held.outcome}${held.reason ? `: ${held.reason}` : ""}; ${by}`),
      el("ol", { class: "turns" }, turns),
      el("h3", {}, "Evidence"),
      el("table", { class: "evidence" }, el("tbody", {}, items)));
  }

  function conversation(turns) {
    return el("section", {}, el("h3", {}, "Conversation from the source"),
      el("ol", { class: "turns" }, turns.map(([who, what]) => el("li", {}, el("p", { class: "cites" }, who), el("p", { class: "answer" }, what)))));
  }

  function signals(row, detail) {
    const groups = new Map();
    data.meta.details.columns.forEach((name, i) => {
      const value = detail.signals[i];
      if (value === null || value === "") return;
      const [annotator, ...rest] = name.split(".");
      if (!groups.has(annotator)) groups.set(annotator, []);
      groups.get(annotator).push([fmt.word(rest.join(".")), typeof value === "number" ? fmt.number(value, true) : String(value)]);
    });
    return el("section", {}, el("h3", {}, "Measured"), [...groups].map(([annotator, lines]) =>
      el("details", { open: lines.length <= 8 }, el("summary", {}, annotator, el("span", {}, fmt.count(lines.length))),
        el("dl", { class: "facts two" }, lines.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])))));
  }

  function origin(row, detail) {
    const shard = rows.word("shard", row);
    const lines = [
      ["source", rows.word("source", row)], ["file", rows.where(row)], ["licence", rows.word("licence", row)], ["origin", detail.origin],
    ];
    for (const [uri, offset, length, start, end, sha] of detail.media) {
      lines.push(["medium", length < 0 ? uri : `${uri}, ${fmt.count(length)} bytes at ${fmt.count(offset)}`]);
      if (start > 0 || end >= 0) lines.push(["span", `${start} s to ${end < 0 ? "the end" : `${end} s`}`]);
      if (sha) lines.push(["sha256", el("span", { class: "mono" }, sha)]);
    }
    if (shard) {
      lines.push(["shard", el("a", { href: link(`shards/${shard}`) }, shard)]);
      if (detail.member) lines.push(["in the tar", `${fmt.count(detail.member.size)} bytes at ${fmt.count(detail.member.offset)}`], ["tokens", fmt.count(detail.member.tokens)], ["kind", detail.member.kind]);
    }
    return facts("Provenance", lines);
  }

  function text(detail) {
    const more = detail.characters ? el("p", { class: "note" }, `The first ${fmt.count(data.meta.details.longest)} of ${fmt.count(detail.characters)} characters.`) : null;
    return [
      el("section", {}, el("h3", {}, "Text"), el("p", { class: "said" }, detail.text || "No text."), more),
      detail.raw ? el("section", {}, el("details", {}, el("summary", {}, "text of the source"), el("p", { class: "said" }, detail.raw))) : null,
    ];
  }

  /** The nodes of one sample. */
  function nodes(row, detail) {
    return [
      el("header", {}, pill(row), el("span", {}, fmt.word(rows.word("modality", row))), el("code", {}, rows.key(row))),
      media(row, detail), text(detail), decision(row, detail),
      detail.dialogue ? dialogue(detail.dialogue) : detail.conversation ? conversation(detail.conversation) : null,
      signals(row, detail), origin(row, detail),
    ];
  }

  return { nodes, pill, picture, verdict };
})();

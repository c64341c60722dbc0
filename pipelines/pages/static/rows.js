"use strict";

// The samples, one row each, in typed columns. Files come one after another; whoever shows rows is told of each.
RM.rows = (() => {
  const { data, load, codes, numbers } = RM;
  const KEY = 26;
  const NAMES = ["modality", "source", "outcome", "filter", "reason", "licence", "language", "shard", "pictures"];
  const listeners = new Set();
  const columns = {};
  const texts = [];
  const places = [];
  const keys = [];
  const lower = [];
  let ready = 0;
  let meta = null;

  async function open() {
    meta = data.meta;
    const { count, chunk } = meta.rows;
    for (const name of NAMES) columns[name] = new Uint32Array(count);
    for (const name of ["value", "threshold"]) columns[name] = new Float64Array(count).fill(NaN);
    for (let index = 0; index * chunk < count; index++) {
      const name = `rows-${String(index).padStart(5, "0")}`;
      const part = await load(name);
      const start = index * chunk;
      for (const column of NAMES) columns[column].set(codes(part[column]), start);
      for (const column of ["value", "threshold"]) columns[column].set(numbers(part[column]), start);
      keys.push(part.keys);
      texts.push(part.texts.split("\n"));
      places.push(part.places.split("\n"));
      delete data[name];
      ready = Math.min(count, start + chunk);
      listeners.forEach((tell) => tell());
      await new Promise((done) => setTimeout(done));
    }
  }

  const at = (list, row) => list[Math.floor(row / meta.rows.chunk)][row % meta.rows.chunk];

  function key(row) {
    const inside = (row % meta.rows.chunk) * KEY;
    return keys[Math.floor(row / meta.rows.chunk)].slice(inside, inside + KEY);
  }

  /** The row of a key, -1 where there is none (yet). */
  function find(wanted) {
    for (let index = 0; index < keys.length; index++) {
      for (let at = keys[index].indexOf(wanted); at >= 0; at = keys[index].indexOf(wanted, at + 1)) {
        if (at % KEY === 0 && wanted.length === KEY) return index * meta.rows.chunk + at / KEY;
      }
    }
    return -1;
  }

  /** Whether a row's key, text or place holds `words`, which are in lower case. */
  function says(row, words) {
    const index = Math.floor(row / meta.rows.chunk);
    if (!lower[index]) lower[index] = texts[index].map((text, i) => `${text} ${places[index][i]}`.toLowerCase());
    return lower[index][row % meta.rows.chunk].includes(words) || key(row).startsWith(words);
  }

  /** The word behind a row's code: word("outcome", 3) = "kept". */
  const word = (column, row) => meta.words[column][columns[column][row]];

  /** A signal of every row, as doubles. */
  async function column(name) {
    const packed = await load(`column-${name}`);
    if (!(packed instanceof Float64Array)) data[`column-${name}`] = numbers(packed);
    return data[`column-${name}`];
  }

  /** What the page of one sample shows. */
  async function detail(row) {
    const { chunk } = meta.details;
    return (await load(`detail-${String(Math.floor(row / chunk)).padStart(5, "0")}`))[row % chunk];
  }

  return {
    open, key, find, says, word, column, detail, columns,
    text: (row) => at(texts, row),
    where: (row) => at(places, row),
    picture: (row, index = 0) => `thumbs/${key(row).slice(0, 2)}/${key(row)}-${index}.jpg`,
    clip: (row) => `clips/${key(row).slice(0, 2)}/${key(row)}.mp4`,
    pictures: (row) => columns.pictures[row] & 7,
    moves: (row) => (columns.pictures[row] & 8) > 0,
    get ready() { return ready; },
    get count() { return data.meta.rows.count; },
    listen: (tell) => { listeners.add(tell); return () => listeners.delete(tell); },
  };
})();

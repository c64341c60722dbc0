"use strict";

// The samples, one row each, in typed columns. Texts are loaded afterwards, file by file, those in view first; listeners
// are notified after each file.
RM.rows = (() => {
  const { data, load, codes, numbers } = RM;
  const KEY = 26;
  const NAMES = ["modality", "source", "outcome", "filter", "reason", "licence", "language", "shard", "pictures"];
  const listeners = new Set();
  const columns = {};
  const texts = [];
  const places = [];
  const lower = [];
  let keys = "";
  let ready = 0;
  let wanted = 0;
  let missing = 0;
  let meta = null;

  async function open() {
    meta = data.meta;
    const { count, chunk } = meta.rows;
    missing = Math.ceil(count / chunk);
    const index = await load("rows");
    for (const name of NAMES) columns[name] = codes(index[name]);
    for (const name of ["value", "threshold"]) columns[name] = numbers(index[name]);
    keys = index.keys;
    delete data.rows;
    ready = count;
    notify();
    while (missing) {
      let next = texts[wanted] ? 0 : wanted;
      while (texts[next]) next++;
      const name = `texts-${String(next).padStart(5, "0")}`;
      const part = await load(name);
      texts[next] = part.texts.split("\n");
      places[next] = part.places.split("\n");
      delete data[name];
      missing--;
      notify();
      await new Promise((done) => setTimeout(done));
    }
  }

  const notify = () => listeners.forEach((listener) => listener());

  /** A row's entry in a list that is loaded file by file; null if its file is not loaded, which is then loaded next. */
  function at(list, row) {
    const index = Math.floor(row / meta.rows.chunk);
    if (list[index]) return list[index][row % meta.rows.chunk];
    wanted = index;
    return null;
  }

  const key = (row) => keys.slice(row * KEY, row * KEY + KEY);

  /** The row of a key, -1 if there is none. */
  function find(wantedKey) {
    if (wantedKey.length !== KEY) return -1;
    let at = keys.indexOf(wantedKey);
    while (at >= 0 && at % KEY) at = keys.indexOf(wantedKey, at + 1);
    return at < 0 ? -1 : at / KEY;
  }

  /** Whether a row's key, text or position contains `words`, which are in lower case. */
  function matches(row, words) {
    const index = Math.floor(row / meta.rows.chunk);
    if (keys.startsWith(words, row * KEY)) return true;
    if (!texts[index]) return false;
    if (!lower[index]) lower[index] = texts[index].map((text, i) => `${text} ${places[index][i]}`.toLowerCase());
    return lower[index][row % meta.rows.chunk].includes(words);
  }

  /** The word that a row's code stands for: word("outcome", 3) = "kept". */
  const word = (column, row) => meta.words[column][columns[column][row]];

  /** A signal of every row, as doubles. */
  async function column(name) {
    const packed = await load(`column-${name}`);
    if (!(packed instanceof Float64Array)) data[`column-${name}`] = numbers(packed);
    return data[`column-${name}`];
  }

  /** Load what the page of one sample shows. */
  async function detail(row) {
    const { chunk } = meta.details;
    return (await load(`detail-${String(Math.floor(row / chunk)).padStart(5, "0")}`))[row % chunk];
  }

  return {
    open, key, find, matches, word, column, detail, columns,
    text: (row) => at(texts, row),
    where: (row) => at(places, row),
    picture: (row, index = 0) => `thumbs/${key(row).slice(0, 2)}/${key(row)}-${index}.jpg`,
    clip: (row) => `clips/${key(row).slice(0, 2)}/${key(row)}.mp4`,
    pictures: (row) => columns.pictures[row] & 7,
    moves: (row) => (columns.pictures[row] & 8) > 0,
    get ready() { return ready; },
    get missing() { return missing; },
    get count() { return data.meta.rows.count; },
    listen: (listener) => { listeners.add(listener); return () => listeners.delete(listener); },
  };
})();

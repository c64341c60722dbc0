"use strict";

// Shared by all pages: elements, data files, numbers, addresses. Text is inserted as text nodes only, so no text of a
// sample can become markup.
const RM = (() => {
  const data = (window.REELMILL = window.REELMILL || {});
  const waiting = new Map();

  /** An element. attrs: attributes, or on… for a listener; children: nodes, strings, or null. */
  function el(tag, attrs, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attrs || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : String(value));
    }
    add(node, children);
    return node;
  }

  function add(node, children) {
    for (const child of children.flat(Infinity)) {
      if (child === null || child === undefined || child === false) continue;
      node.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
    return node;
  }

  /** Load the value of a data file; a page opened from disk can load scripts and nothing else. */
  function load(name) {
    if (data[name] !== undefined) return Promise.resolve(data[name]);
    if (!waiting.has(name)) {
      waiting.set(name, new Promise((resolve, reject) => {
        const script = el("script", { src: `data/${encodeURIComponent(name)}.js` });
        script.onload = () => {
          script.remove();
          data[name] === undefined ? reject(new Error(`data/${name}.js is damaged`)) : resolve(data[name]);
        };
        script.onerror = () => reject(new Error(`data/${name}.js is missing`));
        document.head.append(script);
      }));
    }
    return waiting.get(name);
  }

  function bytes(text) {
    const raw = atob(text);
    const out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out.buffer;
  }

  const KINDS = { u8: Uint8Array, u16: Uint16Array, u32: Uint32Array, i32: Int32Array, f64: Float64Array };

  /** Unpack whole numbers into a typed array. */
  function codes(packed) {
    return new KINDS[packed.kind](bytes(packed.data));
  }

  /** Unpack numbers into doubles, NaN for null: exactly the doubles that Python packed. */
  function numbers(packed) {
    const stored = codes(packed);
    if (packed.kind === "f64") return stored;
    const out = new Float64Array(stored.length);
    for (let i = 0; i < stored.length; i++) out[i] = stored[i] === packed.null ? NaN : stored[i] / packed.scale;
    return out;
  }

  const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

  const fmt = {
    count: (n) => whole.format(n),
    share: (part, all) => (all ? fmt.percent(part / all) : "–"),
    percent: (x) => `${(100 * x).toFixed(x === 0 || x === 1 ? 0 : 1)} %`,
    /** Four significant digits, or all digits if `exact`. */
    number: (x, exact) => {
      if (x === null || x === undefined || Number.isNaN(x)) return "–";
      if (Number.isInteger(x)) return whole.format(x);
      if (exact) return String(x);
      return Math.abs(x) >= 1000 ? whole.format(x) : String(Number(x.toPrecision(4)));
    },
    /** Two significant digits, for the ticks of an axis. */
    tick: (x) => {
      const size = Math.abs(x);
      const [scale, unit] = size >= 1e9 ? [1e9, "G"] : size >= 1e6 ? [1e6, "M"] : size >= 1e4 ? [1e3, "k"] : [1, ""];
      return `${Number((x / scale).toPrecision(2))}${unit}`;
    },
    plural: (n, one, many) => `${whole.format(n)} ${n === 1 ? one : many}`,
    bytes: (n) => {
      const units = ["B", "kB", "MB", "GB", "TB"];
      let i = 0;
      for (; n >= 1000 && i < units.length - 1; i++) n /= 1000;
      return `${i && n < 99.95 ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
    },
    seconds: (s) => (s >= 5400 ? `${(s / 3600).toFixed(1)} h` : s >= 90 ? `${(s / 60).toFixed(1)} min` : `${Number(s.toFixed(1))} s`),
    word: (name) => name.replaceAll("_", " "),
  };

  /** The page in the address: {page, query}. */
  function place() {
    const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
    return { page: path.split("/").map(decodeURIComponent), query: new URLSearchParams(query || "") };
  }

  function link(page, query) {
    const asked = new URLSearchParams(Object.entries(query || {}).filter(([, v]) => v !== "" && v !== null && v !== undefined));
    const text = asked.toString();
    return `#/${page}${text ? `?${text}` : ""}`;
  }

  /** Call `draw` once, when `node` is near the visible part of the page. */
  function whenSeen(node, draw) {
    const watch = new IntersectionObserver((seen) => {
      if (seen.some((entry) => entry.isIntersecting)) {
        watch.disconnect();
        draw();
      }
    }, { rootMargin: "200px" });
    watch.observe(node);
  }

  return { data, el, add, load, codes, numbers, fmt, place, link, whenSeen, pages: {} };
})();

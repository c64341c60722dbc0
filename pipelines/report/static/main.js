"use strict";

// Which page is shown. Pages are functions of (place) that return nodes; a page may leave a cleaner behind.
(() => {
  const { data, el, add, place, link, pages, fmt } = RM;
  const main = document.getElementById("main");
  const meta = data.meta;
  let clean = null;
  let shown = null;

  // A mixture's report is one page.
  if (meta.kind === "mixture") {
    pages[""] = pages.mixture;
    for (const name of Object.keys(pages)) if (name !== "") delete pages[name];
  }
  const TABS = meta.kind === "mixture" ? [["", "Overview", () => true]] : [
    ["", "Overview", () => true],
    ["samples", "Samples", () => meta.rows.count > 0],
    ["thresholds", "Thresholds", () => meta.what_if.length > 0],
    ["duplicates", "Duplicates", () => meta.rows.count > 0],
    ["shards", "Shards", () => meta.shards.length > 0],
  ];

  function tabs(current) {
    const nav = document.getElementById("tabs");
    nav.replaceChildren(...TABS.filter(([, , has]) => has()).map(([page, title]) =>
      el("a", { href: link(page), "aria-current": page === current ? "page" : null }, title)));
  }

  function show() {
    const where = place();
    const name = where.page[0] || "";
    const page = pages[name] || pages[""];
    if (shown === page && page.update) return page.update(where);
    if (clean) clean();
    clean = null;
    shown = page;
    tabs(pages[name] ? name : "");
    main.className = `page-${name || "overview"}`;
    main.replaceChildren();
    const made = page.show(where);
    add(main, [made.nodes]);
    clean = made.clean || null;
    if (made.after) made.after();
    scrollTo(0, 0);
    return undefined;
  }

  document.title = `${meta.name} · Reelmill`;
  document.getElementById("run").textContent = meta.name;
  addEventListener("hashchange", show);
  show();
  if (meta.kind === "run") RM.rows.open().catch((error) => {
    main.prepend(el("p", { class: "alarm", role: "alert" }, `This report is incomplete: ${error.message}.`));
  });
})();

// Tables that sort by the column one clicks, and plots whose points say who they are; click a point to pin its name.
"use strict";
for (const head of document.querySelectorAll("table.sortable thead th")) {
  head.tabIndex = 0;
  const sort = () => {
    const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
    const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down > 0 ? "ascending" : "descending");
    const key = (row) => {
      const cell = row.cells[column], value = cell.dataset.value ?? cell.textContent;
      return value === "" || isNaN(value) ? value : Number(value);
    };
    const order = (a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return x === "" ? (y === "" ? 0 : 1) : -1; // what is not known stays below
      return down * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
    };
    body.append(...[...body.rows].sort(order));
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
}
for (const plot of document.querySelectorAll(".plots")) {
  const tip = plot.querySelector(".tip");
  for (const dot of plot.querySelectorAll(".dot")) {
    const show = (event) => {
      tip.textContent = dot.dataset.tip;
      tip.hidden = false;
      const box = plot.getBoundingClientRect(), at = dot.getBoundingClientRect();
      tip.style.left = `${Math.min(at.right - box.left + 8, box.width - tip.offsetWidth - 4)}px`;
      tip.style.top = `${at.top - box.top - tip.offsetHeight - 6}px`;
    };
    dot.addEventListener("pointerenter", show);
    dot.addEventListener("focus", show);
    for (const name of ["pointerleave", "blur"]) dot.addEventListener(name, () => { tip.hidden = true; });
    const pin = () => {
      for (const same of plot.querySelectorAll(".dot")) {
        if (same.dataset.name === dot.dataset.name) same.classList.toggle("pinned");
      }
    };
    dot.addEventListener("click", pin);
    dot.addEventListener("keydown", (event) => { if (event.key === "Enter") pin(); });
  }
  for (const choice of plot.querySelectorAll("input[type=radio]")) {
    choice.addEventListener("change", () => {
      for (const one of plot.querySelectorAll(".plot")) one.hidden = one.dataset.axis !== choice.value;
    });
  }
}

// What the page does beyond being read. Without scripts all of it is there, but for these.
"use strict";

// A picture's link saves the picture that is shown, wherever the page was sent to.
for (const link of document.querySelectorAll("a[data-picture]")) {
  link.href = document.querySelector(`#${CSS.escape(link.dataset.picture)} figure img`).src;
}

// The LaTeX of a table, from its link to the clipboard.
for (const button of document.querySelectorAll("button.copy")) {
  const link = button.parentElement.querySelector('a[download$=".tex"]');
  if (!navigator.clipboard || !link.href.startsWith("data:")) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const bytes = Uint8Array.from(atob(link.href.split(",")[1]), (letter) => letter.charCodeAt(0));
    await navigator.clipboard.writeText(new TextDecoder().decode(bytes));
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy LaTeX"), 2000);
  });
}

// A click on the head of a column sorts by its numbers: up, down, and as it was.
const AFTER = { none: "ascending", ascending: "descending", descending: "none" };

function sorted(rows, column, order) {
  if (order === "none") return rows;
  const sign = order === "ascending" ? 1 : -1;
  const number = (row) => parseFloat(row.cells[column].dataset.value);
  return [...rows].sort((one, other) => {
    const [x, y] = [number(one), number(other)];
    return isNaN(x) - isNaN(y) || sign * (x - y); // cells without a number are last
  });
}

for (const table of document.querySelectorAll("table")) {
  const [body, lowest] = [table.tBodies[0], [...table.tHead.rows].at(-1)];
  const [rows, heads] = [[...body.rows], [...lowest.cells].slice(1)];
  if (rows.length < 2) continue;
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort by this column";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = AFTER[head.getAttribute("aria-sort") ?? "none"];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (order !== "none") head.setAttribute("aria-sort", order);
      body.append(...sorted(rows, place + 1, order));
    });
  });
}

// On a narrow screen the contents are folded, and fold again behind a choice.
const [contents, narrow] = [document.querySelector("nav details"), matchMedia("(max-width: 640px)")];
const fold = () => (contents.open = !narrow.matches);
fold();
narrow.addEventListener("change", fold);
contents.addEventListener("click", (event) => event.target.closest("a") && fold());

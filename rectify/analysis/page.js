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

// Each chart is drawn in its place on the page; without scripts its picture is there instead.
"use strict";

addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll(".chart")) {
    const spec = JSON.parse(place.querySelector("script").textContent);
    const drawing = document.createElement("div");
    place.append(drawing);
    const settings = { mode: "vega-lite", renderer: "svg", actions: false };
    vegaEmbed(drawing, spec, settings).then(() => place.classList.add("drawn"));
  }
});

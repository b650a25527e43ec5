"use strict";
// The filter hides entries and their lines in the contents; without a script the page shows all.
const articles = [...document.querySelectorAll("article")].map((element) => ({
  element,
  text: `${element.closest("section").querySelector("h2").textContent} ${element.textContent}`.toLowerCase(),
}));
const words = document.getElementById("words");

function showMatches() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const { element, text } of articles) {
    element.hidden = !wanted.every((word) => text.includes(word));
    shown += element.hidden ? 0 : 1;
  }
  for (const section of document.querySelectorAll("section")) {
    section.hidden = wanted.length > 0 && !section.querySelector("article:not([hidden])");
  }
  for (const link of document.querySelectorAll("nav a")) {
    link.parentElement.hidden = document.getElementById(link.hash.slice(1)).hidden;
  }
  document.getElementById("count").textContent = `${shown} of ${articles.length}`;
}

async function copy(button) {
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code); // the browser forbids it: one key is left to press
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

for (const button of document.querySelectorAll(".command button")) {
  button.hidden = false;
  button.addEventListener("click", () => copy(button));
}
document.getElementById("filter").hidden = false;
if (matchMedia("(max-width: 40rem)").matches) document.querySelector("nav details").open = false;
words.addEventListener("input", showMatches);
showMatches();

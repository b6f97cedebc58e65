// Applies the chosen theme before the page is painted. Without a choice (or without JavaScript) the system decides.
"use strict";
(() => {
  const choices = ["auto", "light", "dark"];
  const root = document.documentElement;
  const read = () => {
    try {
      const found = localStorage.getItem("headrace-theme");
      return choices.includes(found) ? found : "auto";
    } catch {
      return "auto"; // storage is switched off: the choice lasts as long as the page
    }
  };
  let chosen = read();
  const apply = () => {
    if (chosen === "auto") root.removeAttribute("data-theme");
    else root.setAttribute("data-theme", chosen);
  };
  apply();
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    if (!button) return;
    const name = () => (button.textContent = `Theme: ${chosen}`);
    name();
    button.hidden = false;
    button.addEventListener("click", () => {
      chosen = choices[(choices.indexOf(chosen) + 1) % choices.length];
      try {
        localStorage.setItem("headrace-theme", chosen);
      } catch {
        // as above
      }
      apply();
      name();
    });
  });
})();

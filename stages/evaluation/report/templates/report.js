"use strict";
(() => {
  const list = document.getElementById("examples");
  if (list) {
    const file = document.getElementById("filter-file");
    const attack = document.getElementById("filter-attack");
    const text = document.getElementById("filter-text");
    const count = document.getElementById("filter-count");
    const items = Array.from(list.children, (item) => [item, item.textContent.toLowerCase()]);
    const show = () => {
      const wanted = text.value.trim().toLowerCase();
      let shown = 0;
      for (const [item, words] of items) {
        const fits =
          (!file.value || item.dataset.file === file.value) &&
          (!attack.value || item.dataset.attack === attack.value) &&
          words.includes(wanted);
        item.hidden = !fits;
        shown += fits;
      }
      count.textContent = `${shown} of ${items.length} shown`;
    };
    for (const control of [file, attack, text]) control.addEventListener("input", show);
    document.getElementById("filter").hidden = false;
    show();
  }
  // Paper cannot be unfolded.
  addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details")) each.open = true;
  });
})();

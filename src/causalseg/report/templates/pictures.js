// Names the class under the pointer, read from the colours of the truth and all predictions.
// Keyboard: a focused picture is walked with the arrow keys.
(() => {
  const tip = document.querySelector(".tip");
  const cross = document.querySelector(".cross");
  const pixels = new WeakMap();
  document.querySelector(".scripted").hidden = false;

  function colourAt(img, x, y) {
    if (!pixels.has(img)) {
      const canvas = document.createElement("canvas");
      canvas.width = img.naturalWidth;
      canvas.height = img.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(img, 0, 0);
      pixels.set(img, context.getImageData(0, 0, canvas.width, canvas.height));
    }
    const { data, width, height } = pixels.get(img);
    const column = Math.min(width - 1, Math.floor(x * width));
    const row = Math.min(height - 1, Math.floor(y * height));
    const start = 4 * (row * width + column);
    return data.slice(start, start + 3).join(",");
  }

  function show(img, x, y) {
    if (!img.complete || !img.naturalWidth) return;
    const names = JSON.parse(img.closest("[data-classes]").dataset.classes);
    const lines = [...img.closest(".example").querySelectorAll("img.ids")].map(
      (other) => `${other.dataset.what}: ${names[colourAt(other, x, y)] ?? "?"}`);
    const box = img.getBoundingClientRect();
    const left = box.left + scrollX + x * box.width, top = box.top + scrollY + y * box.height;
    tip.textContent = lines.join("\n");
    tip.hidden = cross.hidden = false;
    cross.style.left = `${left}px`;
    cross.style.top = `${top}px`;
    tip.style.left = "0px"; // its width is measured free of the page's edge
    const room = scrollX + document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(scrollX + 8, Math.min(left + 14, room))}px`;
    tip.style.top = `${top + 16}px`;
  }

  function hide() {
    tip.hidden = cross.hidden = true;
  }

  for (const img of document.querySelectorAll("img.ids")) {
    let x = 0.5, y = 0.5;
    img.classList.add("live");
    img.tabIndex = 0;
    const point = (event) => {
      const box = img.getBoundingClientRect();
      x = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      y = Math.min(1, Math.max(0, (event.clientY - box.top) / box.height));
      show(img, x, y);
    };
    img.addEventListener("pointermove", point);
    img.addEventListener("pointerdown", point);
    img.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
    img.addEventListener("focus", () => img.matches(":focus-visible") && show(img, x, y));
    img.addEventListener("blur", hide);
    img.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      if (event.key === "Escape") return hide();
      if (!step[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      x = Math.min(1, Math.max(0, x + 0.03 * step[event.key][0]));
      y = Math.min(1, Math.max(0, y + 0.03 * step[event.key][1]));
      show(img, x, y);
    });
  }
})();

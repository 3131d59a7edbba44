"use strict";
(() => {
  const cards = [...document.querySelectorAll("[data-card]")];
  const bar = document.getElementById("finder");
  const count = document.getElementById("count");
  const none = document.getElementById("none");
  const inputs = Object.fromEntries(
    ["text", "layer", "set", "sign"].map((name) => [name, document.getElementById("find-" + name)]));
  const texts = new Map();
  const textOf = (card) => {
    if (!texts.has(card)) texts.set(card, card.textContent.toLowerCase());
    return texts.get(card);
  };
  const shown = () => cards.filter((card) => !card.hidden);

  function fits(card, wish) {
    if (wish.layer && card.dataset.layer !== wish.layer) return false;
    if (wish.text && !wish.text.split(/\s+/).every((word) => textOf(card).includes(word))) return false;
    const kind = wish.set[0], number = wish.set.slice(1);
    if (kind === "v") {
      const signs = card.dataset.for.split(" ").filter((one) => one.slice(0, -1) === number);
      return signs.length > 0 && (!wish.sign || signs[0].slice(-1) === wish.sign);
    }
    if (kind === "r" && !card.dataset.to.split(" ").includes(number)) return false;
    return !wish.sign || card.dataset.sign === wish.sign;
  }

  function find() {
    const wish = Object.fromEntries(Object.entries(inputs).map(([name, one]) => [name, one ? one.value : ""]));
    wish.text = wish.text.trim().toLowerCase();
    for (const card of cards) card.hidden = !fits(card, wish);
    const n = shown().length;
    count.textContent = n + " of " + cards.length + " shown";
    none.hidden = n > 0;
  }

  function clear() {
    for (const one of Object.values(inputs)) if (one) one.value = "";
    find();
  }

  function go(to) {
    if (!to) return;
    to.focus({ preventScroll: true });
    to.scrollIntoView({ block: "start" });
  }

  function move(step) {
    const left = shown(), at = left.indexOf(document.activeElement.closest("[data-card]"));
    if (at < 0) go(step > 0 ? left[0] : left[left.length - 1]);
    else go(left[Math.min(Math.max(at + step, 0), left.length - 1)]);
  }

  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const where = event.target, typing = where.matches("input, select, textarea");
    const free = where === document.body || where.matches("[data-card], main");
    if (event.key === "/" && !typing) {
      inputs.text.focus();
      inputs.text.select();
    } else if (event.key === "Escape") {
      clear();
      if (typing) go(shown()[0]);
    } else if (event.key === "Enter" && where === inputs.text) {
      go(shown()[0]);
    } else if (free && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
      move(event.key === "ArrowRight" ? 1 : -1);
    } else if (where.matches("[data-card]") && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      move(event.key === "ArrowDown" ? 1 : -1);
    } else return;
    event.preventDefault();
  });
  for (const one of Object.values(inputs)) if (one) one.addEventListener("input", find);
  bar.hidden = false;
  find();
})();

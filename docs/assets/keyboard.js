// The theme's buttons for menu and search are labels, which no keyboard reaches on a narrow screen.
for (const [name, words] of [["__drawer", "Menu"], ["__search", "Search"]]) {
  const label = document.querySelector(`.md-header label[for="${name}"].md-header__button`);
  if (label) {
    label.tabIndex = 0;
    label.title = words;
    label.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        event.stopPropagation();
        label.click();
      }
    });
  }
}

// The theme puts each button for copying into a navigation landmark without a name.
const unname = () => {
  for (const nav of document.querySelectorAll("nav.md-code__nav:not([role])")) {
    nav.setAttribute("role", "none");
  }
};
new MutationObserver(unname).observe(document.body, { childList: true, subtree: true });
unname();

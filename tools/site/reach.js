// What scrolls is reached by the keyboard. The theme does that for code only where a mouse can hover.
const blocks = ".md-content pre > code";
const reach = (e) => {
  const scrolls = e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1;
  if (scrolls && !e.hasAttribute("tabindex")) e.tabIndex = 0;
};
const sized = new ResizeObserver((changes) => changes.forEach((change) => reach(change.target)));
const taken = new MutationObserver((changes) => changes.forEach((change) => reach(change.target)));
document.querySelectorAll(blocks).forEach((e) => {
  sized.observe(e);
  taken.observe(e, { attributes: true, attributeFilter: ["tabindex"] });
});

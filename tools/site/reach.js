// What scrolls is reached by the keyboard. The theme does that for code only where a mouse can hover, else never.
const scrollers = ".md-content :is(pre > code, .md-typeset__scrollwrap, .cell-output)";
const reach = (e) => {
  const scrolls = e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1;
  if (scrolls && !e.hasAttribute("tabindex")) e.tabIndex = 0;
};
const each = (changes) => changes.forEach((change) => reach(change.target));
const sized = new ResizeObserver(each);
const taken = new MutationObserver(each);
const known = new WeakSet();
const watch = () =>
  document.querySelectorAll(scrollers).forEach((e) => {
    if (known.has(e)) return;
    known.add(e);
    sized.observe(e);
    taken.observe(e, { attributes: true, attributeFilter: ["tabindex"] });
  });
new MutationObserver(watch).observe(document.body, { childList: true, subtree: true }); // the theme wraps tables late
watch();
